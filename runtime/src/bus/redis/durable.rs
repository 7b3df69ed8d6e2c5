//! Writes that are waited for: a connection of their own, and what makes sure that they are as safe as asked.
//!
//! `WAIT` and `WAITAOF` block their connection and speak of what the same connection wrote before, so writes that are
//! waited for do not share the connection on which leases are renewed. A wait that fails can be repeated as long as the
//! connection stands. Once it is gone nobody knows whether the server that answers next has the writes: a server that
//! was restarted, or a replica that took its place, may lack them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, Pipeline, ServerError};

use super::super::{Durability, Error};
use super::connection::Answer;
use super::link::Link;
use super::url::Target;
use super::{errors, millis, parse};

/// A connection for writes that are waited for.
pub(super) struct Durable {
    link: Link,
    wanted: Durability,
    seen: Mutex<Seen>,
}

/// What is known of the server at the other end of a connection.
#[derive(Clone, Default)]
struct Seen {
    made: u64,
    /// It has `WAITAOF`. If not, it syncs every write before it answers.
    waits: bool,
    /// Names the history that its data belong to: another one after a failover. Empty if it does not say.
    history: String,
}

// === impl Durable ===

impl Durable {
    /// Nothing, if nothing has to be waited for.
    pub(super) fn new(target: &Target, wanted: Durability) -> Option<Self> {
        (wanted != Durability::None).then(|| Self { link: Link::new(target.clone()), wanted, seen: Mutex::default() })
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Connects and sees that the server can do what is wanted. Names the connection: writes that are sent from here on
    /// can be confirmed as long as it stands.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`] if the server is not set up for it, with what to do.
    pub(super) async fn ready(&self) -> Result<u64, Error> {
        let made = self.link.connected().await?;
        if self.seen().made == made {
            return Ok(made);
        }
        let mut ask = Pipeline::new();
        ask.add_command(history());
        if self.wanted == Durability::Fsync {
            // Nothing was written on this connection, so it answers at once.
            ask.cmd("WAITAOF").arg(1).arg(0).arg(1);
            ask.cmd("CONFIG").arg("GET").arg("appendonly").cmd("CONFIG").arg("GET").arg("appendfsync");
        }
        let Some(answers) = self.link.send_over(made, &ask, Duration::ZERO).await? else {
            return Err(self.unknown("the connection was lost"));
        };
        let mut answers = answers.into_iter();
        let history = history_of(answers.next());
        let waits = match answers.next() {
            Some(waits) => self.can_sync(waits, setting(answers.next()), setting(answers.next()))?,
            None => true,
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { made, waits, history };
        Ok(made)
    }

    /// Whether the server can be asked to wait for its disk; if it needs not be asked, false.
    fn can_sync(&self, waits: Answer, appends: Option<String>, syncs: Option<String>) -> Result<bool, Error> {
        let refuse = |why: &str| {
            let url = &self.link.target().shown;
            Err(Error::Settings(format!(
                "bus.durability = \"fsync\" cannot be kept by the server at {url}: {why}; or set durability = \"none\""
            )))
        };
        match waits {
            // Nothing would ever be synced, and every wait would be in vain.
            Ok(_) if syncs.as_deref() == Some("no") => {
                refuse("its appendfsync is no; set appendfsync everysec or always there")
            }
            Ok(_) => Ok(true),
            Err(error) if is_unknown(&error) => match (appends.as_deref(), syncs.as_deref()) {
                (Some("yes"), Some("always")) => Ok(false),
                (Some(appends), Some(syncs)) => refuse(&format!(
                    "it is older than Redis 7.2 and cannot be asked to wait for its disk, and it has appendonly \
                     {appends}, appendfsync {syncs}; set appendonly yes and appendfsync always there, or take Redis 7.2 \
                     or later, or Valkey"
                )),
                _ => refuse(
                    "it is older than Redis 7.2 and cannot be asked to wait for its disk, and CONFIG GET does not tell \
                     whether it syncs each write; allow CONFIG GET to the user of bus.url, or take Redis 7.2 or later, or \
                     Valkey",
                ),
            },
            Err(error) if errors::words(&error).contains("appendonly is disabled") => {
                refuse("it has no append-only file; set appendonly yes there")
            }
            Err(error) if error.code() == "NOPERM" => {
                refuse("the user of bus.url may not run WAITAOF; allow it (ACL SETUSER … +waitaof)")
            }
            Err(error) => Err(errors::answered(self.link.target(), &error)),
        }
    }

    /// Waits until all that this connection wrote is as safe as wanted, and says how safe it is.
    ///
    /// # Errors
    ///
    /// [`Error::NotDurable`] if that is not reached in time, or is not known. Whoever asks again for the same
    /// connection waits again.
    pub(super) async fn confirm(&self, made: u64) -> Result<Durability, Error> {
        let seen = self.seen();
        let limit = self.link.target().socket_timeout;
        let mut wait = Pipeline::new();
        match (self.wanted, seen.waits) {
            (Durability::Replicas(count), _) => wait.cmd("WAIT").arg(count).arg(millis(limit)),
            (_, true) => wait.cmd("WAITAOF").arg(1).arg(0).arg(millis(limit)),
            // The answers to the writes came after the sync, if it is still set up so.
            (_, false) => wait.cmd("CONFIG").arg("GET").arg("appendfsync"),
        };
        // Last, so that it speaks of the time after the wait.
        wait.add_command(history());
        let answers = match self.link.send_over(made, &wait, limit).await {
            Ok(Some(answers)) if seen.made == made => answers,
            Ok(_) => return Err(self.unknown("the connection was lost before that was known")),
            Err(error) => return Err(self.unknown(&format!("{error} before that was known"))),
        };
        let mut answers = answers.into_iter();
        let waited = answers.next().ok_or_else(|| errors::unexpected("WAIT"))?;
        if history_of(answers.next()) != seen.history {
            // Nor is it known later on this connection.
            self.link.reset(made).await;
            return Err(self.unknown("the server was replaced in between (failover)"));
        }
        let waited = match waited {
            Ok(waited) => waited,
            Err(error) => return Err(self.unknown(&errors::answered(self.link.target(), &error).to_string())),
        };
        match (self.wanted, seen.waits) {
            (Durability::Replicas(count), _) => {
                let reached = u32::try_from(parse::count(&waited)).unwrap_or(u32::MAX);
                if reached >= count {
                    return Ok(Durability::Replicas(reached));
                }
                Err(self.unknown(&format!("{reached} have it after {limit:?}")))
            }
            (_, true) => match parse::array(waited, "WAITAOF")?.first().map(parse::count) {
                Some(1..) => Ok(Durability::Fsync),
                _ => Err(self.unknown(&format!("it is not on disk after {limit:?}"))),
            },
            (_, false) if setting(Some(Ok(waited))).as_deref() == Some("always") => Ok(Durability::Fsync),
            (_, false) => {
                self.link.reset(made).await;
                Err(self.unknown("the server does not sync each write any more (appendfsync)"))
            }
        }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn unknown(&self, reached: &str) -> Error {
        let url = self.link.target().shown.clone();
        Error::NotDurable { url, wanted: self.wanted, reached: reached.to_owned() }
    }
}

fn history() -> Cmd {
    let mut info = redis::cmd("INFO");
    info.arg("replication");
    info
}

/// The name of the server's history. Without the right to ask there is none, and a connection that stands is taken for
/// the same server.
fn history_of(info: Option<Answer>) -> String {
    let info = info.and_then(Result::ok).and_then(parse::text).unwrap_or_default();
    info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap_or_default().to_owned()
}

/// The value in an answer to `CONFIG GET`.
fn setting(answer: Option<Answer>) -> Option<String> {
    parse::texts(answer?.ok()?, "CONFIG").ok()?.into_iter().nth(1)
}

fn is_unknown(error: &ServerError) -> bool {
    errors::words(error).contains("unknown command")
}
