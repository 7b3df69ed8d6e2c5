//! The real Python packages on the other side of a real Redis: what they publish arrives here, and what is published
//! here arrives there, byte for byte.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use sandbar::bus::{Bus, Fetched, Group, Settings, Start, open};
use sandbar::decode::{self, Decoder};
use sandbar::event::{Effects, Message, Payload, Settlement, Topic};
use sandbar::wire::Profile;
use serde_json::json;

use crate::interop::python::{Consumer, Produced, produce};
use crate::support::bounded;
use crate::support::host::{Bench, HandlerToml};
use crate::support::redis::Server;
use crate::support::vectors::{COUNT, Vector, vectors};

mod moving;
pub(crate) mod python;

const PREFIX: &str = "dev";
/// Releases of openedx-events before 11 cannot express these.
const NEWER_THAN_10: [&str; 2] = [
    "org.openedx.learning.discussions.configuration.changed.v1",
    "org.openedx.learning.course.notification.requested.v1",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_python_publishes_arrives_here() {
    let server = Server::start(&[]).await;
    let sent = expressible(&produce(&server.url(), PREFIX, &vectors()).await);

    let topics: HashSet<&str> = sent.iter().map(|vector| vector.topic.as_str()).collect();
    let messages = receive(&server.url(), &topics, sent.len()).await;

    let decoder = Decoder::load(&decode::Settings::default()).unwrap();
    for vector in &sent {
        let message = messages.iter().find(|message| message.fields.get("id") == Some(vector.metadata.id.as_bytes()));
        let message = message.unwrap_or_else(|| panic!("{} did not arrive", vector.kind));
        assert_eq!(message.fields, vector.fields(), "{}", vector.kind);
        assert_eq!(&*message.topic, vector.topic);

        let envelope = Profile::OpenEdx.read(message).unwrap();
        let event = decoder.decode(message, envelope, false).unwrap();
        assert_eq!(event.metadata.kind, vector.kind);
        assert_eq!(event.metadata.source, vector.metadata.source);
        assert_eq!(event.metadata.time, vector.metadata.time);
        let Payload::Json(json) = event.payload else { panic!("{} was not decoded", vector.kind) };
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), vector.data, "{}", vector.kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_here_arrives_in_python() {
    const TOPIC: &str = "interop";
    let server = Server::start(&[]).await;
    // Says which events this release can express. That Python writes them in the vectors' bytes is shown above.
    let sent = expressible(&produce(&server.url(), "python", &vectors()).await);

    let bench = Bench::with(&format!("[bus]\nurl = \"{}\"\ntopic_prefix = \"{PREFIX}\"\n", server.url()));
    let lines: Vec<String> = sent.iter().map(document).collect();
    fs::write(bench.path("events.jsonl"), lines.join("\n")).unwrap();
    let printed = bench.ok(&["publish", "--topic", TOPIC, "events.jsonl"], b"");
    assert_eq!(printed.lines().count(), sent.len());
    let ours = receive(&server.url(), &HashSet::from([TOPIC]), sent.len()).await;
    for (vector, message) in sent.iter().zip(&ours) {
        assert_eq!(message.fields, vector.fields(), "{} is written in other bytes", vector.kind);
    }

    let received = Consumer::start(&server.url(), PREFIX, TOPIC, "reports", sent.len()).await.events().await;
    assert_eq!(received.len(), sent.len());
    for (vector, event) in sent.iter().zip(&received) {
        assert_eq!(event["type"], vector.kind);
        assert_eq!(event["id"], vector.metadata.id);
        assert_eq!(event["source"], vector.metadata.source);
        assert_eq!(event["sourcehost"], vector.metadata.sourcehost);
        assert_eq!(event["time"], vector.metadata.time);
        assert_eq!(event["data"], vector.data_in_python, "{}", vector.kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_stands_between_two_python_services() {
    const TOPIC: &str = "interop";
    let server = Server::start(&[]).await;
    let mut vectors = vectors();
    for vector in &mut vectors {
        TOPIC.clone_into(&mut vector.topic);
    }
    let sent = expressible(&produce(&server.url(), "", &vectors).await);

    let bench = Bench::new();
    let echo = HandlerToml::new("echo", "echo", TOPIC).with("[handler.grants]").with("publish = [\"echoed\"]");
    let config = bench.config(&server.url(), &[echo]);
    bench.run(&config, &["--until-idle"]).finish();

    let received = Consumer::start(&server.url(), "", "echoed", "reports", sent.len()).await.events().await;
    // The handler may be called for several events at once, so they need not come in order.
    for vector in &sent {
        let event = received.iter().find(|event| event["type"] == vector.kind);
        let event = event.unwrap_or_else(|| panic!("{} did not arrive", vector.kind));
        assert_eq!(event["data"], vector.data_in_python, "{}", vector.kind);
        assert_ne!(event["id"], vector.metadata.id, "what is published is an event of its own");
    }
}

/// The vectors that were sent, after a look that none was left out without reason.
fn expressible(produced: &Produced) -> Vec<Vector> {
    let expected: HashSet<&str> =
        if produced.openedx_events.starts_with("10.") { HashSet::from(NEWER_THAN_10) } else { HashSet::new() };
    let left_out: HashSet<&str> = produced.unsupported.iter().map(String::as_str).collect();
    assert_eq!(left_out, expected, "what openedx-events {} cannot express", produced.openedx_events);
    let sent: Vec<Vector> = vectors().into_iter().filter(|v| !left_out.contains(v.kind.as_str())).collect();
    assert_eq!(sent.len() + left_out.len(), COUNT);
    sent
}

/// An event as a user of the command line writes it, with the vector's metadata.
fn document(vector: &Vector) -> String {
    let metadata = &vector.metadata;
    let headers = json!({ "sourcehost": metadata.sourcehost, "sourcelib": vector.lib() });
    let document = json!({
        "type": vector.kind, "id": metadata.id, "time": metadata.time, "source": metadata.source, "headers": headers,
        "data": vector.data,
    });
    document.to_string()
}

async fn bus(url: &str) -> std::sync::Arc<dyn Bus> {
    let settings = Settings { url: url.to_owned(), topic_prefix: Some(PREFIX.to_owned()), ..Settings::default() };
    open(&settings).await.unwrap()
}

/// Reads `count` messages as a new group that starts at the beginning, and acknowledges them.
async fn receive(url: &str, topics: &HashSet<&str>, count: usize) -> Vec<Message> {
    let bus = bus(url).await;
    let group = Group {
        name: "interop".to_owned(),
        topics: topics.iter().map(|topic| Topic::from(*topic)).collect(),
        start: Start::Beginning,
        lease: Duration::from_secs(30),
        consumer: "interop".to_owned(),
        order: None,
        join_foreign: false,
    };
    let subscription = bounded("subscribe", bus.subscribe(&group)).await.unwrap();
    let mut messages = Vec::new();
    bounded("receive", async {
        while messages.len() < count {
            let Fetched::Deliveries(deliveries) = subscription.fetch(count, Duration::from_secs(5)).await.unwrap()
            else {
                panic!("only exclusive groups stand by")
            };
            messages.extend(deliveries.iter().map(|delivery| delivery.message.clone()));
            let acks = deliveries.into_iter().map(|delivery| (delivery, Settlement::Ack(Effects::default()))).collect();
            for settled in subscription.settle(acks).await {
                assert!(matches!(settled, sandbar::bus::Settled::Committed), "{settled:?}");
            }
        }
    })
    .await;
    subscription.close().await.unwrap();
    messages
}
