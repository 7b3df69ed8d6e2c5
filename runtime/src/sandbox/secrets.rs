//! The secrets of one handler: read by name, and taken out of whatever the guest says.
//!
//! Hiding is against accidents: a token in a logged URL, a password in an error's text. A guest that wants to tell its
//! secret can always write it in another way.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use super::secret::Secret;
use super::{limits, text};

/// Which secrets a handler may read, with their values once they are known. They are never listed to the guest and
/// never shown. Cloning shares them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(Option<Arc<Held>>);

#[derive(PartialEq, Eq)]
struct Held {
    values: BTreeMap<String, Option<Secret>>,
    /// What must not be shown, the longest first: a part of it may be another.
    needles: Vec<String>,
    longest: usize,
}

/// What stands where a secret was.
const HIDDEN: &str = "***";

// === impl Secrets ===

impl Secrets {
    /// The names that are granted, without values: what a configuration says before it is run.
    #[must_use]
    pub fn asked(names: impl IntoIterator<Item = String>) -> Self {
        Self::of(names.into_iter().map(|name| (name, None)).collect())
    }

    /// Secrets with their values, which are UTF-8.
    #[must_use]
    pub fn known(values: impl IntoIterator<Item = (String, Secret)>) -> Self {
        Self::of(values.into_iter().map(|(name, value)| (name, Some(value))).collect())
    }

    fn of(values: BTreeMap<String, Option<Secret>>) -> Self {
        if values.is_empty() {
            return Self(None);
        }
        let texts = values.values().flatten().filter_map(|secret| std::str::from_utf8(secret.bytes()).ok());
        let mut needles: Vec<String> = texts.flat_map(spellings).collect();
        needles.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        needles.dedup();
        let longest = needles.first().map_or(0, String::len);
        Self(Some(Arc::new(Held { values, needles, longest })))
    }

    /// True if none is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What is granted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|held| held.values.keys().map(String::as_str))
    }

    /// The value of a secret that is granted and known.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.as_ref()?.values.get(name)?.as_ref()?;
        std::str::from_utf8(value.bytes()).ok()
    }

    /// One clean line of at most `max` bytes, as [`text::line`] makes it, with no secret in it.
    pub(super) fn line(&self, said: &str, max: usize) -> String {
        let Some(held) = &self.0 else { return text::line(said, max) };
        // Once as it was said; and once cleaned, when nothing that is left out stands between its characters any more.
        let clean = text::line(&self.hide(said, limits::LOG_BYTES.max(max)), usize::MAX);
        text::line(&held.hide(&clean), max)
    }

    /// The first `most` bytes, about, of what was said, with no secret in it. Without secrets it is all of it.
    pub(super) fn hide<'t>(&self, said: &'t str, most: usize) -> Cow<'t, str> {
        let Some(held) = &self.0 else { return Cow::Borrowed(said) };
        let end = said.floor_char_boundary(most.saturating_add(held.longest));
        let mut hidden = held.hide(&said[..end]).into_owned();
        if end < said.len() {
            held.drop_begun(&mut hidden);
        }
        Cow::Owned(hidden)
    }

    /// Takes away the beginning of a secret at the end of a text that was cut.
    pub(super) fn drop_begun(&self, said: &mut String) {
        if let Some(held) = &self.0 {
            held.drop_begun(said);
        }
    }

    /// Bytes that must be kept beyond a cut, so that a secret that begins before it is whole.
    pub(super) fn longest(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.longest)
    }
}

/// Names only.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_map();
        for name in self.names() {
            shown.entry(&name, &format_args!("{HIDDEN}"));
        }
        shown.finish()
    }
}

// === impl Held ===

impl Held {
    fn hide<'t>(&self, said: &'t str) -> Cow<'t, str> {
        let mut out = Cow::Borrowed(said);
        for needle in &self.needles {
            if out.contains(needle.as_str()) {
                out = Cow::Owned(out.replace(needle.as_str(), HIDDEN));
            }
        }
        out
    }

    fn drop_begun(&self, said: &mut String) {
        let begun = |needle: &String| {
            let inside = needle.char_indices().map(|(at, _)| at).rev();
            inside.take_while(|at| *at > 0).find(|at| said.ends_with(&needle[..*at])).unwrap_or(0)
        };
        let longest = self.needles.iter().map(begun).max().unwrap_or(0);
        said.truncate(said.len() - longest);
    }
}

