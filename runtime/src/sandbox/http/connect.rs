//! How a connection is made: one look-up, and only addresses that were looked at.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use url::Host;

use super::address;
use super::client::Client;
use super::code::{DnsError, ErrorCode, Failure};
use super::grant::{Reach, Target};
use crate::sandbox::limits;

/// The addresses of a name, as the system finds them or a test says. What it is given is held as long as it works.
pub(super) type Lookup =
    dyn Fn(&str, OwnedSemaphorePermit) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// What bytes go through.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// By the system's own rules: its hosts file, its servers. It cannot be cut short: whoever has stopped waiting still counts.
pub(super) fn system(name: &str, turn: OwnedSemaphorePermit) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
    let name = name.to_owned();
    let looking = tokio::task::spawn_blocking(move || {
        let found = (name.as_str(), 0).to_socket_addrs();
        drop(turn);
        Ok(found?.map(|found| found.ip()).collect())
    });
    Box::pin(async move { looking.await.map_err(io::Error::other)? })
}

/// Finds the host's addresses, those of them that may be reached.
pub(super) async fn addresses(
    lookup: &Lookup,
    turns: &Arc<Semaphore>,
    target: &Target,
    reach: Reach,
) -> Result<Vec<SocketAddr>, Failure> {
    let found = match &target.host {
        Host::Ipv4(address) => vec![IpAddr::V4(*address)],
        Host::Ipv6(address) => vec![IpAddr::V6(*address)],
        Host::Domain(name) => {
            let unknown = || Failure::plain(ErrorCode::DnsError(DnsError::default()));
            let turn = Arc::clone(turns).acquire_owned().await.map_err(|_| unknown())?;
            lookup(name, turn).await.map_err(|_| unknown())?
        }
    };
    let Some(first) = found.first().copied() else {
        return Err(Failure::plain(ErrorCode::DnsError(DnsError::default())));
    };
    let mut may = found.into_iter().map(address::canonical).filter(|address| reach.includes(*address)).peekable();
    if may.peek().is_none() {
        return Err(prohibited(target, first));
    }
    Ok(may.take(limits::HTTP_ADDRESSES).map(|address| SocketAddr::new(address, target.port)).collect())
}

/// Connects to the first of `addresses` that answers. Each gets its share of the time.
pub(super) async fn connect(
    client: &Client,
    addresses: &[SocketAddr],
    target: &Target,
    within: Duration,
) -> Result<Box<dyn Stream>, Failure> {
    let end = Instant::now() + within;
    let mut failed = Failure::plain(ErrorCode::ConnectionTimeout);
    for (index, address) in addresses.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
        let tcp = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(error)) => {
                failed = Failure::connecting(&error, &target.origin());
                continue;
            }
            Err(_) => continue,
        };
        // A request is one write: there is nothing to wait for.
        let _ = tcp.set_nodelay(true);
        return if target.https { secured(client, tcp, target, end).await } else { Ok(Box::new(tcp)) };
    }
    Err(failed)
}

/// Whoever answers has to be who the URL names.
async fn secured(client: &Client, tcp: TcpStream, target: &Target, end: Instant) -> Result<Box<dyn Stream>, Failure> {
    let name = match &target.host {
        Host::Domain(name) => ServerName::try_from(name.clone()),
        Host::Ipv4(address) => Ok(ServerName::from(IpAddr::V4(*address))),
        Host::Ipv6(address) => Ok(ServerName::from(IpAddr::V6(*address))),
    };
    let name = name.map_err(|_| Failure::plain(ErrorCode::HttpRequestUriInvalid))?;
    let connector = TlsConnector::from(Arc::clone(&client.tls()));
    match timeout_at(end, connector.connect(name, tcp)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(Failure::connecting(&error, &target.origin())),
        Err(_) => Err(Failure::plain(ErrorCode::ConnectionTimeout)),
    }
}

fn prohibited(target: &Target, address: IpAddr) -> Failure {
    let (origin, host) = (target.origin(), &target.host);
    let how = match address::kind(address) {
        address::Kind::Special => "which no name may lead to; only its address written as such reaches it".to_owned(),
        _ => format!(
            "a private address; to allow it: [handler.grants] http = [{{ url = \"{origin}/*\", private = true }}]"
        ),
    };
    Failure::told(ErrorCode::DestinationIpProhibited, format!("{host} is at {address}, {how}"))
}
