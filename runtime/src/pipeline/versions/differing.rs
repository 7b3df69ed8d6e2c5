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
