//! One measured figure of one round.

/// What was measured, once. The summary groups samples by name and takes median, minimum and maximum.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// As scripts know it.
    pub(crate) name: String,
    /// What the table shows of it.
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
}

// === impl Sample ===

impl Sample {
    pub(crate) fn new(name: impl Into<String>, what: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), what: what.into(), unit, value }
    }
}
