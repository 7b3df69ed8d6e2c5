//! The binary of each contract version that was ever released runs, for ever.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sandbar::event::{Payload, Verdict};
use sandbar::sandbox::{Services, Spec};

use super::support::{Remembering, called, event, everything, logged, shared, spec};

/// `tests/contract/README.md` says how it was made. It is never built again.
#[test]
fn the_binary_of_0_1_0_runs() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("contract/handler-0.1.0.wasm");
    let (sandbox, _) = shared();
    let module = sandbox.load(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(module.capabilities().len(), 4, "it imports every interface: {:?}", module.imports());
    let services = Arc::new(Remembering::default());
    services.keys.lock().unwrap().insert("count".into(), (vec![41], 9));
    let spec = Spec { grants: everything(), ..spec() };
    let handler = sandbox.handler(&module, spec, Arc::clone(&services) as Arc<dyn Services>).unwrap();

    let mut given = event("anything", &[("h", "1")]);
    given.payload = Payload::Json(r#"{"a":1}"#.into());
    let mut ran = None;
    let lines = logged(|| ran = Some(sandbox.call(&handler, &given, 2, true)));
    let (verdict, effects) = called(ran.unwrap());
    assert_eq!(verdict, Verdict::Done);
    assert!(lines[0].contains(r#"{"a":1} attempt=2"#), "{lines:?}");
    assert_eq!((effects.writes.len(), effects.reads.len(), effects.publish.len()), (2, 2, 1));
    let saw: serde_json::Value = serde_json::from_slice(effects.publish[0].fields.get("data").unwrap()).unwrap();
    let expected = serde_json::json!({
        "id": given.metadata.id, "source": "tests", "time": "2024-05-06T07:08:09+00:00", "topic": "in",
        "content": "application/json", "payload": r#"{"a":1}"#, "handler": "probe", "position": "5-1",
        "attempt": 2, "of": 5, "deadline": 20_000, "replayed": true, "attributes": 0, "count": 42,
        "listed": ["count"], "base": "https://lms", "secret": false,
    });
    assert_eq!(saw, expected);

    let verdict = |kind: &str| called(sandbox.call(&handler, &event(kind, &[]), 1, false)).0;
    let after = Some(Duration::from_millis(1_500));
    assert_eq!(verdict("retry"), Verdict::Retry { code: "later".into(), reason: "{}".into(), after });
    assert_eq!(verdict("reject"), Verdict::Reject { code: "no-use".into(), reason: "{}".into() });
}
