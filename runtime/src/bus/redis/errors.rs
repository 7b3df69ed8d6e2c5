//! What the server or the connection says, in the bus's words.

use redis::{ErrorKind, RedisError, ServerError};

use super::super::Error;
use super::url::{Reach, Target};

/// Codes of a server that is there and cannot serve now. `MISCONF` is a disk that Redis cannot save to.
const UNAVAILABLE: &[&str] = &[
    "LOADING",
    "OOM",
    "BUSY",
    "READONLY",
    "MASTERDOWN",
    "NOREPLICAS",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MISCONF",
    "UNBLOCKED",
];
/// Codes by which a node of a cluster names another. They come out only where following them has led nowhere yet.
const REDIRECTS: &[&str] = &["MOVED", "ASK"];
/// The code of an answer that is ours: a node of a cluster could not be asked, while others were.
const UNREACHED: &str = "UNREACHED";
/// Codes about who is asking.
const CREDENTIALS: &[&str] = &["NOAUTH", "WRONGPASS", "NOPERM"];

/// The codes that callers act on themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// The group or its stream is gone.
    NoGroup,
    /// The script is not loaded.
    NoScript,
    /// A key holds something else.
    WrongType,
    /// The group exists already.
    BusyGroup,
    /// Anything else.
    Other,
}

/// Which of the codes that callers act on an error has.
pub(super) fn code(error: &ServerError) -> Code {
    match error.code() {
        "NOGROUP" => Code::NoGroup,
        "NOSCRIPT" => Code::NoScript,
        "WRONGTYPE" => Code::WrongType,
        "BUSYGROUP" => Code::BusyGroup,
        _ if wraps(error, "NOGROUP") => Code::NoGroup,
        _ if wraps(error, "WRONGTYPE") => Code::WrongType,
        _ => Code::Other,
    }
}

/// What the server answered to a command.
pub(super) fn answered(target: &Target, error: &ServerError) -> Error {
    let has = |codes: &[&str]| codes.iter().any(|code| error.code() == *code || wraps(error, code));
    let url = target.shown.clone();
    let reason = hide(target, words(error));
    if error.code() == UNREACHED {
        Error::Unreachable { url, reason: error.details().unwrap_or_default().to_owned() }
    } else if REDIRECTS.contains(&error.code()) && matches!(target.reach, Reach::Server) {
        Error::Settings(format!("bus at {url} is a node of a cluster: write redis+cluster:// in bus.url"))
    } else if has(UNAVAILABLE) || REDIRECTS.contains(&error.code()) {
        let advice = match error.code() {
            "OOM" => "; free memory or raise maxmemory",
            "READONLY" if matches!(target.reach, Reach::Server) => "; check that bus.url names the primary",
            "NOREPLICAS" => "; check min-replicas-to-write",
            "MISCONF" => "; see the server's log why it cannot save",
            _ => "",
        };
        Error::Unavailable { url, reason: format!("{reason}{advice}") }
    } else if has(CREDENTIALS) || is_refused_login(error) {
        Error::Credentials { url, reason }
    } else {
        Error::Unexpected(format!("bus at {url} answers: {reason}"))
    }
}

/// The server was a master and is a replica now.
pub(super) fn is_demoted(error: &ServerError) -> bool {
    error.code() == "READONLY" || wraps(error, "READONLY")
}

/// An answer in place of one that a node of a cluster did not give: whether it did what it was told is unknown.
pub(super) fn unreached(error: &Error) -> ServerError {
    let why = match error {
        Error::Unreachable { url, reason } | Error::Unavailable { url, reason } => format!("{url}: {reason}"),
        other => other.to_string(),
    };
    let line = format!("-{UNREACHED} {why}").replace(['\r', '\n'], " ") + "\r\n";
    served_by_nobody(&line)
}

/// An answer in place of one by a node, where no node serves the key.
pub(super) fn unserved() -> ServerError {
    served_by_nobody("-CLUSTERDOWN no node is known to serve this slot\r\n")
}

/// The library gives out no other way to make one.
fn served_by_nobody(line: &str) -> ServerError {
    match redis::parse_redis_value(line.as_bytes()) {
        Ok(redis::Value::ServerError(error)) => error,
        _ => unreachable!("a line that starts with a dash is an error"),
    }
}

