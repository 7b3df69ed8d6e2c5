//! Groups with order: slices of lanes go to one consumer at a time, and come back in order when it is gone.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbar::bus::{Bus, Delivery, Fetched, Group, LaneOf, Origin, Requeue, Settled, Slice, Subscription, Waiting};
use sandbar::event::{Effects, Lane, Message, SLICES, Settlement, Topic};

use super::dead_letters::cause;
use super::{
    BOUND, Fixture, LONG_LEASE, QUIET, SHORT_LEASE, ack, bounded, commit, group, number, numbered, numbers, publish,
    retry, settle, vanish,
};

/// The messages numbered n, n + 8, n + 16… are of one lane.
pub(crate) const LANES: usize = 8;

pub(crate) fn lane_of(message: &Message) -> Lane {
    Lane::of(&message.topic, (number(message) % LANES).to_string().as_bytes())
}

pub(crate) fn ordered(lease: Duration) -> Group {
    Group { order: Some(LaneOf::new(lane_of)), ..group("g", &["t"], lease) }
}

fn slice_of(message: &Message) -> Slice {
    Slice { topic: Topic::clone(&message.topic), number: lane_of(message).slice() }
}

/// A consumer that keeps the rules of the contract, and sees that the bus does.
pub(crate) struct Owner {
    pub(crate) subscription: Arc<dyn Subscription>,
    pub(crate) slices: HashSet<Slice>,
    pub(crate) wanted: HashSet<Slice>,
    pub(crate) waiting: Vec<Waiting>,
}

// === impl Owner ===

impl Owner {
    pub(crate) async fn join(bus: &Arc<dyn Bus>, lease: Duration) -> Self {
        Self::join_group(bus, &ordered(lease)).await
    }

    pub(crate) async fn join_group(bus: &Arc<dyn Bus>, group: &Group) -> Self {
        let subscription = bus.subscribe(group).await.unwrap();
        Self { subscription, slices: HashSet::new(), wanted: HashSet::new(), waiting: Vec::new() }
    }

    /// Renews and fetches once.
    pub(crate) async fn step(&mut self, max: usize) -> Vec<Delivery> {
        self.subscription.renew().await.unwrap();
        match bounded("fetch", self.subscription.fetch(max, Duration::from_millis(20))).await.unwrap() {
            Fetched::Deliveries(some) => {
                assert!(some.len() <= max, "{} deliveries, asked for {max}", some.len());
                for delivery in &some {
                    let slice = slice_of(&delivery.message);
                    assert!(
                        self.slices.contains(&slice),
                        "{delivery:?} is of slice {slice:?}, which did not come before"
                    );
                }
                some
            }
            Fetched::Turnover(turnover) => {
                for slice in &turnover.lost {
                    assert!(self.slices.remove(slice), "lost {slice:?}, which was not its own");
                    self.wanted.remove(slice);
                    self.waiting.retain(|waiting| waiting.slice != *slice);
                }
                for slice in turnover.gained {
                    assert!(slice.number < SLICES);
                    assert!(self.slices.insert(slice.clone()), "gained {slice:?} twice");
                }
                self.wanted.extend(turnover.wanted);
                self.waiting.extend(turnover.waiting);
                Vec::new()
            }
        }
    }

    /// Takes until so many have come.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let mut taken = Vec::new();
        let end = Instant::now() + BOUND;
        while taken.len() < count {
            assert!(Instant::now() < end, "only {:?} came of {count}", numbers(&taken));
            taken.extend(self.step(count - taken.len()).await);
        }
        taken
    }

    /// Waits until all slices are its own.
    pub(crate) async fn take_all_slices(&mut self) {
        let end = Instant::now() + BOUND;
        while self.slices.len() < usize::from(SLICES) {
            assert!(Instant::now() < end, "only {} slices", self.slices.len());
            assert!(self.step(0).await.is_empty());
        }
    }

    /// Sees that nothing comes for a while.
    async fn take_nothing(&mut self, wait: Duration) {
        let end = Instant::now() + wait;
        while Instant::now() < end {
            let some = self.step(16).await;
            assert!(some.is_empty(), "something came: {:?}", numbers(&some));
        }
    }

    async fn ack(&self, delivery: Delivery) {
        commit(&self.subscription, delivery, ack()).await;
    }

    async fn ack_all(&self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            self.ack(delivery).await;
        }
    }
}

