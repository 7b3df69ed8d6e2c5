//! Bad input: each is one dead letter with the bytes as they came, and what comes after it is handled.

use super::*;

const CATALOG: &str = "org.openedx.content_authoring.course.catalog_info.changed.v1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_a_dead_letter_on_sqlite() {
    let bench = Bench::new();
    let url = embedded(&bench);
    unreadable(&bench, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_a_dead_letter_on_redis() {
    let server = Server::start(&[]).await;
    unreadable(&Bench::new(), &server.url()).await;
}

async fn unreadable(bench: &Bench, url: &str) {
    let bus = open(url).await;
    let huge = [&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..], b"x"].concat();
    let drafts = [
        (code::UNDECODABLE, Draft::new(CATALOG).avro(b"\x10cut")),
        (code::UNDECODABLE, Draft::new(CATALOG).avro(b"")),
        (code::UNDECODABLE, Draft::new(CATALOG).avro(&huge)),
        (code::UNDECODABLE, Draft::new("ok").json("{\"open\":")),
        (code::NO_SCHEMA, Draft::new("org.example.unknown.v1").avro(b"\x00")),
        (code::TOO_LARGE, Draft::new("ok").json(&format!("\"{}\"", "x".repeat(1 << 20)))),
        (code::BAD_HEADERS, Draft::new("ok").time("yesterday")),
        (code::BAD_HEADERS, Draft::new("")),
    ];
    let mut all = Vec::new();
    for (_, draft) in &drafts {
        publish(&bus, "in", std::slice::from_ref(draft)).await;
        publish(&bus, "in", &[Draft::new("ok")]).await;
        all.push(draft.fields());
    }
    let config = bench.config(url, &[probe()]);
    let mut host = bench.run(&config, &["--until-idle", "--json"]);
    host.finish();
    let summary = host.summary();
    assert_eq!(summary["handlers"][0]["acked"], drafts.len(), "what came after each was handled");

    let mut letters = bus.dead_letters(&"in".into(), "probe", None, 100).await.unwrap();
    assert_eq!(letters.len(), drafts.len());
    // They are settled in the order they were found unreadable, which is the topic's.
    letters.sort_by_key(|letter| all.iter().position(|fields| *fields == letter.fields));
    for ((code, _), (letter, fields)) in drafts.iter().zip(letters.iter().zip(&all)) {
        assert_eq!(letter.cause.code, *code, "{}", letter.cause.reason);
        assert_eq!(letter.fields, *fields, "the bytes are as they came");
        assert_eq!(letter.cause.attempts, 0, "no call was started");
        assert!(!letter.cause.reason.is_empty());
    }
}
