//! What the compiler's process and its children cannot do.
//!
//! The list names what a compiler needs: memory, threads, a place to write its answer. It is a list of what is allowed,
//! since compiling needs so little, and whatever is not on it fails as on a kernel that lacks it. So no file is opened,
//! no socket made, no program executed, no other process signalled or looked into, and no memory made executable.

use std::time::Duration;

use super::super::confine::{self, Call, Masked};

/// Threads are made with this; what lacks it makes a process.
const THREAD: u64 = libc::CLONE_THREAD as u64;
/// The flags a C library makes a process with, and the signal that tells its parent of its end.
const FORK: u64 = (libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID) as u64 | 0xff;
const EXECUTABLE: u64 = libc::PROT_EXEC as u64;
/// Names a piece of memory, for people who look at it.
const NAME_MEMORY: u64 = 0x5356_4d41;

/// Confines the process that serves. What the kernel lacks is left out and told.
pub(super) fn serve() -> Result<Vec<&'static str>, confine::Error> {
    let mut missing = Vec::new();
    confine::not_dumpable()?;
    confine::no_new_privileges()?;
    // Before the filter, which would refuse it.
    if confine::restrict_files(&[])?.contains(&"files") {
        missing.push("no Landlock");
    }
    let mut calls = compiling(None);
    calls.extend(serving());
    match confine::allow_only(&calls) {
        Err(error) if error.is_lacking() => missing.push("no seccomp"),
        done => done?,
    }
    Ok(missing)
}

/// Confines a child that compiles one module: nothing is left to it but that.
pub(super) fn compile(time: Duration, memory: u64, filtered: bool) -> Result<(), confine::Error> {
    // Descriptors that are open stay so; there is no room for another.
    confine::bound(time, memory, 0)?;
    if filtered { confine::allow_only(&compiling(Some(std::process::id()))) } else { Ok(()) }
}

/// What compiling takes, of the process of this id or any.
fn compiling(process: Option<u32>) -> Vec<Call> {
    let not_executable = |number| Call::when(number, &[Masked { argument: 2, mask: EXECUTABLE, value: 0 }]);
    let own = process.map_or_else(Vec::new, |id| vec![Masked { argument: 0, mask: 0xffff_ffff, value: id.into() }]);
    let option = |value| Masked { argument: 0, mask: 0xffff_ffff, value };
    let mut calls = vec![
        not_executable(libc::SYS_mmap),
        not_executable(libc::SYS_mprotect),
        Call::when(libc::SYS_clone, &[Masked { argument: 0, mask: THREAD, value: THREAD }]),
        // Only itself, to abort.
        Call::when(libc::SYS_tgkill, &own),
        Call::when(libc::SYS_prctl, &[option(libc::PR_SET_NAME as u64), option(NAME_MEMORY)]),
    ];
    calls.extend(COMPUTING.map(Call::any));
    calls
}

/// What any program takes that computes, with memory and threads that it has: and an end.
pub(in crate::sandbox) const COMPUTING: [i64; 23] = [
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// What the process that serves needs beside it: a child for each module, its end, its answer.
fn serving() -> Vec<Call> {
    let process = Masked { argument: 0, mask: !FORK, value: 0 };
    let of_no_other = Masked { argument: 0, mask: !0, value: 0 };
    let mut calls =
        vec![Call::when(libc::SYS_clone, &[process]), Call::when(libc::SYS_sched_setscheduler, &[of_no_other])];
    calls.extend(
        [
            #[cfg(target_arch = "x86_64")]
            libc::SYS_dup2,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll,
            libc::SYS_close_range,
            libc::SYS_dup3,
            libc::SYS_fcntl,
            libc::SYS_getppid,
            libc::SYS_kill,
            libc::SYS_pipe2,
            libc::SYS_ppoll,
            // For the bounds and the filter of each child.
            libc::SYS_prctl,
            libc::SYS_prlimit64,
            libc::SYS_read,
            libc::SYS_seccomp,
            libc::SYS_wait4,
        ]
        .map(Call::any),
    );
    calls
}