/// Lets two live until each has half of the slices.
async fn share(one: &mut Owner, two: &mut Owner) {
    let end = Instant::now() + BOUND;
    let half = usize::from(SLICES) / 2;
    while one.slices.len() != half || two.slices.len() != half {
        assert!(Instant::now() < end, "{} and {} slices", one.slices.len(), two.slices.len());
        assert!(one.step(0).await.is_empty());
        assert!(two.step(0).await.is_empty());
    }
    assert!(one.slices.is_disjoint(&two.slices));
}

/// Asserts that each lane's messages stand in order.
fn assert_lanes_ascend(numbers: &[usize]) {
    for lane in 0..LANES {
        let of_lane: Vec<usize> = numbers.iter().copied().filter(|n| n % LANES == lane).collect();
        assert!(of_lane.is_sorted(), "{of_lane:?} of {numbers:?}");
    }
}

pub(crate) async fn alone_one_has_every_slice_and_gets_all_in_order(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 300).await;
    let mut owner = Owner::join(&bus, SHORT_LEASE).await;
    owner.take_all_slices().await;
    assert_eq!(owner.waiting, []);
    for _ in 0..6 {
        let deliveries = owner.take(50).await;
        assert!(deliveries.iter().all(|delivery| (delivery.origin, delivery.attempts) == (Origin::New, 0)));
        assert_lanes_ascend(&numbers(&deliveries));
        owner.ack_all(deliveries).await;
    }
    owner.take_nothing(SHORT_LEASE * 2).await;
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.lag, status.pending, status.retrying), (Some(0), 0, 0));
    assert_eq!(status.consumers.len(), 1, "only consumers that live: {:?}", status.consumers);
}

pub(crate) async fn two_share_the_slices_and_each_gets_its_own(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    one.take_all_slices().await;
    let mut two = Owner::join(&fixture.host().await, SHORT_LEASE).await;
    share(&mut one, &mut two).await;
    publish(&bus, "t", 200).await;
    let mut handled = Vec::new();
    let end = Instant::now() + BOUND;
    while handled.len() < 200 {
        assert!(Instant::now() < end, "{} came", handled.len());
        for owner in [&mut one, &mut two] {
            let deliveries = owner.step(7).await;
            handled.extend(numbers(&deliveries));
            owner.ack_all(deliveries).await;
        }
    }
    assert_lanes_ascend(&handled);
    let unique: BTreeSet<usize> = handled.into_iter().collect();
    assert_eq!(unique.len(), 200);
}

pub(crate) async fn who_has_no_room_reads_for_the_others(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    one.take_all_slices().await;
    let mut two = Owner::join(&fixture.host().await, SHORT_LEASE).await;
    share(&mut one, &mut two).await;
    publish(&bus, "t", 100).await;
    let ours = (0..100).filter(|n| two.slices.contains(&slice_at(*n))).count();
    let mut taken = Vec::new();
    let end = Instant::now() + BOUND;
    while taken.len() < ours {
        assert!(Instant::now() < end, "{} of {ours} came", taken.len());
        assert!(one.step(0).await.is_empty());
        taken.extend(two.step(100).await);
        let due = one.subscription.fetch_due(5, Duration::ZERO).await.unwrap();
        assert!(matches!(due, Fetched::Deliveries(some) if some.is_empty()), "nothing is due");
    }
    two.ack_all(taken).await;
    let rest = one.take(100 - ours).await;
    assert_lanes_ascend(&numbers(&rest));
}

fn slice_at(n: usize) -> Slice {
    let lane = Lane::of("t", (n % LANES).to_string().as_bytes());
    Slice { topic: "t".into(), number: lane.slice() }
}

/// Whoever dies, the first that came (which reads for the group) or the second, leaves its slices to the other.
pub(crate) async fn a_dead_ones_slices_go_to_the_living_in_order(fixture: &dyn Fixture) {
    for dies in [0, 1] {
        let bus = fixture.host().await;
        let mut owners = vec![Owner::join(&bus, SHORT_LEASE).await];
        owners[0].take_all_slices().await;
        owners.push(Owner::join(&fixture.host().await, SHORT_LEASE).await);
        let (one, two) = owners.split_at_mut(1);
        share(&mut one[0], &mut two[0]).await;
        publish(&bus, "t", 64).await;
        let mut held = owners[1].step(3).await;
        while held.len() < 3 {
            owners[0].step(0).await;
            let wanted = 3 - held.len();
            held.extend(owners[1].step(wanted).await);
        }
        let mut dying = owners.remove(dies);
        if dies == 0 {
            // What the second holds is its own still.
            let kept = held.remove(0);
            owners[0].ack(kept).await;
            drop(held);
            let more = dying.step(2).await;
            vanish(dying.subscription, more);
        } else {
            vanish(dying.subscription, held);
        }
        let mut heir = owners.remove(0);
        let since = Instant::now();
        let mut taken = Vec::new();
        let all = if dies == 0 { 63 } else { 64 };
        while taken.len() < all {
            assert!(since.elapsed() < BOUND, "{} of {all} came: {:?}", taken.len(), numbers(&taken));
            taken.extend(heir.step(64).await);
        }
        assert_eq!(heir.slices.len(), usize::from(SLICES));
        assert_lanes_ascend(&numbers(&taken));
        if dies == 1 {
            let inherited = taken.iter().filter(|delivery| delivery.origin == Origin::Inherited).count();
            assert_eq!(inherited, 3, "what was in hand, and nothing else");
        }
        heir.ack_all(taken).await;
        heir.take_nothing(QUIET).await;
        heir.subscription.close().await.unwrap();
    }
}

