//! What a guest says is shown to people: without control characters, terminal escapes or tricks, and not too long.

use super::limits;

/// One line of at most `max` bytes. Line breaks and tabs become spaces; escape sequences and other control characters,
/// and those that turn the direction of writing, are left out.
pub(super) fn line(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    let mut chars = text.chars().peekable();
    while let Some(next) = chars.next() {
        let keep = match next {
            '\u{1b}' => {
                skip_escape(&mut chars);
                continue;
            }
            '\u{9b}' => {
                skip_control_sequence(&mut chars);
                continue;
            }
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
            c if c.is_control() || turns_direction(c) => continue,
            c => c,
        };
        if out.len() + keep.len_utf8() > max {
            shorten(&mut out, max);
            break;
        }
        out.push(keep);
    }
    out.truncate(out.trim_end().len());
    out
}

/// What a component calls something, which may be anything at all, in one line.
pub(super) fn name(name: &str) -> String {
    line(name, limits::REASON_BYTES)
}

/// A word of `[a-z0-9-_.]`, or `None` if nothing of the text is fit for one.
pub(super) fn code(text: &str, max: usize) -> Option<String> {
    let fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let word: String = text.chars().map(|c| c.to_ascii_lowercase()).filter(|c| fit(*c)).take(max).collect();
    (!word.is_empty()).then_some(word)
}

fn turns_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.peek() {
        Some('[') => {
            chars.next();
            skip_control_sequence(chars);
        }
        // A string sequence: everything up to BEL or ESC \.
        Some(']' | 'P' | '_' | '^' | 'X') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' || c == '\u{9c}' {
                    break;
                }
                if c == '\u{1b}' {
                    chars.next_if_eq(&'\\');
                    break;
                }
            }
        }
        Some(c) if c.is_ascii() && !c.is_control() => {
            chars.next();
        }
        _ => {}
    }
}

/// After the introducer: parameters, then one final byte.
fn skip_control_sequence(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    while chars.next_if(|c| ('\u{20}'..='\u{3f}').contains(c)).is_some() {}
    chars.next_if(|c| ('\u{40}'..='\u{7e}').contains(c));
}

fn shorten(out: &mut String, max: usize) {
    const MARK: char = '…';
    let mut end = max.saturating_sub(MARK.len_utf8()).min(out.len());
    while !out.is_char_boundary(end) {
        end -= 1;
    }
    out.truncate(end);
    out.push(MARK);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_the_cursor_is_left() {
        for (text, clean) in [
            ("plain", "plain"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;http://x\u{1b}\\link", "link"),
            ("\u{9b}2Jgone", "gone"),
            ("a\nb\tc\r\n", "a b c"),
            ("nul\0bell\u{7}del\u{7f}", "nulbelldel"),
            ("\u{202e}evil", "evil"),
            ("cut \u{1b}[", "cut"),
            ("\u{1b}", ""),
        ] {
            assert_eq!(line(text, 100), clean, "{text:?}");
        }
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        assert_eq!(line("abcdef", 6), "abcdef");
        assert_eq!(line("abcdefg", 6), "abc…");
        let cut = line(&"ä".repeat(100), 21);
        assert!(cut.len() <= 21 && cut.ends_with('…'), "{cut}");
    }

    #[test]
    fn codes_are_words() {
        assert_eq!(code("unknown-course", 64).as_deref(), Some("unknown-course"));
        assert_eq!(code("Not Found!\n", 64).as_deref(), Some("notfound"));
        assert_eq!(code("\u{1b} \n", 64), None);
        assert_eq!(code(&"x".repeat(100), 64).map(|c| c.len()), Some(64));
    }
}
