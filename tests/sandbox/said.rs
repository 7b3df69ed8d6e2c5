//! What a guest says becomes lines of the host's log.

use super::support::{call, event, logged, probe, spec};

fn lines(kind: &str, arguments: &[(&str, &str)]) -> Vec<String> {
    let (handler, _) = probe(spec());
    let event = event(kind, arguments);
    let id = format!("event={:?}", event.metadata.id);
    let lines = logged(|| drop(call(&handler, &event)));
    for line in &lines {
        assert!(line.contains("handler: ") && line.contains(r#"handler="probe""#) && line.contains(&id), "{line}");
    }
    lines
}

#[test]
fn a_log_line_has_level_message_and_attributes() {
    let said = lines("log", &[("message", "look\u{1b}[2J here\nnow")]);
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("WARN") && said[0].contains("look here now name=value"), "{said:?}");
}

#[test]
fn standard_output_and_error_become_lines() {
    let said = lines("print", &[("out", "one\ntwo\n"), ("err", "bad \u{1b}]0;x\u{7}thing\nrest")]);
    assert_eq!(said.len(), 4, "{said:?}");
    for (level, text) in [("INFO", "one"), ("INFO", "two"), ("WARN", "bad thing"), ("WARN", "rest")] {
        assert!(said.iter().any(|line| line.contains(level) && line.contains(text)), "{text} in {said:?}");
    }
    assert!(said.iter().all(|line| !line.contains('\u{1b}') && !line.contains('\u{7}')));
}

#[test]
fn a_flood_is_cut_and_counted() {
    for (kind, argument, flood) in [("log", "message", "x"), ("print", "out", &*"x\n".repeat(250))] {
        let said = lines(kind, &[(argument, flood), ("times", "250")]);
        assert_eq!(said.len(), 101, "{kind}");
        assert!(said[100].contains("150 log lines dropped: a call may write 100 lines"), "{}", said[100]);
    }
}

#[test]
fn lines_and_their_sum_are_capped() {
    let long = "y".repeat(10_000);
    for (kind, argument) in [("log", "message"), ("print", "out")] {
        let said = lines(kind, &[(argument, &long)]);
        assert_eq!(said.len(), 1, "{kind}");
        assert!(said[0].len() < 4_400 && said[0].contains("yyy…"), "{} {}", kind, said[0].len());
    }
    let said = lines("log", &[("message", &long), ("times", "50")]);
    let bytes: usize = said.iter().map(|line| line.matches('y').count()).sum();
    assert!(bytes <= 65_536 && bytes > 60_000, "{bytes}");
    assert!(said.last().unwrap().contains("log lines dropped"));
}
