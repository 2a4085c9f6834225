//! A client's connection between two requests.

use super::client_tls::ClientTls;
use super::connections::{ConnectionGuard, Directive};
use super::deadline::Deadline;
use super::scratch::with_scratch;
use crate::gateway::migration::format;
use crate::gateway::request::client::ClientInfo;
use crate::tls::stream::TlsStream;
use bytes::BytesMut;
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};

/// Reading ahead of the running request (pipelining) stops here, in bytes.
pub(in crate::gateway) const READ_AHEAD_LIMIT: usize = 64 * 1024;
/// A connection that was just accepted gets this long to send its first byte when idle connections end.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_millis(200);

pub(in crate::gateway) struct Connection {
    pub(in crate::gateway) client: ClientInfo,
    pub(in crate::gateway) stream: Stream,
    /// Read and not yet used.
    pub(in crate::gateway) read_ahead: BytesMut,
    /// For every deadline of the connection.
    pub(in crate::gateway) deadline: Deadline,
    /// For the first request of a connection that is to end.
    first_request: Deadline,
    /// Left of a wait for the next request's head that another process began, or that stopped for a move.
    pub(in crate::gateway) head_wait_left: Option<Duration>,
    pub(in crate::gateway) guard: ConnectionGuard,
    /// Its first bytes are still to come and may be those of HTTP/2.
    pub(in crate::gateway) may_be_http2: bool,
    /// Of a connection over TLS.
    pub(in crate::gateway) tls: Option<ClientTls>,
}

/// What a wait for more of a request came to.
pub(in crate::gateway) enum Waited {
    Read(io::Result<usize>),
    /// The limit has passed, or the connection is to end.
    TimedOut,
    /// The connection is to go to another process.
    Migrate,
}

impl Connection {
    pub(in crate::gateway) fn new(client: ClientInfo, stream: Stream, mut guard: ConnectionGuard) -> Connection {
        guard.set_movable(format::plain(&stream).is_some());
        Connection {
            client,
            stream,
            read_ahead: BytesMut::new(),
            deadline: Deadline::default(),
            first_request: Deadline::default(),
            head_wait_left: None,
            guard,
            may_be_http2: false,
            tls: None,
        }
    }

    /// The same with what was read ahead put back in front of its stream, for a reader that knows no more than that.
    /// `None` where the stream cannot take it back, which those of listeners can.
    pub(in crate::gateway) fn rewound(self) -> Option<Connection> {
        if self.read_ahead.is_empty() {
            return Some(self);
        }
        let stream: Stream = if (*self.stream).as_any().is::<TlsStream>() {
            let mut stream = self.stream.into_any().downcast::<TlsStream>().ok()?;
            stream.rewind(&self.read_ahead);
            stream
        } else {
            let mut stream = self.stream.into_any().downcast::<L4Stream>().ok()?;
            stream.rewind(&self.read_ahead);
            stream
        };
        Some(Connection { stream, read_ahead: BytesMut::new(), ..self })
    }

    /// Reads more from the client. An idle connection holds no buffer: bytes land in the thread's scratch first.
    /// Ready with how many came, 0 at the end of the stream.
    pub(in crate::gateway) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        fill(&mut self.stream, &mut self.read_ahead, cx)
    }

    /// More of the next request, or why it is not waited for any longer. `begun` says that its first byte has come.
    pub(in crate::gateway) fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        limit: Duration,
        begun: bool,
        first: bool,
    ) -> Poll<Waited> {
        self.guard.watch(cx);
        if let Poll::Ready(read) = self.poll_fill(cx) {
            return Poll::Ready(Waited::Read(read));
        }
        match self.guard.directive() {
            Directive::Migrate => return Poll::Ready(Waited::Migrate),
            // A connection accepted a moment ago still gets some time to send its first byte.
            Directive::Drain if !begun && (!first || self.first_request.poll(cx, FIRST_REQUEST_TIMEOUT).is_ready()) => {
                return Poll::Ready(Waited::TimedOut);
            }
            _ => {}
        }
        self.deadline.poll(cx, limit).map(|()| Waited::TimedOut)
    }
}

/// Reads what is there into `buffer`, by way of the thread's scratch.
pub(in crate::gateway) fn fill(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    with_scratch(|scratch| {
        let mut read = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut read))?;
        buffer.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
}

/// Who is at the other end of a stream.
pub(in crate::gateway) fn client_of(stream: &Stream) -> ClientInfo {
    let digest = stream.get_socket_digest();
    let peer = digest.as_ref().and_then(|digest| digest.peer_addr());
    let ip = peer.and_then(|addr| addr.as_inet()).map(|addr| addr.ip());
    ClientInfo { ip, secure: stream.get_ssl_digest().is_some(), hsts: None }
}
