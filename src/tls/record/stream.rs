//! A record layer over a socket. No buffer is held while nothing waits.

use super::layer::{Fault, MAX_OVERHEAD, MAX_PLAINTEXT, MAX_RECORD, Opened, RecordLayer};
use super::state::{self, Buffers};
use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use zeroize::{Zeroize, Zeroizing};

/// A client's connection of which TLS's records are left.
///
/// Dropping it says nothing to the client: another process may have it.
pub(crate) struct RecordStream<S> {
    io: S,
    layer: RecordLayer,
    buffers: Buffers,
}

/// Nothing of the keys, nor of what passes.
impl<S> fmt::Debug for RecordStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordStream").field("layer", &self.layer).finish_non_exhaustive()
    }
}

/// Lends the thread's buffers for ciphertext, one to read into and one to write from. Others than those of the gateway, whose
/// reads come here while they hold theirs.
fn with_incoming<R>(use_it: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local! {
        static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_RECORD].into());
    }
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

fn with_outgoing<R>(use_it: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(MAX_PLAINTEXT + MAX_OVERHEAD));
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        use_it(buffer)
    })
}

impl<S> RecordStream<S> {
    pub(crate) fn new(io: S, layer: RecordLayer, buffers: Buffers) -> RecordStream<S> {
        RecordStream { io, layer, buffers }
    }

