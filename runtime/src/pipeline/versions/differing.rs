//! Whether two modules did the same with one event.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::event::{Effects, Envelope, Message, Outgoing, Verdict};
use crate::wire::{self, Profile};

/// What the second did otherwise than the first, in a sentence. Reasons are for people and may differ.
pub(super) fn difference(profile: Profile, old: (&Verdict, &Effects), new: (&Verdict, &Effects)) -> Option<String> {
    let (was, is) = (said(old.0), said(new.0));
    if was != is {
        return Some(format!("the verdict is {is}, of the one that is served {was}"));
    }
    let (was, is) = (&old.1.publish, &new.1.publish);
    if was.len() != is.len() {
        return Some(format!("{} events are published, by the one that is served {}", is.len(), was.len()));
    }
    for (place, (was, is)) in was.iter().zip(is).enumerate() {
        if let Some(what) = published(profile, was, is) {
            return Some(format!("published[{place}] has another {what}"));
        }
    }
    let (was, is) = (written(old.1), written(new.1));
    let key = is.iter().find(|(key, value)| was.get(*key) != Some(value)).or_else(|| {
        // Or one that the first wrote alone.
        was.iter().find(|(key, _)| !is.contains_key(*key))
    });
    key.map(|(key, _)| format!("key {key:?} is written otherwise"))
}

/// The kind of a verdict, with its code.
fn said(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Done => "done".to_owned(),
        Verdict::Retry { code, .. } => format!("retry ({code})"),
        Verdict::Reject { code, .. } => format!("reject ({code})"),
    }
}

/// What differs, but for when it was made and by which module.
fn published(profile: Profile, was: &Outgoing, is: &Outgoing) -> Option<&'static str> {
    if was.topic != is.topic {
        return Some("topic");
    }
    let (Some(was), Some(is)) = (read(profile, was), read(profile, is)) else { return Some("form") };
    let (before, now) = (was.metadata, is.metadata);
    let differs = [
        ("id", before.id != now.id),
        ("type", before.kind != now.kind),
        ("key", before.key != now.key),
        ("set of headers", before.headers != now.headers),
        ("encoding", was.encoding != is.encoding),
        ("payload", was.payload != is.payload),
    ];
    differs.into_iter().find_map(|(what, differs)| differs.then_some(what))
}

fn read(profile: Profile, outgoing: &Outgoing) -> Option<Envelope> {
    let Outgoing { topic, fields } = outgoing.clone();
    let message = Message { topic, position: "1".into(), first: "1".into(), fields };
    let mut envelope = profile.read(&message).ok()?;
    envelope.metadata.headers.retain(|(name, _)| name != wire::MODULE);
    Some(envelope)
}

/// What is left of the writes: the last one to each key counts.
fn written(effects: &Effects) -> BTreeMap<&str, Option<&Bytes>> {
    effects.writes.iter().map(|write| (&*write.key, write.value.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Encoding, KeyWrite, Metadata};
    use crate::wire::Identity;

    fn outgoing(topic: &str, change: impl FnOnce(&mut Envelope)) -> Outgoing {
        let identity = Identity { source: "s".into(), host: "h".into(), lib: "1.0.0".into() };
        let metadata = Metadata {
            id: "00000000-0000-0000-0000-000000000001".into(),
            kind: "org.x.made".into(),
            time: "2026-01-01T00:00:00+00:00".into(),
            headers: vec![(wire::MODULE.into(), "one".into())],
            ..Metadata::default()
        };
        let mut envelope = Envelope { metadata, encoding: Encoding::Json, payload: "1".into() };
        change(&mut envelope);
        Outgoing { topic: topic.into(), fields: Profile::OpenEdx.write(&envelope, &identity) }
    }

    fn effects(publish: Vec<Outgoing>, writes: &[(&str, Option<&'static str>)]) -> Effects {
        let write = |(key, value): &(&str, Option<&'static str>)| KeyWrite {
            key: (*key).to_owned(),
            value: value.map(Bytes::from),
        };
        Effects { publish, writes: writes.iter().map(write).collect(), ..Effects::default() }
    }

    #[test]
    fn what_differs_is_named_and_time_and_module_are_nothing() {
        let between = |was: &Effects, is: &Effects| {
            difference(Profile::OpenEdx, (&Verdict::Done, was), (&Verdict::Done, is)).unwrap_or_default()
        };
        let was = effects(vec![outgoing("t", |_| {})], &[("k", Some("1")), ("k", Some("2")), ("gone", None)]);
        let keys: &[_] = &[("gone", None), ("k", Some("2"))];
        let same = outgoing("t", |envelope| {
            envelope.metadata.time = "2027-01-01T00:00:00+00:00".into();
            envelope.metadata.headers = vec![(wire::MODULE.into(), "two".into())];
        });
        assert_eq!(between(&was, &effects(vec![same], keys)), "");
        for (other, what) in [
            (outgoing("u", |_| {}), "topic"),
            (outgoing("t", |envelope| envelope.metadata.kind = "org.x.other".into()), "type"),
            (outgoing("t", |envelope| envelope.metadata.headers.push(("a".into(), "b".into()))), "set of headers"),
            (outgoing("t", |envelope| envelope.payload = "2".into()), "payload"),
        ] {
            assert_eq!(between(&was, &effects(vec![other], keys)), format!("published[0] has another {what}"));
        }
        let published = || vec![outgoing("t", |_| {})];
        for (keys, key) in [
            (&[("k", Some("2"))][..], "gone"),
            (&[("k", Some("1")), ("gone", None)], "k"),
            (&[("k", None), ("gone", None)], "k"),
            (&[("k", Some("2")), ("gone", None), ("more", None)], "more"),
        ] {
            assert_eq!(between(&was, &effects(published(), keys)), format!("key {key:?} is written otherwise"));
        }
        let rejected = Verdict::Reject { code: "no".into(), reason: "one".into() };
        let retried = Verdict::Retry { code: "no".into(), reason: "two".into(), after: None };
        let none = Effects::default();
        let said = difference(Profile::OpenEdx, (&rejected, &none), (&retried, &none)).unwrap();
        assert_eq!(said, "the verdict is retry (no), of the one that is served reject (no)");
    }
}
