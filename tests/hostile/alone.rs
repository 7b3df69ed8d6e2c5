//! Each case by itself, through the library.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbar::event::Verdict;
use sandbar::sandbox::{Handler, Sandbox, Services, Spec, inspect};

use super::case::{self, Case};
use crate::sandbox::support::{Remembering, bounded, called, event, logged, shared, spec};

/// A handler of this case for each isolation, or why there is none.
pub(super) fn load(sandbox: &Sandbox, case: &Case) -> Result<Vec<Arc<Handler>>, String> {
    let module = sandbox.load(&case.wasm()).map_err(|error| error.to_string())?;
    let handler = |isolated| {
        let services: Arc<dyn Services> = Arc::new(Remembering::default());
        let spec = Spec { isolated, ..case.spec() };
        sandbox.handler(&module, spec, services).map_err(|error| error.to_string())
    };
    let mut handlers = vec![handler(false)?];
    match handler(true) {
        Err(why) if !case.may_be_isolated() => assert!(why.contains("in the host's process only"), "{why}"),
        isolated => handlers.push(isolated?),
    }
    Ok(handlers)
}

/// Longer than any case may run, compiling apart, on a slow machine.
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn each_ends_as_it_must_and_the_next_event_of_another_handler_is_handled() {
    let (sandbox, module) = shared();
    let neighbour = sandbox.handler(module, spec(), Arc::new(Remembering::default())).unwrap();
    let mut failed = Vec::new();
    for case in case::all().into_iter().filter(|case| !case.line) {
        let name = case.name.clone();
        // What is wrong with one is said, and the others are looked at too.
        if catch_unwind(AssertUnwindSafe(|| judge(sandbox, case))).is_err() {
            failed.push(name);
        }
        assert_eq!(called(sandbox.call(&neighbour, &event("ok", &[]), 1, false)).0, Verdict::Done);
    }
    assert!(failed.is_empty(), "{failed:?}");
}

fn judge(sandbox: &'static Sandbox, case: Case) {
    let begun = Instant::now();
    let loaded = load(sandbox, &case);
    let took = begun.elapsed();
    let handlers = match loaded {
        Err(error) => {
            assert!(case.is_refused(), "{}: {error}", case.name);
            case.check_refusal(&error);
            assert!(took < BOUND, "{}: refused after {took:?}", case.name);
            // Whoever looks at it first is told, too.
            if error.contains("whichever handler it is for") {
                let told = inspect(&case.wasm()).refusal.map(|refusal| refusal.to_string());
                assert_eq!(told.as_ref(), Some(&error), "{}", case.name);
            }
            return;
        }
        Ok(handlers) => handlers,
    };
    assert!(!case.is_refused(), "{}: it was loaded", case.name);
    for handler in handlers {
        let (event, limit) = (case.event(), handler.spec().limits.time);
        let begun = Instant::now();
        let (verdict, effects) = bounded(move || called(sandbox.call(&handler, &event, 1, false)));
        case.check(&verdict, &effects);
        assert!(begun.elapsed() < limit + BOUND, "{}: {:?}", case.name, begun.elapsed());
    }
}

#[test]
fn a_flood_of_the_log_is_a_hundred_clean_lines_and_one_that_says_so() {
    let (sandbox, _) = shared();
    let case = case::all().into_iter().find(|case| case.name == "log-flood").unwrap();
    for handler in load(sandbox, &case).unwrap() {
        flood(&logged(|| drop(sandbox.call(&handler, &case.event(), 1, false))));
    }
}

fn flood(lines: &[String]) {
    // 64 KiB are used up before a hundred lines are.
    assert!((2..=101).contains(&lines.len()), "{} lines", lines.len());
    assert!(lines.iter().map(String::len).sum::<usize>() < 80 << 10);
    let last = lines.last().unwrap();
    assert!(last.contains("log lines dropped") && last.contains("[handler.limits] log_bytes = 131072"), "{last}");
    for line in lines {
        assert!(!line.contains(char::is_control) && !line.contains("owned"), "{line}");
    }
}
