//! Reads `bus.url`: the forms and parameters that redis-py takes, so that a URL can be shared with a Python service.

use std::path::PathBuf;
use std::time::Duration;

use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use url::Url;

use self::parameters::{FILES, Parameters, Verify};
use super::super::Error;

mod hosts;
mod parameters;

pub(super) use self::hosts::{Address, Reach};
use self::hosts::{Split, is_sentinel, is_tls};

/// How long one answer may take. Longer than any script of ours and shorter than a person's patience with a dead
/// socket.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connecting may take, name look-up and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Redis's own port.
const PORT: u16 = 6379;

/// Where the server is and how to talk to it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Ready to connect; of sentinels and clusters, how to connect once it is known where.
    pub(super) client: Client,
    /// What the hosts of the URL are.
    pub(super) reach: Reach,
    /// The URL for people: without password and parameters.
    pub(super) shown: String,
    /// To be cut out of whatever a library says.
    pub(super) secrets: Vec<String>,
    /// How long connecting may take.
    pub(super) connect_timeout: Duration,
    /// How long one answer may take; a blocking read adds what it blocks.
    pub(super) socket_timeout: Duration,
    /// Shown by `CLIENT LIST`.
    pub(super) client_name: Option<String>,
}

// === impl Target ===

impl Target {
    /// Reads a URL without connecting.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        // Credentials need a host to stand before, which a socket does not have.
        let text = match text.split_once("@/") {
            Some((user, path)) if user.starts_with("unix://") && !user["unix://".len()..].contains('/') => {
                format!("{user}@localhost/{path}")
            }
            _ => text.to_owned(),
        };
        let split = Split::of(text);
        let url = Url::parse(&split.text).map_err(|error| refuse(format!("is no URL: {error}")))?;
        let parameters = Parameters::read(&url)?;
        let shown = split.shown(shown(&url));
        // What stands before the @ wins over the query, as in redis-py.
        let username = part(url.username())?.or_else(|| parameters.username.clone());
        let password = url.password().map(part).transpose()?.flatten().or_else(|| parameters.password.clone());
        let mut redis = RedisConnectionInfo::default().set_db(parameters.db.map_or_else(|| path_db(&url), Ok)?);
        if let Some(username) = &username {
            redis = redis.set_username(username);
        }
        if let Some(password) = &password {
            redis = redis.set_password(password);
        }
        let info = address(&url, parameters.verify)?
            .into_connection_info()
            .map_err(|error| refuse(format!("cannot be used: {error}")))?
            .set_redis_settings(redis);
        let client = parameters.client(info, is_tls(url.scheme()))?;
        let reach = split.reach(&url, &parameters)?;
        let secrets = password.into_iter().chain(parameters.sentinel_password).filter(|secret| !secret.is_empty());
        Ok(Self {
            client,
            reach,
            shown,
            secrets: secrets.collect(),
            connect_timeout: parameters.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            socket_timeout: parameters.socket_timeout.unwrap_or(SOCKET_TIMEOUT),
            client_name: parameters.client_name,
        })
    }

    /// One node of the cluster.
    pub(super) fn at(&self, address: &Address) -> Result<Self, Error> {
        let scheme = if is_tls(&self.shown) { "rediss" } else { "redis" };
        let reach = Reach::Node(address.clone());
        Ok(Self { client: self.client_at(address)?, reach, shown: format!("{scheme}://{address}"), ..self.clone() })
    }

    /// Connects to another address in the same way.
    pub(super) fn client_at(&self, address: &Address) -> Result<Client, Error> {
        let client = address.client(self.client.get_connection_info());
        client.map_err(|error| Error::Unexpected(format!("bus at {address} cannot be connected to: {error}")))
    }
}

/// The files that a URL names; none if it is no URL.
pub(super) fn files(text: &str) -> Vec<PathBuf> {
    let url = Url::parse(&Split::of(text.to_owned()).text).ok();
    let named = url.iter().flat_map(Url::query_pairs).filter(|(name, _)| FILES.contains(&&**name));
    named.map(|(_, path)| PathBuf::from(&*path)).collect()
}

fn address(url: &Url, verify: Verify) -> Result<ConnectionAddr, Error> {
    if url.scheme() == "unix" {
        if url.host_str().is_some_and(|host| !host.is_empty() && host != "localhost") {
            return Err(refuse("names a socket by a relative path: write unix:///absolute/path.sock".to_owned()));
        }
        return match part(url.path())? {
            Some(path) if path != "/" => Ok(ConnectionAddr::Unix(path.into())),
            _ => Err(refuse("names no socket: write unix:///absolute/path.sock".to_owned())),
        };
    }
    // The bare form of an IPv6 address is what the resolver takes.
    let host = match url.host_str() {
        Some(host) if !host.is_empty() => part(host.trim_start_matches('[').trim_end_matches(']'))?,
        _ => None,
    }
    .unwrap_or_else(|| "localhost".to_owned());
    let port = url.port().unwrap_or(PORT);
    Ok(tcp(host, port, url, verify))
}

