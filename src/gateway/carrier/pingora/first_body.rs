//! The first part of a body, before a worker is taken: Pingora sends what it keeps for a retry along with the head.

use super::context::Ctx;
use crate::gateway::metrics::counters::Failure;
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::request::limits::{BodyWait, FIRST_BODY};
use crate::gateway::rules::Protocol;
use http::header::EXPECT;
use pingora_core::Result;
use pingora_proxy::Session;
use tokio::time::{Instant, timeout_at};

/// Waits for a short body whole, for a longer one's first piece.
///
/// # Errors
/// It did not come in time, or the client left.
pub(super) async fn take(session: &mut Session, length: Option<u64>, ctx: &mut Ctx) -> Result<()> {
    let Some((app, limits)) = ctx.app.as_ref().zip(ctx.limits) else { return Ok(()) };
    let expects_continue = session.req_header().headers.contains_key(EXPECT);
    // A server of gRPC may speak first.
    let may_wait = app.protocol == Protocol::Http2 && length.is_none();
    let downstream = session.as_downstream_mut();
    if expects_continue || may_wait || downstream.is_body_done() {
        return Ok(());
    }
    downstream.enable_retry_buffering();
    let is_short = length.is_some_and(|length| length <= FIRST_BODY as u64);
    let mut wait = BodyWait::default();
    let mut taken = 0;
    while !downstream.is_body_done() {
        let Ok(look) = wait.look(&limits, taken, Instant::now()) else {
            return Err(ctx.refuse(ErrorResponse::REQUEST_TIMEOUT, Failure::BadRequest));
        };
        let Ok(piece) = timeout_at(look, downstream.read_request_body()).await else { continue };
        let Some(piece) = piece.map_err(|error| error.into_down())? else { break };
        wait.moved();
        taken += piece.len() as u64;
        // One piece is what the buffer for a retry holds in any case.
        if taken > 0 && !is_short {
            break;
        }
    }
    Ok(())
}
