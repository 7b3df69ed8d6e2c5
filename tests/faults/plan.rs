//! What one seed means: the bus, the hosts, the events, and which fault happens when. Nothing here depends on anything
//! but the seed, so a run can be repeated.

use std::fmt;

use super::dice::Dice;
use super::events::{Event, events};
use crate::support::proxy::Break;
use crate::support::shim::{EIO, ENOSPC, EROFS};

/// Everything that a seed decides.
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) mode: Mode,
    pub(super) events: Vec<Event>,
    /// In the order of time.
    pub(super) steps: Vec<Step>,
}

/// How the group is set up.
#[derive(Clone, Debug)]
pub(super) struct Mode {
    pub(super) bus: Kind,
    pub(super) order: &'static str,
    pub(super) hosts: usize,
    /// In milliseconds.
    pub(super) lease: u64,
    pub(super) in_flight: u64,
    pub(super) max_attempts: u32,
}

/// Which bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Redis that syncs every write before it answers, so that it may be killed.
    Always,
    /// Redis that syncs once a second. It is not killed: what it forgets then is not Sandbar's loss.
    EverySecond,
    /// The oldest Redis that is supported, syncing every write.
    Oldest,
    Sqlite,
}

/// Something that is done so many milliseconds after the start.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) at: u64,
    pub(super) act: Act,
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Publishes the next so many events.
    Publish(usize),
    Fault(Fault),
    /// Ends a fault that lasts.
    Mend(Fault),
}

/// What happens. A number first is the host's; times are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `kill -9`; mended by a new host.
    Kill(usize),
    /// SIGTERM; mended by a new host.
    Terminate(usize),
    /// SIGSTOP, mended by SIGCONT.
    Freeze(usize),
    Cut(usize, Break),
    /// Nothing comes through either way.
    HalfOpen(usize),
    /// The host's requests arrive and no answer comes back.
    Deaf(usize),
    /// The host hears nothing because its requests vanish.
    Mute(usize),
    Delay(usize, u64),
    Throttle(usize, usize),
    /// The next answer that is longer than this breaks off.
    Truncate(usize, usize),
    /// `kill -9` of Redis; mended by starting it again on its directory.
    KillBus,
    FreezeBus,
    /// CLIENT PAUSE for so long.
    PauseBus(u64),
    OutOfMemory,
    /// Redis takes no writes, as a master that was demoted.
    ReadOnlyBus,
    /// CLIENT KILL of everybody.
    KillClients,
    FlushScripts,
    /// Trims the topic to so many entries.
    Trim(usize),
    DestroyGroup,
    /// The disk takes no more of what this host writes.
    DiskFull(usize),
    /// Writes of this host to files fail with this error number.
    BadDisk(usize, i64),
    /// All clocks jump by so much, and back when it is mended.
    ClockJump(i64),
}

// === impl Plan ===

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
        let kinds = [Kind::Always, Kind::Sqlite, Kind::EverySecond, Kind::Sqlite, Kind::Oldest, Kind::Always];
        let mode = Mode {
            bus: kinds[(seed % 6) as usize],
            order: ["none", "key", "topic"][(seed / 6 % 3) as usize],
            hosts: dice.pick(&[1, 2, 2, 3, 3]),
            lease: dice.between(5, 10) * 100,
            in_flight: dice.pick(&[8, 32, 128]),
            max_attempts: dice.between(3, 5) as u32,
        };
        let events = events(&mut dice, &mode);
        let steps = steps(&mut dice, &mode, events.len());
        Self { seed, mode, events, steps }
    }

    pub(super) fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.steps.iter().filter_map(|step| if let Act::Fault(fault) = &step.act { Some(fault) } else { None })
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.faults().any(|found| *found == fault)
    }
}

/// Publishes all along and lets a fault happen every now and then.
fn steps(dice: &mut Dice, mode: &Mode, events: usize) -> Vec<Step> {
    let faults = dice.between(6, 12);
    let mut steps = Vec::new();
    let mut at = 300;
    // Two faults of the bus at once would be one.
    let mut bus_is_well_at = 0;
    for _ in 0..faults {
        at += dice.between(50, 450);
        let fault = fault(dice, mode);
        if fault.is_of_the_bus() && at < bus_is_well_at {
            continue;
        }
        steps.push(Step { at, act: Act::Fault(fault) });
        if let Some(lasts) = fault.lasts(dice, mode) {
            steps.push(Step { at: at + lasts, act: Act::Mend(fault) });
            if fault.is_of_the_bus() {
                bus_is_well_at = at + lasts + 100;
            }
        }
    }
    let chunks = 12;
    for chunk in 0..chunks {
        let count = events * (chunk + 1) / chunks - events * chunk / chunks;
        steps.push(Step { at: at * chunk as u64 / chunks as u64, act: Act::Publish(count) });
    }
    steps.sort_by_key(|step| step.at);
    steps
}

