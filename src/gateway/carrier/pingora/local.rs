//! Routes on Pingora's path: which one a request takes, what the proxy answers itself, and the path that a worker gets.

use super::context::{Ctx, HSTS};
use crate::gateway::local::answer::LocalAnswer;
use crate::gateway::local::decide;
use crate::gateway::metrics::counters::Failure;
use crate::gateway::request::error_pages::Reader;
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::request::request_id::{self, RequestId};
use crate::gateway::request::route_table::{Ambiguous, Asked};
use crate::gateway::rules::{App, Rules};
use http::header::STRICT_TRANSPORT_SECURITY;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_core::Result;
use pingora_proxy::Session;
use std::sync::Arc;

/// Bytes of a file that are given to Pingora at once.
const PIECE: usize = 64 << 10;

/// The host a request is for: `:authority` of HTTP/2, an absolute target's, or the `Host` header.
pub(super) fn host(request: &RequestHeader) -> &[u8] {
    if let Some(authority) = request.uri.authority() {
        return authority.as_str().as_bytes();
    }
    request.headers.get(http::header::HOST).map_or(b"", |host| host.as_bytes())
}

fn asked(request: &RequestHeader) -> Asked<'_, &HeaderMap> {
    Asked {
        host: host(request),
        target: request.raw_path(),
        method: request.method.as_str().as_bytes(),
        headers: &request.headers,
    }
}

/// Notes the route of a request, its limits and its app, which only a route that answers itself has not.
///
/// # Errors
/// There is no route, or not one alone.
pub(super) fn find(rules: Arc<Rules>, request: &RequestHeader, ctx: &mut Ctx) -> Result<Option<Arc<App>>> {
    let at = match rules.routes.find(&asked(request)) {
        Ok(Some(at)) => at,
        Ok(None) => return Err(ctx.refuse(ErrorResponse::NO_ROUTE, Failure::BadRequest)),
        Err(Ambiguous) => return Err(ctx.refuse(ErrorResponse::AMBIGUOUS_PATH, Failure::BadRequest)),
    };
    let route = rules.routes.get(at);
    if let Some(line) = &mut ctx.line {
        line.set_route(&route.name);
    }
    let app = rules.app_of(route).cloned();
    ctx.limits = Some(rules.request_limits(route, app.as_deref()));
    ctx.route = Some((rules.clone(), at));
    Ok(app)
}

/// Answers a request whose route does so itself; `false` where the app is asked, by the path that it is to get.
///
/// # Errors
/// The client has left, or nobody answers.
pub(super) async fn answer(session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
    let Some((rules, at)) = ctx.route.clone() else { return Ok(false) };
    let route = rules.routes.get(at);
    if !route.only_asks_the_app()
        && let Some(answer) = decide::answer(&rules, route, &asked(session.req_header()), false, &ctx.id()).await
    {
        // Nothing was asked of the app.
        ctx.app = None;
        ctx.note(|trace| trace.by_proxy_with(answer.status, "Answered by its route."));
        give(session, answer, &ctx.id()).await?;
        return Ok(true);
    }
    if let Some(rewritten) = route.rewritten(session.req_header().raw_path()) {
        ctx.prefix = Some(rewritten.prefix.to_owned()).filter(|prefix| !prefix.is_empty());
        if set_target(session.as_downstream_mut().req_header_mut(), &rewritten.target).is_none() {
            return Err(ctx.refuse(ErrorResponse::AMBIGUOUS_PATH, Failure::BadRequest));
        }
    }
    Ok(false)
}

/// Another path and query, with the authority that a request of HTTP/2 has in the same place.
fn set_target(request: &mut RequestHeader, target: &[u8]) -> Option<()> {
    let mut parts = request.uri.clone().into_parts();
    if parts.authority.is_none() {
        return request.set_raw_path(target).ok();
    }
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    request.set_uri(Uri::from_parts(parts).ok()?);
    Some(())
}

async fn give(session: &mut Session, mut answer: LocalAnswer, id: &RequestId) -> Result<()> {
    let mut head = ResponseHeader::build(answer.status, Some(answer.fields.len() + 2))?;
    for (name, value) in &answer.fields {
        head.append_header(*name, &value[..])?;
    }
    if !id.is_empty() {
        head.insert_header(request_id::FIELD, id.as_str())?;
    }
    if let Ok(Some(hsts)) = HSTS.try_with(|hsts| *hsts) {
        head.insert_header(STRICT_TRANSPORT_SECURITY, hsts.value())?;
    }
    let mut left = answer.content.len();
    if let Some(length) = left {
        head.insert_header(http::header::CONTENT_LENGTH, length)?;
    }
    if session.req_header().method == Method::HEAD {
        left = None;
    }
    if !session.as_downstream_mut().is_body_done() {
        // What still comes of the request is not read.
        session.as_downstream_mut().set_keepalive(None);
    }
    let mut left = left.unwrap_or(0);
    session.write_response_header(Box::new(head), left == 0).await?;
    while left > 0 {
        let piece = answer.content.next(PIECE).await.unwrap_or_default();
        if piece.is_empty() {
            return Err(pingora_core::Error::new_str("a file ended before its length"));
        }
        left = left.saturating_sub(piece.len() as u64);
        session.write_response_body(Some(piece), left == 0).await?;
    }
    Ok(())
}

/// Answers with an error in the form that the client asks for, after which an HTTP/1 connection ends.
///
/// # Errors
/// The client has left.
pub(super) async fn refuse(session: &mut Session, rules: &Rules, error: &ErrorResponse, id: &RequestId) -> Result<()> {
    let answer = LocalAnswer::error(error, &rules.error_pages, &Reader::of(&session.req_header().headers, id));
    session.as_downstream_mut().set_keepalive(None);
    give(session, answer, id).await
}
