//! The control socket: where it is, who may use it, and what is said on it.
//!
//! One JSON document per line in, one per line out. Nothing that a client does holds up the host or another client:
//! lines are bounded, a silent client is left after a while, and of too many the oldest goes.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandbar::config::{Config, ControlSocket};
use sandbar::pipeline::Control;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

mod modules;

/// A path in an address has room for 108 bytes, the last of which is NUL.
const PATH_MAX: usize = 107;
/// A command names handlers and little else.
const LINE_MAX: u64 = 64 << 10;
/// A client that says nothing for so long is left, and so is one that does not read its answer.
const SILENCE: Duration = Duration::from_secs(10);
/// Clients at a time. One more, and the oldest goes.
const CLIENTS: usize = 16;
/// A host that does not answer within it is frozen.
const ANSWER: Duration = Duration::from_secs(5);

/// What it says of a handler's module takes as long as that takes to compile and test.
const SWAP_ANSWER: Duration = Duration::from_secs(600);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "the control socket {path} has a path of {length} bytes, and {PATH_MAX} is the most: set host.control to a shorter one"
    )]
    TooLong { path: PathBuf, length: usize },
    #[error("the control socket's directory {0} must be a directory of this user's, with mode 0700")]
    Directory(PathBuf),
    #[error("another host listens on the control socket {0}: give each its own host.control")]
    Taken(PathBuf),
    #[error("{0} is in the way of the control socket: it is no socket")]
    InTheWay(PathBuf),
    #[error("the control socket {path} cannot be used")]
    Io { path: PathBuf, source: io::Error },
}

/// Where a host listens: removed when this is dropped, which is not left to a task that may be cut off.
#[derive(Debug)]
pub(super) struct Place(PathBuf);

/// Where the sockets of hosts of this configuration are.
pub(super) fn directories() -> Vec<PathBuf> {
    let own = format!("sandbar-{}", rustix::process::geteuid().as_raw());
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    // The shell may have another environment than the service: whoever asks looks in both.
    runtime.into_iter().chain([std::env::temp_dir()]).map(|dir| dir.join(&own)).collect()
}

/// What the names of sockets of hosts of this file begin with.
fn stem(config: &Path) -> String {
    let path = fs::canonicalize(config).unwrap_or_else(|_| config.to_owned());
    let hash = Sha256::digest(path.as_os_str().as_encoded_bytes());
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sockets at which hosts of this configuration may listen. Those of processes that are gone are removed.
pub(super) fn sockets(config: &Config) -> Vec<PathBuf> {
    match &config.host.control {
        ControlSocket::Off => Vec::new(),
        ControlSocket::At(path) => vec![path.clone()],
        ControlSocket::Default => {
            let stem = stem(&config.path);
            let mut found = Vec::new();
            for directory in directories().iter().filter(|directory| is_private(directory)) {
                sweep(directory);
                for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                    if entry.file_name().to_string_lossy().split('.').next() == Some(stem.as_str()) {
                        found.push(entry.path());
                    }
                }
            }
            found.sort();
            found.dedup();
            found
        }
    }
}

