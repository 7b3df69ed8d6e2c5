//! The example handlers as components in the real sandbox, fed with events as Open edX writes them and with those of
//! the demonstration.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sandbar::decode::{Decoder, Settings as Schemas};
use sandbar::event::{Effects, Event, Fields, KeyList, KeyRead, Metadata, Outgoing, Payload, Verdict, Versioned, code};
use sandbar::sandbox::{
    Capability, Draft, DraftError, Grants, Handler, Limits, Module, Prepared, PublishGrant, Ran, Sandbox, Services,
    Settings, Spec, limits, missing_grants,
};
use serde_json::{Value, json};

use crate::support::host::guest;
use crate::support::vectors;

mod bus;
mod sealed;

const ENROLLMENT_CREATED: &str = "org.openedx.learning.course.enrollment.created.v1";
const CATALOG_CHANGED: &str = "org.openedx.content_authoring.course.catalog_info.changed.v1";
const DEMO_COURSE: &str = "course-v1:edX+DemoX+Demo_Course";
const CATALOG_COURSE: &str = "course-v1:UnivX+CS-101.x+2026_T1";

/// What a handler published and what it keeps: the rest of the host, in memory. Keys are written when a call is done.
#[derive(Default)]
struct Rest {
    drafts: Mutex<Vec<Draft>>,
    keys: Mutex<BTreeMap<String, Versioned>>,
}

/// One handler under test.
struct Subject {
    handler: Arc<Handler>,
    rest: Arc<Rest>,
}

static SANDBOX: LazyLock<Arc<Sandbox>> = LazyLock::new(|| Sandbox::new(&Settings::default()).unwrap());

// === impl Rest ===

impl Services for Rest {
    fn prepare(&self, event: &Event, index: u32, draft: Draft) -> Result<Prepared, DraftError> {
        let topic = draft.topic.as_str().into();
        self.drafts.lock().unwrap().push(draft);
        let outgoing = Outgoing { topic, fields: Fields::default() };
        Ok(Prepared { id: format!("{}/{index}", event.metadata.id), outgoing })
    }

    fn read_key(&self, _: &str, key: &str, _: Instant) -> Result<Versioned, sandbar::sandbox::Unread> {
        Ok(self.keys.lock().unwrap().get(key).cloned().unwrap_or_default())
    }

    fn list_keys(&self, _: &str, prefix: &str, limit: usize, _: Instant) -> Result<KeyList, sandbar::sandbox::Unread> {
        let keys = self.keys.lock().unwrap();
        Ok(KeyList {
            keys: keys.keys().filter(|key| key.starts_with(prefix)).take(limit).cloned().collect(),
            version: 1,
        })
    }
}

// === impl Subject ===

impl Subject {
    fn new(name: &str, grants: Grants) -> Self {
        Self::with_memory(name, grants, limits::MEMORY).unwrap()
    }

    fn with_memory(name: &str, grants: Grants, memory: u64) -> Result<Self, sandbar::sandbox::Error> {
        let rest = Arc::new(Rest::default());
        let spec = Spec {
            name: name.to_owned(),
            group: name.to_owned(),
            max_attempts: 5,
            reuse: 0,
            isolated: false,
            // What is tested here is no limit of time; the machine may be busy.
            limits: Limits { time: Duration::from_secs(30), memory, ..Limits::default() },
            grants,
        };
        Ok(Self { handler: SANDBOX.handler(&load(name), spec, rest.clone())?, rest })
    }

    fn call(&self, event: &Event, attempt: u32) -> (Verdict, Effects) {
        match SANDBOX.call(&self.handler, event, attempt, false) {
            Ran::Called { verdict, effects, .. } => (verdict, effects),
            Ran::NotCalled(reason) => panic!("not called: {reason}"),
        }
    }

    /// Calls and commits, which the bus does otherwise.
    fn done(&self, event: &Event) -> Effects {
        let (verdict, effects) = self.call(event, 1);
        assert_eq!(verdict, Verdict::Done);
        let mut keys = self.rest.keys.lock().unwrap();
        let version = keys.values().map(|kept| kept.version).max().unwrap_or_default() + 1;
        for write in &effects.writes {
            match &write.value {
                Some(value) => keys.insert(write.key.clone(), Versioned { value: Some(value.clone()), version }),
                None => keys.remove(&write.key),
            };
        }
        effects
    }

    fn rejected(&self, event: &Event) -> (String, String) {
        match self.call(event, 1) {
            (Verdict::Reject { code, reason }, effects) => {
                assert!(effects.is_empty());
                (code, reason)
            }
            (verdict, _) => panic!("not rejected: {verdict:?}"),
        }
    }

