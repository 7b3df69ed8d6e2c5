//! The connection for commands and scripts: shared by all callers, made anew when it breaks.
//!
//! A link to a cluster is made of links to its nodes ([`super::cluster`]); behind sentinels they are asked before each
//! connection is made ([`super::sentinel`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::Error;
use super::cluster::Cluster;
use super::connection::{Answer, Connection, Own, send_on};
use super::url::{Address, Reach, Target};
use super::{errors, scripts, sentinel};

/// First wait after a failed attempt to connect.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Longest wait between attempts: a server that is back is used again within it.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A connection that comes back.
pub(super) struct Link {
    target: Target,
    state: Mutex<State>,
    epoch: Arc<AtomicU64>,
    cluster: Option<Cluster>,
    /// Where the last connection led.
    at: std::sync::Mutex<Option<Address>>,
    lost: AtomicBool,
}

struct State {
    connection: Option<(u64, MultiplexedConnection)>,
    /// Connections made so far.
    made: u64,
    backoff: Duration,
    next: Instant,
}

// === impl Link ===

impl Link {
    pub(super) fn new(target: Target) -> Self {
        let epoch = Arc::new(AtomicU64::new(0));
        let cluster = matches!(target.reach, Reach::Cluster { .. }).then(|| Cluster::new(&target, Arc::clone(&epoch)));
        Self { cluster, ..Self::to_server(target, epoch) }
    }

    /// A link to one server, which counts its outages in `epoch`.
    pub(super) fn to_server(target: Target, epoch: Arc<AtomicU64>) -> Self {
        let state = State { connection: None, made: 0, backoff: BACKOFF_FIRST, next: Instant::now() };
        Self {
            target,
            state: Mutex::new(state),
            epoch,
            cluster: None,
            at: std::sync::Mutex::default(),
            lost: AtomicBool::new(false),
        }
    }

    /// Whether keys lie on several servers, by their slots.
    pub(super) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Whether it was in use and is not now.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Its server no longer has what was asked of it; another has taken over.
    pub(super) fn replaced(&self) {
        if self.lost.swap(false, Ordering::AcqRel) {
            tracing::info!(url = %self.target.shown, "the bus is back: another node has taken over");
        }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Grows with every connection made again, and when other nodes of a cluster take over: whoever sees it change knows
    /// that there was an outage.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Sends commands in one write and returns the answer to each. Scripts that the server has forgotten are loaded
    /// and their commands sent again.
    ///
    /// An `Err` means that what became of the commands is unknown.
    pub(super) async fn send(&self, commands: Pipeline) -> Result<Vec<Answer>, Error> {
        match &self.cluster {
            Some(cluster) => cluster.send(&commands).await,
            None => self.send_here(commands).await,
        }
    }

    /// The same, to the one server that this link leads to.
    pub(super) async fn send_here(&self, commands: Pipeline) -> Result<Vec<Answer>, Error> {
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

    /// Connects if need be, and loads the scripts if the server does not know them.
    pub(super) async fn get_ready(&self) -> Result<(), Error> {
        let known = self.value(scripts::are_known()).await?;
        if known == Value::Array(vec![Value::Int(0)]) {
            self.send_once(&scripts::load_all()).await?;
        }
        Ok(())
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

    /// A connection of the caller's own, for reads of `key` that block. Not retried here.
    pub(super) async fn connect(&self, key: &str) -> Result<Own, Error> {
        match &self.cluster {
            Some(cluster) => cluster.connect(key).await,
            None => self.connect_here().await,
        }
    }

    /// Whether a connection made by [`Self::connect`] still leads to where `key` lies, as far as is known.
    pub(super) fn is_current(&self, at: Option<&Address>, key: &str) -> bool {
        match &self.cluster {
            Some(cluster) => cluster.address(key).as_ref() == at,
            None => self.at.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == at,
        }
    }

    /// Sends one command to the server at the end of a connection of the caller's own.
    pub(super) async fn one_at(&self, at: Option<&Address>, command: Cmd) -> Result<Answer, Error> {
        let mut commands = Pipeline::with_capacity(1);
        commands.add_command(command);
        let answers = match (&self.cluster, at) {
            (Some(cluster), Some(at)) => cluster.node(at)?.send_here(commands).await?,
            _ => self.send(commands).await?,
        };
        answers.into_iter().next().ok_or_else(|| errors::unexpected("a command"))
    }

    pub(super) async fn connect_here<C: Connection>(&self) -> Result<Own<C>, Error> {
        let at = match &self.target.reach {
            Reach::Sentinels { sentinels, master } => return sentinel::connect(&self.target, sentinels, master).await,
            Reach::Node(address) => Some(address.clone()),
            _ => None,
        };
        Ok(Own { connection: C::make(&self.target, &self.target.client, false).await?, at })
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
            Ok(Ok(answers)) if answers.len() == commands.len() => {
                self.heed_demotion(made, &answers).await;
                return Ok(answers);
            }
            Ok(Ok(_)) => errors::unexpected("a pipeline"),
            Ok(Err(error)) => errors::failed(&self.target, error),
            Err(_) => errors::silent(&self.target),
        };
        self.give_up(made, &error).await;
        Err(error)
    }

    /// Behind sentinels, a server that has become a replica is left: they know who the master is now.
    async fn heed_demotion(&self, made: u64, answers: &[Answer]) {
        if !matches!(self.target.reach, Reach::Sentinels { .. }) {
            return;
        }
        if let Some(error) = answers.iter().filter_map(|answer| answer.as_ref().err()).find(|e| errors::is_demoted(e)) {
            self.give_up(made, &errors::answered(&self.target, error)).await;
        }
    }

    async fn give_up(&self, made: u64, error: &Error) {
        let mut state = self.state.lock().await;
        if state.connection.as_ref().is_some_and(|(current, _)| *current == made) {
            state.connection = None;
            self.say_lost(error);
        }
    }

    fn say_lost(&self, error: &Error) {
        if !self.lost.swap(true, Ordering::AcqRel) {
            tracing::warn!(%error, "the bus is lost; connecting again");
        }
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
            match self.connect_here::<MultiplexedConnection>().await {
                Ok(Own { connection, at }) => {
                    if state.made > 0 {
                        self.epoch.fetch_add(1, Ordering::AcqRel);
                    }
                    state.made += 1;
                    let made = state.made;
                    state.connection = Some((made, connection.clone()));
                    state.backoff = BACKOFF_FIRST;
                    if self.lost.swap(false, Ordering::AcqRel) {
                        let at = at.as_ref().map(tracing::field::display);
                        tracing::info!(url = %self.target.shown, at, "the bus is back");
                    }
                    *self.at.lock().unwrap_or_else(PoisonError::into_inner) = at;
                    return Ok((made, connection));
                }
                Err(error) => {
                    state.next = Instant::now() + state.backoff;
                    state.backoff = (state.backoff * 2).min(BACKOFF_MAX);
                    self.say_lost(&error);
                    return Err(error);
                }
            }
        }
    }
}
