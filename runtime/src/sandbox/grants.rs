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
    /// `sandbar:handler/secrets`.
    Secrets,
    /// `wasi:http/outgoing-handler`.
    Http,
    /// `wasi:clocks`. Without the grant it is served too: time is the event's.
    Clock,
    /// `wasi:random`. Without the grant it is served too: numbers are derived from the delivery.
    Random,
}

/// A capability that a module imports and its handler was not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingGrant {
    /// Which.
    pub capability: Capability,
    /// The line to add to the configuration.
    pub line: String,
}

/// What `module` imports that `grants` does not give. Whether it will be called is not known: languages other than
/// Rust import everything, used or not. Clocks and random numbers are never missing.
#[must_use]
pub fn missing_grants(module: &Module, grants: &Grants) -> Vec<MissingGrant> {
    missing(module.capabilities(), grants)
}

/// The same, of what is known to be imported.
pub(super) fn missing(imported: &[Capability], grants: &Grants) -> Vec<MissingGrant> {
    let given = |capability: &Capability| match capability {
        Capability::Publish => !grants.publish.is_empty(),
        Capability::Keys => grants.keys,
        Capability::Config => grants.config.is_some(),
        Capability::Secrets => !grants.secrets.is_empty(),
        Capability::Http => !grants.http.urls.is_empty(),
        Capability::Clock | Capability::Random => true,
    };
    let missing = imported.iter().filter(|capability| !given(capability));
    missing.map(|&capability| MissingGrant { capability, line: capability.line().to_owned() }).collect()
}

// === impl Capability ===

impl Capability {
    /// All there are.
    pub(super) const ALL: [Self; 7] =
        [Self::Publish, Self::Keys, Self::Config, Self::Secrets, Self::Http, Self::Clock, Self::Random];

    /// What a component imports for it: an interface without version, or a package.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            Self::Publish => "sandbar:handler/outbox",
            Self::Keys => "sandbar:handler/keys",
            Self::Config => "sandbar:handler/config",
            Self::Secrets => "sandbar:handler/secrets",
            Self::Http => "wasi:http/outgoing-handler",
            Self::Clock => "wasi:clocks",
            Self::Random => "wasi:random",
        }
    }

    /// Whether an import of this name is for it.
    pub(super) fn is_behind(self, import: &str) -> bool {
        let interface = import.split('@').next().unwrap_or_default();
        let of_package = || interface.split('/').next() == Some(self.interface());
        interface == self.interface() || (self.is_served_without() && of_package())
    }

    /// Whether its imports are served without the grant, in a way that runs the same again.
    #[must_use]
    pub fn is_served_without(self) -> bool {
        matches!(self, Self::Clock | Self::Random)
    }

    /// The line of the configuration that gives it.
    #[must_use]
    pub fn line(self) -> &'static str {
        match self {
            Self::Publish => r#"[handler.grants] publish = ["topic"]"#,
            Self::Keys => "[handler.grants] keys = true",
            Self::Config => r#"[handler.grants] config = { name = "value" }"#,
            Self::Secrets => r#"[handler.grants] secrets = ["NAME"]"#,
            Self::Http => r#"[handler.grants] http = ["https://host.example.org/*"]"#,
            Self::Clock => "[handler.grants] clock = true",
            Self::Random => "[handler.grants] random = true",
        }
    }

    /// What a guest is told that called it without the grant.
    pub(super) fn denied(self, handler: &str) -> String {
        format!("not granted to handler {handler:?}; to allow it: {}", self.line())
    }
}

/// What a guest is told that asked for a secret which it was not given.
pub(super) fn no_secret(handler: &str, name: &str) -> String {
    let name = text::line(name, 200);
    format!("secret {name:?} is not granted to handler {handler:?}; to allow it: [handler.grants] secrets = [{name:?}]")
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