    /// Goes on from what [`RecordStream::save`] has written, over the same connection. Whoever does so must be the only one.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub(crate) fn restore(io: S, saved: &[u8]) -> Result<RecordStream<S>, String> {
        let (layer, buffers) = state::restore(saved)?;
        Ok(RecordStream { io, layer, buffers })
    }

    /// All that another process needs to go on with the connection. Nothing may be read or written here any more, unless
    /// no other ever will. `None`: a connection that cannot go on.
    pub(crate) fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        state::save(&self.layer, &self.buffers)
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.io
    }

    /// Sealed bytes wait that the client has not yet taken.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.buffers.unsent.is_empty()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RecordStream<S> {
    /// Ready when nothing sealed waits.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let unsent = &mut self.buffers.unsent;
        while !unsent.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, unsent))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            unsent.drain(..n);
        }
        if unsent.capacity() > 0 {
            *unsent = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what was just sealed; what the socket does not take now waits. Nothing may wait before it.
    fn send(&mut self, cx: &mut Context<'_>, sealed: &[u8]) -> io::Result<()> {
        let sent = match Pin::new(&mut self.io).poll_write(cx, sealed) {
            Poll::Ready(Ok(0)) if !sealed.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(sent) => sent?,
            Poll::Pending => 0,
        };
        if sent < sealed.len() {
            self.buffers.unsent.extend_from_slice(&sealed[sent..]);
        }
        Ok(())
    }

    /// Opens the records in the first `filled` bytes of `buffer` as long as `out` has room, and moves what is behind them to
    /// the front. Says whether there is something to give back: data, or the end.
    fn open(&mut self, buffer: &mut [u8], filled: &mut usize, out: &mut ReadBuf<'_>) -> Result<bool, Fault> {
        let (before, mut start) = (out.filled().len(), 0);
        let mut result = Ok(false);
        while out.remaining() > 0 {
            match self.layer.open(&mut buffer[start..*filled]) {
                Ok(Opened::Record { consumed, plaintext }) => {
                    let data = &mut buffer[start + plaintext.start..start + plaintext.end];
                    let (now, later) = data.split_at(data.len().min(out.remaining()));
                    out.put_slice(now);
                    self.buffers.plain.extend_from_slice(later);
                    data.zeroize();
                    start += consumed;
                }
                Ok(Opened::Partial) => break,
                Ok(Opened::Closed { consumed }) => {
                    start += consumed;
                    result = Ok(true);
                    break;
                }
                Err(fault) => {
                    result = Err(fault);
                    break;
                }
            }
        }
        buffer.copy_within(start..*filled, 0);
        *filled -= start;
        result.map(|done| done || out.filled().len() > before)
    }

    /// The next bytes of plaintext; none at the end.
    fn poll_open(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        with_incoming(|buffer| {
            // What waits is more than one record at most after rustls has left it.
            let waiting = self.buffers.incoming.len().min(buffer.len());
            buffer[..waiting].copy_from_slice(&self.buffers.incoming[..waiting]);
            self.buffers.incoming.drain(..waiting);
            let (before, mut filled) = (out.filled().len(), waiting);
            let result = loop {
                match self.open(buffer, &mut filled, out) {
                    Ok(true) => break Poll::Ready(Ok(())),
                    Ok(false) => {}
                    Err(fault) => {
                        let error = self.give_up(cx, fault);
                        // What came before it is good; the next read fails.
                        break Poll::Ready(if out.filled().len() > before { Ok(()) } else { Err(error) });
                    }
                }
                if !self.buffers.incoming.is_empty() {
                    let more = self.buffers.incoming.len().min(buffer.len() - filled);
                    buffer[filled..filled + more].copy_from_slice(&self.buffers.incoming[..more]);
                    self.buffers.incoming.drain(..more);
                    filled += more;
                    continue;
                }
                // A record is shorter than the buffer, so there is room.
                let mut read = ReadBuf::new(&mut buffer[filled..]);
                match Pin::new(&mut self.io).poll_read(cx, &mut read) {
                    Poll::Ready(Ok(())) if read.filled().is_empty() && filled > 0 => {
                        break Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    // Without a close_notify it is an end all the same: what a tunnel carries says itself where it ends.
                    Poll::Ready(Ok(())) if read.filled().is_empty() => break Poll::Ready(Ok(())),
                    Poll::Ready(Ok(())) => filled += read.filled().len(),
                    Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                    Poll::Pending => break Poll::Pending,
                }
            };
            self.keep(&buffer[..filled]);
            result
        })
    }

    /// Keeps what was read and not opened, before what was kept already.
    fn keep(&mut self, unopened: &[u8]) {
        let incoming = &mut self.buffers.incoming;
        if incoming.is_empty() {
            *incoming = unopened.to_vec();
        } else {
            incoming.splice(..0, unopened.iter().copied());
        }
    }

    /// Tells the client what is wrong, if it can be told at once.
    fn give_up(&mut self, cx: &mut Context<'_>, fault: Fault) -> io::Error {
        with_outgoing(|out| {
            self.layer.seal_alert(fault, out);
            if self.poll_unsent(cx).is_ready() && !out.is_empty() {
                // It breaks either way.
                let _ = self.send(cx, out);
            }
        });
        fault.into()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for RecordStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let plain = &mut this.buffers.plain;
        if !plain.is_empty() {
            let n = plain.len().min(out.remaining());
            out.put_slice(&plain[..n]);
            plain[..n].zeroize();
            match n == plain.len() {
                true => *plain = Vec::new(),
                false => drop(plain.drain(..n)),
            }
            return Poll::Ready(Ok(()));
        }
        this.poll_open(cx, out)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for RecordStream<S> {
    /// What is taken has been sealed, and goes out with the next write or flush if not now.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(cx))?;
        with_outgoing(|out| {
            let taken = this.layer.seal(data, out)?;
            this.send(cx, out)?;
            Poll::Ready(Ok(taken))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    /// Says close_notify, and closes this direction of the socket.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(cx))?;
        with_outgoing(|out| {
            this.layer.seal_close(out);
            match out.is_empty() {
                true => Ok(()),
                false => this.send(cx, out),
            }
        })?;
        ready!(this.poll_unsent(cx))?;
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[async_trait]
impl<S: IO> Shutdown for RecordStream<S> {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            log::debug!("a TLS connection was not closed: {error}");
        }
    }
}

impl<S: IO> UniqueID for RecordStream<S> {
    fn id(&self) -> UniqueIDType {
        self.io.id()
    }
}

impl<S: IO> Ssl for RecordStream<S> {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        Some(Arc::new(SslDigest::new(self.layer.suite().name(), "TLSv1.3", None, None, Vec::new())))
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(ALPN::H1)
    }
}

impl<S: IO> Peek for RecordStream<S> {}

impl<S: IO> GetTimingDigest for RecordStream<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.io.get_timing_digest()
    }
}

impl<S: IO> GetProxyDigest for RecordStream<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.io.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.io.set_proxy_digest(digest);
    }
}

impl<S: IO> GetSocketDigest for RecordStream<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.io.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.io.set_socket_digest(digest);
    }
}

#[cfg(test)]
impl<S> RecordStream<S> {
    pub(super) fn into_inner(self) -> S {
        self.io
    }

    /// Bytes of memory that it holds for what waits.
    pub(super) fn held(&self) -> usize {
        let Buffers { incoming, plain, unsent } = &self.buffers;
        incoming.capacity() + plain.capacity() + unsent.capacity()
    }
}
