//! One figure of one round.

/// What was measured. Samples of one name, one for each round, make a line of the summary.
pub(crate) struct Sample {
    /// In `summary.json`, and in the names of ratios.
    pub(crate) name: String,
    /// In the table.
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
