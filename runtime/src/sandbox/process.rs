//! What processes beside the host are made with: pipes, sockets, descriptors, signals and children as the kernel has them,
//! where the standard library has no name for it.

use std::fs::File;
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::fs::FileType;

/// Descriptors beyond this are not looked for where the kernel cannot close them all at once.
const OLD_MOST_FILES: RawFd = 4_096;

/// In a process that was started with a socket to its host as its standard input: that socket. All else that is open is
/// closed but standard output and error.
pub(super) fn link_of_host() -> io::Result<OwnedFd> {
    // SAFETY: standard input is open (what starts a program sees to it), and nothing else here uses it.
    let input = unsafe { OwnedFd::from_raw_fd(libc::STDIN_FILENO) };
    let kind = rustix::fs::fstat(&input).map(|about| FileType::from_raw_mode(about.st_mode))?;
    if kind != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a host starts this, with a socket as standard input"));
    }
    close_from(libc::STDERR_FILENO + 1)?;
    let link = input.try_clone()?;
    // A child must not have it. Whatever standard output is, it is not needed either.
    same(libc::STDOUT_FILENO, input.as_raw_fd())?;
    std::mem::forget(input);
    Ok(link)
}

/// Room for one descriptor beside what a message says, at an address that is fit for it.
#[repr(C, align(8))]
struct Beside([u8; 64]);

/// Sends bytes with a descriptor; the other end gets one of its own for the same thing.
pub(super) fn send_with(to: &UnixStream, said: &[u8], attached: BorrowedFd<'_>) -> io::Result<()> {
    let mut room = Beside([0; 64]);
    let mut piece = libc::iovec { iov_base: said.as_ptr().cast_mut().cast(), iov_len: said.len() };
    let mut message = message(&mut piece, &mut room, size_of::<RawFd>());
    // SAFETY: the message says where its room is and how large, and that is enough for one descriptor, which is written
    // into it as the kernel lays it out; all of it lives until the call is over.
    let sent = unsafe {
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        (*head).cmsg_level = libc::SOL_SOCKET;
        (*head).cmsg_type = libc::SCM_RIGHTS;
        (*head).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as libc::c_uint) as _;
        libc::CMSG_DATA(head).cast::<RawFd>().write_unaligned(attached.as_raw_fd());
        libc::sendmsg(to.as_raw_fd(), &raw mut message, libc::MSG_NOSIGNAL)
    };
    match usize::try_from(sent) {
        Ok(sent) if sent == said.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Reads bytes, and the descriptor that came with them.
pub(super) fn receive_with(from: &UnixStream, into: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut room = Beside([0; 64]);
    let mut piece = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let mut message = message(&mut piece, &mut room, size_of::<RawFd>());
    // SAFETY: as in `send_with`; the kernel writes no more than there is room for, and what it wrote is read only as far
    // as it says that it did.
    unsafe {
        let read = libc::recvmsg(from.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC);
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        let has = !head.is_null() && (*head).cmsg_level == libc::SOL_SOCKET && (*head).cmsg_type == libc::SCM_RIGHTS;
        let attached = has.then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(head).cast::<RawFd>().read_unaligned()));
        Ok((read, attached))
    }
}

/// A message of one piece, with room for so many bytes of descriptors.
fn message(piece: &mut libc::iovec, room: &mut Beside, bytes: usize) -> libc::msghdr {
    // SAFETY: all zeros are a value of this type: numbers, and pointers to nothing.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = piece;
    message.msg_iovlen = 1;
    message.msg_control = room.0.as_mut_ptr().cast();
    // SAFETY: it computes a number.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(bytes as libc::c_uint) } as _;
    message
}

/// Something to poll that is ready when a child of this process has ended, and to read then.
pub(super) fn ends_of_children() -> io::Result<File> {
    // SAFETY: a set of signals is plain numbers, and the calls write to this one alone. This process has one thread.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) == -1 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            file => Ok(File::from_raw_fd(file)),
        }
    }
}

/// Makes a copy of this process; nothing in the copy itself.
///
/// # Safety
///
/// This process must have one thread: then the copy has all there is, and no lock is held by one that it lacks.
pub(super) unsafe fn fork() -> io::Result<Option<libc::pid_t>> {
    // SAFETY: as above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child)),
    }
}

/// Gives this process and all that it makes the processor's time that nobody else wants. Only a privileged one could take
/// that back. A kernel that does not know of it changes nothing.
pub(super) fn yield_to_others() {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a live value.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none) };
}

