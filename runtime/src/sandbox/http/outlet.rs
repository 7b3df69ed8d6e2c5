//! One handler's connections: a few at once, each used again for a while, none shared with another handler.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::poll_fn;
use http_body_util::Full;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use url::Host;

use super::client::Client;
use super::code::{ErrorCode, Failure};
use super::connect::{self, Lookup, Stream};
use super::grant::{Http, Reach, Target, UrlGrant};
use crate::sandbox::{Limits, limits};

/// What a handler's requests go through.
pub(in crate::sandbox) struct Outlet {
    pub(super) handler: String,
    pub(super) header_bytes: usize,
    pub(super) runtime: Handle,
    client: Arc<Client>,
    lookup: Box<Lookup>,
    lookups: Arc<Semaphore>,
    places: Arc<Semaphore>,
    connections: usize,
    connect: Duration,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// The one that was used last comes last.
    links: Vec<(Instant, Link)>,
    /// A task looks for those that have waited too long.
    swept: bool,
}

/// A connection. Nobody else moves it: whoever has it drives it.
pub(super) struct Link {
    key: Key,
    pub(super) sender: SendRequest<Full<Bytes>>,
    pub(super) drive: Drive,
    /// It has served a request before.
    pub(super) used: bool,
    _place: OwnedSemaphorePermit,
}

/// What moves bytes.
pub(super) struct Drive {
    /// `None` once it is over: what still waits in it is told so by its drop.
    connection: Option<Pin<Box<Http1>>>,
}

type Http1 = Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

/// Where a connection leads, and what was allowed of the address it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    https: bool,
    host: Host<String>,
    port: u16,
    reach: Reach,
}

// === impl Outlet ===

impl Outlet {
    pub(in crate::sandbox) fn new(
        client: &Arc<Client>,
        handler: &str,
        grants: &Http,
        limits: &Limits,
    ) -> Option<Arc<Self>> {
        Self::with_lookup(client, handler, grants, limits, Box::new(connect::system))
    }

    pub(super) fn with_lookup(
        client: &Arc<Client>,
        handler: &str,
        grants: &Http,
        limits: &Limits,
        lookup: Box<Lookup>,
    ) -> Option<Arc<Self>> {
        if grants.urls.iter().any(UrlGrant::is_https) {
            // Reading the authorities takes a while, which no call should wait for.
            client.tls();
        }
        Some(Arc::new(Self {
            handler: handler.to_owned(),
            header_bytes: limits.http_header_bytes,
            runtime: client.handle()?,
            client: Arc::clone(client),
            lookup,
            lookups: Arc::new(Semaphore::new(limits::HTTP_LOOKUPS)),
            places: Arc::new(Semaphore::new(limits.http_connections)),
            connections: limits.http_connections,
            connect: limits.http_connect,
            idle: Mutex::default(),
        }))
    }

    /// A connection to where `target` is, a used one if there is one. `within`: what the guest grants it.
    pub(super) async fn link(
        self: &Arc<Self>,
        target: &Target,
        reach: Reach,
        within: Option<Duration>,
    ) -> Result<Link, Failure> {
        let key = Key::new(target, reach);
        while let Some(mut link) = self.idle_one(&key) {
            if link.drive.is_open() {
                link.used = true;
                return Ok(link);
            }
        }
        self.new_link(target, reach, within).await
    }

    /// The same, and one that nobody has used.
    pub(super) async fn new_link(
        self: &Arc<Self>,
        target: &Target,
        reach: Reach,
        within: Option<Duration>,
    ) -> Result<Link, Failure> {
        let most = within.map_or(self.connect, |within| within.min(self.connect));
        match timeout(most, self.connected(target, reach, most)).await {
            Ok(linked) => linked,
            Err(_) if most < self.connect => Err(Failure::plain(ErrorCode::ConnectionTimeout)),
            Err(_) => {
                let (origin, most) = (target.origin(), self.connect);
                let text = format!(
                    "no connection to {origin} within {most:?}; more: [handler.limits] http_connect = \"{:?}\"",
                    most * 2
                );
                Err(Failure::limit(ErrorCode::ConnectionTimeout, text))
            }
        }
    }