fn fault(dice: &mut Dice, mode: &Mode) -> Fault {
    let host = dice.between(0, mode.hosts as u64 - 1) as usize;
    let of_hosts = dice.percent(45);
    if of_hosts {
        return match dice.between(0, 4) {
            0 | 1 => Fault::Kill(host),
            2 | 3 => Fault::Freeze(host),
            _ => Fault::Terminate(host),
        };
    }
    if mode.bus == Kind::Sqlite {
        return match dice.between(0, 6) {
            0 => Fault::Trim(dice.between(0, 40) as usize),
            1 => Fault::DiskFull(host),
            2 | 3 => Fault::BadDisk(host, dice.pick(&[ENOSPC, EROFS, EIO])),
            4 => clock_jump(dice, mode),
            5 => Fault::Kill(host),
            _ => Fault::Freeze(host),
        };
    }
    match dice.between(0, 19) {
        0 | 1 => Fault::Cut(host, dice.pick(&[Break::Close, Break::Reset])),
        2 => Fault::HalfOpen(host),
        3 | 4 => Fault::Deaf(host),
        5 => Fault::Mute(host),
        6 => Fault::Delay(host, dice.between(20, 200)),
        7 => Fault::Throttle(host, dice.between(20, 200) as usize),
        8 | 9 => Fault::Truncate(host, dice.between(1, 200) as usize),
        10 | 11 if mode.bus != Kind::EverySecond => Fault::KillBus,
        10 | 12 => Fault::FreezeBus,
        11 | 13 => Fault::PauseBus(dice.between(100, 1_500)),
        14 => Fault::OutOfMemory,
        15 => dice.pick(&[Fault::KillClients, Fault::FlushScripts]),
        16 => Fault::Trim(dice.between(0, 40) as usize),
        17 => clock_jump(dice, mode),
        18 => Fault::ReadOnlyBus,
        _ => Fault::DestroyGroup,
    }
}

/// Less than a lease or many of them.
fn clock_jump(dice: &mut Dice, mode: &Mode) -> Fault {
    let by = dice.between(mode.lease / 2, mode.lease * 10) as i64;
    Fault::ClockJump(if dice.percent(50) { by } else { -by })
}

// === impl Fault ===

impl Fault {
    /// Two of these at once would be one.
    fn is_of_the_bus(self) -> bool {
        matches!(
            self,
            Self::KillBus
                | Self::FreezeBus
                | Self::PauseBus(_)
                | Self::OutOfMemory
                | Self::ReadOnlyBus
                | Self::ClockJump(_)
        )
    }

    /// How long, if it is not over at once.
    fn lasts(self, dice: &mut Dice, mode: &Mode) -> Option<u64> {
        match self {
            Self::Kill(_) | Self::Terminate(_) => Some(dice.between(20, 1_000)),
            // Shorter than the lease, or longer.
            Self::Freeze(_) => Some(dice.between(mode.lease / 4, mode.lease * 5 / 2)),
            Self::PauseBus(time) => Some(time + 20),
            Self::KillBus | Self::FreezeBus | Self::OutOfMemory | Self::ReadOnlyBus => Some(dice.between(50, 1_500)),
            Self::Cut(..) | Self::KillClients | Self::FlushScripts | Self::Trim(_) | Self::DestroyGroup => None,
            _ => Some(dice.between(100, mode.lease * 2)),
        }
    }

    /// Its name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill(_) => "host killed",
            Self::Terminate(_) => "host stopped",
            Self::Freeze(_) => "host frozen and thawed",
            Self::Cut(..) => "connection cut (FIN, RST)",
            Self::HalfOpen(_) => "connection half open",
            Self::Deaf(_) => "answers lost",
            Self::Mute(_) => "requests lost",
            Self::Delay(..) => "network slow",
            Self::Throttle(..) => "network narrow",
            Self::Truncate(..) => "answer broken off in the middle",
            Self::KillBus => "Redis killed and started again",
            Self::FreezeBus => "Redis frozen and thawed",
            Self::PauseBus(_) => "CLIENT PAUSE",
            Self::OutOfMemory => "Redis out of memory",
            Self::ReadOnlyBus => "Redis read-only",
            Self::KillClients => "CLIENT KILL",
            Self::FlushScripts => "SCRIPT FLUSH",
            Self::Trim(_) => "topic trimmed",
            Self::DestroyGroup => "group destroyed",
            Self::DiskFull(_) => "disk takes no more (SQLite)",
            Self::BadDisk(_, ENOSPC) => "disk full (SQLite)",
            Self::BadDisk(_, EROFS) => "disk turned read-only (SQLite)",
            Self::BadDisk(..) => "disk broken (SQLite)",
            Self::ClockJump(_) => "clock jumps",
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {:?}, {} events", self.seed, self.mode, self.events.len())?;
        for Step { at, act } in &self.steps {
            writeln!(f, "  {at:>5} ms  {act:?}")?;
        }
        Ok(())
    }
}