fn tcp(host: String, port: u16, url: &Url, verify: Verify) -> ConnectionAddr {
    if is_tls(url.scheme()) {
        ConnectionAddr::TcpTls { host, port, insecure: verify == Verify::None, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

/// How to connect to one of several hosts.
fn server_at(
    address: &Address,
    url: &Url,
    parameters: &Parameters,
    login: RedisConnectionInfo,
) -> Result<ConnectionInfo, Error> {
    let info = tcp(address.host.clone(), address.port, url, parameters.verify).into_connection_info();
    Ok(info.map_err(|error| refuse(format!("cannot be used: {error}")))?.set_redis_settings(login))
}

fn path_db(url: &Url) -> Result<i64, Error> {
    if url.scheme() == "unix" {
        return Ok(0);
    }
    let path = url.path().trim_matches('/');
    let path = if is_sentinel(url.scheme()) { path.split_once('/').map_or("", |(_, db)| db) } else { path };
    match path {
        "" => Ok(0),
        path => parameters::number("db", path),
    }
}

fn shown(url: &Url) -> String {
    if url.scheme() == "unix" {
        return format!("unix://{}", url.path());
    }
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    if shown.password().is_some() {
        // Fails only for URLs that cannot have a password.
        let _ = shown.set_password(Some("***"));
    }
    shown.to_string()
}

fn part(text: &str) -> Result<Option<String>, Error> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|digit| (*digit as char).to_digit(16));
        match (byte, hex(0), hex(1)) {
            #[expect(clippy::cast_possible_truncation, reason = "two hexadecimal digits are a byte")]
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    let decoded = String::from_utf8(decoded).map_err(|_| refuse("is not UTF-8 once decoded".to_owned()))?;
    Ok(Some(decoded).filter(|text| !text.is_empty()))
}

fn refuse(what: String) -> Error {
    Error::Settings(format!("bus.url {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        Target::parse(url).expect_err(url).to_string()
    }

    #[test]
    fn forms_and_parameters_of_redis_py_are_read() {
        let target = Target::parse(
            "redis://us%40er:p%2Fw@example.org:7000/3?socket_timeout=1.5&socket_connect_timeout=2&client_name=me\
             &health_check_interval=30&protocol=3",
        )
        .unwrap();
        let info = target.client.get_connection_info();
        assert_eq!(info.addr(), &ConnectionAddr::Tcp("example.org".into(), 7000));
        assert_eq!(info.redis_settings().db(), 3);
        assert_eq!(info.redis_settings().username(), Some("us@er"));
        assert_eq!(info.redis_settings().password(), Some("p/w"));
        assert_eq!(target.socket_timeout, Duration::from_millis(1500));
        assert_eq!(target.connect_timeout, Duration::from_secs(2));
        assert_eq!(target.client_name.as_deref(), Some("me"));
        assert_eq!(target.shown, "redis://us%40er:***@example.org:7000/3");
    }

    #[test]
    fn the_query_gives_what_the_rest_does_not() {
        let target = Target::parse("redis://localhost/1?db=5&username=u&password=secret").unwrap();
        let info = target.client.get_connection_info();
        assert_eq!(info.redis_settings().db(), 5);
        assert_eq!(info.redis_settings().password(), Some("secret"));
        assert!(!target.shown.contains("secret"), "{}", target.shown);
        let target = Target::parse("redis://:first@[::1]/?password=second").unwrap();
        assert_eq!(target.client.get_connection_info().redis_settings().password(), Some("first"));
        assert_eq!(target.client.get_connection_info().addr(), &ConnectionAddr::Tcp("::1".into(), PORT));
    }

    #[test]
    fn a_unix_socket_is_a_path() {
        let target = Target::parse("unix://:pw@/run/my%20redis.sock?db=2").unwrap();
        let info = target.client.get_connection_info();
        assert_eq!(info.addr(), &ConnectionAddr::Unix("/run/my redis.sock".into()));
        assert_eq!(info.redis_settings().db(), 2);
        assert_eq!(info.redis_settings().password(), Some("pw"));
        assert!(refused("unix://relative.sock").contains("relative path"));
    }

    #[test]
    fn tls_verifies_unless_told_not_to() {
        let insecure = |url: &str| match Target::parse(url).unwrap().client.get_connection_info().addr() {
            ConnectionAddr::TcpTls { insecure, .. } => *insecure,
            other => panic!("{other}"),
        };
        assert!(!insecure("rediss://localhost"));
        assert!(!insecure("rediss://localhost?ssl_cert_reqs=required"));
        assert!(insecure("rediss://localhost?ssl_cert_reqs=none&ssl_check_hostname=false"));
        assert!(refused("rediss://localhost?ssl_check_hostname=false").contains("ssl_cert_reqs=none"));
        assert!(refused("rediss://localhost?ssl_ca_certs=/no/such/file").contains("/no/such/file"));
        let no_certificate = concat!("rediss://localhost?ssl_ca_certs=", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert!(refused(no_certificate).contains("without a certificate"));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name_and_never_shows_a_secret() {
        assert!(refused("redis://h?socket_timout=1").contains("is `socket_timeout` meant"));
        assert!(refused("redis://h?frobnicate=1").contains("known are client_name, db"));
        assert!(refused("redis://h?socket_timeout=soon").contains("seconds"));
        assert!(refused("redis://h/zero").contains("whole number"));
        for bad in ["redis://:hunter2@h?nope=1", "redis://:hunter2@h:99999", "redis://h?password=hunter2&db=x"] {
            assert!(!refused(bad).contains("hunter2"), "{}", refused(bad));
        }
    }
}