    fn published(&self) -> Vec<Draft> {
        std::mem::take(&mut self.rest.drafts.lock().unwrap())
    }

    fn key(&self, key: &str) -> Option<Bytes> {
        self.rest.keys.lock().unwrap().get(key)?.value.clone()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn component(name: &str) -> Vec<u8> {
    fs::read(guest(name)).unwrap()
}

/// Compiled once, however many tests call it.
fn load(name: &str) -> Module {
    static LOADED: LazyLock<Mutex<BTreeMap<String, Module>>> = LazyLock::new(Mutex::default);
    let mut loaded = LOADED.lock().unwrap();
    loaded.entry(name.to_owned()).or_insert_with(|| SANDBOX.load(&component(name)).unwrap()).clone()
}

fn event(topic: &str, kind: &str, data: &Value) -> Event {
    Event {
        topic: topic.into(),
        position: "7".into(),
        first: "7".into(),
        metadata: Metadata {
            id: "1d2f8a01-0b0c-11f1-8de9-0242ac120002".to_owned(),
            kind: kind.to_owned(),
            source: "openedx/lms/web".to_owned(),
            time: "2026-03-14T15:09:27.535897+00:00".to_owned(),
            ..Metadata::default()
        },
        content_type: "application/avro".to_owned(),
        payload: Payload::Json(data.to_string()),
    }
}

fn at(mut event: Event, time: &str) -> Event {
    time.clone_into(&mut event.metadata.time);
    event
}

/// An event as the Python packages wrote it.
fn vector(file: &str) -> Event {
    let vector = vectors::vector(file);
    let mut event = event(&vector.topic, &vector.kind, &vector.data);
    event.metadata.id = vector.metadata.id;
    event.metadata.time = vector.metadata.time;
    event
}

/// The events of the demonstration, on one topic.
fn demo(topic: &str) -> Vec<Event> {
    let text = fs::read_to_string(root().join("example-handlers/demo/events.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let events: Vec<_> = lines
        .filter(|line| line["topic"] == topic)
        .map(|line| event(topic, line["type"].as_str().unwrap(), &line["data"]))
        .collect();
    assert!(!events.is_empty(), "no events on {topic}");
    events
}

fn xapi_grants() -> Grants {
    Grants {
        publish: vec![PublishGrant { topic: "xapi-statements".to_owned(), types: vec!["xapi.*".to_owned()] }],
        config: Some([("base".to_owned(), "https://lms.example.org/".to_owned())].into()),
        ..Grants::default()
    }
}

fn keys_granted() -> Grants {
    Grants { keys: true, ..Grants::default() }
}

fn statement(draft: &Draft) -> Value {
    assert_eq!((draft.topic.as_str(), draft.kind.as_str()), ("xapi-statements", "xapi.statement.v1"));
    match &draft.payload {
        Payload::Json(text) => serde_json::from_str(text).unwrap(),
        Payload::Raw(_) => panic!("a statement in raw bytes"),
    }
}

#[test]
fn the_smallest_handler_is_small_and_asks_for_nothing() {
    let size = component("hello").len();
    assert!(size < 100 * 1024, "hello.wasm has {size} bytes");
    assert_eq!(missing_grants(&load("hello"), &Grants::default()), []);
    let effects = Subject::new("hello", Grants::default()).done(&demo("course-enrollment")[0]);
    assert!(effects.is_empty());
}

#[test]
fn a_component_imports_only_what_its_handler_uses() {
    let missing = |name: &str| -> Vec<Capability> {
        missing_grants(&load(name), &Grants::default()).into_iter().map(|missing| missing.capability).collect()
    };
    assert_eq!(missing("xapi"), [Capability::Publish, Capability::Config]);
    assert_eq!(missing("catalog-mirror"), [Capability::Keys]);
    assert_eq!(missing("notify-flaky"), []);
}

/// The SDK's allocator: a call must do with the memory the instance starts with. Here it may not have one page more.
/// With 1 KiB an event has the usual size; 100 KiB are more than any allocator finds in the rest of the last page.
#[test]
fn an_ordinary_call_grows_no_memory() {
    let enrollment = demo("course-enrollment").swap_remove(1);
    let ordinary = [
        ("hello", Grants::default(), enrollment.clone()),
        ("xapi", xapi_grants(), enrollment),
        ("catalog-mirror", keys_granted(), vector("01_course_catalog_info_changed.json")),
        ("notify-flaky", Grants::default(), vector("29_course_notification_requested_map_of_list.json")),
    ];
    const PAGE: u64 = 64 << 10;
    for (name, grants, event) in ordinary {
        // The fewest pages with which the sandbox takes the module are those it starts with. Tables count as memory
        // too: they get most of a page, which is less than a growth.
        let tight = (1..=64)
            .find_map(|pages| Subject::with_memory(name, grants.clone(), pages * PAGE + PAGE - 4096).ok())
            .unwrap_or_else(|| panic!("{name} starts with more than 4 MiB"));
        for size in [1 << 10, 100 << 10] {
            // JSON may have white space at its end.
            let mut padded = event.clone();
            if let Payload::Json(text) = &mut padded.payload {
                text.push_str(&" ".repeat(usize::saturating_sub(size, text.len())));
            }
            assert_eq!(tight.call(&padded, 1).0, Verdict::Done, "{name} with {size} bytes");
        }
    }
}

#[test]
fn a_large_event_grows_the_memory_and_is_handled() {
    let mut large = demo("course-enrollment").swap_remove(1);
    let Payload::Json(text) = &mut large.payload else { panic!("raw") };
    *text = text.replace("zoe_l", &"z".repeat(900_000));
    let xapi = Subject::new("xapi", xapi_grants());
    assert_eq!(xapi.done(&large).publish.len(), 1);
}

#[test]
fn xapi_tells_of_an_enrollment_as_open_edx_wrote_it() {
    let xapi = Subject::new("xapi", xapi_grants());
    assert_eq!(xapi.done(&vector("11_course_enrollment_changed_created_by.json")).publish.len(), 1);
    let drafts = xapi.published();
    assert_eq!(drafts[0].key.as_deref(), Some(DEMO_COURSE.as_bytes()));
    let expected = json!({
        "id": "1d2f8a0b-0b0c-11f1-8de9-0242ac120002",
        "actor": { "objectType": "Agent", "account": { "homePage": "https://lms.example.org", "name": "123" } },
        "verb": { "id": "http://id.tincanapi.com/verb/unregistered", "display": { "en": "unregistered" } },
        "object": {
            "objectType": "Activity",
            "id": format!("https://lms.example.org/courses/{DEMO_COURSE}"),
            "definition": {
                "type": "http://adlnet.gov/expapi/activities/course",
                "extensions": { "https://w3id.org/xapi/acrossx/extensions/type": "verified" },
            },
        },
        "context": { "platform": "openedx/lms/web" },
        "timestamp": "2026-03-14T15:09:37.535897+00:00",
    });
    assert_eq!(statement(&drafts[0]), expected);
}

#[test]
fn xapi_tells_of_every_enrollment_and_grade_of_the_demonstration() {
    let xapi = Subject::new("xapi", xapi_grants());
    let said = |topic: &str| -> Vec<(String, String)> {
        for event in demo(topic) {
            assert_eq!(xapi.done(&event).publish.len(), 1);
        }
        let pick = |value: &Value| value.as_str().unwrap().to_owned();
        let statements: Vec<_> = xapi.published().iter().map(statement).collect();
        statements
            .iter()
            .map(|said| (pick(&said["verb"]["display"]["en"]), pick(&said["actor"]["account"]["name"])))
            .collect()
    };
    let expect = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(verb, user)| ((*verb).to_owned(), (*user).to_owned())).collect()
    };
    assert_eq!(
        said("course-enrollment"),
        expect(&[
            ("registered", "7"),
            ("registered", "123"),
            ("registered", "31"),
            ("registered", "31"),
            ("registered", "58"),
            ("unregistered", "123"),
            ("unregistered", "7"),
            ("registered", "7"),
        ])
    );
    assert_eq!(said("grades"), expect(&[("scored", "7"), ("scored", "31"), ("scored", "123")]));
}

#[test]
fn xapi_without_its_grants_is_refused_and_publishes_nothing() {
    let enrollment = vector("11_course_enrollment_changed_created_by.json");
    let no_topic = Grants { publish: Vec::new(), ..xapi_grants() };
    let (code, reason) = Subject::new("xapi", no_topic).rejected(&enrollment);
    assert_eq!(code, "denied");
    assert!(reason.contains("xapi-statements"), "{reason}");
    let (code, reason) = Subject::new("xapi", Grants { config: None, ..xapi_grants() }).rejected(&enrollment);
    assert_eq!(code, "denied");
    assert!(reason.contains("config"), "{reason}");
    let (code, reason) =
        Subject::new("xapi", Grants { config: Some(BTreeMap::new()), ..xapi_grants() }).rejected(&enrollment);
    assert_eq!(code, "config");
    assert!(reason.contains("`base`"), "{reason}");
}

#[test]
fn data_of_another_shape_is_rejected() {
    let xapi = Subject::new("xapi", xapi_grants());
    let (code, reason) = xapi.rejected(&event("course-enrollment", ENROLLMENT_CREATED, &json!({ "enrollment": {} })));
    assert_eq!(code, "bad-data");
    assert!(reason.contains("missing field `user`"), "{reason}");
}

#[test]
fn catalog_mirror_keeps_the_latest_document_of_a_course() {
    let mirror = Subject::new("catalog-mirror", keys_granted());
    let (course, visible) = (format!("course/{CATALOG_COURSE}"), format!("visible/{CATALOG_COURSE}"));
    let hidden = vector("01_course_catalog_info_changed.json");

    let effects = mirror.done(&hidden);
    // The bus checks at the commit that the course is as absent as it was.
    assert_eq!(effects.reads, [KeyRead { key: Some(course.clone()), version: 0, value: None }]);
    let document: Value = serde_json::from_slice(&mirror.key(&course).unwrap()).unwrap();
    assert_eq!(document["as_of"], "2026-03-14T15:09:27.535897Z");
    assert_eq!(document["schedule_data"]["enrollment_end"], "2026-03-14T20:39:26.500000+05:30");
    assert_eq!(mirror.key(&visible), None);

    let change = |name: &str, time: &str| {
        let mut data: Value = match &hidden.payload {
            Payload::Json(text) => serde_json::from_str(text).unwrap(),
            Payload::Raw(_) => panic!("raw"),
        };
        data["catalog_info"]["name"] = name.into();
        data["catalog_info"]["hidden"] = false.into();
        at(event("course-catalog", CATALOG_CHANGED, &data), time)
    };
    mirror.done(&change("Second", "2026-03-14T15:09:28+00:00"));
    assert_eq!(mirror.key(&visible).as_deref(), Some(b"Second".as_slice()));

    // Late: produced before the one that is kept, though its text sorts after it.
    let effects = mirror.done(&change("Late", "2026-03-14T16:09:27+01:00"));
    assert!(effects.writes.is_empty(), "{effects:?}");
    let value = mirror.key(&course);
    assert_eq!(effects.reads, [KeyRead { key: Some(course), version: 2, value }]);
    assert_eq!(mirror.key(&visible).as_deref(), Some(b"Second".as_slice()));

    mirror.done(&at(hidden, "2026-03-15T00:00:00+00:00"));
    assert_eq!(mirror.key(&visible), None);
}

#[test]
fn catalog_mirror_without_keys_is_refused() {
    let (code, reason) =
        Subject::new("catalog-mirror", Grants::default()).rejected(&vector("01_course_catalog_info_changed.json"));
    assert_eq!(code, "denied");
    assert!(reason.contains("keys = true"), "{reason}");
}

#[test]
fn notify_flaky_fails_in_each_way_and_succeeds_in_the_end() {
    let flaky = Subject::new("notify-flaky", Grants::default());
    let (mut sent, mut rejected, mut busy, mut trapped) = (0, 0, 0, 0);
    for event in demo("notifications") {
        for attempt in 1.. {
            assert!(attempt <= 5, "it never ends");
            match flaky.call(&event, attempt).0 {
                Verdict::Done => sent += 1,
                Verdict::Reject { code, .. } => {
                    assert_eq!(code, "no-audience");
                    rejected += 1;
                }
                Verdict::Retry { code: found, after, .. } if found == "mail-server" => {
                    assert_eq!(after, Some(Duration::from_millis(50)));
                    busy += 1;
                    continue;
                }
                Verdict::Retry { code: found, reason, .. } => {
                    assert_eq!(found, code::TRAP);
                    // What the panic said reaches the operator.
                    assert!(reason.contains("a template for new_discussion_post is broken"), "{reason}");
                    trapped += 1;
                    continue;
                }
            }
            break;
        }
    }
    assert_eq!((sent, rejected, busy, trapped), (5, 1, 3, 1));
}

#[test]
fn notify_flaky_sends_what_open_edx_wrote() {
    let flaky = Subject::new("notify-flaky", Grants::default());
    flaky.done(&vector("29_course_notification_requested_map_of_list.json"));
}

#[test]
fn the_events_of_the_demonstration_fit_their_schemas() {
    let decoder =
        Decoder::load(&Schemas { dirs: vec![root().join("schemas/openedx")], builtin: false, ..Schemas::default() })
            .unwrap();
    for topic in ["course-enrollment", "course-catalog", "grades", "notifications"] {
        for event in demo(topic) {
            let Payload::Json(text) = &event.payload else { panic!("raw") };
            let kind = &event.metadata.kind;
            let datum = decoder.to_avro(kind, text).unwrap_or_else(|error| panic!("{kind}: {error}"));
            let back: Value = serde_json::from_str(&decoder.to_json(kind, &datum).unwrap()).unwrap();
            assert_eq!(back, serde_json::from_str::<Value>(text).unwrap());
        }
    }
}
