//! One case: what is in its folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sandbar::config::{Config, Environment};
use sandbar::event::{Effects, Event, Verdict};
use sandbar::sandbox::Spec;
use serde::Deserialize;

use crate::sandbox::component::{GUEST, MEMORY, TYPES};
use crate::sandbox::support;

/// What a case does and what is expected of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    #[serde(skip)]
    pub(super) name: String,
    /// For people.
    pub(super) about: String,
    /// The test guest that does it; without one it is `case.wat`.
    guest: Option<String>,
    /// The type of the event.
    #[serde(default)]
    pub(super) kind: String,
    /// Its headers: the arguments of a guest's command.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// What the rest of the host answers is part of it, so that it is only called in a real one.
    #[serde(default)]
    pub(super) line: bool,
    #[serde(default)]
    limits: toml::Table,
    #[serde(default)]
    grants: toml::Table,
    pub(super) expect: Expect,
}

/// What is expected.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Expect {
    /// It is not loaded, and these are parts of why.
    pub(super) refused: Vec<String>,
    verdict: String,
    pub(super) code: String,
    /// Parts of the reason.
    pub(super) reason: Vec<String>,
    /// The most bytes that the reason may have.
    longest: Option<usize>,
    /// Events published.
    published: usize,
}

/// All there are.
pub(super) fn all() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile");
    let folders = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let mut cases: Vec<Case> = folders.map(|path| read(&path)).collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() >= 60, "only {} cases found", cases.len());
    cases
}

fn read(folder: &Path) -> Case {
    let text = fs::read_to_string(folder.join("expect.toml")).unwrap();
    let mut case: Case = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    case.name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(!case.about.is_empty(), "{}: say what it does", case.name);
    assert_eq!(case.guest.is_none(), folder.join("case.wat").exists(), "{}: a guest or a text, one of both", case.name);
    case
}

// === impl Case ===

impl Case {
    /// The component.
    pub(super) fn wasm(&self) -> Vec<u8> {
        if let Some(guest) = &self.guest {
            return support::guest(guest);
        }
        let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "hostile", &self.name, "case.wat"].iter().collect();
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("{{types}}", TYPES).replace("{{guest}}", GUEST).replace("{{memory}}", MEMORY);
        wat::parse_str(repeated(&text)).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The event that makes it do it.
    pub(super) fn event(&self) -> Event {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        support::event(&self.kind, &headers)
    }

    /// Its tables of a `[[handler]]`.
    pub(super) fn settings(&self) -> String {
        let table = |name: &str, table: &toml::Table| format!("[handler.{name}]\n{}", toml::to_string(table).unwrap());
        format!("{}\n{}", table("limits", &self.limits), table("grants", &self.grants))
    }

    /// The same as the sandbox takes them.
    pub(super) fn spec(&self) -> Spec {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sandbar.toml");
        let head =
            "[bus]\nurl = \"sqlite:x.db\"\n[[handler]]\nname = \"probe\"\nmodule = \"x.wasm\"\ntopics = [\"in\"]\n";
        fs::write(&path, format!("{head}{}", self.settings())).unwrap();
        let mut config = Config::load(&path, &Environment::default()).unwrap_or_else(|error| panic!("{error}"));
        config.handlers.remove(0).spec
    }

    /// Whether its calls may have a process of their own: one that sends requests has no network there.
    pub(super) fn may_be_isolated(&self) -> bool {
        !self.grants.contains_key("http")
    }

    /// Checks how a call of it ended.
    pub(super) fn check(&self, verdict: &Verdict, effects: &Effects) {
        self.check_reason(self.check_code(verdict, effects));
    }

    /// Checks how a call of it ended, but not what was said of it; returns that.
    pub(super) fn check_code<'a>(&self, verdict: &'a Verdict, effects: &Effects) -> &'a str {
        let (kind, code, reason) = match verdict {
            Verdict::Done => ("done", "", ""),
            Verdict::Retry { code, reason, .. } => ("retry", code.as_str(), reason.as_str()),
            Verdict::Reject { code, reason } => ("reject", code.as_str(), reason.as_str()),
        };
        assert_eq!((kind, code), (self.expect.verdict.as_str(), self.expect.code.as_str()), "{}: {reason}", self.name);
        assert_eq!(effects.publish.len(), self.expect.published, "{}", self.name);
        reason
    }

    /// Checks what is said of it.
    pub(super) fn check_reason(&self, reason: &str) {
        for part in &self.expect.reason {
            assert!(reason.contains(part), "{}: no {part:?} in {reason:?}", self.name);
        }
        assert!(!reason.contains(char::is_control), "{}: {reason:?}", self.name);
        let longest = self.expect.longest.unwrap_or(2_048);
        assert!(reason.len() <= longest, "{}: {} bytes", self.name, reason.len());
    }

    /// Checks why it was not loaded.
    pub(super) fn check_refusal(&self, error: &str) {
        for part in &self.expect.refused {
            assert!(error.contains(part), "{}: no {part:?} in {error:?}", self.name);
        }
    }

    pub(super) fn is_refused(&self) -> bool {
        !self.expect.refused.is_empty()
    }

    pub(super) fn is_done(&self) -> bool {
        self.expect.verdict == "done"
    }
}

/// Writes `{{repeat N: text}}` out: N times the text, with `{n}` in it counted up from 0.
fn repeated(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{repeat ") {
        out.push_str(before);
        let (times, after) = after.split_once(": ").expect("a colon after the number");
        let (body, after) = after.split_once("}}").expect("an end");
        let times: usize = times.parse().expect("a number");
        match body.contains("{n}") {
            true => (0..times).for_each(|n| out.push_str(&body.replace("{n}", &n.to_string()))),
            false => out.push_str(&body.repeat(times)),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}
