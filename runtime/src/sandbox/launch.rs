//! The process that starts others, for a host that starts none any more.
//!
//! A confined host executes no program and makes no process, but what compiles its modules and what makes its workers are
//! processes, most hosts need neither most of the time, and one of them may be lost. So the host starts this one before it is
//! confined, which takes a byte and a socket and executes one of two commands of the program that it is itself: one for each
//! role at a time, so that whoever takes the host over gains no more than it has.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::beside::{self, Role};
use super::process::{drain, ends_of_children, ends_with_its_host_only, link_of_host, ready, receive_with, send_with};
use super::{confine, limits};

/// What a program is started with to become a [`Launcher`].
pub const COMMAND: &str = "launch-server";

/// How long it may take to start a process.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts the processes beside a host. Cloning shares it; it ends with the last clone, or with this process.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// `None` once anything went wrong on it.
    link: Arc<Mutex<Option<UnixStream>>>,
}

/// The process itself.
struct Server {
    link: UnixStream,
    program: PathBuf,
    /// Ready when a child has ended.
    ends: File,
    /// By the number of their role.
    children: [Option<Child>; Role::COUNT],
}

// === impl Launcher ===

impl Launcher {
    /// Starts it. `program` must call [`serve`] when it is started with the one argument [`COMMAND`], and the others likewise
    /// with theirs; `sandbar` does. It inherits neither environment nor descriptors, and does not wait for anything here.
    ///
    /// # Errors
    ///
    /// If the process cannot be started.
    pub fn start(program: &Path) -> io::Result<Self> {
        let (link, theirs) = UnixStream::pair()?;
        link.set_read_timeout(Some(PATIENCE))?;
        link.set_write_timeout(Some(PATIENCE))?;
        beside::execute(program, COMMAND, &[], theirs.into())?;
        Ok(Self { link: Arc::new(Mutex::new(Some(link))) })
    }

    /// Starts a process in this role in place of the one before, and says which it is.
    pub(super) fn launch(&self, role: Role, socket: UnixStream) -> io::Result<u32> {
        let mut place = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |error: io::Error| {
            let text = "the process that starts others is gone; it is started with the host: start that again";
            io::Error::new(error.kind(), format!("{text} ({error})"))
        };
        let Some(mut link) = place.take() else { return Err(gone(io::ErrorKind::BrokenPipe.into())) };
        let mut answer = [0; 4];
        send_with(&link, &[role.number()], socket.as_fd()).and_then(|()| link.read_exact(&mut answer)).map_err(gone)?;
        *place = Some(link);
        let answer = i32::from_ne_bytes(answer);
        u32::try_from(answer).map_err(|_| io::Error::from_raw_os_error(answer.saturating_neg()))
    }
}

/// Serves the host at the other end of standard input, until that one is gone. `program`: what it starts, by a name that holds
/// although files are replaced.
///
/// For a program's `main`, before it has started a thread: see [`Launcher::start`].
///
/// # Errors
///
/// If standard input is no socket, or this process cannot be what it should.
pub fn serve(program: &Path) -> io::Result<()> {
    let link = UnixStream::from(link_of_host()?);
    ends_with_its_host_only()?;
    confine::not_dumpable().and_then(|()| confine::no_new_privileges()).map_err(io::Error::other)?;
    Server { link, program: program.to_owned(), ends: ends_of_children()?, children: Default::default() }.run()
}

// === impl Server ===

impl Server {
    fn run(mut self) -> io::Result<()> {
        loop {
            let [asked, ended] = ready([Some(self.link.as_raw_fd()), Some(self.ends.as_raw_fd())], limits::FOR_EVER)?;
            if ended {
                drain(&self.ends);
                for place in &mut self.children {
                    place.take_if(|child| !matches!(child.try_wait(), Ok(None)));
                }
            }
            if asked {
                let mut role = [0];
                let (read, socket) = receive_with(&self.link, &mut role)?;
                if read == 0 {
                    return Ok(());
                }
                let (Some(role), Some(socket)) = (Role::of(role[0]), socket) else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                let answer = match self.replace(role, socket) {
                    Ok(id) => id.cast_signed(),
                    Err(error) => error.raw_os_error().unwrap_or(libc::EIO).saturating_neg(),
                };
                self.link.write_all(&answer.to_ne_bytes())?;
            }
        }
    }

    /// Whatever the one before is at, it is done with.
    fn replace(&mut self, role: Role, socket: OwnedFd) -> io::Result<u32> {
        let place = &mut self.children[usize::from(role.number())];
        if let Some(mut before) = place.take() {
            before.kill()?;
            before.wait()?;
        }
        Ok(place.insert(role.execute(&self.program, socket)?).id())
    }
}
