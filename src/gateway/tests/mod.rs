//! The front with real sockets: clients over TCP, workers on Unix sockets.

mod ends;
mod moves;
mod phases;
mod tunnels;
mod unflushed;

use super::ProxyService;
use super::migration::format;
use super::{
    App, Carrier, Clients, Forwarding, Limits, Listener, LoopName, Protocol, RequestIds, Route, Routes, Rules,
    SharedListener,
};
use crate::pool::affinity::{Affinity, Balance};
use crate::pool::{Member, Pool, QueuePolicy, Seat};
use crate::tls::record::stream::RecordStream;
use crate::tls::record::tests::states;
use crate::worker::{Incarnation, Slot, WorkerId};
use arc_swap::ArcSwap;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Nothing here takes this long.
const LONG: Duration = Duration::from_secs(30);

/// One that takes HTTP/2 without TLS.
fn h2c_listener() -> SharedListener {
    Listener { h2c: true, ..Listener::plain(([127, 0, 0, 1], 1).into()) }.shared()
}

/// A front with one app of one worker.
struct Rig {
    front: Arc<ProxyService>,
    pool: Arc<Pool>,
    member: Arc<Member>,
    listener: TcpListener,
}

/// Where workers listen; removed at the end.
struct Workers {
    dir: PathBuf,
    listener: UnixListener,
}

impl Workers {
    fn new() -> Workers {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pup-front-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let listener = UnixListener::bind(dir.join("worker.sock")).unwrap();
        Workers { dir, listener }
    }

    fn socket(&self) -> String {
        self.dir.join("worker.sock").to_str().unwrap().into()
    }

    /// The next connection, with the head of its first request read.
    async fn accept(&self) -> UnixStream {
        let accepted = tokio::time::timeout(LONG, self.listener.accept()).await.expect("a request comes in time");
        let mut stream = accepted.unwrap().0;
        read_head(&mut stream).await;
        stream
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn limits() -> Limits {
    Limits {
        head_bytes: 16 * 1024,
        head_timeout: LONG,
        keepalive_timeout: LONG,
        body_bytes: None,
        body_timeout: LONG,
        body_rate: 0,
        tunnel_idle_timeout: LONG,
        connections: 1000,
    }
}

impl Rig {
    async fn new(workers: &Workers) -> Rig {
        Rig::with(workers, limits()).await
    }

    async fn with(workers: &Workers, limits: Limits) -> Rig {
        let id = WorkerId { app: "app".into(), slot: Slot(0), incarnation: Incarnation(1) };
        let member = Arc::new(Member::new(id, None, workers.socket().into()));
        let pool = Arc::new(Pool::new("app".into(), Affinity::SocketIo, Balance::LeastLoaded, QueuePolicy::default()));
        pool.publish(vec![Seat { member: member.clone(), open: true }]).await;
        let app = App::new(pool.clone(), Protocol::Http1, LONG, LONG);
        let route = Route::to_app(None, "/", 0);
        let rules = Arc::new(ArcSwap::from_pointee(Rules::new(
            vec![app],
            Routes::new(vec![route], true),
            limits,
            // So that an answer is what its worker has said.
            Clients {
                forwarding: Forwarding { request_id: RequestIds::Off, ..Forwarding::default() },
                ..Clients::default()
            },
            Carrier::Own,
            LoopName::of(&[]),
        )));
        let front = Arc::new(ProxyService::new(rules, &Arc::default(), 10_000));
        Rig { front, pool, member, listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    /// A new client; the front serves the other end.
    async fn client(&self) -> TcpStream {
        self.client_of(&self.front).await
    }

    async fn client_of(&self, front: &Arc<ProxyService>) -> TcpStream {
        let (client, server, peer) = self.connect().await;
        Rig::serve(front, format::client(server, Some(peer)).unwrap());
        client
    }

    /// A new client over TLS whose connection has left rustls.
    async fn tls_client(&self) -> RecordStream<TcpStream> {
        let (client, server, peer) = self.connect().await;
        let [ours, theirs] = states();
        Rig::serve(&self.front, format::tls_client(server, Some(peer), &ours).unwrap());
        RecordStream::restore(client, &theirs).unwrap()
    }

    async fn connect(&self) -> (TcpStream, OwnedFd, SocketAddr) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
        let (server, peer) = self.listener.accept().await.unwrap();
        (client, server.into_std().unwrap().into(), peer)
    }

    fn serve(front: &Arc<ProxyService>, stream: Stream) {
        let front = front.clone();
        tokio::spawn(async move {
            let (_keep, never) = tokio::sync::watch::channel(false);
            front.process_new(stream, &never).await;
        });
    }

    /// A WebSocket between a client and a worker.
    async fn tunnel(&self, workers: &Workers) -> (TcpStream, UnixStream) {
        self.tunnel_of(self.client().await, workers).await
    }

    /// The same over TLS.
    async fn tls_tunnel(&self, workers: &Workers) -> (RecordStream<TcpStream>, UnixStream) {
        self.tunnel_of(self.tls_client().await, workers).await
    }

    async fn tunnel_of<C>(&self, mut client: C, workers: &Workers) -> (C, UnixStream)
    where
        C: AsyncReadExt + AsyncWriteExt + Unpin,
    {
        client.write_all(UPGRADE.as_bytes()).await.unwrap();
        let mut worker = workers.accept().await;
        worker.write_all(SWITCHING.as_bytes()).await.unwrap();
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        (client, worker)
    }

    fn open(&self) -> usize {
        self.front.connections().load(Ordering::Acquire)
    }
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Reads up to the empty line, and not a byte beyond.
async fn read_head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    };
    tokio::time::timeout(LONG, read).await.expect("a head comes in time");
    String::from_utf8(head).unwrap()
}

/// Waits for a condition.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LONG;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The end of a stream, and what came before it.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut rest = Vec::new();
    tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await.expect("the end comes in time").unwrap();
    rest
}
