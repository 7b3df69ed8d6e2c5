//! A secret is read by name by whoever was given it, and nobody sees it in what the guest says.

use std::sync::Arc;

use sandbar::event::{Event, Verdict};
use sandbar::sandbox::{Grants, Handler, Spec};

use super::support::{TOKEN, call, event, everything, logged, probe, retried, said, spec};

fn told(way: &str) -> Event {
    event("secret", &[("name", "TOKEN"), ("way", way), ("value", TOKEN)])
}

fn granted() -> Arc<Handler> {
    probe(Spec { grants: everything(), ..spec() }).0
}

#[test]
fn a_secret_is_read_by_the_handler_that_was_given_it() {
    assert_eq!(said(&granted(), &told("is")), "true");
    let (bare, _) = probe(spec());
    for (handler, name) in [(&bare, "TOKEN"), (&granted(), "token"), (&granted(), "TOKEN2"), (&granted(), "")] {
        let answer = said(handler, &event("secret", &[("name", name)]));
        let line = format!(r#"[handler.grants] secrets = [\"{name}\"]"#);
        assert!(answer.contains("Denied") && answer.contains(&line), "{answer}");
    }
}

/// What could be taken for the secret or a part of it.
fn assert_hidden(text: &str) {
    for part in [TOKEN, &TOKEN[..6], &TOKEN[8..], &format!("{TOKEN:?}")] {
        assert!(!text.contains(part), "{text}");
    }
}

#[test]
fn a_secret_is_hidden_in_logs() {
    let handler = granted();
    for (way, shown) in
        [("log", "it is ***"), ("print", "it is \"***\""), ("panic", "it is ***"), ("abort", "it is ***")]
    {
        let lines = logged(|| drop(call(&handler, &told(way))));
        assert!(lines.iter().any(|line| line.contains(shown)), "{way}: {lines:?}");
        lines.iter().for_each(|line| assert_hidden(line));
    }
    let lines = logged(|| drop(call(&handler, &told("log"))));
    assert!(lines[0].contains("it is *** token=*** handler="), "{lines:?}");
}

#[test]
fn a_secret_is_hidden_in_reasons_and_codes() {
    let handler = granted();
    for way in ["panic", "abort", "retry"] {
        let (code, reason) = retried(call(&handler, &told(way)).0);
        assert!(reason.contains("it is ***"), "{way}: {reason}");
        assert_hidden(&reason);
        assert!(!code.contains("5f"), "{code}");
    }
    for way in ["reject", ""] {
        let Verdict::Reject { code, reason } = call(&handler, &told(way)).0 else { panic!("{way}") };
        assert!(reason.contains("***") && !code.contains("5f"), "{code}: {reason}");
        assert_hidden(&reason);
    }
}

#[test]
fn another_handler_says_what_it_likes() {
    // It does not know the secret, so it cannot tell that of it.
    let other = Spec { grants: Grants::default(), ..spec() };
    let (_, reason) = retried(call(&probe(other).0, &event("retry", &[("message", TOKEN)])).0);
    assert_eq!(reason, TOKEN);
    assert!(!format!("{:?}", granted()).contains(&TOKEN[..6]));
}
