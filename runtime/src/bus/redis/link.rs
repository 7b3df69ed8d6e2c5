//! The connection for commands and scripts: shared by all callers, made anew when it breaks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, ServerError, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::Error;
use super::url::Target;
use super::{errors, scripts};

/// First wait after a failed attempt to connect.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Longest wait between attempts: a server that is back is used again within it.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// One server's answer to one command.
pub(super) type Answer = Result<Value, ServerError>;

/// A connection that comes back.
pub(super) struct Link {
    target: Target,
    state: Mutex<State>,
    epoch: AtomicU64,
}

struct State {
    connection: Option<(u64, MultiplexedConnection)>,
    backoff: Duration,
    next: Instant,
    lost: bool,
}

// === impl Link ===

impl Link {
    pub(super) fn new(target: Target) -> Self {
        let state = State { connection: None, backoff: BACKOFF_FIRST, next: Instant::now(), lost: false };
        Self { target, state: Mutex::new(state), epoch: AtomicU64::new(0) }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Grows with every connection made: whoever sees it change knows that there was an outage.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Sends commands in one write and returns the answer to each. Scripts that the server has forgotten are loaded
    /// and their commands sent again.
    ///
    /// An `Err` means that what became of the commands is unknown.
    pub(super) async fn send(&self, commands: Pipeline) -> Result<Vec<Answer>, Error> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut answers = self.send_once(&commands).await?;
        let forgotten: Vec<usize> = answers
            .iter()
            .enumerate()
            .filter(|(_, answer)| matches!(answer, Err(error) if errors::code(error) == errors::Code::NoScript))
            .map(|(index, _)| index)
            .collect();
        if forgotten.is_empty() {
            return Ok(answers);
        }
        let mut again = scripts::load_all();
        let loads = again.len();
        let all: Vec<&Cmd> = commands.cmd_iter().collect();
        for index in &forgotten {
            again.add_command(all[*index].clone());
        }
        let repeated = self.send_once(&again).await?.into_iter().skip(loads);
        for (index, answer) in forgotten.into_iter().zip(repeated) {
            answers[index] = answer;
        }
        Ok(answers)
    }

    /// Sends one command.
    pub(super) async fn one(&self, command: Cmd) -> Result<Answer, Error> {
        let mut commands = Pipeline::with_capacity(1);
        commands.add_command(command);
        self.send(commands).await?.pop().ok_or_else(|| errors::unexpected("a command"))
    }

    /// Sends one command whose refusal is an error like any other.
    pub(super) async fn value(&self, command: Cmd) -> Result<Value, Error> {
        self.one(command).await?.map_err(|error| errors::answered(&self.target, &error))
    }

    /// Connects if need be, and names the connection as [`Link::epoch`] does.
    pub(super) async fn connected(&self) -> Result<u64, Error> {
        self.connection().await.map(|(made, _)| made)
    }

    /// Sends commands of which the last may block for so long, on the connection of that name only; `None` if there is
    /// another by now.
    pub(super) async fn send_over(
        &self,
        made: u64,
        commands: &Pipeline,
        blocking: Duration,
    ) -> Result<Option<Vec<Answer>>, Error> {
        let (current, connection) = self.connection().await?;
        if current != made {
            return Ok(None);
        }
        self.send_within(made, connection, commands, blocking + self.target.socket_timeout).await.map(Some)
    }

    /// Gives the connection of that name up: the next caller gets another.
    pub(super) async fn reset(&self, made: u64) {
        let mut state = self.state.lock().await;
        if state.connection.as_ref().is_some_and(|(current, _)| *current == made) {
            state.connection = None;
        }
    }

