//! What the running host gives up once it has read its configuration: what a handler that breaks out of its sandbox would
//! find is what serving needs, and little else.
//!
//! The files that stay within reach follow from the configuration. System calls are refused by name: a list of what an
//! executor, a client of the bus and an engine may need would be long, would differ between C libraries and kernels, and
//! a gap in it would be found in service. The list of what no host ever needs is short, and a gap in it is one more thing
//! that is left to permissions, as before. Programs are not executed at all, this one included: modules are compiled by a
//! process that was started before.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sandbar::config::{Config, ControlSocket};
use sandbar::sandbox::confine::{self, Access, Call, Masked};
use url::Url;

use super::{Exit, Failure, socket};

/// What every host reads of the system: itself, its share of the machine, and how its name is looked up.
const SYSTEM: &[&str] = &["/proc", "/sys/fs/cgroup", "/sys/devices/system", "/dev/urandom", "/dev/random"];

/// What is read to find a host by its name and to know whom to trust: files that are replaced while the host runs, so
/// that the directories are named. Look-ups may load libraries.
const NAMES: &[&str] = &[
    "/etc",
    "/run/systemd/resolve",
    "/run/nscd",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
];

/// The parameters of `bus.url` that name files.
const URL_FILES: [&str; 3] = ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"];

/// A thread is made with it, a process is not.
const THREAD: u64 = libc::CLONE_THREAD as u64;

/// Confines this process, unless the configuration says not to. It must have one thread: those that it starts inherit
/// what holds for it. One line of the log says what is in force.
pub(super) fn harden(config: &Config) -> Result<(), Failure> {
    if !config.host.hardening {
        tracing::warn!(
            "host.hardening is off: a handler that breaks out of its sandbox finds all that this user may do"
        );
        return Ok(());
    }
    let done = apply(config).context("the host cannot be confined (host.hardening = \"off\" runs it without)");
    let (files, calls) = done.map_err(|error| Failure::new(Exit::Refused, error))?;
    let in_force = |is: bool| if is { "restricted" } else { "not restricted: the kernel cannot" };
    match files && calls {
        true => tracing::info!(files = in_force(files), calls = in_force(calls), "the host is confined"),
        false => tracing::warn!(files = in_force(files), calls = in_force(calls), "the host is confined in part"),
    }
    Ok(())
}

/// Whether files, and system calls, are restricted from now on.
fn apply(config: &Config) -> Result<(bool, bool), confine::Error> {
    let files = files(config);
    confine::no_new_privileges()?;
    let restricted = confine::restrict_files(&files)?;
    let filtered = confine::refuse(&never(), libc::EPERM).and_then(|()| {
        // Its arguments lie in memory, where no filter looks: a C library takes the older call instead, if there is none.
        confine::refuse(&[Call::any(libc::SYS_clone3)], libc::ENOSYS)
    });
    match filtered {
        Ok(()) => Ok((restricted, true)),
        Err(confine::Error::Processor) => Ok((restricted, false)),
        Err(confine::Error::Calls(error)) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            Ok((restricted, false))
        }
        Err(error) => Err(error),
    }
}

