//! The parameters of `bus.url`: which mean something, which are passed over, which are a mistake.

use std::time::Duration;

use redis::{Client, ClientTlsConfig, ConnectionInfo, TlsCertificates};
use url::Url;

use super::hosts::{is_sentinel, is_tls};
use super::{Error, refuse};

/// Parameters that mean something here.
const USED: &[&str] = &[
    "client_name",
    "db",
    "password",
    "protocol",
    "sentinel_password",
    "sentinel_username",
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

/// Those that name files.
pub(super) const FILES: [&str; 3] = ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"];

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

/// What the query of the URL says.
#[derive(Default)]
pub(super) struct Parameters {
    pub(super) db: Option<i64>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) sentinel_username: Option<String>,
    pub(super) sentinel_password: Option<String>,
    pub(super) socket_timeout: Option<Duration>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) client_name: Option<String>,
    pub(super) verify: Verify,
    pub(super) ca: Option<Vec<u8>>,
    pub(super) certificate: Option<Vec<u8>>,
    pub(super) key: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Verify {
    #[default]
    Required,
    None,
}

// === impl Parameters ===

impl Parameters {
    pub(super) fn read(url: &Url) -> Result<Self, Error> {
        let mut read = Self::default();
        let mut check_hostname = true;
        for (name, value) in url.query_pairs() {
            let value = value.as_ref();
            match name.as_ref() {
                "db" => read.db = Some(number(&name, value)?),
                "username" => read.username = Some(value.to_owned()),
                "password" => read.password = Some(value.to_owned()),
                "sentinel_username" | "sentinel_password" if !is_sentinel(url.scheme()) => {
                    return Err(refuse(format!("has `{name}`, which goes with redis+sentinel:// only")));
                }
                "sentinel_username" => read.sentinel_username = Some(value.to_owned()),
                "sentinel_password" => read.sentinel_password = Some(value.to_owned()),
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
                "ssl_ca_certs" => read.ca = Some(certificates(&name, file(&name, value)?)?),
                "ssl_ca_data" => read.ca = Some(certificates(&name, value.as_bytes().to_vec())?),
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
        if !check_hostname && read.verify == Verify::Required && is_tls(url.scheme()) {
            return Err(refuse(
                "has `ssl_check_hostname=false`, which only works with `ssl_cert_reqs=none`: give the certificate the \
                 host's name, or trust any with both"
                    .to_owned(),
            ));
        }
        Ok(read)
    }

    pub(super) fn client(&self, info: ConnectionInfo, tls: bool) -> Result<Client, Error> {
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

pub(super) fn number(name: &str, value: &str) -> Result<i64, Error> {
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

/// Without a certificate in it nothing would be trusted, and the server would be blamed.
fn certificates(name: &str, pem: Vec<u8>) -> Result<Vec<u8>, Error> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    if pem.windows(BEGIN.len()).any(|window| window == BEGIN) {
        Ok(pem)
    } else {
        Err(refuse(format!("has an `{name}` without a certificate in PEM form")))
    }
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