/// The ways in which programs write a value: as it is, cleaned as a log line is, line by line, in quotes of JSON and of
/// Rust, in base64 and in a URL.
fn spellings(value: &str) -> Vec<String> {
    let json = serde_json::to_string(value).unwrap_or_default();
    let mut all = vec![
        value.to_owned(),
        text::line(value, usize::MAX),
        json.trim_matches('"').to_owned(),
        value.escape_debug().to_string(),
        STANDARD.encode(value),
        STANDARD_NO_PAD.encode(value),
        URL_SAFE.encode(value),
        URL_SAFE_NO_PAD.encode(value),
        in_url(value),
    ];
    all.extend(value.lines().map(|line| line.trim().to_owned()));
    // The short lines of a long one say nothing, and would leave little of what is logged.
    all.retain(|spelling| spelling.len() >= limits::SECRET_LEAST);
    all
}

fn in_url(value: &str) -> String {
    value.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        let named = values.iter().enumerate().map(|(n, value)| (format!("S{n}"), Secret::new(value.as_bytes())));
        Secrets::known(named)
    }

    #[test]
    fn every_spelling_is_hidden() {
        let value = "p\"ss w/rd\\+ä1";
        let secrets = secrets(&[value]);
        for said in [
            value.to_owned(),
            format!("{value:?}"),
            serde_json::json!({ "token": value }).to_string(),
            format!("https://host/?token={}", in_url(value)),
            STANDARD.encode(value),
            URL_SAFE_NO_PAD.encode(value),
            value.chars().flat_map(|c| [c, '\u{7}']).collect(),
            format!("{value}{value}"),
        ] {
            let line = secrets.line(&said, 1_000);
            assert!(line.contains(HIDDEN), "{said}: {line}");
            for part in ["ss w", "rd", "c3Mg"] {
                assert!(!line.contains(part), "{said}: {line}");
            }
        }
        assert_eq!(secrets.line("nothing to hide", 1_000), "nothing to hide");
    }

    #[test]
    fn each_line_of_a_key_is_hidden_by_itself() {
        let secrets = secrets(&["-----BEGIN KEY-----\nMIIEvQIBADAN\nBgkqhkiG9w0B\n-----END KEY-----\n"]);
        for (said, shown) in [
            ("MIIEvQIBADAN", "***"),
            ("second BgkqhkiG9w0B", "second ***"),
            ("-----BEGIN KEY-----\nMIIEvQIBADAN\nBgkqhkiG9w0B\n-----END KEY-----", "*** *** *** ***"),
        ] {
            assert_eq!(secrets.line(said, 1_000), shown);
        }
    }

    #[test]
    fn one_that_contains_another_is_hidden_whole() {
        let secrets = secrets(&["password", "password-and-more"]);
        assert_eq!(secrets.line("it is password-and-more, or password", 100), "it is ***, or ***");
    }

    #[test]
    fn no_cut_leaves_the_beginning_of_one() {
        let value = "0123456789abcdefghijklmnopqrstuv";
        let secrets = secrets(&[value]);
        for before in 0..80 {
            let said = format!("{}{value} and more", "x".repeat(before));
            for shown in [secrets.line(&said, 40), secrets.hide(&said, 40).into_owned()] {
                assert!(!shown.contains("012") && shown.len() <= 80, "{before}: {shown}");
            }
        }
        // What is hidden is shorter than what was there, so more of the text comes into view.
        let said = format!("{} end", value.repeat(3_000));
        assert!(!secrets.hide(&said, 500).contains("01"));
        let mut cut = format!("said {}", &value[..9]);
        secrets.drop_begun(&mut cut);
        assert_eq!(cut, "said ");
    }

    #[test]
    fn they_are_read_by_name_and_never_shown() {
        let secrets = secrets(&["the first of them", "the second of them"]);
        assert_eq!(secrets.get("S1"), Some("the second of them"));
        assert_eq!(secrets.get("S2"), None);
        assert_eq!(format!("{secrets:?}"), r#"{"S0": ***, "S1": ***}"#);
        let asked = Secrets::asked(["A".to_owned()]);
        assert_eq!((asked.get("A"), asked.names().collect::<Vec<_>>()), (None, vec!["A"]));
        assert!(Secrets::asked([]).is_empty() && !asked.is_empty());
    }

    #[test]
    fn without_secrets_nothing_is_copied() {
        let none = Secrets::default();
        assert!(matches!(none.hide("text", 2), Cow::Borrowed("text")));
        assert_eq!(none.line("a\tline", 100), "a line");
    }
}
