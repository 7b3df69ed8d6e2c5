//! The process that makes workers, for a host that starts no process any more.
//!
//! It is the compiler's server with another child: a copy of a process that holds nothing is a worker for whoever is at the
//! other end of the socket that came with the request.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::super::compile::process;
use super::super::confine;
use super::worker;

/// What a program is started with to become what an [`Isolator`] speaks to.
pub const COMMAND: &str = "isolate-server";

/// How long the server may take to make a worker or to end one.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked of it: one of these, and a worker's number.
const MAKE: u8 = 1;
const END: u8 = 2;
type Request = [u8; 9];

/// Said of a worker of which nothing is known.
const UNKNOWN: i32 = -1;

/// Makes processes for the calls of handlers. Cloning shares it; they end with the last clone, or with this process.
#[derive(Clone)]
pub struct Isolator {
    inner: Arc<Inner>,
}

struct Inner {
    id: u32,
    process: Mutex<Process>,
}

struct Process {
    link: UnixStream,
    child: Child,
    made: u64,
}

// === impl Isolator ===

impl Isolator {
    /// Starts one. `program` must call [`serve`] when it is started with the one argument [`COMMAND`]; `sandbar` does.
    /// It inherits neither environment nor descriptors.
    ///
    /// # Errors
    ///
    /// If the process cannot be started, or says that it cannot be confined.
    pub fn start(program: &Path) -> io::Result<Self> {
        let (mut link, child) = process::beside(program, COMMAND)?;
        link.set_read_timeout(Some(PATIENCE))?;
        link.set_write_timeout(Some(PATIENCE))?;
        let missing = hear(&mut link)?;
        if missing != 0 {
            tracing::warn!("the processes of isolated handlers are less confined than they could be: the kernel cannot");
        }
        let id = child.id();
        Ok(Self { inner: Arc::new(Inner { id, process: Mutex::new(Process { link, child, made: 0 }) }) })
    }

    /// The process, for whoever looks at it from outside.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.inner.id
    }

    /// Makes a worker that speaks over this socket.
    pub(super) fn make(&self, socket: &UnixStream) -> io::Result<u64> {
        let mut process = self.inner.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.made += 1;
        let id = process.made;
        let request = request(MAKE, id);
        let sockets = [socket.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut attached = SendAncillaryBuffer::new(&mut space);
        attached.push(SendAncillaryMessage::ScmRights(&sockets));
        let sent = sendmsg(&process.link, &[IoSlice::new(&request)], &mut attached, SendFlags::NOSIGNAL)?;
        if sent != request.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        match hear(&mut process.link)? {
            0 => Ok(id),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Ends a worker, and says how it ended if it did so by itself.
    pub(super) fn end(&self, id: u64) -> io::Result<String> {
        let mut process = self.inner.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.link.write_all(&request(END, id))?;
        let status = hear(&mut process.link)?;
        let status = ExitStatus::from_raw(status);
        Ok(match (status.signal(), status.code()) {
            (Some(signal), _) => format!("; it was ended by signal {signal}"),
            (None, Some(code)) => format!("; it ended with {code}"),
            (None, None) => String::new(),
        })
    }
}

impl std::fmt::Debug for Isolator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Isolator").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl PartialEq for Isolator {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Isolator {}

// === impl Process ===

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.link.shutdown(std::net::Shutdown::Both));
        process::wait_briefly(&mut self.child);
    }
}

fn request(what: u8, id: u64) -> Request {
    let mut request = [what; 9];
    request[1..].copy_from_slice(&id.to_ne_bytes());
    request
}

fn hear(link: &mut UnixStream) -> io::Result<i32> {
    let mut number = [0; 4];
    link.read_exact(&mut number)?;
    Ok(i32::from_ne_bytes(number))
}

/// Serves the host at the other end of standard input, until that one is gone.
///
/// For a program's `main`, before it has started a thread.
///
/// # Errors
///
/// If standard input is no socket, or this process cannot be confined.
pub fn serve() -> io::Result<()> {
    let mut link = UnixStream::from(process::link_of_host()?);
    let missing = super::super::compile::confine_server(worker_calls()).map_err(io::Error::other)?;
    link.write_all(&i32::from(!missing.is_empty()).to_ne_bytes())?;
    let mut workers: Vec<(u64, libc::pid_t)> = Vec::new();
    while let Some((request, socket)) = next(&link)? {
        let mut id = [0; 8];
        id.copy_from_slice(&request[1..]);
        let id = u64::from_ne_bytes(id);
        let answer = match (request[0], socket) {
            (MAKE, Some(socket)) => match make(&link, socket) {
                Ok(worker) => {
                    workers.push((id, worker));
                    0
                }
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            },
            (END, _) => match workers.iter().position(|(known, _)| *known == id) {
                Some(at) => end(workers.swap_remove(at).1)?,
                None => UNKNOWN,
            },
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        link.write_all(&answer.to_ne_bytes())?;
    }
    for (_, worker) in workers {
        end(worker)?;
    }
    Ok(())
}