pub(crate) async fn slices_move_within_a_lease_of_a_death(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    one.take_all_slices().await;
    let mut two = Owner::join(&fixture.host().await, SHORT_LEASE).await;
    share(&mut one, &mut two).await;
    vanish(two.subscription, Vec::new());
    let since = Instant::now();
    one.take_all_slices().await;
    // The lease, and what a busy machine takes.
    assert!(since.elapsed() < SHORT_LEASE * 3, "after {:?}", since.elapsed());
}

pub(crate) async fn a_frozen_owner_changes_nothing(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 4).await;
    let mut frozen = Owner::join(&fixture.host().await, SHORT_LEASE).await;
    let held = frozen.take(4).await;
    let mut heir = Owner::join(&bus, SHORT_LEASE).await;
    let inherited = heir.take(4).await;
    assert_lanes_ascend(&numbers(&inherited));
    assert!(inherited.iter().all(|delivery| delivery.origin == Origin::Inherited));
    let effects = Effects { publish: vec![numbered("out", 1)], ..Effects::default() };
    let settlements = [ack(), retry(1, Duration::ZERO), Settlement::Dead(cause("bad")), Settlement::Ack(effects)];
    for (delivery, settlement) in held.into_iter().zip(settlements) {
        let what = format!("{settlement:?}");
        let answer = settle(&frozen.subscription, delivery, settlement).await;
        assert!(matches!(answer, Settled::Lost), "{what}: {answer:?}");
    }
    let status = bus.status(&"t".into(), "g").await.unwrap();
    assert_eq!((status.pending, status.retrying, status.dead_letters), (4, 0, 0));
    heir.ack_all(inherited).await;
    let out = bus.status(&"out".into(), "g").await.unwrap();
    assert!(!out.exists, "an effect of a lost call was published");
    // It learns of it, and gets its share again.
    let end = Instant::now() + BOUND;
    let half = usize::from(SLICES) / 2;
    while frozen.slices.len() != half || heir.slices.len() != half {
        assert!(Instant::now() < end, "{} and {} slices", frozen.slices.len(), heir.slices.len());
        frozen.step(0).await;
        heir.step(0).await;
    }
}

pub(crate) async fn what_is_in_hand_stays_when_its_slice_is_wanted(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", LANES).await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    let held = one.take(LANES).await;
    let busy: HashSet<Slice> = held.iter().map(|delivery| slice_of(&delivery.message)).collect();
    let mut two = Owner::join(&fixture.host().await, SHORT_LEASE).await;
    let end = Instant::now() + SHORT_LEASE * 3;
    while Instant::now() < end {
        assert!(one.step(4).await.is_empty() && two.step(4).await.is_empty(), "all is in one's hand");
    }
    assert!(one.slices.is_superset(&busy), "a slice went with something of it in hand");
    one.ack_all(held).await;
    share(&mut one, &mut two).await;
    two.take_nothing(QUIET).await;
}

pub(crate) async fn what_waits_for_a_retry_is_told_with_its_slice(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 2).await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    let mut held = one.take(2).await;
    held.sort_by_key(|delivery| number(&delivery.message));
    let (soon, late) = (held.remove(0), held.remove(0));
    let late_message = late.message.clone();
    let with_lane = |message: &Message, settlement| match settlement {
        Settlement::Retry(mut entry) => {
            entry.lane = Some(lane_of(message));
            Settlement::Retry(entry)
        }
        other => other,
    };
    let settlement = with_lane(&late.message, retry(2, LONG_LEASE));
    commit(&one.subscription, late, settlement).await;
    let settlement = with_lane(&soon.message, retry(1, QUIET));
    commit(&one.subscription, soon, settlement).await;
    one.subscription.close().await.unwrap();
    let mut two = Owner::join(&bus, SHORT_LEASE).await;
    two.take_all_slices().await;
    let told = two.waiting.iter().find(|waiting| waiting.first == late_message.first).expect("the late one is told");
    assert_eq!((told.lane, &told.slice), (lane_of(&late_message), &slice_of(&late_message)));
    let due = two.take(1).await.remove(0);
    assert_eq!((number(&due.message), due.attempts, due.origin), (0, 1, Origin::Retry));
    two.ack(due).await;
    two.take_nothing(QUIET).await;
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().retrying, 1);
}

