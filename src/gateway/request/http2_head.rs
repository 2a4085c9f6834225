//! Heads of HTTP/2 requests, held to the rules of HTTP/1.

use super::fields::{FieldRule, request_field};
use crate::gateway::http1::{Body, Method, Reject, fields, head};
use http::header::{HeaderMap, HeaderValue};

/// A checked HTTP/2 request: see [`check_http2`].
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct Http2Request<'a> {
    pub(in crate::gateway) method: &'a http::Method,
    /// Path and query, or `*`.
    pub(in crate::gateway) target: &'a [u8],
    pub(in crate::gateway) host: &'a [u8],
    pub(in crate::gateway) fields: &'a HeaderMap,
    pub(in crate::gateway) body: Body,
    pub(in crate::gateway) expect_continue: bool,
}

/// Holds an HTTP/2 request's head to the rules of an HTTP/1 one. What HTTP/2 itself forbids has been refused before.
///
/// # Errors
/// The status and reason to refuse it with.
pub(in crate::gateway) fn check_http2<'a>(
    parts: &'a http::request::Parts,
    ends: bool,
    limits: &head::Limits,
) -> Result<Http2Request<'a>, Reject> {
    let reject = |status, reason| Err(Reject { status, reason });
    if parts.method == http::Method::CONNECT {
        return reject(501, "CONNECT is not served");
    }
    let target = parts.uri.path_and_query().map_or("", |path| path.as_str()).as_bytes();
    head::check_target(target, &Method::of(parts.method.as_str().as_bytes()))?;
    if target.len() > limits.request_line {
        return reject(414, "the request line is too long");
    }
    // A client may send each cookie as a field of its own (RFC 9113, section 8.2.3).
    let cookies = parts.headers.get_all(http::header::COOKIE).iter().count();
    if parts.headers.len() - cookies.saturating_sub(1) > limits.fields {
        return reject(431, "too many request header fields");
    }
    let size: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size + target.len() > limits.total {
        return reject(431, "the request head is too long");
    }
    let mut hosts = parts.headers.get_all(http::header::HOST).iter();
    let named = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return reject(400, "more than one Host");
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = match (authority, named) {
        (Some(authority), Some(named)) if !authority.eq_ignore_ascii_case(named) => {
            return reject(400, "Host and request target name different hosts");
        }
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) => return reject(400, "no Host"),
    };
    if !head::is_authority(host) {
        return reject(400, "a malformed Host");
    }
    let body = http2_body(&parts.headers, ends)?;
    for name in parts.headers.keys() {
        if request_field(name.as_str().as_bytes()) == FieldRule::Framing {
            return reject(400, "a field name that servers read as one that frames the message");
        }
    }
    let expect_continue = match parts.headers.get(http::header::EXPECT) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            return reject(417, "an Expect other than 100-continue");
        }
        expect => expect.is_some(),
    };
    Ok(Http2Request { method: &parts.method, target, host, fields: &parts.headers, body, expect_continue })
}

/// How the worker gets the body: a request whose stream ends with its head has none, whatever its length says.
fn http2_body(fields: &HeaderMap, ends: bool) -> Result<Body, Reject> {
    let reject = |reason| Err(Reject { status: 400, reason });
    let mut lengths = fields.get_all(http::header::CONTENT_LENGTH).iter();
    let length = match lengths.next() {
        None => None,
        Some(value) => match fields::content_length(value.as_bytes()) {
            None => return reject("a malformed Content-Length"),
            length => length,
        },
    };
    if lengths.next().is_some() {
        return reject("more than one Content-Length");
    }
    match (length, ends) {
        (Some(0), _) => Ok(Body::Length(0)),
        (Some(_), true) => reject("a Content-Length without a body"),
        (Some(length), false) => Ok(Body::Length(length)),
        (None, true) => Ok(Body::None),
        (None, false) => Ok(Body::Chunked),
    }
}
