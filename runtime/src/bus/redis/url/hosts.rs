//! URLs with several hosts: `redis+sentinel://host,host/MASTER/DB` and `redis+cluster://host,host`.

use std::fmt;

use redis::{Client, ConnectionAddr, ConnectionInfo, RedisConnectionInfo};
use url::Url;

use super::parameters::Parameters;
use super::{Error, PORT, part, refuse, server_at};

/// The port of Redis Sentinel.
const SENTINEL_PORT: u16 = 26_379;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in super::super) struct Address {
    pub(in super::super) host: String,
    pub(in super::super) port: u16,
}

/// What the hosts of the URL are.
#[derive(Clone, Debug)]
pub(in super::super) enum Reach {
    /// The server itself.
    Server,
    /// Sentinels that know where the master of this name is.
    Sentinels { sentinels: Vec<Client>, master: String },
    /// Some nodes of a cluster, which know the others.
    Cluster { seeds: Vec<Address> },
    /// One node of a cluster.
    Node(Address),
}

/// A URL taken apart: one that the parser takes, with the first host only, and all hosts.
pub(super) struct Split {
    pub(super) text: String,
    /// As written.
    hosts: Vec<String>,
}

// === impl Split ===

impl Split {
    /// Parsers of URLs know one host.
    pub(super) fn of(text: String) -> Self {
        let is_ours = is_sentinel(&text) || is_cluster(&text);
        let Some((scheme, rest)) = text.split_once("://").filter(|_| is_ours) else {
            return Self { text, hosts: Vec::new() };
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let hosts: Vec<String> = hosts.split(',').map(|host| host.trim().to_owned()).collect();
        Self { text: format!("{scheme}://{user}{}{tail}", hosts[0]), hosts }
    }

    /// The URL for people, with all hosts again.
    pub(super) fn shown(&self, shown: String) -> String {
        match self.hosts.first() {
            Some(first) if self.hosts.len() > 1 => {
                let (head, tail) = match shown.rsplit_once('@') {
                    Some((head, tail)) => (format!("{head}@"), tail),
                    None => shown.split_once("://").map_or((String::new(), ""), |(s, tail)| (format!("{s}://"), tail)),
                };
                format!("{head}{}", tail.replacen(first.as_str(), &self.hosts.join(","), 1))
            }
            _ => shown,
        }
    }

    /// What the hosts are, and by `parameters` how to log in to sentinels.
    pub(super) fn reach(&self, url: &Url, parameters: &Parameters) -> Result<Reach, Error> {
        if is_cluster(url.scheme()) {
            if !url.path().trim_matches('/').is_empty() || parameters.db.is_some_and(|db| db != 0) {
                return Err(refuse("names a database; a cluster has only number 0: leave it out".to_owned()));
            }
            return Ok(Reach::Cluster { seeds: self.addresses(PORT)? });
        }
        if !is_sentinel(url.scheme()) {
            return Ok(Reach::Server);
        }
        let master = part(url.path().trim_matches('/').split('/').next().unwrap_or_default())?;
        let Some(master) = master else {
            return Err(refuse("names no master: write redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB".to_owned()));
        };
        let mut login = RedisConnectionInfo::default();
        if let Some(username) = &parameters.sentinel_username {
            login = login.set_username(username);
        }
        if let Some(password) = &parameters.sentinel_password {
            login = login.set_password(password);
        }
        let mut sentinels = Vec::new();
        for address in self.addresses(SENTINEL_PORT)? {
            let info = server_at(&address, url, parameters, login.clone())?;
            sentinels.push(parameters.client(info, is_tls(url.scheme()))?);
        }
        Ok(Reach::Sentinels { sentinels, master })
    }

    fn addresses(&self, port: u16) -> Result<Vec<Address>, Error> {
        let address = |text: &String| {
            let (host, own) = match text.rsplit_once(':') {
                // The colons of a bare IPv6 address are no port.
                Some((host, own)) if !own.ends_with(']') => (host, Some(own)),
                _ => (text.as_str(), None),
            };
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let port = own.map_or(Ok(port), str::parse).map_err(|_| refuse(format!("has a bad port in {text:?}")))?;
            if host.is_empty() {
                return Err(refuse("has an empty host: write HOST:PORT,HOST:PORT".to_owned()));
            }
            Ok(Address { host, port })
        };
        self.hosts.iter().map(address).collect()
    }
}

// === impl Address ===

impl Address {
    /// The same kind of connection as `like`, to this address.
    pub(super) fn client(&self, like: &ConnectionInfo) -> redis::RedisResult<Client> {
        let (host, port) = (self.host.clone(), self.port);
        let addr = match like.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        Client::open(like.clone().set_addr(addr))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Whether connections use TLS.
pub(super) fn is_tls(scheme: &str) -> bool {
    scheme.starts_with("rediss")
}

/// Whether the hosts are sentinels.
pub(super) fn is_sentinel(url: &str) -> bool {
    url.starts_with("redis+sentinel") || url.starts_with("rediss+sentinel")
}

fn is_cluster(url: &str) -> bool {
    url.starts_with("redis+cluster") || url.starts_with("rediss+cluster")
}

#[cfg(test)]
mod tests {
    use super::super::Target;
    use super::*;

    fn refused(url: &str) -> String {
        Target::parse(url).expect_err(url).to_string()
    }

    #[test]
    fn sentinels_and_their_master_are_read() {
        let target = Target::parse(
            "redis+sentinel://us:p%40w@one,two:7000,[::1]:7001/mymaster/3?sentinel_username=s&sentinel_password=hush",
        )
        .unwrap();
        let Reach::Sentinels { sentinels, master } = &target.reach else { panic!("{:?}", target.reach) };
        let at = |n: usize| sentinels[n].get_connection_info();
        assert_eq!(at(0).addr(), &ConnectionAddr::Tcp("one".into(), SENTINEL_PORT));
        assert_eq!(at(1).addr(), &ConnectionAddr::Tcp("two".into(), 7000));
        assert_eq!(at(2).addr(), &ConnectionAddr::Tcp("::1".into(), 7001));
        assert_eq!((at(1).redis_settings().username(), at(1).redis_settings().password()), (Some("s"), Some("hush")));
        assert_eq!(at(1).redis_settings().db(), 0);
        assert_eq!((master.as_str(), target.client.get_connection_info().redis_settings().db()), ("mymaster", 3));
        assert_eq!(target.client.get_connection_info().redis_settings().password(), Some("p@w"));
        assert_eq!(target.shown, "redis+sentinel://us:***@one,two:7000,[::1]:7001/mymaster/3");
        assert!(refused("redis+sentinel://one,two").contains("names no master"));
        assert!(refused("redis+sentinel://one:x,two/m").contains("bus.url"));
        assert!(refused("redis+sentinel://:hunter2@one,,two/m").contains("empty host"));
        assert!(refused("redis://one?sentinel_password=x").contains("redis+sentinel"));
    }

    #[test]
    fn nodes_of_a_cluster_are_read() {
        let target = Target::parse("rediss+cluster://:hunter2@one:7000,two?ssl_cert_reqs=none").unwrap();
        let Reach::Cluster { seeds } = &target.reach else { panic!("{:?}", target.reach) };
        assert_eq!(seeds.iter().map(ToString::to_string).collect::<Vec<_>>(), ["one:7000", "two:6379"]);
        assert_eq!(target.shown, "rediss+cluster://:***@one:7000,two");
        let node = target.at(&seeds[1]).unwrap();
        let info = node.client.get_connection_info();
        assert_eq!(info.redis_settings().password(), Some("hunter2"));
        assert!(
            matches!(info.addr(), ConnectionAddr::TcpTls { host, port: 6379, insecure: true, .. } if host == "two")
        );
        assert_eq!(node.shown, "rediss://two:6379");
        for bad in ["redis+cluster://:hunter2@one/1", "redis+cluster://:hunter2@one?db=2"] {
            assert!(refused(bad).contains("only number 0") && !refused(bad).contains("hunter2"), "{}", refused(bad));
        }
    }
}