/// With a lease that is long, so that nothing but the leaving and the coming moves slices.
pub(crate) async fn slices_move_at_once_when_consumers_come_and_go(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let mut one = Owner::join(&bus, LONG_LEASE).await;
    one.take_all_slices().await;
    let mut two = Owner::join(&fixture.host().await, LONG_LEASE).await;
    share(&mut one, &mut two).await;
    publish(&bus, "t", 16).await;
    let held = two.step(1).await;
    one.subscription.close().await.unwrap();
    drop(held);
    two.take_all_slices().await;
    let taken = two.take(16).await;
    assert_lanes_ascend(&numbers(&taken));
    assert!(taken.iter().all(|delivery| delivery.origin != Origin::Inherited), "nobody died");
    two.ack_all(taken).await;
}

pub(crate) async fn what_is_dropped_comes_again_in_order(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", LANES * 4).await;
    let mut owner = Owner::join(&bus, LONG_LEASE).await;
    let mut held = owner.take(LANES * 3).await;
    held.sort_by_key(|delivery| number(&delivery.message));
    let first = held.drain(..LANES).collect();
    drop(held);
    let again = owner.take(LANES * 3).await;
    assert_lanes_ascend(&numbers(&again));
    let all: BTreeSet<usize> = numbers(&again).into_iter().collect();
    assert_eq!(all, (LANES..LANES * 4).collect());
    owner.ack_all(first).await;
    owner.ack_all(again).await;
    owner.take_nothing(QUIET).await;
}

pub(crate) async fn a_requeued_letter_comes_to_the_owner_of_its_slice(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 1).await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    let held = one.take(1).await.remove(0);
    commit(&one.subscription, held, Settlement::Dead(cause("bad"))).await;
    let letters = bus.dead_letters(&"t".into(), "g", None, 10).await.unwrap();
    let moved = bus.requeue(&"t".into(), "g", &[letters[0].id.clone()], Requeue::Handler).await.unwrap();
    assert_eq!(moved, 1);
    let back = one.take(1).await.remove(0);
    assert_eq!((number(&back.message), back.attempts), (0, 0));
    one.ack(back).await;
    assert_eq!(bus.status(&"t".into(), "g").await.unwrap().retrying, 0);
}

pub(crate) async fn who_does_not_fetch_is_not_reckoned_with(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    let mut one = Owner::join(&bus, SHORT_LEASE).await;
    one.take_all_slices().await;
    let mut two = Owner::join(&fixture.host().await, SHORT_LEASE).await;
    share(&mut one, &mut two).await;
    let end = Instant::now() + BOUND;
    while two.slices.len() < usize::from(SLICES) {
        assert!(Instant::now() < end, "{} slices", two.slices.len());
        // It lives, and has nothing in hand.
        one.subscription.renew().await.unwrap();
        two.step(0).await;
    }
    publish(&bus, "t", 8).await;
    let taken = two.take(8).await;
    two.ack_all(taken).await;
    let end = Instant::now() + BOUND;
    while one.slices.len() != usize::from(SLICES) / 2 || two.slices.len() != usize::from(SLICES) / 2 {
        assert!(Instant::now() < end, "it gets its share again: {} and {}", one.slices.len(), two.slices.len());
        one.step(0).await;
        two.step(0).await;
    }
}

pub(crate) async fn a_group_may_take_order_up_and_give_it_up(fixture: &dyn Fixture) {
    let bus = fixture.host().await;
    publish(&bus, "t", 12).await;
    let without = super::join(&bus, SHORT_LEASE).await;
    let held = super::take(&without, 4).await;
    vanish(without, held);
    let mut with = Owner::join(&bus, SHORT_LEASE).await;
    let taken = with.take(8).await;
    assert_lanes_ascend(&numbers(&taken));
    assert!(taken.iter().any(|delivery| number(&delivery.message) < 4), "{:?}", numbers(&taken));
    vanish(with.subscription, taken);
    let without = super::join(&bus, SHORT_LEASE).await;
    let taken = super::take(&without, 12).await;
    let all: BTreeSet<usize> = numbers(&taken).into_iter().collect();
    assert_eq!(all, (0..12).collect());
}