/// What the connection, or the library before it, ran into.
pub(super) fn failed(target: &Target, error: RedisError) -> Error {
    let url = target.shown.clone();
    match error.kind() {
        ErrorKind::AuthenticationFailed => {
            Error::Credentials { url, reason: hide(target, error.detail().unwrap_or("they are refused").to_owned()) }
        }
        ErrorKind::Server(_) | ErrorKind::Extension => match error.clone().into_server_errors() {
            Some(errors) if !errors.is_empty() => answered(target, &errors[0].1),
            _ => Error::Unexpected(format!("bus at {url} answers: {}", hide(target, error.to_string()))),
        },
        ErrorKind::InvalidClientConfig | ErrorKind::Client => {
            Error::Settings(format!("bus.url {url} cannot be used: {}", hide(target, error.to_string())))
        }
        _ => {
            let reason = hide(target, error.to_string());
            match advice_on_certificate(&reason) {
                // As with a wrong password, nothing changes by trying again.
                Some(advice) => Error::Settings(format!("bus at {url} shows a certificate that is {advice}: {reason}")),
                None => Error::Unreachable { url, reason },
            }
        }
    }
}

/// What is wrong with the server's certificate, and what to do. By the words of the TLS library: its error is wrapped
/// in others that do not give it out.
fn advice_on_certificate(reason: &str) -> Option<&'static str> {
    let (_, fault) = reason.split_once("invalid peer certificate")?;
    // A CA that was made anew under its old name shows as a bad signature.
    Some(if fault.contains("UnknownIssuer") || fault.contains("BadSignature") {
        "not trusted; name the CA's certificate by ssl_ca_certs=FILE in bus.url, or trust any with ssl_cert_reqs=none"
    } else if fault.contains("not valid for") || fault.contains("NotValidForName") {
        "for another name; write that name in bus.url, or trust any with ssl_cert_reqs=none"
    } else if fault.contains("xpired") || fault.contains("not valid yet") || fault.contains("NotValidYet") {
        "not valid now; renew it, or set the clock"
    } else {
        "of no use; replace it, or trust any with ssl_cert_reqs=none"
    })
}

/// A connection did not come about in time.
pub(super) fn unconnected(target: &Target) -> Error {
    let reason = format!("no connection within {:?}", target.connect_timeout);
    Error::Unreachable { url: target.shown.clone(), reason }
}

/// The server does not answer in time.
pub(super) fn silent(target: &Target) -> Error {
    Error::Unreachable {
        url: target.shown.clone(),
        reason: format!("no answer within {:?} (socket_timeout in bus.url)", target.socket_timeout),
    }
}

/// The server answered with something that no version of it does.
pub(super) fn unexpected(what: &str) -> Error {
    Error::Unexpected(format!("the bus answered {what} in a form that is not understood"))
}

/// The server's words in one line.
pub(super) fn words(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// Before 7.0 an error inside a script is wrapped in one of the script's, with the code after a dash.
fn wraps(error: &ServerError, code: &str) -> bool {
    error.details().is_some_and(|details| {
        details
            .match_indices(code)
            .any(|(at, _)| details[..at].ends_with('-') && details[at + code.len()..].starts_with([' ', '.', ':']))
    })
}

/// Old servers refuse a password without a code of its own.
fn is_refused_login(error: &ServerError) -> bool {
    error.details().is_some_and(|details| {
        details.contains("invalid password")
            || details.contains("invalid username-password")
            || details.contains("without any password configured")
    })
}

fn hide(target: &Target, text: String) -> String {
    target.secrets.iter().fold(text, |text, secret| text.replace(secret.as_str(), "***"))
}

/// The same trouble for each delivery of a batch.
pub(super) fn copy(error: &Error) -> Error {
    match error {
        Error::Unreachable { url, reason } => Error::Unreachable { url: url.clone(), reason: reason.clone() },
        Error::Unavailable { url, reason } => Error::Unavailable { url: url.clone(), reason: reason.clone() },
        Error::NotDurable { url, wanted, reached } => {
            Error::NotDurable { url: url.clone(), wanted: *wanted, reached: reached.clone() }
        }
        Error::Credentials { url, reason } => Error::Credentials { url: url.clone(), reason: reason.clone() },
        Error::Settings(text) => Error::Settings(text.clone()),
        other => Error::Unexpected(other.to_string()),
    }
}
