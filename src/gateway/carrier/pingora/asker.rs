//! Who asks, of a request that Pingora carries, and what that client may have.

use super::context::Ctx;
use crate::gateway::downstream::connections::ConnectionRegistry;
use crate::gateway::exchange::{admission, upload_share};
use crate::gateway::metrics::counters::{ClientRefusal, Failure};
use crate::gateway::request::client::{ClientInfo, RequestClient};
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::request::forwarding::Forwarding;
use crate::gateway::rules::{App, Rules, SharedRules};
use pingora_core::Result;
use pingora_core::protocols::http::ServerSession;
use pingora_proxy::Session;

pub(super) fn of(session: &Session, forwarding: &Forwarding) -> RequestClient {
    let ip = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
    let downstream: &ServerSession = session.as_downstream();
    let secure = downstream.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    RequestClient::of(forwarding, ClientInfo { ip, secure, hsts: None }, &session.req_header().headers)
}

/// Counts a request of a connection that Pingora itself has. Elsewhere that is done before.
///
/// # Errors
/// The client has as much as it may.
pub(super) fn count(registry: &ConnectionRegistry, rules: &Rules, client: &RequestClient, ctx: &mut Ctx) -> Result<()> {
    let place = admission::request(rules, registry, client);
    ctx.place = place.map_err(|response| ctx.refuse(response, Failure::BadRequest))?;
    Ok(())
}

/// Takes a place among the uploads of the client's address, for a body that will hold a worker until it has come.
///
/// # Errors
/// None came free in time.
pub(super) async fn take_upload(
    registry: &ConnectionRegistry,
    rules: &SharedRules,
    session: &mut Session,
    ctx: &mut Ctx,
    app: &App,
) -> Result<()> {
    if ctx.upload.is_some() || !upload_share::is_limited(app) || session.as_downstream_mut().is_body_done() {
        return Ok(());
    }
    let client = ctx.client.and_then(|client| client.limited(&rules.load().clients.forwarding));
    let Some(ip) = client else { return Ok(()) };
    ctx.upload = upload_share::take(app, ip).await;
    if ctx.upload.is_none() {
        registry.clients().refuse(ClientRefusal::Uploads);
        return Err(ctx.refuse(ErrorResponse::too_many(1), Failure::BadRequest));
    }
    Ok(())
}
