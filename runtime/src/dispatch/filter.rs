//! Event types as globs.

use crate::event::glob;

/// The event types a handler asked for. An empty filter lets everything pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    globs: Vec<String>,
}

/// A pattern that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a type pattern: write a type, with `*` for any characters and `?` for one")]
pub struct BadGlob(String);

// === impl Filter ===

impl Filter {
    /// Takes patterns such as `org.openedx.learning.*`: `*` stands for any characters, dots included, `?` for one.
    ///
    /// # Errors
    ///
    /// A pattern is empty or holds white space or control characters, which no event type does.
    pub fn new(globs: &[String]) -> Result<Self, BadGlob> {
        match globs.iter().find(|glob| glob.is_empty() || glob.chars().any(|c| c.is_whitespace() || c.is_control())) {
            Some(bad) => Err(BadGlob(bad.clone())),
            None => Ok(Self { globs: globs.to_vec() }),
        }
    }

    /// Whether the handler gets events of this type.
    #[must_use]
    pub fn matches(&self, kind: &str) -> bool {
        self.globs.is_empty() || self.globs.iter().any(|glob| glob::matches(glob, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_filter_lets_everything_pass_and_any_glob_of_several_does() {
        assert!(Filter::default().matches("x"));
        let filter = Filter::new(&["a.*".into(), "b".into()]).unwrap();
        assert!(filter.matches("b") && filter.matches("a.x") && !filter.matches("c"));
    }

    #[test]
    fn a_pattern_that_cannot_be_meant_is_refused() {
        for bad in ["", "a b", "a\n"] {
            assert!(Filter::new(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }
}