    /// A connection of the caller's own, for reads that block. Not retried here.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.target.connect_timeout))
            // The callers bound each wait themselves.
            .set_response_timeout(None);
        let connecting = self.target.client.get_multiplexed_async_connection_with_config(&config);
        let made = tokio::time::timeout(self.target.connect_timeout, connecting).await;
        let mut connection = match made {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(errors::failed(&self.target, error)),
            Err(_) => {
                return Err(Error::Unreachable {
                    url: self.target.shown.clone(),
                    reason: format!("no connection within {:?}", self.target.connect_timeout),
                });
            }
        };
        // A connection answers only once it serves: loading, or a password that is missing, shows here.
        let mut hello = Pipeline::new();
        hello.cmd("PING");
        if let Some(name) = &self.target.client_name {
            hello.cmd("CLIENT").arg("SETNAME").arg(name);
        }
        let answers = tokio::time::timeout(self.target.socket_timeout, send_on(&mut connection, &hello)).await;
        match answers.map_err(|_| errors::silent(&self.target))?.map_err(|error| errors::failed(&self.target, error))? {
            answers if answers.is_empty() => Err(errors::unexpected("PING")),
            mut answers => match answers.swap_remove(0) {
                Ok(_) => Ok(connection),
                Err(error) => Err(errors::answered(&self.target, &error)),
            },
        }
    }

    /// Sends on a connection of the caller's own; `blocking` is how long the command itself may wait.
    pub(super) async fn send_blocking(
        &self,
        connection: &mut MultiplexedConnection,
        command: &Cmd,
        blocking: Duration,
    ) -> Result<Answer, Error> {
        let sending = connection.send_packed_command(command);
        match tokio::time::timeout(blocking + self.target.socket_timeout, sending).await {
            Err(_) => Err(errors::silent(&self.target)),
            Ok(Ok(Value::ServerError(error))) => Ok(Err(error)),
            Ok(Ok(value)) => Ok(Ok(value)),
            Ok(Err(error)) => match error.clone().into_server_errors() {
                Some(errors) if !errors.is_empty() => Ok(Err(errors[0].1.clone())),
                _ => Err(errors::failed(&self.target, error)),
            },
        }
    }

    async fn send_once(&self, commands: &Pipeline) -> Result<Vec<Answer>, Error> {
        let (made, connection) = self.connection().await?;
        self.send_within(made, connection, commands, self.target.socket_timeout).await
    }

    async fn send_within(
        &self,
        made: u64,
        mut connection: MultiplexedConnection,
        commands: &Pipeline,
        limit: Duration,
    ) -> Result<Vec<Answer>, Error> {
        let outcome = tokio::time::timeout(limit, send_on(&mut connection, commands)).await;
        let error = match outcome {
            Ok(Ok(answers)) if answers.len() == commands.len() => return Ok(answers),
            Ok(Ok(_)) => errors::unexpected("a pipeline"),
            Ok(Err(error)) => errors::failed(&self.target, error),
            Err(_) => errors::silent(&self.target),
        };
        let mut state = self.state.lock().await;
        if state.connection.as_ref().is_some_and(|(current, _)| *current == made) {
            state.connection = None;
            state.say_lost(&error);
        }
        Err(error)
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), Error> {
        loop {
            let mut state = self.state.lock().await;
            if let Some((made, connection)) = &state.connection {
                return Ok((*made, connection.clone()));
            }
            if state.next > Instant::now() {
                let next = state.next;
                drop(state);
                tokio::time::sleep_until(next).await;
                continue;
            }
            match self.connect().await {
                Ok(connection) => {
                    let made = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
                    state.connection = Some((made, connection.clone()));
                    state.backoff = BACKOFF_FIRST;
                    if std::mem::take(&mut state.lost) {
                        tracing::info!(url = %self.target.shown, "the bus is back");
                    }
                    return Ok((made, connection));
                }
                Err(error) => {
                    state.next = Instant::now() + state.backoff;
                    state.backoff = (state.backoff * 2).min(BACKOFF_MAX);
                    state.say_lost(&error);
                    return Err(error);
                }
            }
        }
    }
}

// === impl State ===

impl State {
    fn say_lost(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.lost, true) {
            tracing::warn!(%error, "the bus is lost; connecting again");
        }
    }
}

async fn send_on(
    connection: &mut MultiplexedConnection,
    commands: &Pipeline,
) -> Result<Vec<Answer>, redis::RedisError> {
    let answers = connection.send_packed_commands(commands, 0, commands.len()).await?;
    Ok(answers
        .into_iter()
        .map(|answer| match answer {
            Value::ServerError(error) => Err(error),
            value => Ok(value),
        })
        .collect())
}
