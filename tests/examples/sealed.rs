//! The example that needs a secret.

use sandbar::sandbox::{Secret, Secrets};

use super::*;

fn granted(secrets: Secrets) -> Grants {
    Grants { publish: vec![PublishGrant { topic: "sealed".to_owned(), types: vec![] }], secrets, ..Grants::default() }
}

#[test]
fn an_event_is_published_with_its_seal() {
    let key = Secrets::known([("SEAL_KEY".to_owned(), Secret::new(b"a key of the tests"))]);
    let sealed = Subject::new("sealed", granted(key));
    sealed.done(&event("courses", "org.example.v1", &json!({ "course": "one" })));
    let drafts = sealed.published();
    let [draft] = drafts.as_slice() else { panic!("{drafts:?}") };
    assert_eq!((draft.topic.as_str(), draft.kind.as_str()), ("sealed", "org.example.v1"));
    assert_eq!(draft.payload, Payload::Json(r#"{"course":"one"}"#.to_owned()));
    // As `openssl dgst -sha256 -hmac` has it.
    let seal = "1abe5129eb3b98bc6e4baee2859a64893aed5a739ae669ed3d3e4833ac1a21fa";
    assert_eq!(draft.headers, [("seal".to_owned(), Bytes::from_static(seal.as_bytes()))]);
}

#[test]
fn without_the_secret_it_says_which_line_is_missing() {
    let event = event("courses", "org.example.v1", &json!({}));
    let (code, reason) = Subject::new("sealed", granted(Secrets::default())).rejected(&event);
    assert_eq!(code, "denied");
    assert!(reason.contains(r#"[handler.grants] secrets = ["SEAL_KEY"]"#), "{reason}");
    let missing = missing_grants(&load("sealed"), &Grants::default());
    assert_eq!(
        missing.iter().map(|one| one.capability).collect::<Vec<_>>(),
        [Capability::Publish, Capability::Secrets]
    );
}
