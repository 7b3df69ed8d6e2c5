//! What the running host gives up once it has read its configuration: what a handler that breaks out of its sandbox would
//! find is what serving needs, and little else.
//!
//! The files that stay within reach follow from the configuration. System calls are refused by name: a list of what an
//! executor, a client of the bus and an engine may need would be long, would differ between C libraries and kernels, and
//! a gap in it would be found in service. The list of what no host ever needs is short, and a gap in it is one more thing
//! that is left to permissions, as before. Programs are not executed at all, this one included: what compiles modules and what
//! makes workers was started before, or is by a process that was.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sandbar::bus;
use sandbar::config::{Config, ControlSocket, HandlerConfig};
use sandbar::sandbox::confine::{self, Access, Call, Masked};

use super::{Exit, Failure, socket};

/// What every host reads of the system: itself, its share of the machine. All of `/proc`, since the kernel makes the
/// directory of a process anew, and without the rule, whenever it has forgotten it.
const SYSTEM: &[&str] = &["/proc", "/sys/fs/cgroup", "/sys/devices/system", "/dev/urandom", "/dev/random"];

/// What is read to find a host by its name and to know whom to trust: files that are replaced while the host runs, so
/// that the directories are named. Look-ups may load libraries.
const NAMES: &[&str] = &[
    "/etc",
    "/run/systemd/resolve",
    "/run/nscd",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/nix/store",
];

/// Those of them that may be links to elsewhere.
const LINKED: &[&str] = &["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];

/// Variables that name certificates, or directories of them, instead of the system's.
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

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
    let surroundings = bus::surroundings(&config.bus);
    let in_root = |path: &Path| is_in_root(path) || path.canonicalize().is_ok_and(|found| is_in_root(&found));
    if let Some(path) = surroundings.write.as_deref().filter(|path| in_root(path)) {
        let path = path.display();
        let error = anyhow::anyhow!(
            "the bus at {path} lies in the root directory, all of which the host would have to write: put it into a \
             directory of its own, or set [host] hardening = \"off\""
        );
        return Err(Failure::new(Exit::Refused, error));
    }
    let missing = apply(&files(config, &surroundings));
    let missing = missing.context("the host cannot be confined ([host] hardening = \"off\" runs it without)");
    let missing = missing.map_err(|error| Failure::new(Exit::Refused, error))?;
    if missing.is_empty() {
        tracing::info!("the host is confined");
    } else {
        tracing::warn!(
            missing = missing.join(", "),
            "the host is confined as far as the kernel can: not all is restricted"
        );
    }
    Ok(())
}

/// What cannot be restricted; the rest is from now on.
fn apply(files: &[(PathBuf, Access)]) -> Result<Vec<&'static str>, confine::Error> {
    confine::no_new_privileges()?;
    let mut missing = confine::restrict_files(files)?;
    let filtered = confine::refuse(&never(), libc::EPERM).and_then(|()| {
        // Its arguments lie in memory, where no filter looks: a C library takes the older call instead, if there is none.
        confine::refuse(&[Call::any(libc::SYS_clone3)], libc::ENOSYS)
    });
    match filtered {
        Err(error) if error.is_lacking() => missing.push("system calls"),
        done => done?,
    }
    Ok(missing)
}

