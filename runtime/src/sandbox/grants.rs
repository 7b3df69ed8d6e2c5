//! Capability by capability: what was given to a handler, and what to write to give more.

use super::modules::Module;
use super::{Grants, PublishGrant, text};
use crate::event::glob;

/// Something a handler can be given, or import without having been given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// `sandbar:handler/outbox`.
    Publish,
    /// `sandbar:handler/keys`.
    Keys,
    /// `sandbar:handler/config`.
    Config,
    /// `sandbar:handler/secrets`. There is no grant for it yet: every call answers `denied`.
    Secrets,
}

/// A capability that a module imports and its handler was not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingGrant {
    /// Which.
    pub capability: Capability,
    /// The line to add to the configuration; for secrets, which languages other than Rust import with everything else,
    /// that there is none.
    pub line: String,
}

/// What `module` imports that `grants` does not give. Whether it will be called is not known: languages other than
/// Rust import everything, used or not.
#[must_use]
pub fn missing_grants(module: &Module, grants: &Grants) -> Vec<MissingGrant> {
    let given = |capability: &Capability| match capability {
        Capability::Publish => !grants.publish.is_empty(),
        Capability::Keys => grants.keys,
        Capability::Config => grants.config.is_some(),
        Capability::Secrets => false,
    };
    let missing = module.capabilities().iter().filter(|capability| !given(capability));
    missing.map(|&capability| MissingGrant { capability, line: capability.line().to_owned() }).collect()
}

// === impl Capability ===

impl Capability {
    /// The interface it stands behind, without version.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            Self::Publish => "sandbar:handler/outbox",
            Self::Keys => "sandbar:handler/keys",
            Self::Config => "sandbar:handler/config",
            Self::Secrets => "sandbar:handler/secrets",
        }
    }

    /// The line of the configuration that gives it.
    fn line(self) -> &'static str {
        match self {
            Self::Publish => r#"[handler.grants] publish = ["topic"]"#,
            Self::Keys => "[handler.grants] keys = true",
            Self::Config => r#"[handler.grants] config = { name = "value" }"#,
            Self::Secrets => "there is no line to add, no handler can be given secrets yet; a call answers `denied`",
        }
    }

    /// What a guest is told that called it without the grant.
    pub(super) fn denied(self, handler: &str) -> String {
        match self {
            Self::Secrets => "no handler can be given secrets yet; there is no line to add".to_owned(),
            Self::Publish | Self::Keys | Self::Config => {
                format!("not granted to handler {handler:?}; to allow it: {}", self.line())
            }
        }
    }
}

// === impl Grants ===

impl Grants {
    /// Whether an event of this type may be published to this topic; if not, what to tell the guest.
    pub(super) fn may_publish(&self, handler: &str, topic: &str, kind: &str) -> Result<(), String> {
        let topic_grants = || self.publish.iter().filter(|grant| grant.topic == topic);
        if topic_grants().any(|grant| grant.covers(kind)) {
            return Ok(());
        }
        let shown = |name: &str| format!("{:?}", text::line(name, 200));
        if topic_grants().next().is_none() {
            let topic = shown(topic);
            return Err(format!(
                "publishing to {topic} is not granted to handler {handler:?}; to allow it: [handler.grants] publish = [{topic}]"
            ));
        }
        let (topic, kind) = (shown(topic), shown(kind));
        Err(format!(
            "publishing type {kind} to {topic} is not granted to handler {handler:?}; to allow it: [handler.grants] publish = [{{ topic = {topic}, types = [{kind}] }}]"
        ))
    }
}

// === impl PublishGrant ===

impl PublishGrant {
    fn covers(&self, kind: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|glob| glob::matches(glob, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_granted_exactly_and_a_type_by_glob() {
        let grants = Grants {
            publish: vec![
                PublishGrant { topic: "all".into(), types: vec![] },
                PublishGrant { topic: "some".into(), types: vec!["org.x.*".into()] },
            ],
            ..Grants::default()
        };
        assert_eq!(grants.may_publish("h", "all", "anything"), Ok(()));
        assert_eq!(grants.may_publish("h", "some", "org.x.made"), Ok(()));
        let error = grants.may_publish("h", "some", "org.y.made").unwrap_err();
        assert!(error.ends_with(r#"publish = [{ topic = "some", types = ["org.y.made"] }]"#), "{error}");
        assert!(grants.may_publish("h", "al\u{1b}[1ml", "org.x.made").is_err(), "cleaning is for showing only");
        let error = grants.may_publish("h", "all2", "x").unwrap_err();
        assert!(error.ends_with(r#"[handler.grants] publish = ["all2"]"#), "{error}");
    }
}
