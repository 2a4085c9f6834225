//! A stream of this carrier as a session of Pingora's.

use super::watch::{Overdue, SessionFault, SharedWatch};
use crate::gateway::exchange::session_carrier::NO_RESPONSE;
use crate::gateway::request::fields::passes_as_trailer;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::body_buffer::FixedBuffer;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server;
use pingora_core::protocols::http::v1::client::http_req_header_to_wire;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType, Result};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a request's body that can be sent to another worker.
const RETRY_BUFFER: usize = 64 * 1024;

/// What Pingora reads a message of a worker's with, where the client gives them.
type MessageReader = Box<dyn futures_util::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

pub(super) struct Session {
    request: RequestHeader,
    body: RecvStream,
    watch: SharedWatch,
    digest: Arc<Digest>,
    /// The head of the final answer.
    written: Option<Box<ResponseHeader>>,
    retry_buffer: Option<FixedBuffer>,
    /// What is in it is to be read once more, by the next try. Pingora would send it in one piece, and give up if the
    /// worker takes no more of it: also when that has answered already. What it reads may fail to be sent.
    reads_again: bool,
    /// The client waits for a word before it sends the body.
    expects_continue: bool,
    is_head: bool,
    timeouts: Timeouts,
}

/// Pingora's own. The limits of every request hold without.
#[derive(Default)]
struct Timeouts {
    read: Option<Duration>,
    write: Option<Duration>,
    drain: Option<Duration>,
}

impl Session {
    pub(super) fn new(parts: Parts, body: RecvStream, watch: SharedWatch, digest: Arc<Digest>) -> Session {
        Session {
            expects_continue: parts.headers.contains_key(EXPECT),
            is_head: parts.method == http::Method::HEAD,
            request: parts.into(),
            body,
            watch,
            digest,
            written: None,
            retry_buffer: None,
            reads_again: false,
            timeouts: Timeouts::default(),
        }
    }

    /// What was read of the body so far, if all of that is here.
    fn kept(&self) -> Option<Bytes> {
        self.retry_buffer.as_ref().filter(|buffer| !buffer.is_truncated())?.get_buffer()
    }

    fn has_ended(&self) -> bool {
        self.watch.lock().answer.has_ended()
    }

    fn has_no_body(&self) -> bool {
        let has_none = || self.request.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0");
        self.watch.lock().taken() == 0 && (self.body.is_end_stream() || has_none())
    }

    /// Answers in the worker's name, whose own word Pingora drops.
    fn go_on(&mut self) {
        let mut watch = self.watch.lock();
        if std::mem::take(&mut self.expects_continue) && !watch.answer.has_begun() {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::CONTINUE;
            watch.answer.inform(response);
        }
    }

    fn begin(&mut self, mut head: Box<ResponseHeader>, ends: bool) -> Result<()> {
        if self.has_ended() || self.written.is_some() {
            return Ok(());
        }
        // HTTP/2 has no such fields (RFC 9113, section 8.2.2); Pingora adds one of them for HTTP/1.
        head.remove_header(&TRANSFER_ENCODING);
        head.remove_header(&CONNECTION);
        head.remove_header(&UPGRADE);
        head.remove_header("keep-alive");
        head.remove_header("proxy-connection");
        let response = Response::from_parts(head.as_owned_parts(), ());
        let mut watch = self.watch.lock();
        if head.status.is_informational() {
            watch.answer.inform(response);
            return Ok(());
        }
        watch.answer.begin(response, ends).map_err(|_| explain(SessionFault::Gone))?;
        drop(watch);
        self.written = Some(head);
        Ok(())
    }

