//! Which URLs a handler may ask for. Compared are parsed URLs, part by part, never text; what was compared is what is sent.

use std::net::IpAddr;

use url::{Host, Url};

use super::address::{self, Kind};
use super::code::{ErrorCode, Failure};
use crate::sandbox::{limits, text};

/// The HTTP that a handler was given. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// What it may ask for.
    pub urls: Vec<UrlGrant>,
    /// Why none of it is sent. The one switch for whoever calls a handler without meaning it: a replay without effects, a
    /// test, a module that only runs beside another one. They may answer in the place of servers ([`Services::answer`]).
    ///
    /// [`Services::answer`]: crate::sandbox::Services::answer
    pub refused: Option<String>,
}

/// One entry of `grants.http`: a scheme, a host, a port, and a path or everything below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlGrant {
    https: bool,
    host: Host<String>,
    port: u16,
    path: Paths,
    private: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Paths {
    Exactly(String),
    /// Ends with a slash.
    Below(String),
}

/// What is wrong with the URL of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadUrl {
    /// It does not parse.
    #[error("it is no URL")]
    NotAUrl,
    /// Another scheme.
    #[error("it begins with http:// or https://")]
    Scheme,
    /// It holds a name, a password, a query or a fragment.
    #[error("it has a host, perhaps a port, and a path, and nothing else")]
    Parts,
    /// A star in the host.
    #[error("it names its host in full, without `*`")]
    HostWildcard,
    /// A star elsewhere, or no path.
    #[error("it ends with `/*` for all that is below, or names one path: all of a host is https://lrs.example.org/*")]
    Path,
}

/// A URL that a guest asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) https: bool,
    pub(super) host: Host<String>,
    pub(super) port: u16,
    /// As it stands in the request line: absolute, without dots, with its query.
    pub(super) path_and_query: String,
    path: String,
}

/// Which addresses a request may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// The operator wrote this one down.
    Named(IpAddr),
    /// Those of the operator's networks too.
    Private,
    Public,
}

// === impl UrlGrant ===

impl UrlGrant {
    /// Reads one. `private`: its host may have a private address.
    ///
    /// # Errors
    ///
    /// What it must look like.
    pub fn parse(text: &str, private: bool) -> Result<Self, BadUrl> {
        let url = Url::parse(text).map_err(|_| BadUrl::NotAUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(BadUrl::Scheme);
        }
        let bare = url.username().is_empty() && url.password().is_none();
        if !bare || text.contains('@') || url.query().is_some() || url.fragment().is_some() {
            return Err(BadUrl::Parts);
        }
        let host = url.host().and_then(canonical_host).ok_or(BadUrl::NotAUrl)?;
        if host.to_string().contains('*') {
            return Err(BadUrl::HostWildcard);
        }
        // `https://host` is as likely a slip as it is meant for all of the host: the URL is asked for in full.
        let authority = text.split_once("//").map_or("", |(_, rest)| rest);
        if !authority.contains('/') {
            return Err(BadUrl::Path);
        }
        let path = match url.path().strip_suffix('*') {
            Some(below) if below.ends_with('/') && !below.contains('*') => Paths::Below(below.to_owned()),
            None if !url.path().contains('*') => Paths::Exactly(url.path().to_owned()),
            _ => return Err(BadUrl::Path),
        };
        let port = url.port_or_known_default().ok_or(BadUrl::NotAUrl)?;
        Ok(Self { https: url.scheme() == "https", host, port, path, private })
    }

    /// Whether it is served over TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.https
    }

    fn covers(&self, target: &Target) -> bool {
        let place = self.https == target.https && self.host == target.host && self.port == target.port;
        place
            && match &self.path {
                Paths::Exactly(path) => *path == target.path,
                // All of a host: nothing is above it that a path could lead to.
                Paths::Below(path) if path == "/" => true,
                Paths::Below(path) => target.path.starts_with(path.as_str()) && !climbs(&target.path),
            }
    }
}

// === impl Http ===

