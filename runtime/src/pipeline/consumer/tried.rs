//! A module on trial: which events go to it, and what becomes of those that fail on it.

use std::time::Duration;

use tokio::time::sleep;

use super::running::{Running, another, another_in_trouble};
use super::scripted::{Answer, Did, Read, Scripted};
use super::{Change, Way};

fn new(numbers: impl IntoIterator<Item = usize>) -> Read {
    Read::New(numbers.into_iter().collect())
}

/// Long enough that a change has come.
const A_WHILE: Duration = Duration::from_millis(50);

#[tokio::test]
async fn what_fails_on_trial_runs_again_on_the_one_that_is_served_and_is_no_attempt() {
    let kinds = ["ok", "reject", "ok", "retry", "ok"];
    let bus = Scripted::new(&kinds, []);
    let running = Running::start(&bus, "max_attempts = 2");
    let (old, other) = (running.first.clone(), another(&running.first.handler));
    assert!(running.serve.send(Change::Try(other.clone(), Way::First(4), 4)).is_ok());
    sleep(A_WHILE).await;
    bus.read([new(0..5)]);
    bus.until("all are settled", |did| did.iter().filter(|did| !matches!(did, Did::Retried(..))).count() == 5).await;
    assert_eq!(other.calls.read(), (4, 2), "the first four, none that has failed before");
    assert_eq!(old.calls.read(), (4, 3), "the fifth, the two that failed, and the retry of one");
    let digest = old.handler.module().digest().to_owned();
    assert_eq!(bus.modules(), [digest.clone(), digest], "the one that is served gave them up");
    let did = bus.did();
    assert!(
        did.contains(&Did::Retried(3, 1, "retry".into())) && did.contains(&Did::Buried(3, "retry".into())),
        "{did:?}"
    );
    running.drain().await;
}

#[tokio::test]
async fn what_has_failed_before_goes_to_no_trial() {
    let bus = Scripted::new(&["retry"], []);
    let running = Running::start(&bus, "max_attempts = 3");
    let (old, other) = (running.first.clone(), another(&running.first.handler));
    assert!(running.serve.send(Change::Try(other.clone(), Way::First(9), 9)).is_ok());
    sleep(A_WHILE).await;
    bus.read([new([0])]);
    bus.until("it is given up", |did| did.iter().any(|did| matches!(did, Did::Buried(..)))).await;
    assert_eq!((other.calls.read(), old.calls.read()), ((1, 1), (3, 3)));
    running.drain().await;
}

#[tokio::test]
async fn effects_that_are_refused_on_trial_are_a_failure_of_it_and_no_attempt() {
    let bus = Scripted::new(&["ok"], []);
    bus.answer(0, [Answer::Refused]);
    let running = Running::start(&bus, "max_attempts = 1");
    let (old, other) = (running.first.clone(), another(&running.first.handler));
    assert!(running.serve.send(Change::Try(other.clone(), Way::First(9), 9)).is_ok());
    sleep(A_WHILE).await;
    bus.read([new([0])]);
    bus.until("it is done", |did| did.contains(&Did::Acked(0))).await;
    assert_eq!((other.calls.read(), old.calls.read()), ((1, 1), (1, 0)));
    let (tally, _) = running.drain().await;
    assert_eq!((tally.acked, tally.retried, tally.dead), (1, 0, 0));
}

#[tokio::test]
async fn what_the_host_fails_at_says_nothing_of_a_module_on_trial() {
    let bus = Scripted::new(&["depends"; 4], []);
    let running = Running::start(&bus, "max_attempts = 1\n[handler.grants]\nkeys = true");
    let (old, other) = (running.first.clone(), another_in_trouble(&running.first.handler, 3));
    assert!(running.serve.send(Change::Try(other.clone(), Way::First(4), 4)).is_ok());
    sleep(A_WHILE).await;
    bus.read([new(0..4)]);
    bus.until("all are settled", |did| did.len() == 4).await;
    assert_eq!((other.calls.read(), old.calls.read()), ((4, 0), (0, 0)), "each is offered to it again");
    let (tally, _) = running.drain().await;
    assert_eq!((tally.acked, tally.retried, tally.dead), (4, 0, 0));
}

#[tokio::test]
async fn what_fails_after_a_swap_names_the_module_that_it_failed_on() {
    let bus = Scripted::new(&["spin"], [Read::Inherited(0, 0)]);
    let running = Running::start(&bus, "max_attempts = 1\n[handler.limits]\ntime = \"1s\"");
    let (old, other) = (running.first.clone(), another(&running.first.handler));
    bus.until("its call is to start", |did| did.contains(&Did::Begun(0))).await;
    sleep(A_WHILE).await;
    assert!(running.serve.send(Change::Serve(other.clone())).is_ok());
    bus.until("it is given up", |did| did.iter().any(|did| matches!(did, Did::Buried(..)))).await;
    assert_eq!((old.calls.read(), other.calls.read()), ((1, 1), (0, 0)));
    assert_eq!(bus.modules(), [old.handler.module().digest()]);
    running.drain().await;
}
