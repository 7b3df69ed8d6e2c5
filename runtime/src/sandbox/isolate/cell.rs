//! What the process that makes workers, and a worker, cannot do.
//!
//! As for a compiler these are lists of what is allowed, and whatever is not on one fails as on a kernel that lacks it. The
//! process that makes workers has all that one takes to become a worker: it opens what the kernel tells of itself, makes its
//! code executable and starts a thread. A worker that is ready for its first call has none of this any more. It computes,
//! and speaks over its one socket.

use super::super::compile::cell::COMPUTING;
use super::super::confine::{self, Access, Call, Masked};

const EXECUTABLE: u64 = libc::PROT_EXEC as u64;
/// Which pages were written to: asked of `/proc/self/pagemap`, so that only those are cleared between two calls. It is the
/// request's kind and number; the rest is the length of what goes with it.
const PAGEMAP_SCAN: u64 = 0xc060_6610;
/// Names a piece of memory, for people who look at it.
const NAME_MEMORY: u64 = 0x5356_4d41;

/// What could not be restricted, as it crosses to the host.
pub(super) const NO_LANDLOCK: i32 = 1;
pub(super) const NO_SECCOMP: i32 = 2;

/// Confines the process that makes workers. What the kernel lacks is left out and returned.
pub(super) fn serve() -> Result<i32, confine::Error> {
    let mut missing = 0;
    confine::no_new_privileges()?;
    // A worker looks there for the pages that a call has written to, as long as it may open anything.
    if confine::restrict_files(&[("/proc".into(), Access::Read)])?.contains(&"files") {
        missing |= NO_LANDLOCK;
    }
    let mut calls: Vec<Call> = COMPUTING.map(Call::any).into();
    calls.extend(serving().map(Call::any));
    match confine::allow_only(&calls) {
        Err(error) if error.is_lacking() => missing |= NO_SECCOMP,
        done => done?,
    }
    Ok(missing)
}

/// Confines a worker, with all of its threads: nothing is left to it but to compute, and its socket.
pub(super) fn work() -> Result<(), confine::Error> {
    confine::not_dumpable()?;
    confine::bound_files(0)?;
    match confine::allow_only(&working(std::process::id())) {
        Err(error) if error.is_lacking() => Ok(()),
        done => done,
    }
}

fn working(process: u32) -> Vec<Call> {
    let argument = |argument, value| Masked { argument, mask: 0xffff_ffff, value };
    let not_executable = |number| Call::when(number, &[Masked { argument: 2, mask: EXECUTABLE, value: 0 }]);
    let mut calls: Vec<Call> = COMPUTING.map(Call::any).into();
    calls.extend([
        not_executable(libc::SYS_mmap),
        not_executable(libc::SYS_mprotect),
        // Only itself, to abort.
        Call::when(libc::SYS_tgkill, &[argument(0, process.into())]),
        Call::when(libc::SYS_prctl, &[argument(0, libc::PR_SET_NAME as u64), argument(0, NAME_MEMORY)]),
        Call::when(libc::SYS_ioctl, &[argument(1, PAGEMAP_SCAN)]),
        // Its own turn, and nobody's beside.
        Call::when(libc::SYS_sched_getattr, &[argument(0, 0)]),
        Call::when(libc::SYS_sched_setattr, &[argument(0, 0)]),
        // To whoever is at the other end, and to nobody by an address.
        Call::when(libc::SYS_sendto, &[Masked { argument: 4, mask: u64::MAX, value: 0 }]),
        Call::any(libc::SYS_read),
        Call::any(libc::SYS_recvfrom),
    ]);
    calls
}

/// What making a worker takes, and becoming one, beside what a worker needs.
fn serving() -> [i64; 31] {
    [
        #[cfg(target_arch = "x86_64")]
        libc::SYS_dup2,
        #[cfg(not(target_arch = "x86_64"))]
        libc::SYS_dup3,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        #[cfg(not(target_arch = "x86_64"))]
        libc::SYS_ppoll,
        libc::SYS_clone,
        libc::SYS_close_range,
        libc::SYS_fcntl,
        libc::SYS_fstat,
        libc::SYS_ftruncate,
        libc::SYS_getppid,
        libc::SYS_ioctl,
        libc::SYS_kill,
        libc::SYS_landlock_add_rule,
        libc::SYS_landlock_create_ruleset,
        libc::SYS_landlock_restrict_self,
        libc::SYS_memfd_create,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_openat,
        libc::SYS_prctl,
        libc::SYS_prlimit64,
        libc::SYS_read,
        libc::SYS_readlinkat,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sched_getattr,
        libc::SYS_sched_setattr,
        libc::SYS_seccomp,
        libc::SYS_sendto,
        libc::SYS_setrlimit,
        libc::SYS_statx,
        libc::SYS_tgkill,
        libc::SYS_wait4,
    ]
}
