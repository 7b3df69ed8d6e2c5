//! Pipes, descriptors and children, as the kernel has them: what the standard library has no name for.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

/// Descriptors beyond this are not looked for where the kernel cannot close them all at once.
const OLD_MOST_FILES: RawFd = 4_096;

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
pub(super) fn ready(files: [Option<RawFd>; 3], patience: Duration) -> io::Result<[bool; 3]> {
    // A negative descriptor is passed over.
    let mut polled = files.map(|file| libc::pollfd { fd: file.unwrap_or(-1), events: libc::POLLIN, revents: 0 });
    let millis = i32::try_from(patience.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
    // SAFETY: the pointer is to a live array of so many entries.
    let found = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
    match found {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok([false; 3]),
            error => Err(error),
        },
        _ => Ok(polled.map(|one| one.revents != 0)),
    }
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