    async fn connected(self: &Arc<Self>, target: &Target, reach: Reach, within: Duration) -> Result<Link, Failure> {
        let end = Instant::now() + within;
        let place = self.place(within).await?;
        let addresses = connect::addresses(&*self.lookup, &self.lookups, target, reach).await?;
        let left = end.saturating_duration_since(Instant::now());
        let stream = connect::connect(&self.client, &addresses, target, left).await?;
        let made = Builder::new()
            .max_header_size(self.header_bytes)
            .max_headers(limits::HTTP_HEADERS)
            // No smaller than the library takes.
            .max_buf_size(self.header_bytes.max(8 << 10))
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = made.map_err(|error| Failure::speaking(&error, self.header_bytes))?;
        let drive = Drive { connection: Some(Box::pin(connection)) };
        Ok(Link { key: Key::new(target, reach), sender, drive, used: false, _place: place })
    }

    /// Room for one connection more: another's that is not used, or one that ends meanwhile.
    async fn place(&self, within: Duration) -> Result<OwnedSemaphorePermit, Failure> {
        let now = || Arc::clone(&self.places).try_acquire_owned();
        if let Ok(place) = now() {
            return Ok(place);
        }
        let oldest = {
            let mut idle = self.idle();
            if idle.links.is_empty() { None } else { Some(idle.links.remove(0)) }
        };
        drop(oldest);
        // A little sooner than the connection as a whole, so that it is told which of the two it was.
        match timeout(within.mul_f64(0.9), Arc::clone(&self.places).acquire_owned()).await {
            Ok(place) => place.map_err(|_| closed()),
            Err(_) => {
                let most = self.connections;
                let more = limits::more_bytes("http_connections", most);
                let text =
                    format!("a handler may have {most} connections at once on a host, and none was free; {more}");
                Err(Failure::limit(ErrorCode::ConnectionLimitReached, text))
            }
        }
    }

    /// Keeps a connection for the next request, if it can serve one.
    pub(super) fn keep(self: &Arc<Self>, mut link: Link) {
        let Link { drive, sender, .. } = &mut link;
        let ready = drive.until(sender.ready()).now_or_never();
        if !matches!(ready, Some(Ok(()))) || drive.connection.is_none() {
            return;
        }
        let mut idle = self.idle();
        idle.links.push((Instant::now(), link));
        if !std::mem::replace(&mut idle.swept, true) {
            let outlet = Arc::downgrade(self);
            self.runtime.spawn(sweep(outlet));
        }
    }

    fn idle_one(&self, key: &Key) -> Option<Link> {
        let mut idle = self.idle();
        let place =
            idle.links.iter().rposition(|(since, link)| link.key == *key && since.elapsed() < limits::HTTP_IDLE)?;
        Some(idle.links.remove(place).1)
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what was not used for a while. Ends when nothing is left, and with the outlet.
async fn sweep(outlet: Weak<Outlet>) {
    loop {
        sleep(limits::HTTP_IDLE).await;
        let Some(outlet) = outlet.upgrade() else { return };
        let mut idle = outlet.idle();
        let stale = |link: &(Instant, Link)| link.0.elapsed() >= limits::HTTP_IDLE;
        let end = idle.links.iter().position(|link| !stale(link)).unwrap_or(idle.links.len());
        let old: Vec<_> = idle.links.drain(..end).collect();
        let empty = idle.links.is_empty();
        idle.swept = !empty;
        drop(idle);
        drop(old);
        if empty {
            return;
        }
    }
}

fn closed() -> Failure {
    Failure::plain(ErrorCode::InternalError(None))
}

// === impl Key ===

impl Key {
    fn new(target: &Target, reach: Reach) -> Self {
        Self { https: target.https, host: target.host.clone(), port: target.port, reach }
    }
}

// === impl Drive ===

impl Drive {
    /// Moves bytes until `future` is ready.
    pub(super) async fn until<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            self.poll(cx);
            future.as_mut().poll(cx)
        })
        .await
    }

    /// Whether the server has not closed it while nobody looked.
    fn is_open(&mut self) -> bool {
        self.poll(&mut Context::from_waker(Waker::noop()));
        self.connection.is_some()
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        if self.connection.as_mut().is_some_and(|connection| connection.as_mut().poll(cx).is_ready()) {
            self.connection = None;
        }
    }
}

#[cfg(test)]
mod tests;
