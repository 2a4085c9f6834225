//! A client's connection over TLS, as Pingora's streams are.
//!
//! - Nothing is held while it waits: ciphertext is read into the thread's buffer and decrypted there. A part of a record, or
//!   plaintext that the reader has no room for, is kept until it is asked for again.
//! - What is written is encrypted at once and has its number then, so what the socket does not take is kept. A flush sends it;
//!   as long as something waits, nothing more is taken.
//! - The end of our side is a close_notify before the FIN. A FIN without one may be an attacker's: it is an error, not an end.

use super::peer::TlsPeer;
use super::record::convert::Conversion;
use super::record::state::{Buffers, MAX_INCOMING, MAX_PLAIN};
use super::record::stream::RecordStream;
use super::rules::ClientPolicyId;
use super::session::{Output, Received, Session, Sink};
use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use rustls::{Error, ServerConfig};
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Bytes read from the socket at once: one whole record.
const READ: usize = 16 * 1024 + 512;
/// The thread's buffer for what comes in: a message of a handshake, which may have 64 KiB, and one read.
const INCOMING: usize = 64 * 1024 + READ;
/// Plaintext that is encrypted at once.
const WRITE: usize = 32 * 1024;
/// The thread's buffer for what goes out. Each record has up to 64 bytes beside its plaintext.
const OUTGOING: usize = WRITE + 4 * 1024;

pub(crate) struct TlsStream {
    socket: L4Stream,
    session: Session,
    /// Received and not used up. `more`: a record in it may be whole.
    incoming: BytesMut,
    more: bool,
    /// Decrypted and not read, or put back.
    plain: BytesMut,
    /// Encrypted and not sent.
    outgoing: BytesMut,
    close_sent: bool,
    failed: Option<Fault>,
    peer: Option<Arc<TlsPeer>>,
}

/// Why a connection does not go on.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The client ended it without a close_notify.
    Truncated,
    Tls(Error),
    TooLarge,
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> io::Error {
        match fault {
            Fault::Truncated => io::Error::new(io::ErrorKind::UnexpectedEof, "the client left without a close_notify"),
            Fault::Tls(error) => io::Error::new(io::ErrorKind::InvalidData, error),
            Fault::TooLarge => io::Error::new(io::ErrorKind::InvalidData, "a TLS message is too large"),
        }
    }
}

/// The reader's room, and what it has no room for.
struct Reader<'a, 'b> {
    buffer: &'a mut ReadBuf<'b>,
    rest: &'a mut BytesMut,
}

impl Sink for Reader<'_, '_> {
    fn put(&mut self, plaintext: &[u8]) -> bool {
        let fits = if self.rest.is_empty() { self.buffer.remaining().min(plaintext.len()) } else { 0 };
        self.buffer.put_slice(&plaintext[..fits]);
        self.rest.extend_from_slice(&plaintext[fits..]);
        self.buffer.remaining() > 0
    }
}

fn with_incoming<R>(use_it: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local! {
        static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; INCOMING].into());
    }
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

fn with_outgoing<R>(use_it: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local! {
        static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; OUTGOING].into());
    }
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

