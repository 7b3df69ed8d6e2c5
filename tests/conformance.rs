//! One conformance suite for every bus: the doc comments of `sandbar::bus`, as cases.
//!
//! A backend brings a [`Fixture`] and writes `conformance!(its_name, its_fixture())` where the expression is a future
//! that makes a fresh storage. Every case becomes a test of its own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sandbar::bus::{Bus, Delivery, Fetched, Group, Settled, Start, Subscription};
use sandbar::event::{Effects, Fields, Message, Outgoing, Position, RetryEntry, Settlement, Topic};

use crate::support::{BOUND, bounded};

pub(crate) mod cancelling;
pub(crate) mod dead_letters;
pub(crate) mod effects;
pub(crate) mod history;
pub(crate) mod leases;
pub(crate) mod ledgers;
pub(crate) mod ordered;
pub(crate) mod ordered_nemesis;
pub(crate) mod reading;
pub(crate) mod retries;
pub(crate) mod sharing;
pub(crate) mod starting;
pub(crate) mod telling;

/// A lease that runs out within a test. Not shorter: a renewal must fit in it on a busy machine.
pub(crate) const SHORT_LEASE: Duration = Duration::from_millis(800);
/// A lease that does not run out within a test.
pub(crate) const LONG_LEASE: Duration = Duration::from_secs(300);
/// How long a case looks to see that nothing comes.
pub(crate) const QUIET: Duration = Duration::from_millis(150);

/// A storage that nobody else uses, on which a case opens as many hosts as it needs.
#[async_trait]
pub(crate) trait Fixture: Send + Sync {
    /// One more host on this storage, with connections of its own.
    async fn host(&self) -> Arc<dyn Bus>;

    /// Deletes all messages of a topic, as trimming would; groups and what they have pending stay.
    async fn lose_messages(&self, topic: &str);

    /// Whether the bus can count messages that went unread. If not, it says that some were lost.
    fn counts_unread(&self) -> bool {
        true
    }
}

