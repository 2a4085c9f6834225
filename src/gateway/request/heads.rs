//! Heads on their way through, in both directions and for every carrier: how a head is written.

use super::client::RequestClient;
use super::fields::{self, FieldRule, is_nominated, response_field_passes};
use super::forwarded::Forwarded;
use super::forwarding::Forwarding;
use super::hsts::Hsts;
use super::http2_head::Http2Request;
use super::passes::{self, LoopName};
use super::plan::RawHeaders;
use super::request_id::{self, RequestId};
use super::route::Rewritten;
use crate::gateway::http1::head::Head;
use crate::gateway::http1::{Body, Version, response};
use bytes::BytesMut;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Appends one field line.
pub(in crate::gateway) fn push_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The host that an HTTP/1 request is for; empty where an old client names none.
pub(in crate::gateway) fn host<'a>(head: &Head, buf: &'a [u8]) -> &'a [u8] {
    head.host.map_or(b"", |host| host.of(buf))
}

/// A request's head as the worker gets it.
pub(in crate::gateway) struct WorkerHead {
    pub(in crate::gateway) bytes: BytesMut,
    /// How often the request has come through this proxy before.
    pub(in crate::gateway) passes: usize,
}

/// What the worker is asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct RequestLine<'a> {
    /// Path and query.
    path: &'a [u8],
    /// What a route has taken off the path; empty for nothing.
    prefix: &'a [u8],
}

impl<'a> RequestLine<'a> {
    pub(in crate::gateway) fn as_asked(path: &'a [u8]) -> RequestLine<'a> {
        RequestLine { path, prefix: b"" }
    }

    pub(in crate::gateway) fn of(rewritten: &'a Rewritten<'_>) -> RequestLine<'a> {
        RequestLine { path: &rewritten.target, prefix: rewritten.prefix.as_bytes() }
    }
}

