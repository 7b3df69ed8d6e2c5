//! Redis Sentinel: asked before each connection where the master is, and the answer is verified.
//!
//! A sentinel that was cut off names the old master for a while, and a master that was demoted may not know it yet. So
//! whoever is named must say itself that it is a master, and the sentinels are asked in turn until one names such.

use std::time::Duration;

use redis::{Client, ConnectionAddr, Pipeline, Value};

use super::super::Error;
use super::connection::{Answer, Connection, Own, send_on};
use super::url::{Address, Target};
use super::{errors, parse};

/// How long one sentinel may take to be reached and to answer: there are others.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connects to the master of this name.
///
/// # Errors
///
/// What the last sentinel asked led to; what cannot be mended by waiting comes first.
pub(super) async fn connect<C: Connection>(
    target: &Target,
    sentinels: &[Client],
    master: &str,
) -> Result<Own<C>, Error> {
    let mut found: Option<Error> = None;
    for sentinel in sentinels {
        let error = match through(target, sentinel, master).await {
            Ok(own) => return Ok(own),
            Err(error) => error,
        };
        tracing::debug!(sentinel = %shown(sentinel), %error, "a sentinel leads to no master");
        // Of several, the one that says most: a sentinel that is down says least.
        found = match found {
            Some(before) if weight(&before) > weight(&error) => Some(before),
            _ => Some(error),
        };
    }
    Err(found.unwrap_or_else(|| Error::Settings("bus.url names no sentinel".to_owned())))
}

async fn through<C: Connection>(target: &Target, sentinel: &Client, master: &str) -> Result<Own<C>, Error> {
    let address = match tokio::time::timeout(PATIENCE.min(target.connect_timeout), ask(target, sentinel, master)).await
    {
        Ok(address) => address?,
        Err(_) => {
            return Err(Error::Unreachable {
                url: target.shown.clone(),
                reason: format!("sentinel {} does not answer", shown(sentinel)),
            });
        }
    };
    let client = target.client_at(&address)?;
    Ok(Own { connection: C::make(target, &client, true).await?, at: Some(address) })
}

/// Where a sentinel says that the master is.
async fn ask(target: &Target, sentinel: &Client, master: &str) -> Result<Address, Error> {
    let failed = |error: redis::RedisError| match errors::failed(target, error) {
        Error::Unreachable { url, reason } => {
            Error::Unreachable { url, reason: format!("sentinel {}: {reason}", shown(sentinel)) }
        }
        Error::Credentials { url, reason } => {
            Error::Credentials { url, reason: format!("sentinel {}: {reason}", shown(sentinel)) }
        }
        other => other,
    };
    let mut connection = sentinel.get_multiplexed_async_connection().await.map_err(failed)?;
    let mut question = Pipeline::new();
    question.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let mut answers = send_on(&mut connection, &question).await.map_err(failed)?;
    let answer = answers.pop().ok_or_else(|| errors::unexpected("SENTINEL"))?;
    let unknown =
        || Error::Settings(format!("bus.url names the master {master:?}, which {} does not know", shown(sentinel)));
    let words = match answer {
        Ok(Value::Nil) => return Err(unknown()),
        Ok(words) => parse::texts(words, "SENTINEL")?,
        Err(error) => return Err(errors::answered(target, &error)),
    };
    match words.as_slice() {
        [] => Err(unknown()),
        [host, port] => {
            let port = port.parse().map_err(|_| errors::unexpected("SENTINEL"))?;
            Ok(Address { host: host.clone(), port })
        }
        _ => Err(errors::unexpected("SENTINEL")),
    }
}

/// Sees that a server calls itself a master.
pub(super) fn check_role(target: &Target, role: Answer) -> Result<(), Error> {
    let role = role.map_err(|error| errors::answered(target, &error))?;
    match parse::array(role, "ROLE")?.into_iter().next().and_then(parse::text).as_deref() {
        Some("master") => Ok(()),
        _ => Err(Error::Unavailable {
            url: target.shown.clone(),
            reason: "the server that the sentinels name is a replica; they have not agreed on a new master yet"
                .to_owned(),
        }),
    }
}

fn weight(error: &Error) -> u8 {
    match error {
        Error::Unreachable { .. } => 0,
        Error::Settings(_) => 1,
        Error::Unavailable { .. } => 2,
        _ => 3,
    }
}

fn shown(sentinel: &Client) -> String {
    match sentinel.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Address { host: host.clone(), port: *port }.to_string()
        }
        other => other.to_string(),
    }
}