impl TlsStream {
    /// At the begin of a handshake; `received` is what the client has said so far.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub(super) fn new(socket: L4Stream, config: Arc<ServerConfig>, received: BytesMut) -> Result<TlsStream, Error> {
        Ok(TlsStream {
            socket,
            session: Session::new(config)?,
            more: !received.is_empty(),
            incoming: received,
            plain: BytesMut::new(),
            outgoing: BytesMut::new(),
            close_sent: false,
            failed: None,
            peer: None,
        })
    }

    /// Goes on with the handshake until it is over.
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        loop {
            if self.more {
                self.decrypt_kept(&mut ReadBuf::new(&mut []));
            }
            let sent = self.poll_drain(cx);
            if let Some(fault) = &self.failed {
                return Poll::Ready(Err(fault.clone().into()));
            }
            if !self.session.is_handshaking() {
                return match sent {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    _ => Poll::Ready(Ok(())),
                };
            }
            ready!(sent)?;
            ready!(self.poll_decrypt(cx, &mut ReadBuf::new(&mut [])))?;
        }
    }

    /// Sends what waits, for as long as the socket takes it.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.outgoing))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.outgoing.advance(n),
            }
        }
        if self.outgoing.capacity() > 0 {
            self.outgoing = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Decrypts what was kept.
    fn decrypt_kept(&mut self, buffer: &mut ReadBuf<'_>) {
        let mut reader = Reader { buffer, rest: &mut self.plain };
        let received = self.session.receive(&mut self.incoming, &mut reader, &mut self.outgoing);
        let Received { used, more, failed } = received;
        self.incoming.advance(used);
        if self.incoming.is_empty() {
            self.incoming = BytesMut::new();
        }
        self.more = more;
        self.failed = failed.map(Fault::Tls);
    }

    /// Reads from the socket once, and decrypts what is there. What has no room in `buffer` is kept.
    fn poll_decrypt(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        with_incoming(|room| {
            let kept = self.incoming.len();
            let Some(free) = room.get_mut(kept..).filter(|free| !free.is_empty()) else {
                self.failed = Some(Fault::TooLarge);
                return Poll::Ready(Ok(()));
            };
            let most = free.len().min(READ);
            let mut read = ReadBuf::new(&mut free[..most]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
            let fresh = read.filled().len();
            if fresh == 0 {
                self.failed = Some(Fault::Truncated);
                return Poll::Ready(Ok(()));
            }
            room[..kept].copy_from_slice(&self.incoming);
            let all = &mut room[..kept + fresh];
            let mut reader = Reader { buffer, rest: &mut self.plain };
            let Received { used, more, failed } = self.session.receive(all, &mut reader, &mut self.outgoing);
            self.more = more;
            self.failed = failed.map(Fault::Tls);
            if used == all.len() {
                self.incoming = BytesMut::new();
            } else {
                self.incoming.clear();
                self.incoming.extend_from_slice(&all[used..]);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Puts bytes back in front of what is to be read.
    pub(crate) fn rewind(&mut self, plaintext: &[u8]) {
        let behind = std::mem::take(&mut self.plain);
        self.plain.reserve(plaintext.len() + behind.len());
        self.plain.extend_from_slice(plaintext);
        self.plain.extend_from_slice(&behind);
    }

    /// Bytes that it has allocated for what waits.
    #[cfg(test)]
    pub(in crate::tls) fn held(&self) -> usize {
        self.incoming.capacity() + self.plain.capacity() + self.outgoing.capacity()
    }

    /// For a tunnel: of TLS 1.3 nothing is needed any more but its records. Gives back what cannot leave rustls.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) fn into_records(self) -> io::Result<Result<RecordStream<L4Stream>, TlsStream>> {
        let fits = self.incoming.len() <= MAX_INCOMING && self.plain.len() <= MAX_PLAIN;
        if !fits || self.close_sent || self.failed.is_some() || self.session.is_handshaking() {
            return Ok(Err(self));
        }
        let TlsStream { socket, session, incoming, more, plain, mut outgoing, close_sent, failed, peer } = self;
        match session.into_records() {
            Conversion::Converted(layer, unsent) => {
                outgoing.extend_from_slice(&unsent);
                let buffers = Buffers { incoming: incoming.into(), plain: plain.into(), unsent: outgoing.into() };
                Ok(Ok(RecordStream::new(socket, *layer, buffers)))
            }
            Conversion::Stays(session, unsent) => {
                outgoing.extend_from_slice(&unsent);
                Ok(Err(TlsStream { socket, session, incoming, more, plain, outgoing, close_sent, failed, peer }))
            }
            Conversion::Broken(why) => Err(io::Error::other(why)),
        }
    }

    /// The connection below.
    pub(crate) fn socket(&self) -> &L4Stream {
        &self.socket
    }

    /// At the end of the handshake, where a host of the listener asks for certificates.
    pub(super) fn let_in(&mut self, asked: Option<ClientPolicyId>) {
        self.peer = asked.map(|policy| TlsPeer::new(policy, self.session.peer_certificates()));
    }

    /// Who the client is; `None` where no host of the listener asked for certificates.
    pub(crate) fn peer(&self) -> Option<&Arc<TlsPeer>> {
        self.peer.as_ref()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if !this.plain.is_empty() {
                let n = this.plain.len().min(buffer.remaining());
                buffer.put_slice(&this.plain[..n]);
                this.plain.advance(n);
                if this.plain.is_empty() {
                    this.plain = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if this.more {
                this.decrypt_kept(buffer);
            } else if this.session.peer_closed() {
                return Poll::Ready(Ok(()));
            } else if let Some(fault) = &this.failed {
                return Poll::Ready(Err(fault.clone().into()));
            } else {
                ready!(this.poll_decrypt(cx, buffer))?;
            }
            if !this.outgoing.is_empty()
                && let Poll::Ready(Err(error)) = this.poll_drain(cx)
            {
                return Poll::Ready(Err(error));
            }
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if let Some(fault @ (Fault::Tls(_) | Fault::TooLarge)) = &this.failed {
            return Poll::Ready(Err(fault.clone().into()));
        }
        if this.close_sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let data = &data[..data.len().min(WRITE)];
        with_outgoing(|room| {
            let mut out = Output::new(room);
            if let Err(error) = this.session.seal(&mut this.incoming, &mut this.plain, data, &mut out) {
                let fault = Fault::Tls(error);
                this.failed = Some(fault.clone());
                return Poll::Ready(Err(fault.into()));
            }
            let (sealed, over) = out.finish();
            let mut sent = 0;
            while sent < sealed.len() {
                match Pin::new(&mut this.socket).poll_write(cx, &sealed[sent..]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(n)) => sent += n,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            if sent < sealed.len() || !over.is_empty() {
                this.outgoing.extend_from_slice(&sealed[sent..]);
                this.outgoing.extend_from_slice(&over);
            }
            Poll::Ready(Ok(data.len()))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.close_sent && !matches!(this.failed, Some(Fault::Tls(_))) {
            let mut room = [0; 256];
            let mut out = Output::new(&mut room);
            let closed = this.session.seal_close(&mut this.incoming, &mut this.plain, &mut out);
            let (sealed, over) = out.finish();
            if closed.is_ok() {
                this.outgoing.extend_from_slice(sealed);
                this.outgoing.extend_from_slice(&over);
            }
        }
        this.close_sent = true;
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl fmt::Debug for TlsStream {
    /// Of the socket alone: what else it holds are keys and clients' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("socket", &self.socket.id()).finish_non_exhaustive()
    }
}

impl Ssl for TlsStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        let (cipher, version) = self.session.names();
        Some(Arc::new(SslDigest::new(cipher, version, None, None, Vec::new())))
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match self.session.has_alpn() {
            true if self.session.is_http2() => Some(ALPN::H2),
            true => Some(ALPN::H1),
            false => None,
        }
    }
}

#[async_trait]
impl Shutdown for TlsStream {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            log::debug!("a TLS connection ends without a close_notify: {error}");
        }
    }
}

#[async_trait]
impl Peek for TlsStream {}

impl UniqueID for TlsStream {
    fn id(&self) -> UniqueIDType {
        self.socket.id()
    }
}

impl GetTimingDigest for TlsStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.socket.get_timing_digest()
    }
}

impl GetProxyDigest for TlsStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.socket.get_proxy_digest()
    }
}

impl GetSocketDigest for TlsStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.socket.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.socket.set_socket_digest(digest);
    }
}
