//! Workers that lie: what a host takes from one that somebody else has taken over.

use std::io::Write as _;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::event::{Effects, Fields, KeyList, KeyWrite, Metadata, Outgoing, Payload, Versioned};
use crate::sandbox::{Draft, DraftError, Grants, Limits, Prepared, PublishGrant, Sandbox, Services, Settings, Unread};

/// Publishes whatever it is asked to, and has one key.
struct Taking;

impl Services for Taking {
    fn prepare(&self, _: &Event, index: u32, draft: Draft) -> Result<Prepared, DraftError> {
        let outgoing = Outgoing { topic: draft.topic.into(), fields: Fields::default() };
        Ok(Prepared { id: index.to_string(), outgoing })
    }

    fn read_key(&self, space: &str, key: &str, _: Instant) -> Result<Versioned, Unread> {
        assert_eq!(space, "h");
        let value = (key == "k").then(|| bytes::Bytes::from_static(b"v"));
        Ok(Versioned { version: u64::from(value.is_some()) * 7, value })
    }

    fn list_keys(&self, _: &str, _: &str, limit: usize, _: Instant) -> Result<KeyList, Unread> {
        Ok(KeyList { keys: (0..limit).map(|n| format!("k{n:06}")).collect(), version: 9 })
    }
}

fn event() -> Event {
    Event {
        topic: "in".into(),
        position: "5-1".into(),
        first: "5-0".into(),
        metadata: Metadata {
            id: "id".into(),
            kind: "kind".into(),
            key: Some(bytes::Bytes::from_static(b"\0key")),
            headers: vec![("h".into(), bytes::Bytes::from_static(&[0xff]))],
            hops: 3,
            ..Metadata::default()
        },
        content_type: "application/json".into(),
        payload: Payload::Json("{\"ä\":1}".into()),
    }
}

fn state(limits: Limits) -> State {
    let sandbox = Sandbox::new(&Settings { threads: 1, ..Settings::default() }).unwrap();
    let module = sandbox.load(include_bytes!("../../../../tests/contract/handler-0.1.0.wasm")).unwrap();
    let publish = vec![PublishGrant { topic: "out".into(), types: vec!["org.*".into()] }];
    let grants = Grants { publish, keys: true, ..Grants::default() };
    let (name, group) = ("h".to_owned(), "g".to_owned());
    let spec = Spec { name, group, max_attempts: 5, reuse: 0, isolated: false, limits, grants };
    let handler = sandbox.handler(&module, spec, Arc::new(Taking)).unwrap();
    let handling = Arc::clone(&handler.handling);
    State::new(handling, Arc::new(event()), (2, true), Instant::now(), None)
}

/// The call of a worker that does this with its end of the socket; what it was answered, how the call ended, and with what
/// effects.
fn with<T: Send + 'static>(
    limits: Limits,
    worker: impl FnOnce(&mut Link) -> T + Send + 'static,
) -> (T, Result<Verdict, Lost>, Effects) {
    let mut state = state(limits);
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut link = Link::new(ours, most(&state.handling.spec));
    let worker = thread::spawn(move || {
        let mut link = Link::new(theirs, 1 << 30);
        assert_eq!(link.hear().unwrap().0, kind::CALL);
        worker(&mut link)
    });
    let ended = call(&mut link, &mut state);
    drop(link);
    (worker.join().unwrap(), ended, state.take_effects())
}

fn ask(link: &mut Link, frame: Frame) -> (u8, String) {
    link.send(frame).unwrap();
    let (kind, content) = link.hear().unwrap();
    (kind, String::from_utf8_lossy(&content).into_owned())
}

fn draft(topic: &str, kind: &str, bytes: usize) -> Frame {
    let payload = Payload::Json("1".repeat(bytes));
    let draft = Draft { topic: topic.into(), kind: kind.into(), key: None, payload, headers: vec![] };
    Frame::new(kind::PUBLISH).draft(&draft)
}

fn finish(link: &mut Link, writes: &[KeyWrite]) {
    link.send(Frame::new(kind::DONE).verdict(&Verdict::Done).writes(writes)).unwrap();
}

fn is_garbled(ended: &Result<Verdict, Lost>) -> bool {
    matches!(ended, Err(Lost::Gone(error)) if error.kind() == io::ErrorKind::InvalidData)
}

#[test]
fn a_draft_that_the_worker_should_not_have_sent_is_refused() {
    let limits = Limits { published_events: 2, ..Limits::default() };
    let (answers, ended, effects) = with(limits, |link| {
        let asked = [
            draft("elsewhere", "org.x", 1),
            draft("out", "com.x", 1),
            draft("out", "org.x", 5 << 20),
            draft("out", "org.x", 1),
            draft("out", "org.x", 1),
            draft("out", "org.x", 1),
        ];
        let answers = asked.map(|frame| ask(link, frame));
        finish(link, &[]);
        answers
    });
    let kinds: Vec<u8> = answers.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [kind::REFUSED, kind::REFUSED, kind::LIMIT, kind::ANSWER, kind::ANSWER, kind::LIMIT]);
    assert!(answers[0].1.contains("publishing to \"elsewhere\" is not granted"), "{}", answers[0].1);
    assert_eq!(ended.unwrap(), Verdict::Done);
    let topics: Vec<&str> = effects.publish.iter().map(|message| &*message.topic).collect();
    assert_eq!(topics, ["out", "out"], "what was answered is what is published");
}

