use std::path::PathBuf;

use super::*;
use crate::event::{KeyList, Versioned};
use crate::sandbox::{
    Draft, DraftError, Grants, Handler, Limits, Prepared, Ran, Sandbox, Services, Settings, Spec, Unread,
};

/// Publishes whatever it is asked to, and has no keys.
struct Taking;

impl Services for Taking {
    fn prepare(&self, _: &Event, index: u32, draft: Draft) -> Result<Prepared, DraftError> {
        let outgoing = crate::event::Outgoing { topic: draft.topic.into(), fields: crate::event::Fields::default() };
        Ok(Prepared { id: index.to_string(), outgoing })
    }

    fn read_key(&self, _: &str, _: &str, _: Instant) -> Result<Versioned, Unread> {
        Err(Unread { reason: "no keys".into(), passing: false })
    }

    fn list_keys(&self, _: &str, _: &str, _: usize, _: Instant) -> Result<KeyList, Unread> {
        Err(Unread { reason: "no keys".into(), passing: false })
    }
}

fn sandbox() -> Arc<Sandbox> {
    Sandbox::new(&Settings { threads: 2, reuse: true, ..Settings::default() }).unwrap()
}

fn guest(name: &str) -> Vec<u8> {
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/guests/out");
    let path = std::env::var_os("SANDBAR_GUESTS").map_or(built, PathBuf::from).join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run `make guests`", path.display()))
}

fn handler(sandbox: &Sandbox, module: &crate::sandbox::Module, reuse: u32) -> Arc<Handler> {
    let publish = vec![crate::sandbox::PublishGrant { topic: "out".into(), types: vec![] }];
    let spec = Spec {
        name: "h".into(),
        group: "g".into(),
        max_attempts: 5,
        reuse,
        isolated: false,
        limits: Limits { time: Duration::from_secs(30), ..Limits::default() },
        grants: Grants { publish, ..Grants::default() },
    };
    sandbox.handler(module, spec, Arc::new(Taking)).unwrap()
}

fn event(kind: &str, headers: &[(&str, &str)]) -> Event {
    let mut event = nothing();
    event.metadata.kind = kind.into();
    event.metadata.headers =
        headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec().into())).collect();
    event
}

fn call(sandbox: &Sandbox, handler: &Handler, event: &Event) -> Verdict {
    match sandbox.call(handler, event, 1, false) {
        Ran::Called { verdict, .. } => verdict,
        Ran::NotCalled(why) => panic!("not called: {why}"),
    }
}

fn waiting(handler: &Handler) -> usize {
    locked(&handler.shelf.waiting).len()
}

#[test]
fn waiting_instances_keep_no_call_out() {
    let sandbox = sandbox();
    let module = sandbox.load(&guest("noop")).unwrap();
    let handlers: Vec<_> = (0..limits::KEPT + 20).map(|_| handler(&sandbox, &module, 1_000)).collect();
    for handler in &handlers {
        assert_eq!(call(&sandbox, handler, &event("x", &[])), Verdict::Done);
    }
    let all: usize = handlers.iter().map(|handler| waiting(handler)).sum();
    assert_eq!(all, limits::KEPT, "those without room are dropped");

    // As many calls at once as there may be, of another handler, in instances that are not given back meanwhile.
    let other = handler(&sandbox, &module, 0);
    let calls = limits::THREADS + limits::EXTRA_CALLS;
    let running: Vec<_> = (0..calls)
        .map(|_| {
            let event = Arc::new(nothing());
            let state = State::new(Arc::clone(&other.handling), event, (1, false), Instant::now(), None);
            let mut store = Store::new(&sandbox.engine, state);
            store.limiter(|state| &mut state.meter);
            store.set_epoch_deadline(1 << 40);
            let mut guest = Guest::new(store);
            assert_eq!(guest.call(&other.handling, &nothing()).unwrap(), Verdict::Done);
            guest
        })
        .collect();
    assert_eq!(running.len(), calls);
    drop(running);
    drop(handlers);
    assert_eq!(sandbox.shelves.room.taken.load(Ordering::Relaxed), 0, "a handler that is gone takes its own with it");
}

#[test]
fn no_more_wait_than_can_be_called_at_once() {
    let sandbox = sandbox();
    let module = sandbox.load(&guest("noop")).unwrap();
    let handler = handler(&sandbox, &module, 1_000);
    let mut hands: Vec<_> = (0..5).map(|_| handler.hand()).collect();
    for hand in &mut hands {
        let ran = crate::sandbox::call::run(&sandbox, hand, &Arc::new(event("x", &[])), (1, false), None);
        assert!(matches!(ran, Ran::Called { verdict: Verdict::Done, .. }), "{ran:?}");
    }
    drop(hands);
    assert_eq!(waiting(&handler), 2);
}

#[test]
fn a_handler_that_is_shut_keeps_none() {
    let sandbox = sandbox();
    let module = sandbox.load(&guest("noop")).unwrap();
    let handler = handler(&sandbox, &module, 1_000);
    call(&sandbox, &handler, &event("x", &[]));
    assert_eq!(waiting(&handler), 1);
    handler.shut(true);
    assert_eq!(waiting(&handler), 0);
    call(&sandbox, &handler, &event("x", &[]));
    assert_eq!(waiting(&handler), 0, "a call that had begun lays nothing down");
    handler.shut(false);
    call(&sandbox, &handler, &event("x", &[]));
    assert_eq!(waiting(&handler), 1);
}

