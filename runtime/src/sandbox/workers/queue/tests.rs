//! Turns, without threads and without a clock.

use std::ops::Range;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::event::{Event, Metadata, Payload};

type Name = &'static str;

impl Claims for Name {
    fn core_slots(&self) -> usize {
        if self.starts_with("narrow") { 1 } else { usize::MAX }
    }

    fn steps_back(&self) -> bool {
        self.starts_with("late")
    }
}

pub(in crate::sandbox::workers) type Chunks = UnboundedReceiver<Vec<Finished<u32>>>;

/// Jobs with these tags, and what hears of their end.
pub(in crate::sandbox::workers) fn part<H>(handler: &Arc<H>, tags: Range<u32>) -> (Part<u32, H>, Chunks) {
    let (done, chunks) = unbounded_channel();
    let jobs = tags.map(|tag| Job { event: Arc::new(event()), attempt: 1, replayed: false, tag }).collect();
    (Part { handler: Arc::clone(handler), jobs, done }, chunks)
}

pub(in crate::sandbox::workers) fn event() -> Event {
    Event {
        topic: "t".into(),
        position: "1".into(),
        first: "1".into(),
        metadata: Metadata::default(),
        content_type: String::new(),
        payload: Payload::Json(String::new()),
    }
}

fn push(queues: &mut Queues<u32, Name>, handler: &Arc<Name>, tags: Range<u32>) {
    queues.push(part(handler, tags).0, Instant::now());
}

/// Whose the next batch is, with its first and last tag.
fn next(queues: &mut Queues<u32, Name>) -> Option<(Name, u32, u32)> {
    let part = queues.take()?;
    Some((*part.handler, part.jobs.front()?.tag, part.jobs.back()?.tag))
}

/// As a worker does with a batch that is over.
fn end(queues: &mut Queues<u32, Name>, handler: &Arc<Name>) {
    queues.release(Id::of(handler));
    queues.leave(Id::of(handler));
}

#[test]
fn a_handler_alone_may_have_every_slot() {
    let (mut queues, a) = (Queues::new(4), Arc::new("a"));
    push(&mut queues, &a, 0..64);
    for first in [0, 16, 32, 48] {
        assert_eq!(next(&mut queues), Some(("a", first, first + 15)));
    }
    assert_eq!(queues.queued(), 0);
}

#[test]
fn while_others_wait_no_handler_takes_more_than_half_the_slots() {
    let (mut queues, a, b) = (Queues::new(4), Arc::new("a"), Arc::new("b"));
    push(&mut queues, &a, 0..1_000);
    for _ in 0..3 {
        assert_eq!(next(&mut queues).map(|next| next.0), Some("a"));
    }
    // It is a's turn, but a has more than its half.
    push(&mut queues, &b, 0..16);
    assert_eq!(next(&mut queues), Some(("b", 0, 15)));
    assert_eq!(next(&mut queues), None, "all slots are in use");

    push(&mut queues, &b, 16..32);
    end(&mut queues, &a);
    assert_eq!(next(&mut queues), Some(("b", 16, 31)), "a still has two, its half");
    push(&mut queues, &b, 32..48);
    end(&mut queues, &a);
    assert_eq!(next(&mut queues).map(|next| next.0), Some("a"), "a has one, b its half");
}

#[test]
fn of_one_slot_half_is_one() {
    let (mut queues, a, b) = (Queues::new(1), Arc::new("a"), Arc::new("b"));
    push(&mut queues, &a, 0..16);
    push(&mut queues, &b, 0..16);
    assert_eq!(next(&mut queues), Some(("a", 0, 15)));
    assert!(!queues.startable());
    end(&mut queues, &a);
    assert_eq!(next(&mut queues), Some(("b", 0, 15)));
}

#[test]
fn handlers_take_turns_batch_by_batch() {
    let (mut queues, a, b) = (Queues::new(1), Arc::new("a"), Arc::new("b"));
    push(&mut queues, &a, 0..600);
    push(&mut queues, &b, 0..600);
    let mut order = Vec::new();
    while let Some((name, first, last)) = next(&mut queues) {
        order.push((name, first, last));
        end(&mut queues, if name == "a" { &a } else { &b });
    }
    assert_eq!(
        order,
        [("a", 0, 255), ("b", 0, 255), ("a", 256, 511), ("b", 256, 511), ("a", 512, 599), ("b", 512, 599)]
    );
}

#[test]
fn what_a_batch_gives_back_comes_before_all_other_work_of_its_handler() {
    for next_turn in [true, false] {
        let (mut queues, a, b) = (Queues::new(1), Arc::new("a"), Arc::new("b"));
        push(&mut queues, &a, 0..32);
        let mut begun = queues.take().unwrap();
        push(&mut queues, &b, 0..16);
        let rest = begun.jobs.split_off(4);
        queues.release(Id::of(&a));
        queues.put_back(Part { jobs: rest, ..begun }, next_turn);
        queues.leave(Id::of(&a));
        push(&mut queues, &a, 32..40);

        let mut order = Vec::new();
        while let Some((name, first, _)) = next(&mut queues) {
            order.push((name, first));
            end(&mut queues, if name == "a" { &a } else { &b });
        }
        let expected = match next_turn {
            true => [("a", 4), ("b", 0), ("a", 32)],
            false => [("b", 0), ("a", 4), ("a", 32)],
        };
        assert_eq!(order, expected, "its turn is next: {next_turn}");
    }
}

