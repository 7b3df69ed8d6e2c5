//! What a process can take from itself for good: files, system calls, memory, time.
//!
//! Nothing here is needed for the sandbox of a guest to hold. It is what remains if that one does not.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// The newest Landlock whose rights are known here. An older kernel enforces those it has.
const ABI_KNOWN: ABI = ABI::V6;

/// What Landlock restricts, and since when.
const RESTRICTED: [(ABI, &str); 5] = [
    (ABI::V1, "files"),
    (ABI::V3, "truncating files"),
    (ABI::V4, "listening"),
    (ABI::V5, "controlling devices"),
    (ABI_KNOWN, "signals"),
];

/// What may be done with a file, or with all that lies below a directory. Nothing of it may be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read files, list directories.
    Read,
    /// That, and make, change, rename and remove files, directories and sockets.
    Write,
}

/// A system call, and which of its arguments make it one that is meant.
#[derive(Clone, Debug)]
pub struct Call {
    number: i64,
    /// Any of these; none: whatever its arguments.
    when: Vec<Masked>,
}

/// An argument of a system call that has, within a mask, these bits.
#[derive(Clone, Copy, Debug)]
pub struct Masked {
    /// Which one, from 0.
    pub argument: u8,
    /// The bits that are looked at.
    pub mask: u64,
    /// What they must be.
    pub value: u64,
}

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refuses a filter of system calls, or has none.
    #[error("filter system calls")]
    Calls(#[source] io::Error),
    /// There is no such filter for this processor.
    #[error("filter system calls on this processor")]
    Processor,
    /// The filter cannot be built: a mistake in its rules.
    #[error("build the filter of system calls: {0}")]
    Filter(String),
    /// The kernel has Landlock and refuses these rules.
    #[error("restrict files: {0}")]
    Files(String),
    /// Another request to the kernel failed.
    #[error("{0}")]
    Kernel(&'static str, #[source] io::Error),
}

// === impl Call ===

impl Call {
    /// A system call, whatever its arguments.
    #[must_use]
    pub fn any(number: i64) -> Self {
        Self { number, when: Vec::new() }
    }

    /// A system call where any of these holds.
    #[must_use]
    pub fn when(number: i64, when: &[Masked]) -> Self {
        Self { number, when: when.to_vec() }
    }
}

// === impl Error ===

impl Error {
    /// Whether this kernel, or what is known of this processor, has no filters of system calls at all: no mistake, and
    /// not to be mended here.
    #[must_use]
    pub fn is_lacking(&self) -> bool {
        match self {
            Self::Processor => true,
            Self::Calls(error) => matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)),
            _ => false,
        }
    }
}

/// From now on no program that is executed gets rights that this process does not have.
///
/// # Errors
///
/// If the kernel does not know it.
pub fn no_new_privileges() -> Result<(), Error> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "give up the way to new privileges")
}

/// Other processes of this user cannot look into this one, and it leaves no core file behind.
///
/// # Errors
///
/// If the kernel does not know it.
pub fn not_dumpable() -> Result<(), Error> {
    prctl(libc::PR_SET_DUMPABLE, 0, "give up core files")
}

/// This process ends when the one that started it does.
///
/// # Errors
///
/// If the kernel does not know it.
pub fn ends_with_its_parent() -> Result<(), Error> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, "end with the parent")
}

fn prctl(option: libc::c_int, value: libc::c_ulong, what: &'static str) -> Result<(), Error> {
    const NONE: libc::c_ulong = 0;
    // SAFETY: these options take numbers, and touch no memory of this process.
    let done = unsafe { libc::prctl(option, value, NONE, NONE, NONE) };
    if done == 0 { Ok(()) } else { Err(Error::Kernel(what, io::Error::last_os_error())) }
}

/// Bounds what this process may use: processor time, bytes of address space, open files. It may write no file and leave
/// no core behind.
///
/// # Errors
///
/// If one of them is above what it may have.
pub fn bound(time: Duration, memory: u64, files: u64) -> Result<(), Error> {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    // What ignores the first signal is killed a second later.
    limit(libc::RLIMIT_CPU, seconds, seconds.saturating_add(1), "bound the processor's time")?;
    limit(libc::RLIMIT_AS, memory, memory, "bound the memory")?;
    bound_files(files)
}

