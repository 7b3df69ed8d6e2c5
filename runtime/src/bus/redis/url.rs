//! Reads `bus.url`: the forms and parameters that redis-py takes, so that a URL can be shared with a Python service.

use std::time::Duration;

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates,
};
use url::Url;

use super::super::Error;

/// How long one answer may take. Longer than any script of ours and shorter than a person's patience with a dead
/// socket.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connecting may take, name look-up and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Redis's own port.
const PORT: u16 = 6379;

/// Parameters that mean something here.
const USED: &[&str] = &[
    "client_name",
    "db",
    "password",
    "protocol",
    "socket_connect_timeout",
    "socket_timeout",
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
    "username",
];

/// Parameters of redis-py that steer its own machinery and mean nothing here.
const IGNORED: &[&str] = &[
    "decode_responses",
    "driver_info",
    "encoding",
    "encoding_errors",
    "health_check_interval",
    "legacy_responses",
    "lib_name",
    "lib_version",
    "max_connections",
    "maint_notifications_config",
    "parser_class",
    "redis_connect_func",
    "retry_on_error",
    "retry_on_timeout",
    "single_connection_client",
    "socket_keepalive",
    "socket_keepalive_options",
    "socket_read_size",
    "ssl_ciphers",
    "ssl_min_version",
    "ssl_validate_ocsp",
    "ssl_validate_ocsp_stapled",
    "timeout",
];

/// Where the server is and how to talk to it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Ready to connect.
    pub(super) client: Client,
    /// The URL for people: without password and parameters.
    pub(super) shown: String,
    /// To be cut out of whatever a library says.
    pub(super) secret: Option<String>,
    /// How long connecting may take.
    pub(super) connect_timeout: Duration,
    /// How long one answer may take; a blocking read adds what it blocks.
    pub(super) socket_timeout: Duration,
    /// Shown by `CLIENT LIST`.
    pub(super) client_name: Option<String>,
}

/// What the query of the URL says.
#[derive(Default)]
struct Parameters {
    db: Option<i64>,
    username: Option<String>,
    password: Option<String>,
    socket_timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    client_name: Option<String>,
    verify: Verify,
    ca: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Verify {
    #[default]
    Required,
    None,
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
        let url = Url::parse(&text).map_err(|error| refuse(format!("is no URL: {error}")))?;
        let parameters = Parameters::read(&url)?;
        let shown = shown(&url);
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
        let client = parameters.client(info, url.scheme() == "rediss")?;
        Ok(Self {
            client,
            shown,
            secret: password.filter(|password| !password.is_empty()),
            connect_timeout: parameters.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            socket_timeout: parameters.socket_timeout.unwrap_or(SOCKET_TIMEOUT),
            client_name: parameters.client_name,
        })
    }
}

// === impl Parameters ===