#[test]
fn one_that_another_has_taken_the_place_of_keeps_none_and_both_are_shut_together() {
    let sandbox = sandbox();
    let module = sandbox.load(&guest("noop")).unwrap();
    let old = handler(&sandbox, &module, 1_000);
    call(&sandbox, &old, &event("x", &[]));
    assert_eq!(waiting(&old), 1);
    let new = sandbox.successor(&old, &module, old.spec().clone(), Arc::new(Taking)).unwrap();
    old.retire();
    assert_eq!(waiting(&old), 0);
    call(&sandbox, &old, &event("x", &[]));
    assert_eq!(waiting(&old), 0, "a call that was submitted runs, and lays nothing down");
    call(&sandbox, &new, &event("x", &[]));
    assert_eq!(waiting(&new), 1);
    new.shut(true);
    assert!(old.is_shut(), "what of the old one has not started comes back too");
}

#[test]
fn one_that_has_waited_long_enough_goes() {
    let sandbox = sandbox();
    let module = sandbox.load(&guest("noop")).unwrap();
    let handler = handler(&sandbox, &module, 1_000);
    call(&sandbox, &handler, &event("x", &[]));
    let now = Instant::now();
    assert_eq!(sandbox.shelves.rest(now), Some(limits::KEPT_LOOK));
    assert_eq!(waiting(&handler), 1);
    assert_eq!(sandbox.shelves.rest(now + limits::KEPT_IDLE), None);
    assert_eq!(waiting(&handler), 0);

    call(&sandbox, &handler, &event("x", &[]));
    let later = now + limits::KEPT_IDLE * 3;
    sandbox.shelves.tick(later);
    assert_eq!(waiting(&handler), 0, "also while other handlers are called");
}

/// Nothing but the monitor looks here, which sleeps when no call runs.
#[test]
fn an_idle_host_lets_go_of_its_instances() {
    let sandbox = sandbox();
    let module = sandbox.load(&guest("noop")).unwrap();
    let handler = handler(&sandbox, &module, 1_000);
    let begun = Instant::now();
    call(&sandbox, &handler, &event("x", &[]));
    assert_eq!(waiting(&handler), 1);
    while waiting(&handler) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it still waits");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert!(begun.elapsed() >= limits::KEPT_IDLE);
}

/// What an allocator does not give back, or host state that is not dropped, would show here.
#[test]
fn serving_many_events_takes_no_more_memory_than_serving_a_few() {
    let sandbox = sandbox();
    let json = r#"{"a":[1,2,3],"text":"some words that have to be allocated somewhere"}"#;
    let of = |kind: &str, headers: &[(&str, &str)]| {
        let mut event = event(kind, headers);
        event.payload = Payload::Json(json.into());
        event
    };
    let print: &[_] = &[("out", "a line\n"), ("err", "another\n")];
    let publish: &[_] = &[("topic", "out"), ("type", "t"), ("size", "2000"), ("then", "ok")];
    for (name, event, least) in [
        ("noop", of("x", &[]), 5_000),
        ("echo", of("x", &[("a", "b")]), 5_000),
        ("fanout", of("x", &[]), 2_000),
        ("hello", of("x", &[]), 2_000),
        ("probe", of("print", print), 2_000),
        ("probe", of("publish", publish), 2_000),
        ("probe", of("sleep", &[("ms", "1")]), 2_000),
    ] {
        let module = sandbox.load(&guest(name)).unwrap();
        let handler = handler(&sandbox, &module, u32::MAX);
        let after = |calls: u32| {
            for _ in 0..calls {
                call(&sandbox, &handler, &event);
            }
            let waiting = locked(&handler.shelf.waiting);
            let [waiting] = &waiting[..] else { panic!("{name}: {} wait", waiting.len()) };
            assert!(waiting.guest.served >= calls, "{name} was not reused");
            let state = waiting.guest.store.data();
            (state.meter.used(), state.wasi.handles())
        };
        let few = after(1_000);
        assert_eq!(after(least), few, "{name}: memory and handles");
        assert!(few.1 <= 8, "{name} holds {} handles", few.1);
    }
}

#[test]
fn an_instance_that_piles_up_handles_goes() {
    let sandbox = sandbox();
    let module = sandbox.load(&guest("noop")).unwrap();
    let handler = handler(&sandbox, &module, 1_000);
    call(&sandbox, &handler, &event("x", &[]));
    let leak = |handles: usize| {
        let mut waiting = locked(&handler.shelf.waiting);
        (0..handles).for_each(|_| waiting[0].guest.store.data_mut().wasi.hand_out());
    };
    leak(limits::KEPT_HANDLES);
    call(&sandbox, &handler, &event("x", &[]));
    assert_eq!(waiting(&handler), 1);
    leak(1);
    call(&sandbox, &handler, &event("x", &[]));
    assert_eq!(waiting(&handler), 0);
}

#[test]
fn what_an_instance_waits_with_is_not_the_last_event() {
    let sandbox = sandbox();
    let module = sandbox.load(&guest("noop")).unwrap();
    let handler = handler(&sandbox, &module, 1_000);
    let mut large = event("x", &[]);
    large.payload = Payload::Json("1".repeat(100_000));
    let waits = Arc::new(Waits);
    let mut hand = handler.hand();
    let told = Arc::clone(&waits) as Arc<dyn crate::sandbox::host::Waiting>;
    drop(crate::sandbox::call::run(&sandbox, &mut hand, &Arc::new(large), (1, false), Some(told)));
    drop(hand);
    let shelf = locked(&handler.shelf.waiting);
    assert_eq!(*shelf[0].guest.store.data().event, nothing());
    assert_eq!(Arc::strong_count(&waits), 1, "nor the thread it was called on");
}

struct Waits;

impl crate::sandbox::host::Waiting for Waits {
    fn begins(&self) {}
    fn ends(&self) {}
    fn rests(&self, _overran: bool) -> bool {
        false
    }

    fn goes_on(&self) {}
}