/// Makes a module in which every case is a test against the fixture that the future makes.
macro_rules! conformance {
    ($module:ident, $fixture:expr) => {
        mod $module {
            #[allow(unused_imports, reason = "the fixture's expression is written where the macro is called")]
            use super::*;
            $crate::conformance::cases! { $fixture;
                reading: order_and_bytes_are_kept, a_mebibyte_passes, ten_mebibytes_pass_in_one_batch,
                    max_bounds_the_sum_over_topics, a_full_topic_does_not_starve_others, an_empty_list_ends_the_wait,
                    a_publish_ends_the_wait, publishing_nothing_is_nothing, what_is_trimmed_unread_is_counted_as_lost;
                sharing: groups_do_not_see_each_other, consumers_share_without_overlap, an_ack_is_final,
                    thousands_are_each_acked_once, a_mixed_batch_answers_in_order, closing_gives_back_at_once,
                    a_closed_consumer_is_gone, status_counts, consumers_are_named_apart, probing_changes_nothing;
                leases: a_dropped_receipt_comes_back_uncounted, a_drop_ends_the_wait, a_dead_hosts_messages_are_inherited,
                    a_begun_attempt_outlives_its_host, renewing_keeps_it, a_frozen_host_changes_nothing,
                    an_old_receipt_is_void_when_the_message_comes_back, renewing_reports_the_lost, a_frozen_host_takes_nothing_back_by_renewing,
                    effects_come_once_although_it_went_there_and_back, renewing_beside_settling_reports_nothing,
                    inherited_messages_come_in_order, what_comes_after_a_long_wait_is_held;
                retries: a_retry_waits_until_it_is_due, only_those_due_come_when_no_more_is_wanted, a_retry_outlives_hosts_and_its_message,
                    a_retry_can_be_retried_and_acked, what_goes_to_the_store_is_never_out_of_sight, a_dead_hosts_retry_is_inherited, another_consumer_may_get_it,
                    a_retry_held_twice_commits_once;
                dead_letters: it_holds_the_bytes_and_the_cause, requeued_to_its_topic, requeued_to_its_handler,
                    purged, listed_in_pages, unknown_ones_are_passed_over, a_retried_one_keeps_its_positions;
                effects: they_commit_with_the_ack, a_lost_ack_has_none, a_moved_key_is_a_conflict,
                    a_new_key_is_a_conflict_for_a_list, a_recreated_key_is_a_conflict, an_absent_key_that_appears_is_a_conflict,
                    keys_list_by_prefix, writes_apply_in_order, keys_hold_no_more_than_they_may, effects_of_a_retry_commit_once,
                    published_effects_end_a_wait;
                telling: a_report_is_shown_until_its_consumer_leaves, a_report_of_a_dead_consumer_is_not_shown,
                    the_oldest_is_what_is_not_settled, a_fetch_of_none_ends_a_read_and_takes_nothing;
                starting: with_what_is_new, at_the_beginning, after_a_position, at_a_time, the_start_is_used_once,
                    a_group_goes_on_where_it_was;
                ordered: alone_one_has_every_slice_and_gets_all_in_order, two_share_the_slices_and_each_gets_its_own,
                    who_has_no_room_reads_for_the_others, a_dead_ones_slices_go_to_the_living_in_order,
                    slices_move_within_a_lease_of_a_death, a_frozen_owner_changes_nothing,
                    what_is_in_hand_stays_when_its_slice_is_wanted, what_waits_for_a_retry_is_told_with_its_slice,
                    slices_move_at_once_when_consumers_come_and_go, what_is_dropped_comes_again_in_order,
                    a_requeued_letter_comes_to_the_owner_of_its_slice, who_does_not_fetch_is_not_reckoned_with,
                    a_group_may_take_order_up_and_give_it_up;
                history: it_is_read_in_pages_beside_every_group, it_ends_where_the_topic_ended, times_divide_it,
                    what_was_trimmed_is_passed_over, effects_without_a_delivery_commit_whole_or_not_at_all;
                ledgers: a_ledger_is_written_by_one_at_a_time_and_keeps_what_it_is_told, a_large_module_fits_into_a_ledger;
                cancelling: a_dropped_fetch_loses_nothing, a_dropped_settle_leaves_nothing_in_limbo;
            }
        }
    };
}

macro_rules! cases {
    ($fixture:expr; $($area:ident: $($case:ident),+;)+) => { $(mod $area {
        #[allow(unused_imports, reason = "see above")]
        use super::*;
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::support::bounded(stringify!($case), async {
                    let fixture = $fixture.await;
                    $crate::conformance::$area::$case(&fixture).await;
                }).await;
            }
        )+
    })+ };
}

pub(crate) use {cases, conformance};

// What cases are written with.

/// A group that reads one topic, or several, from the beginning.
pub(crate) fn group(name: &str, topics: &[&str], lease: Duration) -> Group {
    Group {
        name: name.into(),
        topics: topics.iter().map(|topic| Topic::from(*topic)).collect(),
        start: Start::Beginning,
        lease,
        consumer: "test".into(),
        order: None,
        join_foreign: false,
    }
}

/// Joins the group `g` on the topic `t`.
pub(crate) async fn join(bus: &Arc<dyn Bus>, lease: Duration) -> Arc<dyn Subscription> {
    bus.subscribe(&group("g", &["t"], lease)).await.expect("subscribe")
}

/// A message with one field `n` that numbers it.
pub(crate) fn numbered(topic: &str, n: usize) -> Outgoing {
    Outgoing { topic: topic.into(), fields: Fields::from_pairs([("n", n.to_string())]) }
}

/// Publishes messages numbered from 0 to one topic.
pub(crate) async fn publish(bus: &Arc<dyn Bus>, topic: &str, count: usize) -> Vec<Position> {
    let messages: Vec<Outgoing> = (0..count).map(|n| numbered(topic, n)).collect();
    bus.publish(&messages).await.expect("publish").positions
}