impl Http {
    /// Whether a URL was given, and which addresses it may lead to.
    pub(super) fn permits(&self, target: &Target) -> Option<Reach> {
        let mut granted = self.urls.iter().filter(|grant| grant.covers(target)).peekable();
        granted.peek()?;
        Some(match &target.host {
            Host::Ipv4(address) => Reach::Named(address::canonical((*address).into())),
            Host::Ipv6(address) => Reach::Named(address::canonical((*address).into())),
            Host::Domain(_) if granted.any(|grant| grant.private) => Reach::Private,
            Host::Domain(_) => Reach::Public,
        })
    }
}

// === impl Reach ===

impl Reach {
    /// Whether a request may be sent to this address.
    pub(super) fn includes(self, address: IpAddr) -> bool {
        match (self, address::kind(address)) {
            (Self::Named(named), _) => named == address::canonical(address),
            (_, Kind::Public) | (Self::Private, Kind::Private) => true,
            (_, Kind::Private | Kind::Special) => false,
        }
    }
}

// === impl Target ===

impl Target {
    /// The URL of these parts, as a guest chose them.
    pub(super) fn parse(https: bool, authority: &str, path_and_query: &str) -> Result<Self, Failure> {
        if authority.len() + path_and_query.len() > limits::HTTP_URL_BYTES {
            let why = format!("a URL may have {} bytes, whichever handler it is", limits::HTTP_URL_BYTES);
            return Err(Failure::limit(ErrorCode::HttpRequestUriTooLong, why));
        }
        // The parser is made for browsers: it takes tabs out, and reads a name before an `@`.
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '#' | '\\');
        let authority_odd = |c: char| odd(c) || matches!(c, '@' | '/' | '?');
        if authority.is_empty() || authority.contains(authority_odd) || path_and_query.contains(odd) {
            return Err(invalid());
        }
        if !path_and_query.starts_with('/') {
            return Err(invalid());
        }
        let scheme = if https { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{authority}{path_and_query}")).map_err(|_| invalid())?;
        let host = url.host().and_then(canonical_host).ok_or_else(invalid)?;
        let port = url.port_or_known_default().filter(|port| *port > 0).ok_or_else(invalid)?;
        let path_and_query = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self { https, host, port, path_and_query, path: url.path().to_owned() })
    }

    /// Host and port, as the header `Host` has them.
    pub(super) fn authority(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.to_string(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }

    /// For people: without the query, where secrets are passed about.
    pub(super) fn shown(&self) -> String {
        text::line(&format!("{}{}", self.origin(), self.path), 200)
    }
}

fn invalid() -> Failure {
    Failure::plain(ErrorCode::HttpRequestUriInvalid)
}

/// A name with a dot at its end is the same name; an address is one whichever way it is written, as the parser sees to.
fn canonical_host(host: Host<&str>) -> Option<Host<String>> {
    match host {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            let good = !name.is_empty() && !name.starts_with('.') && !name.ends_with('.') && !name.contains("..");
            good.then(|| Host::Domain(name.to_owned()))
        }
        Host::Ipv4(address) => Some(Host::Ipv4(address)),
        Host::Ipv6(address) => Some(Host::Ipv6(address)),
    }
}

/// Whether a server that decodes a path (perhaps twice) or takes parameters out of it could find a way up in it. Plain dots
/// are gone already.
fn climbs(path: &str) -> bool {
    path.split('/').skip(1).any(|segment| {
        let mut now = segment.as_bytes().to_vec();
        loop {
            let name = now.split(|byte| *byte == b';').next().unwrap_or_default();
            let goes_up = matches!(name, b"." | b"..");
            if goes_up || now.iter().any(|byte| matches!(byte, b'/' | b'\\' | 0..=0x1f)) {
                return true;
            }
            let decoded = decoded(&now);
            if decoded == now {
                return false;
            }
            now = decoded;
        }
    })
}

/// Takes one layer of percent-encoding off.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let digit = |byte: &u8| (*byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some((first, after)) = rest.split_first() {
        let pair = after.first().and_then(digit).zip(after.get(1).and_then(digit));
        match pair.filter(|_| *first == b'%') {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
