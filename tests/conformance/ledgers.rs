//! Ledgers: what hosts agree on beside a handler's events.

use bytes::Bytes;
use sandbar::bus::{LedgerEntry, LedgerName};

use super::*;

fn name(topic: &str, group: &str) -> LedgerName {
    LedgerName { topic: topic.into(), group: group.into() }
}

fn entry(text: &str, add: &[(&str, &'static [u8])], keep: &[&str]) -> LedgerEntry {
    LedgerEntry {
        text: text.into(),
        add: add.iter().map(|(key, value)| ((*key).to_owned(), Bytes::from_static(value))).collect(),
        keep: keep.iter().map(|key| (*key).to_owned()).collect(),
    }
}

pub(crate) async fn a_ledger_is_written_by_one_at_a_time_and_keeps_what_it_is_told(fixture: &dyn Fixture) {
    let (one, two) = (fixture.host().await, fixture.host().await);
    let own = name("t", "g");
    assert_eq!(one.ledger(&own).await.unwrap(), None);
    assert_eq!(one.ledger_bytes(&own, "a").await.unwrap(), None);
    let first = entry("first", &[("a", b"\0\xff"), ("revision", b"no number")], &["a", "revision"]);
    assert_eq!(one.write_ledger(&own, 0, &first).await.unwrap(), Some(1));
    assert_eq!(two.write_ledger(&own, 0, &entry("too late", &[], &[])).await.unwrap(), None);
    let found = two.ledger(&own).await.unwrap().unwrap();
    assert_eq!((found.revision, found.text.as_str()), (1, "first"), "whoever was too late changed nothing");
    assert_eq!(two.ledger_bytes(&own, "a").await.unwrap().as_deref(), Some(&b"\0\xff"[..]));
    assert_eq!(two.ledger_bytes(&own, "revision").await.unwrap().as_deref(), Some(&b"no number"[..]));

    // Another group's, and another topic's, is another ledger.
    for other in [name("t", "g2"), name("t2", "g")] {
        assert_eq!(one.ledger(&other).await.unwrap(), None);
    }

    assert_eq!(two.write_ledger(&own, 1, &entry("second", &[("b", b"2")], &["a", "b"])).await.unwrap(), Some(2));
    assert_eq!(one.ledger_bytes(&own, "revision").await.unwrap(), None, "what is not kept goes");
    assert_eq!(one.ledger_bytes(&own, "a").await.unwrap().as_deref(), Some(&b"\0\xff"[..]));
    assert_eq!(one.write_ledger(&own, 2, &entry("third", &[], &[])).await.unwrap(), Some(3));
    let found = fixture.host().await.ledger(&own).await.unwrap().unwrap();
    assert_eq!((found.revision, found.text.as_str()), (3, "third"));
    assert_eq!(one.ledger_bytes(&own, "b").await.unwrap(), None);

    // Ten at once: each revision has one writer.
    let writers = (0..10).map(|n| {
        let (bus, own) = (if n % 2 == 0 { Arc::clone(&one) } else { Arc::clone(&two) }, own.clone());
        async move { bus.write_ledger(&own, 3, &entry(&n.to_string(), &[], &[])).await.unwrap() }
    });
    let written = futures_util::future::join_all(writers).await;
    assert_eq!(written.iter().flatten().count(), 1, "{written:?}");
}

pub(crate) async fn a_large_module_fits_into_a_ledger(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let large = Bytes::from(vec![7; 24 << 20]);
    let entry = LedgerEntry { text: "t".into(), add: vec![("m".into(), large.clone())], keep: vec!["m".into()] };
    assert_eq!(bus.write_ledger(&name("t", "g"), 0, &entry).await.unwrap(), Some(1));
    let found = fixture.host().await.ledger_bytes(&name("t", "g"), "m").await.unwrap().unwrap();
    assert_eq!(found.len(), large.len());
    assert!(found == large);
}