impl Parameters {
    fn read(url: &Url) -> Result<Self, Error> {
        let mut read = Self::default();
        let mut check_hostname = true;
        for (name, value) in url.query_pairs() {
            let value = value.as_ref();
            match name.as_ref() {
                "db" => read.db = Some(number(&name, value)?),
                "username" => read.username = Some(value.to_owned()),
                "password" => read.password = Some(value.to_owned()),
                "socket_timeout" => read.socket_timeout = Some(seconds(&name, value)?),
                "socket_connect_timeout" => read.connect_timeout = Some(seconds(&name, value)?),
                "client_name" => read.client_name = Some(value.to_owned()),
                "protocol" => {
                    if !["2", "3"].contains(&value) {
                        return Err(refuse("has a `protocol` other than 2 or 3".to_owned()));
                    }
                    tracing::debug!(
                        "bus.url asks for a protocol version; the streams read the same with both, 2 is used"
                    );
                }
                "ssl_cert_reqs" => {
                    read.verify = match value {
                        "none" => Verify::None,
                        "required" | "optional" => Verify::Required,
                        _ => {
                            return Err(refuse(
                                "has an `ssl_cert_reqs` other than none, optional, required".to_owned(),
                            ));
                        }
                    }
                }
                "ssl_check_hostname" => check_hostname = truth(value),
                "ssl_ca_certs" => read.ca = Some(file(&name, value)?),
                "ssl_ca_data" => read.ca = Some(value.as_bytes().to_vec()),
                "ssl_certfile" => read.certificate = Some(file(&name, value)?),
                "ssl_keyfile" => read.key = Some(file(&name, value)?),
                "ssl_ca_path" => {
                    return Err(refuse(
                        "has `ssl_ca_path`: name one file of certificates by `ssl_ca_certs`".to_owned(),
                    ));
                }
                "ssl_password" => {
                    return Err(refuse("has `ssl_password`: encrypted keys are not read; decrypt the key".to_owned()));
                }
                ignored if IGNORED.contains(&ignored) => {
                    tracing::debug!(parameter = ignored, "bus.url has a parameter that means nothing here");
                }
                unknown => return Err(unknown_parameter(unknown)),
            }
        }
        if !check_hostname && read.verify == Verify::Required && url.scheme() == "rediss" {
            return Err(refuse(
                "has `ssl_check_hostname=false`, which only works with `ssl_cert_reqs=none`: give the certificate the \
                 host's name, or trust any with both"
                    .to_owned(),
            ));
        }
        Ok(read)
    }

    fn client(&self, info: ConnectionInfo, tls: bool) -> Result<Client, Error> {
        let opened = if tls {
            // Several providers may be compiled in; whoever came first is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let client_tls = match (&self.certificate, &self.key) {
                (Some(client_cert), Some(client_key)) => {
                    Some(ClientTlsConfig { client_cert: client_cert.clone(), client_key: client_key.clone() })
                }
                (Some(both), None) => Some(ClientTlsConfig { client_cert: both.clone(), client_key: both.clone() }),
                (None, Some(_)) => return Err(refuse("has `ssl_keyfile` without `ssl_certfile`".to_owned())),
                (None, None) => None,
            };
            Client::build_with_tls(info, TlsCertificates { client_tls, root_cert: self.ca.clone() })
        } else {
            Client::open(info)
        };
        opened.map_err(|error| refuse(format!("cannot be used: {error}")))
    }
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
    Ok(match url.scheme() {
        "rediss" => ConnectionAddr::TcpTls { host, port, insecure: verify == Verify::None, tls_params: None },
        _ => ConnectionAddr::Tcp(host, port),
    })
}

fn path_db(url: &Url) -> Result<i64, Error> {
    if url.scheme() == "unix" {
        return Ok(0);
    }
    match url.path().trim_matches('/') {
        "" => Ok(0),
        path => number("db", path),
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

fn number(name: &str, value: &str) -> Result<i64, Error> {
    match value.parse() {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(refuse(format!("has a `{name}` that is no whole number"))),
    }
}

fn seconds(name: &str, value: &str) -> Result<Duration, Error> {
    value
        .parse()
        .ok()
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| refuse(format!("has a `{name}` that is no positive number of seconds")))
}

fn truth(value: &str) -> bool {
    !["0", "f", "false", "n", "no"].contains(&value.to_ascii_lowercase().as_str())
}

fn file(name: &str, path: &str) -> Result<Vec<u8>, Error> {
    std::fs::read(path)
        .map_err(|error| refuse(format!("names a file by `{name}` that cannot be read: {path}: {error}")))
}

fn unknown_parameter(name: &str) -> Error {
    let nearest = USED
        .iter()
        .chain(IGNORED)
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 3);
    match nearest {
        Some((_, known)) => refuse(format!("has the unknown parameter `{name}`: is `{known}` meant?")),
        None => refuse(format!("has the unknown parameter `{name}`; known are {}", USED.join(", "))),
    }
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
