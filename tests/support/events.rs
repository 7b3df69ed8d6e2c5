//! Events that tests put on a bus, and what they find there.

use std::sync::Arc;
use std::time::Duration;

use sandbar::bus::{self, Bus, Fetched, Group, Settings, Start, Subscription};
use sandbar::event::{Encoding, Envelope, Fields, Metadata, Outgoing, Topic};
use sandbar::wire::{Identity, Profile};
use tokio::time::{Instant, sleep};

use super::BOUND;

/// An event to publish.
pub(crate) struct Draft {
    pub(crate) id: String,
    kind: String,
    time: String,
    headers: Vec<(String, String)>,
    encoding: Encoding,
    payload: Vec<u8>,
}

// === impl Draft ===

impl Draft {
    /// An event with an empty JSON document.
    pub(crate) fn new(kind: &str) -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            kind: kind.to_owned(),
            time: "2026-01-01T00:00:00+00:00".to_owned(),
            headers: Vec::new(),
            encoding: Encoding::Json,
            payload: b"{}".to_vec(),
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// With an id that names a number.
    pub(crate) fn numbered(mut self, number: u128) -> Self {
        self.id = uuid::Uuid::from_u128(number).to_string();
        self
    }

    pub(crate) fn time(mut self, time: &str) -> Self {
        time.clone_into(&mut self.time);
        self
    }

    pub(crate) fn json(mut self, document: &str) -> Self {
        self.payload = document.into();
        self
    }

    /// Bytes that claim to be an Avro datum.
    pub(crate) fn avro(mut self, datum: &[u8]) -> Self {
        self.encoding = Encoding::Avro;
        self.payload = datum.to_vec();
        self
    }

    /// As it goes on the wire.
    pub(crate) fn fields(&self) -> Fields {
        let identity = Identity { source: "test".into(), host: "test".into(), lib: "1.0.0".into() };
        let metadata = Metadata {
            id: self.id.clone(),
            kind: self.kind.clone(),
            time: self.time.clone(),
            headers: self.headers.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect(),
            ..Metadata::default()
        };
        let (encoding, payload) = (self.encoding.clone(), self.payload.clone().into());
        Profile::OpenEdx.write(&Envelope { metadata, encoding, payload }, &identity)
    }
}

/// Opens a bus whose topics have no prefix.
pub(crate) async fn open(url: &str) -> Arc<dyn Bus> {
    let settings = Settings { url: url.to_owned(), ..Settings::default() };
    bus::open(&settings).await.unwrap()
}

/// Publishes events in their order.
pub(crate) async fn publish(bus: &Arc<dyn Bus>, topic: &str, drafts: &[Draft]) {
    let messages: Vec<Outgoing> =
        drafts.iter().map(|draft| Outgoing { topic: topic.into(), fields: draft.fields() }).collect();
    for chunk in messages.chunks(1_000) {
        bus.publish(chunk).await.unwrap();
    }
}

/// Waits until the lag of a group on the topic `in` satisfies `enough`.
pub(crate) async fn progress(bus: &Arc<dyn Bus>, group: &str, enough: impl Fn(u64) -> bool) {
    let end = Instant::now() + BOUND;
    loop {
        let status = bus.status(&"in".into(), group).await.unwrap();
        if status.exists && status.lag.is_some_and(&enough) {
            return;
        }
        assert!(Instant::now() < end, "no progress: {status:?}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// A consumer of a group that reads a topic from its beginning.
pub(crate) async fn member(bus: &Arc<dyn Bus>, group: &str, topic: &str) -> Arc<dyn Subscription> {
    let group = Group {
        name: group.to_owned(),
        topics: vec![Topic::from(topic)],
        start: Start::Beginning,
        lease: Duration::from_secs(300),
        consumer: "test".into(),
        order: None,
        join_foreign: false,
    };
    bus.subscribe(&group).await.unwrap()
}

/// Everything in a topic, read by a group of its own that acknowledges nothing.
pub(crate) async fn read_all(bus: &Arc<dyn Bus>, topic: &str) -> Vec<Fields> {
    let group = format!("reader-{}", uuid::Uuid::new_v4().simple());
    let subscription = member(bus, &group, topic).await;
    let (mut all, mut held) = (Vec::new(), Vec::new());
    loop {
        let Fetched::Deliveries(batch) = subscription.fetch(1_000, Duration::from_millis(100)).await.unwrap() else {
            panic!("the group is not exclusive")
        };
        // On a busy machine the wait may be over before the answer is there.
        if batch.is_empty() {
            let status = bus.status(&topic.into(), &group).await.unwrap();
            if (status.lag, status.pending) == (Some(0), all.len() as u64) {
                return all;
            }
        }
        all.extend(batch.iter().map(|delivery| delivery.message.fields.clone()));
        held.extend(batch);
    }
}