/// An HTTP/1 request's head as the worker gets it.
pub(in crate::gateway) fn request_from_http1(
    head: &Head,
    buf: &[u8],
    line: RequestLine<'_>,
    client: &RequestClient,
    forwarding: &Forwarding,
    own: &LoopName,
) -> WorkerHead {
    let forwarded = Forwarded::of(client, forwarding, host(head, buf), &RawHeaders { head, buf });
    let mut passes = 0;
    let mut out = BytesMut::with_capacity(head.len + 320);
    out.extend_from_slice(head.method_name.of(buf));
    out.extend_from_slice(b" ");
    let RequestLine { path, prefix } = line;
    if !path.starts_with(b"/") && path != b"*" {
        out.extend_from_slice(b"/");
    }
    out.extend_from_slice(path);
    out.extend_from_slice(match head.version {
        Version::Http11 => b" HTTP/1.1\r\n",
        // So the worker frames its answer as such a client understands it.
        Version::Http10 => b" HTTP/1.0\r\n",
    });
    for (name, value) in head.headers(buf) {
        let passes_on = match fields::rule(name, forwarding) {
            FieldRule::Passes => {
                passes += own.count(value);
                true
            }
            FieldRule::Pass => {
                let connection = head.headers(buf).all("connection");
                !forwarded.replaces(name) && !is_nominated(head.nominates, connection, name)
            }
            _ => false,
        };
        if passes_on {
            push_field(&mut out, name, value);
        }
    }
    if head.websocket {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    push_prefix(&mut out, prefix);
    finish(&mut out, &forwarded, own);
    WorkerHead { bytes: out, passes }
}

/// Tells what a route has taken off the path.
fn push_prefix(out: &mut BytesMut, prefix: &[u8]) {
    if !prefix.is_empty() {
        push_field(out, FORWARDED_PREFIX.as_bytes(), prefix);
    }
}

/// The fields that end every request's head.
fn finish(out: &mut BytesMut, forwarded: &Forwarded<'_>, own: &LoopName) {
    forwarded.headers(|name, value| push_field(out, name.as_bytes(), value));
    push_field(out, b"CDN-Loop", own.as_str().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Tells a worker what a route has taken off the path.
pub(in crate::gateway) const FORWARDED_PREFIX: &str = "X-Forwarded-Prefix";

/// An HTTP/2 request's head as an HTTP/1 worker gets it. Cookie fields become one (RFC 9113, section 8.2.3).
pub(in crate::gateway) fn request_from_http2(
    request: &Http2Request<'_>,
    line: RequestLine<'_>,
    client: &RequestClient,
    forwarding: &Forwarding,
    own: &LoopName,
) -> WorkerHead {
    let forwarded = Forwarded::of(client, forwarding, request.host, &request.fields);
    let mut out = BytesMut::with_capacity(512);
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(line.path);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    push_field(&mut out, b"Host", request.host);
    for (name, value) in request.fields {
        let skipped = *name == http::header::HOST || *name == http::header::COOKIE;
        let name = name.as_str().as_bytes();
        let passes_on = match fields::rule(name, forwarding) {
            FieldRule::Pass => !forwarded.replaces(name),
            rule => rule == FieldRule::Passes,
        };
        if !skipped && passes_on {
            push_field(&mut out, name, value.as_bytes());
        }
    }
    if let Some(cookies) = joined_cookies(request.fields) {
        push_field(&mut out, b"cookie", &cookies);
    }
    if request.body == Body::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    push_prefix(&mut out, line.prefix);
    finish(&mut out, &forwarded, own);
    WorkerHead { bytes: out, passes: passes_of(request.fields, own) }
}

/// How often a request has come through this proxy before, where another reader has taken its head apart.
pub(in crate::gateway) fn passes_of(fields: &HeaderMap, own: &LoopName) -> usize {
    fields.get_all(passes::FIELD).iter().map(|value| own.count(value.as_bytes())).sum()
}

/// All cookies of a request as the value of one field.
pub(in crate::gateway) fn joined_cookies(fields: &HeaderMap) -> Option<Vec<u8>> {
    let mut cookies = fields.get_all(http::header::COOKIE).iter();
    let mut joined = cookies.next()?.as_bytes().to_vec();
    for cookie in cookies {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    Some(joined)
}

/// What an answer says of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Persistence<'a> {
    Close,
    /// It goes on; the hint is a whole `Keep-Alive` line, or nothing.
    Keep(&'a [u8]),
}

fn response_passes(head: &response::Head, buf: &[u8], name: &[u8]) -> bool {
    response_field_passes(head.status, name) && !is_nominated(head.nominates, head.headers(buf).all("connection"), name)
}

/// A worker's head as an HTTP/1 client gets it.
pub(in crate::gateway) fn response_to_http1(
    head: &response::Head,
    buf: &[u8],
    client: Version,
    persistence: Persistence<'_>,
    id: &RequestId,
    hsts: Option<Hsts>,
    out: &mut BytesMut,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let digit = |place: u16| b'0' + (head.status / place % 10) as u8;
    out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
    out.extend_from_slice(head.phrase.of(buf));
    out.extend_from_slice(b"\r\n");
    // An app that gives its requests ids of its own keeps them.
    let mut names = id.is_empty() || is_only_information(head.status);
    for (name, value) in head.headers(buf) {
        if response_passes(head, buf, name) {
            names |= is_request_id(name);
            push_field(out, name, value);
        }
    }
    if !names {
        push_field(out, b"X-Request-Id", id.as_bytes());
    }
    if let Some(hsts) = hsts.filter(|_| head.status >= 200 && !head.headers(buf).any(|(name, _)| Hsts::is_name(name))) {
        hsts.write(out);
    }
    match (head.status, persistence, client) {
        (101, ..) => out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        (100..200, ..) => {}
        (_, Persistence::Close, _) => out.extend_from_slice(b"Connection: close\r\n"),
        (_, Persistence::Keep(hint), Version::Http10) => {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
            out.extend_from_slice(hint);
        }
        (_, Persistence::Keep(hint), Version::Http11) => out.extend_from_slice(hint),
    }
    out.extend_from_slice(b"\r\n");
}

/// An answer before the answer; after a 101 there is none.
fn is_only_information(status: u16) -> bool {
    matches!(status, 100 | 102..200)
}

fn is_request_id(name: &[u8]) -> bool {
    name.len() == request_id::FIELD.len() && name.eq_ignore_ascii_case(request_id::FIELD.as_bytes())
}

/// Names the request in an answer, if that does not do so itself.
pub(in crate::gateway) fn name_request(id: &RequestId, fields: &mut HeaderMap) {
    if !id.is_empty()
        && !fields.contains_key(request_id::FIELD)
        && let Ok(value) = HeaderValue::from_bytes(id.as_bytes())
    {
        fields.insert(HeaderName::from_static(request_id::FIELD), value);
    }
}

/// A worker's head as an HTTP/2 client gets it; `None` for one that HTTP/2 cannot say.
pub(in crate::gateway) fn response_to_http2(head: &response::Head, buf: &[u8]) -> Option<http::Response<()>> {
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(head.status).ok()?;
    let fields = response.headers_mut();
    for (name, value) in head.headers(buf) {
        if response_passes(head, buf, name) && !name.eq_ignore_ascii_case(b"transfer-encoding") {
            fields.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        }
    }
    Some(response)
}

/// Whether the client can tell where an answer ends without the connection's end.
pub(in crate::gateway) fn is_delimited(head: &response::Head, client: Version) -> bool {
    match head.body {
        Body::None | Body::Length(_) => true,
        Body::Chunked => client == Version::Http11,
        Body::UntilClose => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::http1::{Method, Progress, head};
    use crate::gateway::request::client::ClientInfo;
    use crate::gateway::request::fields::dropped_from_response;
    use crate::gateway::request::forwarding::RequestIds;

    fn to_worker(wire: &str) -> String {
        told(wire, &Forwarding { request_id: RequestIds::Off, ..Forwarding::default() })
    }

    fn told(wire: &str, forwarding: &Forwarding) -> String {
        let Ok(Progress::Complete(head)) = head::check(wire.as_bytes(), 0, &head::Limits::default()) else {
            panic!("{wire}");
        };
        let peer = ClientInfo { ip: Some("10.0.0.7".parse().unwrap()), secure: false, hsts: None, tls: None };
        let client = RequestClient::of(forwarding, peer, RawHeaders { head: &head, buf: wire.as_bytes() });
        let line = RequestLine::as_asked(head.path.of(wire.as_bytes()));
        let head = request_from_http1(&head, wire.as_bytes(), line, &client, forwarding, &LoopName::of(&[]));
        assert_eq!(head.passes, wire.matches(LoopName::of(&[]).as_str()).count(), "{wire}");
        let text = String::from_utf8(head.bytes.to_vec()).unwrap();
        // What the proxy adds of its own name comes last.
        let own = format!("CDN-Loop: {}\r\n\r\n", LoopName::of(&[]).as_str());
        format!("{}\r\n", text.strip_suffix(&own).unwrap())
    }

    const OWN: &str = "X-Forwarded-For: 10.0.0.7\r\nX-Real-IP: 10.0.0.7\r\nX-Forwarded-Proto: http\r\n\
                       X-Forwarded-Host: a\r\nX-Forwarded-Port: 80\r\n\r\n";

    #[test]
    fn only_the_proxy_speaks_of_the_client() {
        let names = [
            "X-Forwarded-For",
            "x_forwarded_for",
            "X-Real_IP",
            "Forwarded",
            "X-Forwarded-Ssl",
            "X-Client-IP",
            "True-Client-IP",
            "X-Forwarded-Prefix",
            "Client-Cert",
            "client_cert_chain",
            "X-SSL-Client-Verify",
            "x_ssl_client_subject",
            "X-SSL-Client_Fingerprint",
            "Te",
            "Keep-Alive",
            "Proxy-Connection",
            "Upgrade",
        ];
        for name in names {
            let head = to_worker(&format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: x\r\nX-Own: y\r\n\r\n"));
            assert_eq!(head, format!("GET / HTTP/1.1\r\nHost: a\r\nX-Own: y\r\n{OWN}"), "{name}");
        }
    }

    #[test]
    fn names_with_an_underscore_pass_only_when_that_is_set() {
        let wire = "GET / HTTP/1.1\r\nHost: a\r\nX_Own: y\r\nX_Forwarded_For: z\r\n\r\n";
        assert_eq!(to_worker(wire), format!("GET / HTTP/1.1\r\nHost: a\r\n{OWN}"));
        let forwarding = Forwarding { underscores: true, request_id: RequestIds::Off, ..Forwarding::default() };
        assert_eq!(told(wire, &forwarding), format!("GET / HTTP/1.1\r\nHost: a\r\nX_Own: y\r\n{OWN}"));
    }

    #[test]
    fn a_request_has_one_id_unless_none_are_given() {
        let wire = "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: one\r\nX_Request-ID: two\r\n\r\n";
        let ids = |request_id| {
            let head = told(wire, &Forwarding { request_id, ..Forwarding::default() });
            let is_id = |line: &&str| line.to_lowercase().replace('_', "-").starts_with("x-request-id: ");
            head.lines().filter(is_id).map(|line| line[14..].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!((ids(RequestIds::Off), ids(RequestIds::Any)), (vec!["one".to_owned()], vec!["one".to_owned()]));
        let fresh = ids(RequestIds::Trusted);
        assert!(fresh.len() == 1 && fresh[0].len() == 32, "{fresh:?}");
    }

    #[test]
    fn an_answer_names_its_request_once() {
        let id = RequestId::kept(b"mine").unwrap();
        for (wire, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", vec!["mine"]),
            ("HTTP/1.1 200 OK\r\nX-REQUEST-ID: its\r\nContent-Length: 0\r\n\r\n", vec!["its"]),
            ("HTTP/1.1 103 Hints\r\n\r\n", vec![]),
        ] {
            let Ok(Progress::Complete(head)) = response::check(wire.as_bytes(), 0, Method::Get) else {
                panic!("{wire}")
            };
            let mut out = BytesMut::new();
            let buf = wire.as_bytes();
            response_to_http1(&head, buf, Version::Http11, Persistence::Keep(b""), &id, None, &mut out);
            let text = String::from_utf8(out.to_vec()).unwrap().to_lowercase();
            let found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("x-request-id: ")).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn passes_are_counted_and_no_connection_field_hides_them() {
        let own = LoopName::of(&[]);
        let fields = format!("CDN-Loop: a.example, {0}\r\ncdn-loop: {0}\r\n", own.as_str());
        let head = to_worker(&format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: cdn-loop\r\n{fields}\r\n"));
        assert_eq!(head, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}{OWN}"));
    }

    #[test]
    fn both_connection_fields_are_honoured() {
        let head = to_worker(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-one\r\nConnection: close, X-Two\r\nX-One: 1\r\nX-Two: 2\r\nX-Three: 3\r\n\r\n",
        );
        assert_eq!(head, format!("GET / HTTP/1.1\r\nHost: a\r\nX-Three: 3\r\n{OWN}"));
    }

    #[test]
    fn an_upgrade_names_websocket_alone() {
        let head = to_worker(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c, websocket\r\n\r\n",
        );
        assert_eq!(head, format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{OWN}"));
    }

    #[test]
    fn no_framing_where_no_body_can_be() {
        for (status, gone, kept) in
            [(204, "Content-Length: 5", "X: y"), (304, "Transfer-Encoding: chunked", "Content-Length: 5")]
        {
            let wire = format!("HTTP/1.1 {status} X\r\n{gone}\r\nX: y\r\n\r\n");
            let Ok(Progress::Complete(head)) = response::check(wire.as_bytes(), 0, Method::Get) else {
                panic!("{wire}")
            };
            let mut out = BytesMut::new();
            response_to_http1(
                &head,
                wire.as_bytes(),
                Version::Http11,
                Persistence::Keep(b""),
                &RequestId::NONE,
                None,
                &mut out,
            );
            let text = String::from_utf8(out.to_vec()).unwrap();
            assert!(!text.contains(gone) && (text.contains(kept) || status == 304), "{text}");
        }
    }

    #[test]
    fn heads_that_were_taken_apart_lose_the_same_fields() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-One"),
            ("x-one", "1"),
            ("keep-alive", "timeout=5"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("x-two", "2"),
        ] {
            fields.append(name, value.parse().unwrap());
        }
        for (status, more) in
            [(200, &[][..]), (304, &["transfer-encoding"]), (204, &["content-length", "transfer-encoding"])]
        {
            let dropped = dropped_from_response(status, &fields);
            let mut expected = vec!["connection", "x-one", "keep-alive"];
            expected.extend(more);
            assert_eq!(dropped, expected, "{status}");
        }
    }

    #[test]
    fn cookies_are_joined() {
        let mut fields = HeaderMap::new();
        for cookie in ["a=1", "b=2"] {
            fields.append("cookie", cookie.parse().unwrap());
        }
        assert_eq!(joined_cookies(&fields).unwrap(), b"a=1; b=2");
    }
}
