//! A stream whose worker speaks HTTP/2, too: another carrier serves it, as a session. What is due to the client stays
//! here: its resets, the limits of both bodies, the room of its connection, and how the stream ends.

use super::answer::Answer;
use super::refusal::refuse;
use super::session::Session;
use super::shared::{Shared, StreamEnd};
use super::watch::{End, Overdue, SharedWatch, Watch};
use crate::gateway::downstream::client_tls::ClientTls;
use crate::gateway::request::client::RequestClient;
use crate::gateway::request::error_pages::Reader;
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::request::limits::RequestLimits;
use h2::{Reason, RecvStream};
use http::request::Parts;
use pingora_core::protocols::http::ServerSession;
use std::task::Poll;

/// Serves one request, whose head has been checked.
pub(super) async fn serve(
    shared: &Shared,
    client: RequestClient,
    limits: RequestLimits,
    parts: Parts,
    body: RecvStream,
    answer: Answer,
) -> StreamEnd {
    let is_head = parts.method == http::Method::HEAD;
    let wanted = Reader::of(&parts.headers, &client.id).wanted;
    let has_length = parts.headers.contains_key(http::header::CONTENT_LENGTH);
    let watch = SharedWatch::new(Watch::new(answer, limits, has_length, body.is_end_stream()));
    let session = Session::new(parts, body, watch.clone(), shared.digest.clone());
    let carried = shared.peers.carry(ServerSession::new_custom(Box::new(session)), client);
    let mut carried = Box::pin(ClientTls::scope(shared.tls.clone(), carried));
    let end = std::future::poll_fn(|cx| match carried.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => watch.lock().poll(cx).map(Some),
    })
    .await;
    drop(carried);
    let is_open = |answer: &Answer| !answer.has_ended() && !answer.was_reset();
    if is_open(&watch.lock().answer) {
        // A reset discards what is still to be written: the connection's task writes first.
        tokio::task::yield_now().await;
    }
    let answer = &mut watch.lock().answer;
    let rules = shared.rules.load();
    let (pages, reader) = (&rules.error_pages, Reader { wanted, request_id: client.id.as_str() });
    match end {
        _ if !is_open(answer) => {}
        Some(End::Overdue(Overdue::Worker)) if !answer.has_begun() => {
            refuse(answer, ErrorResponse::NO_ANSWER, pages, &reader, is_head);
        }
        Some(End::Overdue(Overdue::Request)) if !answer.has_begun() => {
            refuse(answer, ErrorResponse::REQUEST_TIMEOUT, pages, &reader, is_head);
        }
        // The client must see that its answer is not whole.
        _ => answer.reset(Reason::INTERNAL_ERROR),
    }
    StreamEnd { was_reset: answer.was_reset() }
}
