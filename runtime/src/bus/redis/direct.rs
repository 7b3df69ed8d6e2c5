//! A connection over which one command at a time is sent, and its answer is read as it came.
//!
//! There is nobody in between: the library's connection belongs to a task of its own, which makes values of every field
//! before it hands them over. TLS is the library's: see [`super::connection::Channel`].

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use redis::{Cmd, ConnectionAddr, ConnectionInfo, Pipeline};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::super::Error;
use super::connection::Answer;
use super::errors;
use super::frame::{Frame, Malformed, Progress, Scan};
use super::url::Target;

/// Room there is at least before the socket is read. Little: each handler has a buffer, and most of a thousand are idle. It
/// doubles while an answer needs more.
const ROOM: usize = 8 << 10;
/// A buffer that has grown for an answer larger than this is not kept for the next.
const KEPT: usize = 1 << 20;

/// A connection without TLS.
pub(super) struct Direct {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    /// A command has been sent whose answer has not come: what comes next belongs to nobody.
    unanswered: bool,
}

/// A socket of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl Stream for TcpStream {}
impl Stream for UnixStream {}

// === impl Direct ===

impl Direct {
    /// Whether a server is reached without TLS.
    pub(super) fn reaches(info: &ConnectionInfo) -> bool {
        matches!(info.addr(), ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_))
    }

    /// Connects and logs in. The answers to the commands of `hello` come back.
    pub(super) async fn connect(
        target: &Target,
        info: &ConnectionInfo,
        hello: &Pipeline,
    ) -> Result<(Self, Vec<Answer>), Error> {
        let stream = match tokio::time::timeout(target.connect_timeout, open(info.addr())).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(lost(target, &error.to_string())),
            Err(_) => return Err(errors::unconnected(target)),
        };
        let mut direct = Self { stream, buffer: BytesMut::new(), unanswered: false };
        let login = login(info);
        let mut answers = Vec::new();
        for (index, command) in login.cmd_iter().chain(hello.cmd_iter()).enumerate() {
            let answer = direct.ask(target, command, Duration::ZERO).await?.value()?;
            if index < login.len() {
                answer.map_err(|error| errors::answered(target, &error))?;
            } else {
                answers.push(answer);
            }
        }
        Ok((direct, answers))
    }

    /// Sends a command, which may block the server for so long, and waits for its answer. A connection whose caller gave
    /// up before the answer came is of no use any more.
    pub(super) async fn ask(&mut self, target: &Target, command: &Cmd, blocking: Duration) -> Result<Frame, Error> {
        if std::mem::replace(&mut self.unanswered, true) {
            return Err(lost(target, "an answer was not waited for"));
        }
        match tokio::time::timeout(blocking + target.socket_timeout, self.exchange(command)).await {
            Err(_) => Err(errors::silent(target)),
            Ok(Err(error)) => Err(lost(target, &error.to_string())),
            Ok(Ok(frame)) => {
                self.unanswered = false;
                Ok(frame)
            }
        }
    }

    async fn exchange(&mut self, command: &Cmd) -> io::Result<Frame> {
        self.stream.write_all(&command.get_packed_command()).await?;
        self.stream.flush().await?;
        let mut scan = Scan::default();
        loop {
            match scan.advance(&self.buffer)? {
                Progress::Whole(end) => {
                    let frame = self.buffer.split_to(end).freeze();
                    if self.buffer.is_empty() && end > KEPT {
                        self.buffer = BytesMut::new();
                    }
                    return Ok(Frame::new(frame));
                }
                // What a length announces is only believed as it comes.
                Progress::Until(end) => self.buffer.reserve(end.saturating_sub(self.buffer.len()).clamp(ROOM, KEPT)),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
        }
    }
}

impl From<Malformed> for io::Error {
    fn from(_: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, "what came is no answer of a Redis server")
    }
}

fn lost(target: &Target, reason: &str) -> Error {
    Error::Unreachable { url: target.shown.clone(), reason: reason.to_owned() }
}

async fn open(address: &ConnectionAddr) -> io::Result<Box<dyn Stream>> {
    match address {
        ConnectionAddr::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        ConnectionAddr::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// What the library would say first.
fn login(info: &ConnectionInfo) -> Pipeline {
    let settings = info.redis_settings();
    let mut login = Pipeline::new();
    match (settings.username(), settings.password()) {
        (Some(username), Some(password)) => drop(login.cmd("AUTH").arg(username).arg(password)),
        (None, Some(password)) => drop(login.cmd("AUTH").arg(password)),
        _ => {}
    }
    if settings.db() != 0 {
        login.cmd("SELECT").arg(settings.db());
    }
    login
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_comes_too_late_is_nobodys() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Target::parse(&format!("redis://127.0.0.1:{port}?socket_timeout=0.1")).unwrap();
        let info = target.client.get_connection_info();
        let mut answers = Direct::connect(&target, info, &Pipeline::new()).await.unwrap().0;
        let (mut server, _) = listener.accept().await.unwrap();

        let command = redis::cmd("PING");
        let silent = answers.ask(&target, &command, Duration::ZERO).await.unwrap_err();
        assert!(silent.to_string().contains("socket_timeout"), "{silent}");
        server.write_all(b"+LATE\r\n").await.unwrap();
        let refused = answers.ask(&target, &command, Duration::ZERO).await.unwrap_err();
        assert!(refused.is_transient() && refused.to_string().contains("not waited for"), "{refused}");
    }
}