/// Removes the sockets of processes that are gone, of whatever configuration.
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let parts: Vec<&str> = name.split('.').collect();
        let [_, pid, "sock"] = parts[..] else { continue };
        let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) else { continue };
        let is_gone = rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
        // A container that shares the directory has other processes: whoever listens is there.
        if is_gone && std::os::unix::net::UnixStream::connect(entry.path()).is_err() {
            // Another may have been faster.
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Whether nobody but this user can reach what is in it.
fn is_private(directory: &Path) -> bool {
    // Not through a link, which somebody else may have put there.
    fs::symlink_metadata(directory).is_ok_and(|found| {
        found.is_dir() && found.mode() & 0o7777 == 0o700 && found.uid() == rustix::process::geteuid().as_raw()
    })
}

/// Listens where the configuration says; `None` if it says nowhere.
///
/// # Errors
///
/// Whatever would make the socket unsafe or unreachable.
pub(super) fn listen(config: &Config) -> Result<Option<(UnixListener, Place)>, Error> {
    let path = match &config.host.control {
        ControlSocket::Off => return Ok(None),
        ControlSocket::At(path) => path.clone(),
        ControlSocket::Default => {
            let name = format!("{}.{}.sock", stem(&config.path), std::process::id());
            directories().swap_remove(0).join(name)
        }
    };
    let length = path.as_os_str().len();
    if length > PATH_MAX {
        return Err(Error::TooLong { path, length });
    }
    let failed = |source| Error::Io { path: path.clone(), source };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    if !is_private(directory) {
        return Err(Error::Directory(directory.to_owned()));
    }
    sweep(directory);
    if let Ok(found) = fs::symlink_metadata(&path) {
        if !found.file_type().is_socket() {
            return Err(Error::InTheWay(path));
        }
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(Error::Taken(path));
        }
        // Left behind by a host that was killed.
        fs::remove_file(&path).map_err(failed)?;
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    let place = Place(path.clone());
    fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(Some((listener, place)))
}

/// Says one command to the host that listens on a socket. `None` if there is none.
pub(super) async fn ask(path: &Path, command: &Value) -> io::Result<Option<Value>> {
    ask_with(path, command, &[], ANSWER).await
}

/// The same about a handler's module, with what follows the line.
pub(super) async fn ask_to_swap(path: &Path, command: &Value, body: &[&[u8]]) -> io::Result<Option<Value>> {
    ask_with(path, command, body, SWAP_ANSWER).await
}

async fn ask_with(path: &Path, command: &Value, body: &[&[u8]], within: Duration) -> io::Result<Option<Value>> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error),
    };
    let asked = async {
        let mut stream = BufReader::new(stream);
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        for part in body {
            stream.write_all(part).await?;
        }
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        Ok(Some(serde_json::from_str(&line)?))
    };
    timeout(within, asked).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: UnixListener, control: Arc<Control>) {
    let mut clients = JoinSet::new();
    let mut handles: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    handles.retain(|client| !client.is_finished());
                    if handles.len() >= CLIENTS && let Some(oldest) = handles.pop_front() {
                        oldest.abort();
                    }
                    let control = Arc::clone(&control);
                    handles.push_back(clients.spawn(async move { converse(stream, &control).await }));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept on the control socket");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            // How a client ended is its own business.
            Some(_) = clients.join_next() => {}
        }
    }
}

// === impl Place ===

impl Place {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Gone already, then.
        drop(fs::remove_file(&self.0));
    }
}

/// Answers one client until it leaves, is silent for too long, or says what is no command at all.
async fn converse(stream: UnixStream, control: &Control) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut read).take(LINE_MAX);
        let Ok(Ok(count)) = timeout(SILENCE, bounded.read_until(b'\n', &mut line)).await else { return };
        let whole = line.ends_with(b"\n");
        if count == 0 {
            return;
        }
        let answered = match modules::Command::of(&line).filter(|_| whole) {
            Some(command) => modules::answer(command, &mut read, control).await,
            None if whole => Ok(answer(&line, control)),
            None => Err("a command is one line, and no long one".to_owned()),
        };
        // What follows a line that was not understood is no command.
        let (answer, whole) = match answered {
            Ok(answer) => (answer, true),
            Err(why) => (refusal(&why), false),
        };
        match timeout(SILENCE, write.write_all(format!("{answer}\n").as_bytes())).await {
            Ok(Ok(())) if whole => {}
            _ => return,
        }
    }
}

/// What a host says to one line.
fn answer(line: &[u8], control: &Control) -> Value {
    let Ok(command) = serde_json::from_slice::<Value>(line) else {
        return refusal("a command is one JSON document on one line");
    };
    let handlers = match &command["handlers"] {
        Value::Null => None,
        Value::Array(names) => match names.iter().map(|name| name.as_str().map(str::to_owned)).collect() {
            Some(names) => Some::<Vec<String>>(names),
            None => return refusal("`handlers` is a list of names"),
        },
        _ => return refusal("`handlers` is a list of names"),
    };
    let done = match command["do"].as_str() {
        Some("status") => Ok(()),
        Some("pause") => control.pause(handlers.as_deref()),
        Some("resume") => control.resume(handlers.as_deref()),
        _ => return refusal("`do` is \"status\", \"pause\", \"resume\", \"swap\" or \"rollback\""),
    };
    match done {
        Ok(()) => json!({ "ok": true, "pid": std::process::id(), "handlers": control.status() }),
        Err(error) => refusal(&error.to_string()),
    }
}

fn refusal(error: &str) -> Value {
    json!({ "ok": false, "error": error })
}
