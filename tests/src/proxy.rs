//! A TCP proxy that misbehaves on request: it resets, stalls, delays, cuts after so many bytes, and
//! leaves connections half open.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes that are passed on at once: few, so that a cut is where it was asked for.
const CHUNK_BYTES: usize = 4 << 10;

/// What happens to bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// They pass.
    #[default]
    Passes,
    /// They stay, both ways.
    Stalls,
    /// What the client sends stays; what the server sends passes.
    StallsToServer,
    /// Each piece is late by so much.
    Delays(Duration),
    /// New connections are closed at once.
    Refuses,
}

/// How connections that there are end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum End {
    #[default]
    Reset,
    /// The server's side is closed. The client's stays open, and is never answered.
    HalfOpen,
}

#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    flow: Flow,
    /// Connections made before this order end.
    number: u64,
    end: End,
}

/// A proxy to one port of this machine.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    orders: watch::Sender<Orders>,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// Connections that were asked for.
    accepted: AtomicU64,
    /// Bytes that the server may still send before everything is reset; negative where any.
    left: AtomicI64,
    /// Connections that were cut for this.
    cuts: AtomicU64,
}

impl Proxy {
    /// Listens on a free port, for connections to `port`.
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let orders = watch::Sender::new(Orders::default());
        let shared = Arc::new(Shared {
            accepted: AtomicU64::new(0),
            left: AtomicI64::new(-1),
            cuts: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, port, orders.clone(), Arc::clone(&shared)));
        Self { port: own, orders, shared, accepting }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL with this proxy in the place of the server's own port.
    pub fn url(&self, url: &str, port: u16) -> String {
        url.replacen(&format!(":{port}/"), &format!(":{}/", self.port), 1)
    }

    /// How many connections were asked for.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Lets bytes flow like this from now on.
    pub fn set(&self, flow: Flow) {
        self.orders.send_modify(|orders| orders.flow = flow);
    }

    /// Resets every connection that there is.
    pub fn reset(&self) {
        self.end(End::Reset);
    }

    /// Closes every connection on the server's side alone.
    pub fn half_open(&self) {
        self.end(End::HalfOpen);
    }

    /// Resets everything once the server has sent so many more bytes.
    pub fn cut_after(&self, bytes: u32) {
        self.shared.left.store(i64::from(bytes), Ordering::Relaxed);
    }

    /// How often [`Proxy::cut_after`] has come to its end.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }

    fn end(&self, end: End) {
        self.orders.send_modify(|orders| {
            orders.end = end;
            orders.number += 1;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end(End::Reset);
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    port: u16,
    orders: watch::Sender<Orders>,
    shared: Arc<Shared>,
) {
    while let Ok((client, _)) = listener.accept().await {
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        if orders.borrow().flow == Flow::Refuses {
            continue;
        }
        tokio::spawn(connection(client, port, orders.clone(), Arc::clone(&shared)));
    }
}

async fn connection(
    client: TcpStream,
    port: u16,
    orders: watch::Sender<Orders>,
    shared: Arc<Shared>,
) {
    let mut heard = orders.subscribe();
    let born = heard.borrow().number;
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    for stream in [&client, &server] {
        // Errors show when the stream is used.
        let _ = stream.set_nodelay(true);
        let _ = stream.set_zero_linger();
    }
    let (mut from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (ordered, budget) = (orders.subscribe(), Arc::clone(&shared));
    let up = {
        let ordered = orders.subscribe();
        async {
            let stalls = |flow| matches!(flow, Flow::Stalls | Flow::StallsToServer);
            pump(&mut from_client, to_server, ordered, stalls, || true).await;
        }
    };
    let down = async move {
        let stalls = |flow| flow == Flow::Stalls;
        let mut from_server = from_server;
        pump(&mut from_server, to_client, ordered, stalls, || budget.may_pass(&orders)).await
    };
    let ended = {
        tokio::pin!(up, down);
        tokio::select! {
            () = &mut up => None,
            to_client = &mut down => Some(to_client),
            _ = heard.wait_for(|orders| orders.number > born) => None,
        }
    };
    let is_half_open = {
        let now = heard.borrow();
        now.number > born && now.end == End::HalfOpen
    };
    if is_half_open {
        // The server's side is gone. What the client says is taken, and never answered.
        let mut piece = vec![0; CHUNK_BYTES];
        let number = heard.borrow().number;
        tokio::select! {
            _ = heard.wait_for(|orders| orders.number > number) => {}
            () = async { while matches!(from_client.read(&mut piece).await, Ok(1..)) {} } => {}
        }
    }
    drop(ended);
}

impl Shared {
    /// Counts a piece from the server; resets everything once it was the last that might pass.
    fn may_pass(&self, orders: &watch::Sender<Orders>) -> bool {
        if self.left.load(Ordering::Relaxed) < 0 {
            return true;
        }
        let chunk = i64::try_from(CHUNK_BYTES).unwrap_or(i64::MAX);
        if self.left.fetch_sub(chunk, Ordering::Relaxed) > chunk {
            return true;
        }
        self.left.store(-1, Ordering::Relaxed);
        self.cuts.fetch_add(1, Ordering::Relaxed);
        orders.send_modify(|orders| {
            orders.end = End::Reset;
            orders.number += 1;
        });
        false
    }
}

/// Passes bytes on until one side ends; gives the other, which is still open.
async fn pump(
    from: &mut OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut orders: watch::Receiver<Orders>,
    stalls: impl Fn(Flow) -> bool,
    may_pass: impl Fn() -> bool,
) -> OwnedWriteHalf {
    let mut piece = vec![0; CHUNK_BYTES];
    while let Ok(bytes @ 1..) = from.read(&mut piece).await {
        // An error is the end of the proxy.
        let Ok(now) = orders.wait_for(|orders| !stalls(orders.flow)).await.map(|now| *now) else {
            break;
        };
        if let Flow::Delays(delay) = now.flow {
            tokio::time::sleep(delay).await;
        }
        let passed =
            may_pass() && to.write_all(piece.get(..bytes).unwrap_or_default()).await.is_ok();
        if !passed {
            break;
        }
    }
    to
}