/// The files that serving this configuration needs, now and as long as it runs: handlers' modules and secrets may be
/// replaced, which is a matter of their directories.
fn files(config: &Config) -> Vec<(PathBuf, Access)> {
    let mut read: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    read.extend(around(&config.path));
    read.extend(config.all_handlers().flat_map(|handler| around(&handler.module)));
    read.extend(config.schemas.dirs.iter().cloned());
    read.extend(config.secrets.files().flat_map(around));

    let mut write = vec![PathBuf::from("/dev/null")];
    if let Some(path) = config.bus.url.strip_prefix("sqlite:") {
        let found = around(Path::new(path));
        keep_temporary_files_in(found.first());
        write.extend(found);
    } else {
        read.extend(NAMES.iter().map(PathBuf::from));
        read.extend(["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from));
        let url = Url::parse(&config.bus.url).ok();
        let named = url.iter().flat_map(Url::query_pairs).filter(|(name, _)| URL_FILES.contains(&&**name));
        read.extend(named.flat_map(|(_, path)| around(Path::new(&*path))));
    }
    // A directory that is not there cannot be named. Whoever cannot make it says so when it is used.
    if let Some(cache) = &config.host.code_cache {
        drop(DirBuilder::new().recursive(true).mode(0o700).create(cache));
        write.extend(cache.is_dir().then(|| cache.clone()));
    }
    let sockets = match &config.host.control {
        ControlSocket::Off => None,
        ControlSocket::Default => socket::directories().into_iter().next(),
        ControlSocket::At(path) => path.parent().map(or_here),
    };
    if let Some(directory) = sockets {
        drop(DirBuilder::new().mode(0o700).create(&directory));
        write.extend(directory.is_dir().then_some(directory));
    }
    let read = read.into_iter().map(|path| (path, Access::Read));
    read.chain(write.into_iter().map(|path| (path, Access::Write))).collect()
}

/// The directories in which a file lies, where its name leads and where that leads by links. Nobody is given the root: of
/// a file there it is the file itself.
fn around(path: &Path) -> Vec<PathBuf> {
    let whole = path.canonicalize().ok();
    let directory = |path: &Path| match path.parent() {
        Some(parent) if parent != Path::new("/") => or_here(parent),
        _ => path.to_owned(),
    };
    [Some(path), whole.as_deref()].into_iter().flatten().map(directory).collect()
}

fn or_here(directory: &Path) -> PathBuf {
    if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory.to_owned() }
}

/// What SQLite spills from memory it writes beside the database, since no other directory can be written.
#[expect(clippy::disallowed_methods, reason = "this process has one thread")]
fn keep_temporary_files_in(directory: Option<&PathBuf>) {
    let Some(directory) = directory.and_then(|found| found.canonicalize().ok()) else { return };
    // SAFETY: this process has one thread, so that nobody reads the environment meanwhile.
    unsafe { std::env::set_var("SQLITE_TMPDIR", directory) };
}

/// What no host needs: programs and processes, other processes' memory, the kernel's own matters, ways around a filter.
fn never() -> Vec<Call> {
    let argument = |argument, value| Masked { argument, mask: 0xffff_ffff, value };
    let mut calls = vec![
        Call::when(libc::SYS_clone, &[Masked { argument: 0, mask: THREAD, value: 0 }]),
        // Typing for whoever sits at the terminal.
        Call::when(libc::SYS_ioctl, &[argument(1, libc::TIOCSTI as u64), argument(1, TIOCLINUX)]),
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend(
        [
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_iopl,
            libc::SYS_ioperm,
            libc::SYS_modify_ldt,
            libc::SYS_uselib,
            libc::SYS_kexec_file_load,
        ]
        .map(Call::any),
    );
    calls.extend(
        [
            // Programs.
            libc::SYS_execve,
            libc::SYS_execveat,
            // Other processes.
            libc::SYS_kcmp,
            libc::SYS_pidfd_getfd,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_ptrace,
            // What is mounted where, and other namespaces.
            libc::SYS_chroot,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fsopen,
            libc::SYS_fspick,
            libc::SYS_mount,
            libc::SYS_mount_setattr,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_pivot_root,
            libc::SYS_setns,
            libc::SYS_umount2,
            libc::SYS_unshare,
            // The kernel, the machine.
            libc::SYS_acct,
            libc::SYS_bpf,
            libc::SYS_clock_settime,
            libc::SYS_delete_module,
            libc::SYS_finit_module,
            libc::SYS_init_module,
            libc::SYS_kexec_load,
            libc::SYS_perf_event_open,
            libc::SYS_quotactl,
            libc::SYS_reboot,
            libc::SYS_setdomainname,
            libc::SYS_sethostname,
            libc::SYS_settimeofday,
            libc::SYS_swapoff,
            libc::SYS_swapon,
            libc::SYS_syslog,
            libc::SYS_vhangup,
            // Keys of this user's.
            libc::SYS_add_key,
            libc::SYS_keyctl,
            libc::SYS_request_key,
            // Files by another way than their path, calls by another way than a call, and a favourite of attacks.
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_io_uring_setup,
            libc::SYS_open_by_handle_at,
            libc::SYS_personality,
            libc::SYS_userfaultfd,
        ]
        .map(Call::any),
    );
    calls
}

/// Of the console, with which what is typed can be copied; the C library has no name for it.
const TIOCLINUX: u64 = 0x541c;