    async fn send(&mut self, content: Bytes, ends: bool) -> Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        if self.written.is_none() {
            return Error::e_explain(ErrorType::H2Error, "a body before its head");
        }
        let mut content = if self.is_head { BytesMut::new() } else { BytesMut::from(content) };
        let watch = &self.watch;
        poll_fn(|cx| watch.lock().poll_write(cx, &mut content, ends)).await.map_err(explain)
    }

    fn end(&mut self, mut trailers: HeaderMap) -> Result<()> {
        let refused: Vec<_> = trailers
            .iter()
            .filter(|(name, value)| !passes_as_trailer(name.as_str().as_bytes(), value.as_bytes()))
            .map(|(name, _)| name.clone())
            .collect();
        refused.iter().for_each(|name| drop(trailers.remove(name)));
        self.watch.lock().answer.end(trailers).map_err(|_| explain(SessionFault::Gone))
    }

    fn reset(&mut self) {
        let mut watch = self.watch.lock();
        if !watch.answer.has_ended() {
            watch.answer.reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}

/// What a fault means to Pingora; that it is the client's side, it adds itself.
fn explain(fault: SessionFault) -> Box<Error> {
    match fault {
        SessionFault::Gone => Error::explain(ErrorType::ConnectionClosed, "the client has reset the stream"),
        SessionFault::Overdue(Overdue::Request) => Error::explain(ErrorType::ReadTimedout, "the request's body"),
        SessionFault::Overdue(Overdue::Answer) => Error::explain(ErrorType::WriteTimedout, "the answer's body"),
        SessionFault::Overdue(Overdue::Worker) => Error::new(ErrorType::Custom(NO_RESPONSE)),
    }
}

#[async_trait]
impl server::Session for Session {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        if std::mem::take(&mut self.reads_again) {
            return Ok(self.kept());
        }
        let (watch, body) = (&self.watch, &mut self.body);
        let content = poll_fn(|cx| watch.lock().poll_read(cx, body)).await.map_err(explain)?;
        if let (Some(content), Some(buffer)) = (&content, &mut self.retry_buffer) {
            buffer.write_to_buffer(content);
        }
        Ok(content)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        // What is not read is given up with the stream.
        Ok(())
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, ends: bool) -> Result<()> {
        self.begin(head, ends)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, ends: bool) -> Result<()> {
        self.begin(Box::new(head.clone()), ends)
    }

    async fn write_body(&mut self, content: Bytes, ends: bool) -> Result<()> {
        self.send(content, ends).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.end(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut has_ended = false;
        for task in tasks {
            has_ended |= match task {
                HttpTask::Header(head, ends) => {
                    self.begin(head, ends).map_err(Error::into_down)?;
                    ends
                }
                HttpTask::Body(content, ends) => {
                    if let Some(content) = content.filter(|content| !content.is_empty()) {
                        self.send(content, ends).await.map_err(Error::into_down)?;
                    }
                    ends
                }
                HttpTask::UpgradedBody(..) => {
                    return Error::e_explain(ErrorType::InternalError, "no stream is upgraded");
                }
                HttpTask::Trailer(trailers) => {
                    self.end(trailers.map(|trailers| *trailers).unwrap_or_default()).map_err(Error::into_down)?;
                    true
                }
                HttpTask::Done => true,
                HttpTask::Failed(error) => return Err(error),
            };
        }
        if has_ended {
            self.end(HeaderMap::new()).map_err(Error::into_down)?;
        }
        Ok(has_ended)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.timeouts.read = timeout;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.timeouts.read
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.timeouts.write = timeout;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.timeouts.write
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.timeouts.drain = timeout;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.timeouts.drain
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.request.method, self.request.uri.path())
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        self.reset();
    }

    async fn abandon(&mut self, _ctx: &str) {
        self.reset();
    }

    fn is_body_done(&mut self) -> bool {
        !self.reads_again && (self.has_no_body() || self.body.is_end_stream())
    }

    async fn finish(&mut self) -> Result<()> {
        // Without a head there is nothing to end: the stream's task resets it.
        self.end(HeaderMap::new())
    }

    fn is_body_empty(&mut self) -> bool {
        self.has_no_body()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.is_body_done() {
            let watch = &self.watch;
            return Err(explain(poll_fn(|cx| watch.lock().poll_gone(cx)).await));
        }
        self.go_on();
        self.read_body_bytes().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.watch.lock().answer.sent() as usize
    }

    fn body_bytes_read(&self) -> usize {
        self.watch.lock().taken() as usize
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Arc::get_mut(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.peer_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.local_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        http_req_header_to_wire(&self.request).map(BytesMut::freeze).unwrap_or_default()
    }

    /// Pingora asks for it before each try.
    fn enable_retry_buffering(&mut self) {
        self.retry_buffer.get_or_insert_with(|| FixedBuffer::new(RETRY_BUFFER));
        self.reads_again = self.kept().is_some();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.retry_buffer.as_ref().is_some_and(FixedBuffer::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        // Pingora asks for it as soon as a worker has the head.
        self.watch.lock().note_asked();
        None
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<MessageReader> {
        None
    }

    fn restore_custom_message_reader(&mut self, _reader: MessageReader) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
