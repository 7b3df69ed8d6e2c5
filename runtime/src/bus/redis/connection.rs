//! How a server is connected to: by the library, or, for reads, directly.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, ServerError, Value};
use tokio::sync::Mutex;

use super::super::Error;
use super::direct::Direct;
use super::frame::Frame;
use super::url::{Address, Target};
use super::{errors, sentinel};

/// One server's answer to one command.
pub(super) type Answer = Result<Value, ServerError>;

/// A connection to one server, ready to be used.
pub(super) trait Connection: Sized + Send {
    /// Connects and sees that the server serves; as `master`, that it is one.
    fn make(target: &Target, client: &Client, master: bool) -> impl Future<Output = Result<Self, Error>> + Send;
}

/// A connection and where it leads; nothing where that never changes.
#[derive(Clone)]
pub(super) struct Own<C = Channel> {
    pub(super) connection: C,
    pub(super) at: Option<Address>,
}

/// A connection for one command at a time, whose answers are read as they came. Over TLS the library reads them first.
#[derive(Clone)]
pub(super) enum Channel {
    Direct(Arc<Mutex<Direct>>),
    Library(MultiplexedConnection),
}

// === impl Channel ===

impl Channel {
    /// Sends one command, which may block the server for so long.
    pub(super) async fn ask(
        &self,
        target: &Target,
        command: &Cmd,
        blocking: Duration,
    ) -> Result<Result<Frame, ServerError>, Error> {
        match self {
            Self::Direct(direct) => {
                let frame = direct.lock().await.ask(target, command, blocking).await?;
                if frame.is_refusal() { Ok(frame.value()?.map(|_| frame)) } else { Ok(Ok(frame)) }
            }
            Self::Library(connection) => {
                let mut connection = connection.clone();
                let sending = connection.send_packed_command(command);
                match tokio::time::timeout(blocking + target.socket_timeout, sending).await {
                    Err(_) => Err(errors::silent(target)),
                    Ok(Ok(Value::ServerError(error))) => Ok(Err(error)),
                    Ok(Ok(value)) => Ok(Ok(Frame::of(&value))),
                    Ok(Err(error)) => match error.clone().into_server_errors() {
                        Some(errors) if !errors.is_empty() => Ok(Err(errors[0].1.clone())),
                        _ => Err(errors::failed(target, error)),
                    },
                }
            }
        }
    }
}

impl Connection for Channel {
    async fn make(target: &Target, client: &Client, master: bool) -> Result<Self, Error> {
        let info = client.get_connection_info();
        if !Direct::reaches(info) {
            return MultiplexedConnection::make(target, client, master).await.map(Self::Library);
        }
        let (direct, answers) = Direct::connect(target, info, &greeting(target, master)).await?;
        check_greeted(target, answers, master)?;
        Ok(Self::Direct(Arc::new(Mutex::new(direct))))
    }
}

// === impl MultiplexedConnection ===

impl Connection for MultiplexedConnection {
    async fn make(target: &Target, client: &Client, master: bool) -> Result<Self, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(target.connect_timeout))
            // The callers bound each wait themselves.
            .set_response_timeout(None);
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let made = tokio::time::timeout(target.connect_timeout, connecting).await;
        let mut connection = match made {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(errors::failed(target, error)),
            Err(_) => return Err(errors::unconnected(target)),
        };
        let hello = greeting(target, master);
        let answers = tokio::time::timeout(target.socket_timeout, send_on(&mut connection, &hello)).await;
        let answers = answers.map_err(|_| errors::silent(target))?.map_err(|error| errors::failed(target, error))?;
        check_greeted(target, answers, master)?;
        Ok(connection)
    }
}

/// A connection answers only once it serves: loading, or a password that is missing, shows here.
fn greeting(target: &Target, master: bool) -> Pipeline {
    let mut hello = Pipeline::new();
    hello.cmd("PING");
    if master {
        hello.cmd("ROLE");
    }
    if let Some(name) = &target.client_name {
        hello.cmd("CLIENT").arg("SETNAME").arg(name);
    }
    hello
}

fn check_greeted(target: &Target, answers: Vec<Answer>, master: bool) -> Result<(), Error> {
    let mut answers = answers.into_iter();
    answers.next().ok_or_else(|| errors::unexpected("PING"))?.map_err(|error| errors::answered(target, &error))?;
    if master {
        let role = answers.next().ok_or_else(|| errors::unexpected("ROLE"))?;
        sentinel::check_role(target, role)?;
    }
    Ok(())
}

/// Sends commands in one write over the library's connection.
pub(super) async fn send_on(
    connection: &mut MultiplexedConnection,
    commands: &Pipeline,
) -> Result<Vec<Answer>, RedisError> {
    let answers = connection.send_packed_commands(commands, 0, commands.len()).await?;
    Ok(answers
        .into_iter()
        .map(|answer| match answer {
            Value::ServerError(error) => Err(error),
            value => Ok(value),
        })
        .collect())
}