#[test]
fn keys_are_counted_and_their_versions_kept_here() {
    let limits = Limits { key_operations: 3, ..Limits::default() };
    let write = KeyWrite { key: "new".into(), value: Some(bytes::Bytes::from_static(b"1")) };
    let written = write.clone();
    let (answer, ended, effects) = with(limits.clone(), move |link| {
        let answer = ask(link, Frame::new(kind::GET).text("k"));
        let (kind, said) = ask(link, Frame::new(kind::LIST).text("k").number(u64::from(u32::MAX)));
        assert_eq!(
            (kind, said.matches("k00").count()),
            (kind::ANSWER, 1_003),
            "as many as there are, and own deletions"
        );
        finish(link, &[written]);
        answer
    });
    assert_eq!((answer.0, ended.unwrap()), (kind::ANSWER, Verdict::Done));
    assert_eq!(effects.reads.iter().map(|read| read.version).collect::<Vec<_>>(), [9, 7]);
    assert_eq!(effects.writes, std::slice::from_ref(&write));
    // More than a call may write, or what is no key, its guest cannot have written.
    let bad = KeyWrite { key: "\n".into(), ..write.clone() };
    for writes in [vec![write; 4], vec![bad]] {
        let ((), ended, _) = with(limits.clone(), move |link| finish(link, &writes));
        assert!(is_garbled(&ended), "{ended:?}");
    }
}

#[test]
fn what_makes_no_sense_ends_the_worker() {
    let huge = {
        let mut frame = vec![kind::LOG];
        frame.extend(u64::MAX.to_le_bytes());
        frame
    };
    let frames: [Vec<u8>; 7] = [
        Frame::new(kind::READY).finish(),
        Frame::new(200).finish(),
        Frame::new(kind::LOG).number(5).text("no such level").finish(),
        Frame::new(kind::GET).text("k").number(1).finish(),
        Frame::new(kind::DONE).number(3).finish(),
        Frame::new(kind::LIST).text("k").finish(),
        huge,
    ];
    for frame in frames {
        let said = format!("{frame:?}");
        let ((), ended, _) = with(Limits::default(), move |link| link.send_whole(&frame).unwrap());
        assert!(is_garbled(&ended), "{said}: {ended:?}");
    }
}

#[test]
fn one_that_goes_on_for_ever_is_late_and_rests_no_longer_than_a_call_may_ask() {
    let limits = Limits { time: Duration::from_millis(50), ..Limits::default() };
    let ((), ended, _) = with(limits.clone(), |link| while link.send(Frame::new(kind::DROPPED).number(1)).is_ok() {});
    assert!(matches!(ended, Err(Lost::Late)), "{ended:?}");
    let limits = Limits { time: Duration::from_secs(20), ..limits };
    let (asked, ended, _) = with(limits, |link| {
        let rest = |link: &mut Link| link.send(Frame::new(kind::REST)).and_then(|()| link.hear()).is_ok();
        (0_u32..).find(|_| !rest(link)).unwrap()
    });
    assert!(is_garbled(&ended) && asked == 40_100, "{asked}: {ended:?}");
}

#[test]
fn a_worker_that_ends_is_gone_and_one_that_never_listened_was_not_called() {
    let ((), ended, _) = with(Limits::default(), |link| drop(link.stream().shutdown(std::net::Shutdown::Both)));
    assert!(matches!(ended, Err(Lost::Gone(_))), "{ended:?}");
    // Before the call is sent, and with some of it unread.
    for before in [true, false] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut theirs = Some(theirs).filter(|_| !before);
        let ending = thread::spawn(move || {
            if let Some(theirs) = &mut theirs {
                let mut byte = [0];
                std::io::Read::read_exact(theirs, &mut byte).unwrap();
            }
        });
        if before {
            ending.join().unwrap();
        }
        let ended = call(&mut Link::new(ours, 1_000), &mut state(Limits::default()));
        assert!(matches!(ended, Err(Lost::Unheard)), "{ended:?}");
    }
}

#[test]
fn what_is_said_at_the_end_is_cleaned_again() {
    let said =
        Verdict::Retry { code: "A b\n%".into(), reason: format!("\u{1b}[2Jgone\n{}", "x".repeat(9_000)), after: None };
    let ((), ended, _) = with(Limits::default(), move |link| {
        link.send(Frame::new(kind::DONE).verdict(&said).writes(&[])).unwrap();
    });
    let Ok(Verdict::Retry { code, reason, .. }) = ended else { panic!("{ended:?}") };
    assert_eq!(code, "ab");
    assert!(reason.starts_with("gone x") && reason.len() <= limits::REASON_BYTES, "{reason}");
}

#[test]
fn values_cross_as_they_are() {
    let (sender, receiver) = UnixStream::pair().unwrap();
    let sending = thread::spawn(move || {
        let mut link = Link::new(sender, 0);
        link.send(Frame::new(kind::CALL).event(&event())).unwrap();
        link.send(draft("out", "org.x", 100_000)).unwrap();
    });
    let mut link = Link::new(receiver, 1 << 20);
    let (_, content) = link.hear().unwrap();
    let mut values = Values::of(&content);
    assert_eq!(values.event().unwrap(), event());
    values.end().unwrap();
    let (_, content) = link.hear().unwrap();
    assert_eq!(Values::of(&content).draft().unwrap().payload, Payload::Json("1".repeat(100_000)));
    sending.join().unwrap();
}

proptest! {
    #[test]
    fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (mut sender, receiver) = UnixStream::pair().unwrap();
        sender.write_all(&bytes).unwrap();
        drop(sender);
        drop(Link::new(receiver, 1_000).hear());
        drop(Values::of(&bytes).event());
        drop(Values::of(&bytes).draft());
        drop(Values::of(&bytes).verdict());
        drop(Values::of(&bytes).writes());
    }
}
