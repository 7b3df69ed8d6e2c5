//! Event types as globs.

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
        self.globs.is_empty() || self.globs.iter().any(|glob| matches(glob.as_bytes(), kind.as_bytes()))
    }
}

/// Linear in practice: on a mismatch only the latest `*` is tried again, one character further.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    g = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_people_expect() {
        for (glob, kind, expected) in [
            ("org.openedx.learning.*", "org.openedx.learning.course.enrollment.created.v1", true),
            ("org.openedx.learning.*", "org.openedx.learnings", false),
            ("org.openedx.learning.*", "org.openedx.learning.", true),
            ("*.created.v?", "a.created.v1", true),
            ("*.created.v?", "a.created.v10", false),
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("*", "", true),
            ("?", "", false),
        ] {
            let filter = Filter::new(&[glob.to_owned()]).unwrap();
            assert_eq!(filter.matches(kind), expected, "{glob} against {kind}");
        }
    }

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
