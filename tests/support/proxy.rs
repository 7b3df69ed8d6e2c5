//! A TCP proxy that can be told to misbehave: it stands between a host and its bus and plays the network.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What becomes of bytes that go one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// They go through.
    Pass,
    /// They go through, later.
    Delay(Duration),
    /// They go through in pieces of so many bytes, a millisecond apart.
    Throttle(usize),
    /// They vanish, and the connection looks alive. One that has lost bytes so never carries any again.
    Swallow,
    /// Of the first piece that is longer than this only so many go through, then the connection breaks: an answer ends
    /// in the middle.
    Truncate(usize),
}

/// A proxy with a port of its own. It ends when it is dropped.
pub(crate) struct Proxy {
    port: u16,
    to_server: watch::Sender<Rule>,
    to_client: watch::Sender<Rule>,
    cut: broadcast::Sender<Break>,
    _tasks: JoinSet<()>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// Orderly, by FIN.
    Close,
    /// By RST.
    Reset,
}

#[derive(Clone)]
struct Wire {
    upstream: u16,
    to_server: watch::Receiver<Rule>,
    to_client: watch::Receiver<Rule>,
    cut: Arc<broadcast::Sender<Break>>,
}

// === impl Proxy ===

impl Proxy {
    /// Listens on a free port and passes everything on to `upstream`, another port of this machine.
    pub(crate) async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to_server, server_rule) = watch::channel(Rule::Pass);
        let (to_client, client_rule) = watch::channel(Rule::Pass);
        let (cut, _) = broadcast::channel(16);
        let wire = Wire { upstream, to_server: server_rule, to_client: client_rule, cut: Arc::new(cut.clone()) };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, wire));
        Self { port, to_server, to_client, cut, _tasks: tasks }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on, for connections that are there and those to come.
    pub(crate) fn rule(&self, to_server: Rule, to_client: Rule) {
        self.to_server.send_replace(to_server);
        self.to_client.send_replace(to_client);
    }

    /// Ends all connections that are there. New ones are served.
    pub(crate) fn cut(&self, how: Break) {
        // Nobody listens if nothing is connected.
        let _ = self.cut.send(how);
    }

    /// Whatever it was told before: everything goes through. What has lost bytes is closed.
    pub(crate) fn heal(&self) {
        self.rule(Rule::Pass, Rule::Pass);
        self.cut(Break::Reset);
    }
}

async fn accept(listener: TcpListener, wire: Wire) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(connection(client, wire.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut client: TcpStream, wire: Wire) {
    let mut cut = wire.cut.subscribe();
    // A network that swallows answers no handshake either. The listener's backlog has answered, so the rest is silence.
    if *wire.to_server.borrow() == Rule::Swallow {
        // An error means that the proxy is gone.
        let _ = cut.recv().await;
        return reset(client);
    }
    let Ok(mut server) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, wire.upstream))).await else {
        return reset(client);
    };
    // Only speed depends on it.
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let how = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        tokio::select! {
            how = pump(&mut from_client, &mut to_server, wire.to_server) => how,
            how = pump(&mut from_server, &mut to_client, wire.to_client) => how,
            how = cut.recv() => how.unwrap_or(Break::Reset),
        }
    };
    if how == Break::Reset {
        reset(client);
        reset(server);
    }
}

/// Ends a connection by RST: closing with data unsent and no time to send it.
fn reset(stream: TcpStream) {
    // Without it the connection ends by FIN, which is a fault as well.
    let _ = stream.set_zero_linger();
}

/// Carries bytes one way until the connection breaks, and returns how.
async fn pump(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>, mut rule: watch::Receiver<Rule>) -> Break {
    let mut bytes = [0; 16 << 10];
    let mut lost = false;
    loop {
        let Ok(count) = from.read(&mut bytes).await else { return Break::Reset };
        if count == 0 {
            return Break::Close;
        }
        let now = *rule.borrow_and_update();
        let piece = &bytes[..count];
        let carried = match now {
            _ if lost => continue,
            Rule::Swallow => {
                lost = true;
                continue;
            }
            Rule::Pass => to.write_all(piece).await,
            Rule::Delay(time) => {
                sleep(time).await;
                to.write_all(piece).await
            }
            Rule::Throttle(size) => {
                let mut carried = Ok(());
                for part in piece.chunks(size) {
                    sleep(Duration::from_millis(1)).await;
                    carried = carried.and(to.write_all(part).await);
                }
                carried
            }
            Rule::Truncate(left) if left >= count => to.write_all(piece).await,
            Rule::Truncate(left) => {
                // What gets through has to leave before the connection is reset.
                let _ = to.write_all(&piece[..left]).await;
                sleep(Duration::from_millis(5)).await;
                return Break::Reset;
            }
        };
        if carried.is_err() {
            return Break::Reset;
        }
    }
}