/// Bounds the open files alone. It may write no file and leave no core behind.
///
/// # Errors
///
/// If it is above what it may have.
pub fn bound_files(files: u64) -> Result<(), Error> {
    limit(libc::RLIMIT_FSIZE, 0, 0, "bound the size of files")?;
    limit(libc::RLIMIT_CORE, 0, 0, "bound the size of cores")?;
    limit(libc::RLIMIT_NOFILE, files, files, "bound the number of open files")
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn limit(resource: Resource, soft: u64, hard: u64, what: &'static str) -> Result<(), Error> {
    let wanted = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the pointer is to a live value of the type the call takes.
    let done = unsafe { libc::setrlimit(resource, &raw const wanted) };
    if done == 0 { Ok(()) } else { Err(Error::Kernel(what, io::Error::last_os_error())) }
}

/// From now on this thread, and those it starts, can open no file but what is named, listen on no TCP port, and signal
/// no process but those that come from it. What is open stays open. Files that are not there are passed over.
///
/// Landlock came with Linux 5.13 and has grown since, and a kernel can be built without it: what this one cannot restrict
/// is left as it was, and its names are returned.
///
/// # Errors
///
/// If the kernel has it and refuses. [`no_new_privileges`] must have been given up.
pub fn restrict_files(allowed: &[(PathBuf, Access)]) -> Result<Vec<&'static str>, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Files(error.to_string());
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI_KNOWN))
        .and_then(|rules| rules.handle_access(AccessNet::BindTcp))
        .and_then(|rules| rules.scope(Scope::AbstractUnixSocket))
        .and_then(|rules| rules.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(|error| failed(&error))?;
    for (path, access) in allowed {
        let Ok(opened) = PathFd::new(path) else { continue };
        let access = rights(path, *access);
        ruleset = ruleset.add_rule(PathBeneath::new(opened, access)).map_err(|error| failed(&error))?;
    }
    let status = ruleset.no_new_privs(false).restrict_self().map_err(|error| failed(&error))?;
    let has = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
        _ => ABI::Unsupported,
    };
    Ok(RESTRICTED.iter().filter(|(since, _)| *since > has).map(|(_, what)| *what).collect())
}

fn rights(path: &Path, access: Access) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let all = match access {
        Access::Read => read,
        Access::Write => {
            read | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::MakeReg
                | AccessFs::MakeDir
                | AccessFs::MakeSock
                | AccessFs::RemoveFile
                | AccessFs::RemoveDir
        }
    };
    // Rights on a directory's content mean nothing for a file.
    if path.is_dir() { all } else { all & AccessFs::from_file(ABI_KNOWN) }
}

/// From now on this process, all of its threads and all it starts can make these system calls and no others: those fail
/// as if the kernel did not have them, which every program must be ready for.
///
/// # Errors
///
/// If the kernel refuses filters. [`no_new_privileges`] must have been given up.
pub fn allow_only(calls: &[Call]) -> Result<(), Error> {
    install(calls, SeccompAction::Errno(libc::ENOSYS.cast_unsigned()), SeccompAction::Allow)
}

/// From now on none of them can make these system calls: they fail with `error`.
///
/// # Errors
///
/// As [`allow_only`].
pub fn refuse(calls: &[Call], error: i32) -> Result<(), Error> {
    install(calls, SeccompAction::Allow, SeccompAction::Errno(error.cast_unsigned()))
}

fn install(calls: &[Call], otherwise: SeccompAction, action: SeccompAction) -> Result<(), Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls {
        let known = rules.entry(call.number).or_default();
        for when in &call.when {
            let operator = SeccompCmpOp::MaskedEq(when.mask);
            let condition = SeccompCondition::new(when.argument, SeccompCmpArgLen::Qword, operator, when.value);
            let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
            known.push(rule.map_err(|error| Error::Filter(error.to_string()))?);
        }
    }
    // Whatever its arguments, by one of the entries: by all of them.
    for call in calls.iter().filter(|call| call.when.is_empty()) {
        rules.insert(call.number, Vec::new());
    }
    let processor: TargetArch = std::env::consts::ARCH.try_into().map_err(|_| Error::Processor)?;
    let filter = SeccompFilter::new(rules, otherwise, action, processor);
    let built: BpfProgram = filter.and_then(TryInto::try_into).map_err(|error| Error::Filter(error.to_string()))?;
    let mut program = other_numbers().to_vec();
    program.extend(built);
    apply(&program)
}

/// Refuses the numbers by which a processor of 64 bits takes the calls of its small sibling (x32): they are calls too,
/// and a list of refusals would not know them.
fn other_numbers() -> [sock_filter; 3] {
    // Opcodes of this machine have 16 bits.
    let code = |code: u32| code as u16;
    [
        // The number of the call is the first word of what a filter sees.
        sock_filter { code: code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), jt: 0, jf: 0, k: 0 },
        sock_filter { code: code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K), jt: 0, jf: 1, k: 0x4000_0000 },
        sock_filter {
            code: code(libc::BPF_RET | libc::BPF_K),
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(),
        },
    ]
}

fn apply(program: &[sock_filter]) -> Result<(), Error> {
    #[repr(C)]
    struct Program {
        len: libc::c_ushort,
        filter: *const sock_filter,
    }
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Error::Filter("it is too long".to_owned()))?;
    let program = Program { len, filter: program.as_ptr() };
    // Without the second flag older kernels turn off a part of the processor's speculation with every filter, for all
    // the process does.
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the pointer is to a live program of the length it says; the kernel copies it and changes nothing.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match done {
        0 => Ok(()),
        // With the first flag a thread that cannot take the filter is named by its number.
        thread if thread > 0 => Err(Error::Calls(io::Error::other(format!("thread {thread} has filters of its own")))),
        _ => Err(Error::Calls(io::Error::last_os_error())),
    }
}