/// Processors' time that a process has taken so far; `None` if that cannot be told.
pub(super) fn time_of(process: libc::pid_t) -> Option<Duration> {
    /// All threads, as the scheduler counts; see `CPUCLOCK_SCHED` in the kernel's `posix-timers_types.h`. What the C
    /// library has for this asks the kernel for what no filter here allows.
    const SCHEDULED: libc::clockid_t = 2;
    let clock = (!process << 3) | SCHEDULED;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value.
    let told = unsafe { libc::clock_gettime(clock, &raw mut now) } == 0;
    told.then(|| Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
}

/// Reads once; false if there is more than fits.
pub(super) fn more(from: &mut Option<File>, into: &mut Vec<u8>, most: usize) -> io::Result<bool> {
    let Some(file) = from else { return Ok(true) };
    let mut piece = [0; 64 << 10];
    match file.read(&mut piece) {
        Ok(0) => *from = None,
        Ok(read) => {
            let fits = read.min(most.saturating_sub(into.len()));
            into.extend_from_slice(&piece[..fits]);
            return Ok(fits == read);
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(true)
}

/// Which of these have something to read, or an end; none after `patience`.
pub(super) fn ready<const N: usize>(files: [Option<RawFd>; N], patience: Duration) -> io::Result<[bool; N]> {
    // A negative descriptor is passed over.
    let mut polled = files.map(|file| libc::pollfd { fd: file.unwrap_or(-1), events: libc::POLLIN, revents: 0 });
    let millis = i32::try_from(patience.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
    // SAFETY: the pointer is to a live array of so many entries.
    let found = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
    match found {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
            error => Err(error),
        },
        _ => Ok(polled.map(|one| one.revents != 0)),
    }
}

/// Ends a process that is a copy of another, to which belongs all that would be run at its end.
pub(super) fn end_now(well: bool) -> ! {
    // SAFETY: it does nothing but end this process.
    unsafe { libc::_exit(i32::from(!well)) }
}

/// How a child ended and the processors' time it took, if it has ended or is waited for.
pub(super) fn wait(child: libc::pid_t, patient: bool) -> io::Result<Option<(ExitStatus, Duration)>> {
    let (mut status, flags) = (0, if patient { 0 } else { libc::WNOHANG });
    // SAFETY: all zeros are a value of this type, which is plain numbers.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live values of the types the call writes.
        match unsafe { libc::wait4(child, &raw mut status, flags, &raw mut used) } {
            0 => return Ok(None),
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            _ => return Ok(Some((ExitStatus::from_raw(status), length(used.ru_utime) + length(used.ru_stime)))),
        }
    }
}

fn length(time: libc::timeval) -> Duration {
    let (seconds, micros) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_usec).unwrap_or(0));
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// Ends a child at once.
pub(super) fn kill(child: libc::pid_t) {
    // SAFETY: it touches no memory. The child has not been waited for, so that the number is still its own.
    unsafe { libc::kill(child, libc::SIGKILL) };
}

/// The end to read from, and the one to write to.
pub(super) fn pipe() -> io::Result<(File, File)> {
    let (reader, writer) = io::pipe()?;
    Ok((File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer))))
}

/// Makes `second` another name of what `first` is.
pub(super) fn same(first: RawFd, second: RawFd) -> io::Result<()> {
    // SAFETY: both are descriptors of this process that nothing else here holds as its own.
    let done = unsafe { libc::dup2(first, second) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes all descriptors from this one on.
pub(super) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: whatever has one of them does not use it any more.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::ENOSYS) {
        return Err(error);
    }
    // Before Linux 5.9 there is no call for it; a host has some hundred.
    for file in first..OLD_MOST_FILES {
        // SAFETY: as above. Most of these are not open.
        unsafe { libc::close(file) };
    }
    Ok(())
}

/// Reads all that there is on what [`ends_of_children`] made: one signal may stand for several ends.
pub(super) fn drain(mut ends: &File) {
    let mut signals = [0; size_of::<libc::signalfd_siginfo>()];
    while ends.read(&mut signals).is_ok_and(|read| read > 0) {}
}

/// What tells a process to end is not for this one and those that it starts, which end with their host: who stops a whole
/// unit stops the host too, and that one needs them until it has drained.
pub(super) fn ends_with_its_host_only() -> io::Result<()> {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: it takes numbers, and touches no memory of this process.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