#[test]
fn the_work_of_a_handler_stays_in_order() {
    let (mut queues, a) = (Queues::new(1), Arc::new("a"));
    push(&mut queues, &a, 0..300);
    push(&mut queues, &a, 300..310);
    let mut begun = queues.take().unwrap();
    assert_eq!((begun.jobs[0].tag, begun.jobs.len()), (0, limits::BATCH));
    let rest = begun.jobs.split_off(4);
    queues.release(Id::of(&a));
    queues.put_back(Part { jobs: rest, ..begun }, true);
    queues.leave(Id::of(&a));
    let mut order = Vec::new();
    while let Some((_, first, last)) = next(&mut queues) {
        order.push((first, last));
        end(&mut queues, &a);
    }
    // First what was given back, then what was too much for the batch, then what came later.
    assert_eq!(order, [(4, 255), (256, 299), (300, 309)]);
}

#[test]
fn calls_that_keep_cores_busy_without_a_slot_count_as_slots() {
    let (mut queues, a, b) = (Queues::new(2), Arc::new("a"), Arc::new("b"));
    push(&mut queues, &a, 0..100);
    for _ in 0..2 {
        assert_eq!(next(&mut queues).map(|next| next.0), Some("a"));
        queues.set_overdue(Id::of(&a), true);
        queues.release(Id::of(&a));
    }
    assert_eq!(next(&mut queues), None, "two cores are busy with it");
    push(&mut queues, &b, 0..1);
    assert_eq!(next(&mut queues), Some(("b", 0, 0)), "others are let in all the same");
    queues.set_overdue(Id::of(&a), false);
    assert_eq!(next(&mut queues).map(|next| next.0), Some("a"));
}

#[test]
fn one_that_steps_back_keeps_one_core_busy_beside_its_slot() {
    let (mut queues, late) = (Queues::new(2), Arc::new("late"));
    push(&mut queues, &late, 0..100);
    assert!(next(&mut queues).is_some());
    queues.set_overdue(Id::of(&late), true);
    queues.release(Id::of(&late));
    assert_eq!(next(&mut queues), None);
}

#[test]
fn no_slot_is_kept_free_for_one_that_steps_back() {
    let (mut queues, a, late) = (Queues::new(4), Arc::new("a"), Arc::new("late"));
    push(&mut queues, &a, 0..1_000);
    push(&mut queues, &late, 0..100);
    assert_eq!(next(&mut queues).map(|next| next.0), Some("a"));
    assert_eq!(next(&mut queues).map(|next| next.0), Some("late"));
    assert_eq!(next(&mut queues).map(|next| next.0), Some("a"));
    assert_eq!(next(&mut queues).map(|next| next.0), Some("a"), "half are two, and the third is free");
}

#[test]
fn a_handler_keeps_no_more_cores_busy_than_it_may() {
    let (mut queues, narrow) = (Queues::new(4), Arc::new("narrow"));
    push(&mut queues, &narrow, 0..100);
    assert!(next(&mut queues).is_some());
    assert_eq!(next(&mut queues), None, "there are three free slots");
    queues.set_overdue(Id::of(&narrow), true);
    queues.release(Id::of(&narrow));
    assert_eq!(next(&mut queues), None, "its slow call is on a core still");
    queues.set_overdue(Id::of(&narrow), false);
    assert!(next(&mut queues).is_some());
}

#[test]
fn who_had_work_a_moment_ago_is_still_there() {
    let (mut queues, now) = (Queues::new(1), Instant::now());
    let (a, b, c) = (Arc::new("a"), Arc::new("b"), Arc::new("c"));
    let come = |queues: &mut Queues<u32, Name>, handler: &Arc<Name>, at| {
        queues.push(part(handler, 0..1).0, at);
        while queues.take().is_some() {
            end(queues, handler);
        }
    };
    come(&mut queues, &a, now);
    assert!(!queues.has_others(Id::of(&a), now), "there is nobody else");
    come(&mut queues, &b, now);
    come(&mut queues, &a, now);
    come(&mut queues, &a, now + limits::OTHERS_LATELY);
    let (just_before, over) = (now + limits::OTHERS_LATELY - Duration::from_nanos(1), now + limits::OTHERS_LATELY);
    assert!(queues.has_others(Id::of(&a), just_before));
    assert!(!queues.has_others(Id::of(&a), over));
    assert!(queues.has_others(Id::of(&c), over));
}

#[test]
fn handlers_whose_calls_wait_leave_threads_to_others() {
    let (mut queues, a, b) = (Queues::new(1), Arc::new("a"), Arc::new("b"));
    let wait = |queues: &mut Queues<u32, Name>, handler: &Arc<Name>| {
        let mut threads = 0;
        push(queues, handler, 0..10_000);
        while queues.take().is_some() {
            queues.release(Id::of(handler));
            threads += 1;
        }
        threads
    };
    assert_eq!(wait(&mut queues, &a), limits::THREADS / 2);
    assert_eq!(wait(&mut queues, &b), limits::THREADS / 4);
}

#[test]
fn a_closed_queue_hands_everything_out_and_takes_nothing() {
    let (mut queues, a, b) = (Queues::new(2), Arc::new("a"), Arc::new("b"));
    push(&mut queues, &a, 0..20);
    push(&mut queues, &b, 0..3);
    assert_eq!(next(&mut queues), Some(("a", 0, 15)));
    let mut left: Vec<_> = queues.close().iter().map(|part| (*part.handler, part.jobs.len())).collect();
    left.sort_unstable();
    assert_eq!(left, [("a", 4), ("b", 3)]);
    assert!(queues.closed() && !queues.startable());
}
