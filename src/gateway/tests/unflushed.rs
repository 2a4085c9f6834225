//! A client's connection with a buffer of its own, as TLS has one, that does not let go of what it took.

use super::*;
use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Takes every write and never ends a flush.
#[derive(Debug)]
struct Unflushed(DuplexStream);

impl AsyncRead for Unflushed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Unflushed {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[async_trait]
impl Shutdown for Unflushed {
    async fn shutdown(&mut self) {}
}

impl UniqueID for Unflushed {
    fn id(&self) -> UniqueIDType {
        0
    }
}

impl Ssl for Unflushed {}
impl Peek for Unflushed {}

impl GetTimingDigest for Unflushed {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Unflushed {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Unflushed {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

/// Begins an answer with `begin` on such a connection; `body_timeout` later the connection must have ended.
async fn ends(begin: &str) {
    let workers = Workers::new();
    let rig = Rig::with(&workers, Limits { body_timeout: Duration::from_millis(100), ..limits() }).await;
    let (mut client, server) = tokio::io::duplex(1024);
    let front = rig.front.clone();
    let serving = tokio::spawn(async move {
        let (_keep, never) = tokio::sync::watch::channel(false);
        front.process_new(Box::new(Unflushed(server)), &never).await;
    });
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut worker = workers.accept().await;
    worker.write_all(begin.as_bytes()).await.unwrap();
    tokio::time::timeout(LONG, serving).await.expect("its end comes in time").unwrap();
    until("the worker to be free", || rig.member.load.active.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn an_answer_that_stays_in_a_buffer_is_cut_in_its_middle() {
    ends("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
}

#[tokio::test]
async fn an_answer_that_stays_in_a_buffer_is_cut_at_its_end() {
    ends("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
}