/// The number of a message made by [`numbered`].
pub(crate) fn number(message: &Message) -> usize {
    number_in(&message.fields)
}

pub(crate) fn number_in(fields: &Fields) -> usize {
    let text = fields.get("n").expect("a field n");
    String::from_utf8(text.to_vec()).unwrap().parse().unwrap()
}

pub(crate) fn numbers(deliveries: &[Delivery]) -> Vec<usize> {
    deliveries.iter().map(|delivery| number(&delivery.message)).collect()
}

/// Fetches until `count` deliveries have come, not one more.
pub(crate) async fn take(subscription: &Arc<dyn Subscription>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    bounded("taking deliveries", async {
        while taken.len() < count {
            match subscription.fetch(count - taken.len(), BOUND).await.expect("fetch") {
                Fetched::Deliveries(some) => taken.extend(some),
                other => panic!("fetch gave {other:?}"),
            }
        }
    })
    .await;
    assert_eq!(taken.len(), count, "fetch gave more than asked for");
    taken
}

/// Fetches `count` deliveries, acknowledges them and returns their numbers.
pub(crate) async fn consume(subscription: &Arc<dyn Subscription>, count: usize) -> Vec<usize> {
    let deliveries = take(subscription, count).await;
    let numbers = numbers(&deliveries);
    let answers = subscription.settle(deliveries.into_iter().map(|delivery| (delivery, ack())).collect()).await;
    assert!(answers.iter().all(|answer| matches!(answer, Settled::Committed)), "{answers:?}");
    numbers
}

/// Fetches one delivery.
pub(crate) async fn take_one(subscription: &Arc<dyn Subscription>) -> Delivery {
    take(subscription, 1).await.remove(0)
}

/// Sees that nothing comes for a while.
pub(crate) async fn take_nothing(subscription: &Arc<dyn Subscription>, wait: Duration) {
    match bounded("fetch", subscription.fetch(16, wait)).await.expect("fetch") {
        Fetched::Deliveries(some) => assert!(some.is_empty(), "something came: {:?}", numbers(&some)),
        other => panic!("fetch gave {other:?}"),
    }
}

/// Settles one delivery.
pub(crate) async fn settle(
    subscription: &Arc<dyn Subscription>,
    delivery: Delivery,
    settlement: Settlement,
) -> Settled {
    let mut answers = bounded("settle", subscription.settle(vec![(delivery, settlement)])).await;
    assert_eq!(answers.len(), 1, "one answer for each settlement");
    answers.remove(0)
}

/// Settles one delivery, which must be committed.
pub(crate) async fn commit(subscription: &Arc<dyn Subscription>, delivery: Delivery, settlement: Settlement) {
    let answer = settle(subscription, delivery, settlement).await;
    assert!(matches!(answer, Settled::Committed), "{answer:?}");
}

pub(crate) fn ack() -> Settlement {
    Settlement::Ack(Effects::default())
}

/// A retry that is due in `after`.
pub(crate) fn retry(attempts: u32, after: Duration) -> Settlement {
    let due = std::time::SystemTime::now() + after;
    Settlement::Retry(RetryEntry { attempts, due, code: "retry".into(), reason: "not now".into(), lane: None })
}

/// The host dies with what it has in hand: nothing is given back, nothing is closed.
pub(crate) fn vanish(subscription: Arc<dyn Subscription>, in_hand: Vec<Delivery>) {
    in_hand.into_iter().for_each(std::mem::forget);
    std::mem::forget(subscription);
}

/// Runs `future` while `subscription` renews its leases, as a live host does.
pub(crate) async fn while_renewing<T>(subscription: &Arc<dyn Subscription>, future: impl Future<Output = T>) -> T {
    tokio::pin!(future);
    let mut ticks = tokio::time::interval(SHORT_LEASE / 5);
    loop {
        tokio::select! {
            value = &mut future => return value,
            _ = ticks.tick() => { subscription.renew().await.expect("renew"); }
        }
    }
}