/// The files that serving this configuration needs, now and as long as it runs. Those of the configuration itself, of
/// modules and of secrets may be replaced and read again, which is a matter of their directories.
fn files(config: &Config, bus: &bus::Surroundings) -> Vec<(PathBuf, Access)> {
    let mut read: BTreeSet<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    read.extend(around(&config.path));
    read.extend(config.all_handlers().flat_map(|handler| around(&handler.module)));
    read.extend(config.schemas.dirs.iter().cloned());
    read.extend(config.secrets.files().flat_map(around));
    read.extend(bus.read.iter().flat_map(|path| around(path)));
    read.extend(config.host.http_ca_file.iter().flat_map(|path| around(path)));
    if finds_servers(config) {
        read.extend(NAMES.iter().map(PathBuf::from));
        read.extend(LINKED.iter().flat_map(|path| around(Path::new(path))));
        let named = CERTIFICATES.into_iter().filter_map(std::env::var_os);
        let named: Vec<PathBuf> = named.flat_map(|paths| std::env::split_paths(&paths).collect::<Vec<_>>()).collect();
        read.extend(named.iter().flat_map(|path| if path.is_dir() { vec![path.clone()] } else { around(path) }));
    }

    let mut write = vec![PathBuf::from("/dev/null")];
    if let Some(path) = &bus.write {
        let found = around(path);
        keep_temporary_files_in(found.first());
        write.extend(found);
    }
    // A directory that is not there cannot be named. Whoever cannot make or use it says so then.
    if let Some(cache) = &config.host.code_cache {
        drop(DirBuilder::new().recursive(true).mode(0o700).create(cache));
        write.push(cache.clone());
    }
    let sockets = match &config.host.control {
        ControlSocket::Off => None,
        ControlSocket::Default => socket::directories().into_iter().next(),
        ControlSocket::At(path) => path.parent().map(or_here),
    };
    if let Some(directory) = sockets {
        drop(DirBuilder::new().mode(0o700).create(&directory));
        write.push(directory);
    }
    write.retain(|path| path.canonicalize().is_ok_and(|found| found != Path::new("/")));
    let read = read.into_iter().map(|path| (path, Access::Read));
    read.chain(write.into_iter().map(|path| (path, Access::Write))).collect()
}

/// Whether it looks names up and certificates: for its bus, or for handlers that send requests. Those that are disabled
/// count, as a reload may enable them.
fn finds_servers(config: &Config) -> bool {
    bus::surroundings(&config.bus).network || config.all_handlers().any(sends)
}

fn sends(handler: &HandlerConfig) -> bool {
    !handler.spec.grants.http.urls.is_empty()
}

/// Why a host that was confined for `before` cannot serve `now`, if it cannot: what was given up does not come back.
pub(super) fn misses(before: &Config, now: &Config) -> Option<String> {
    if !before.host.hardening || finds_servers(before) {
        return None;
    }
    let handler = &now.handlers.iter().find(|handler| sends(handler))?.name;
    Some(format!(
        "handler {handler:?} has the grant `http`, and this host was confined when no handler had it, so that it cannot \
         read what servers are found and trusted by: that takes a restart"
    ))
}

/// The directories in which a file lies, where its name leads and where that leads by links. Nobody is given the root: of
/// a file there it is the file itself.
fn around(path: &Path) -> Vec<PathBuf> {
    let whole = path.canonicalize().ok();
    let names = [Some(path), whole.as_deref()].into_iter().flatten();
    names.map(|path| if is_in_root(path) { path.to_owned() } else { or_here(path.parent().unwrap_or(path)) }).collect()
}

/// Whether the root is the directory of what has this name, however it is written.
fn is_in_root(path: &Path) -> bool {
    path.parent().is_none_or(|parent| or_here(parent).canonicalize().is_ok_and(|found| found == Path::new("/")))
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
        Call::when(libc::SYS_ioctl, &[argument(1, TIOCSTI), argument(1, TIOCLINUX)]),
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

/// Types for whoever sits at the terminal. The C library's number has another type on each system.
const TIOCSTI: u64 = 0x5412;
/// Of the console, with which what is typed can be copied; the C library has no name for it.
const TIOCLINUX: u64 = 0x541c;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_given_the_root() {
        for path in ["/not-there.toml", "/proc/../not-there.toml", "/proc"] {
            assert!(around(Path::new(path)).iter().all(|found| found == Path::new(path)), "{path}");
        }
        assert_eq!(around(Path::new("not-there.toml")), [Path::new(".")]);
        assert_eq!(around(Path::new("/proc/version")), [Path::new("/proc"); 2]);
    }
}
