//! Patterns over event types, as filters and grants write them.

/// Whether `text` is what the pattern describes: `*` stands for any characters, dots included, `?` for one.
#[must_use]
pub fn matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut g, mut t) = (0, 0);
    // On a mismatch only the latest `*` is tried again, one character further: never worse than both lengths multiplied.
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
            assert_eq!(matches(glob, kind), expected, "{glob} against {kind}");
        }
    }
}
