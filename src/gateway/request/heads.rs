//! Heads on their way through, in both directions and for every carrier: which fields pass, and how a head is written.

use super::forwarded::Forwarded;
use super::passes::{self, LoopName};
use super::route::Rewritten;
use crate::gateway::http1::fields::{self, list};
use crate::gateway::http1::head::Head;
use crate::gateway::http1::{Body, Method, Version, response};
use bytes::BytesMut;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use std::net::IpAddr;

/// Appends one field line.
pub(in crate::gateway) fn push_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What becomes of one request field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum FieldRule {
    Pass,
    /// It speaks of the connection it came on (RFC 9110, section 7.6.1).
    HopByHop,
    /// Only the proxy may say this.
    Forwarded,
    /// CGI-style servers (WSGI, Rack) would read it as the field that frames the message.
    Framing,
    /// It passes, and is looked into for loops.
    Passes,
}

/// Compares a field name with a lower-case one, as servers do that read `_` as `-`.
fn folds_to(name: &[u8], wanted: &str) -> bool {
    let fold = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.len() == wanted.len() && name.iter().zip(wanted.bytes()).all(|(&a, b)| fold(a) == b)
}

/// The rule for a request field, by its name in any case.
pub(in crate::gateway) fn request_field(name: &[u8]) -> FieldRule {
    let is = |wanted: &str| folds_to(name, wanted);
    let any = |of: &[&str], rule| if of.iter().any(|one| folds_to(name, one)) { rule } else { FieldRule::Pass };
    match name.len() {
        2 => any(&["te"], FieldRule::HopByHop),
        7 => any(&["upgrade"], FieldRule::HopByHop),
        8 => any(&[passes::FIELD], FieldRule::Passes),
        // WSGI servers on Unix sockets take these two (`PATH_INFO`, `SCRIPT_NAME`) as the path and the mount point.
        9 if memchr::memchr(b'_', name).is_some() && is("path-info") => FieldRule::Forwarded,
        11 if memchr::memchr(b'_', name).is_some() && is("script-name") => FieldRule::Forwarded,
        9 => any(&["x-real-ip", "forwarded"], FieldRule::Forwarded),
        10 => any(&["connection", "keep-alive"], FieldRule::HopByHop),
        11 => any(&["x-client-ip"], FieldRule::Forwarded),
        14 if is("http2-settings") => FieldRule::HopByHop,
        14 if memchr::memchr(b'_', name).is_some() && is("content-length") => FieldRule::Framing,
        14 => any(&["true-client-ip"], FieldRule::Forwarded),
        15 => any(&["x-forwarded-for", "x-forwarded-ssl", "front-end-https"], FieldRule::Forwarded),
        16 if is("proxy-connection") => FieldRule::HopByHop,
        16 => any(&["x-forwarded-host", "x-forwarded-port"], FieldRule::Forwarded),
        17 if memchr::memchr(b'_', name).is_some() && is("transfer-encoding") => FieldRule::Framing,
        17 => any(&["x-forwarded-proto"], FieldRule::Forwarded),
        18 => any(&["x-forwarded-scheme", "x-forwarded-prefix", "x-forwarded-server"], FieldRule::Forwarded),
        19 => any(&["x-cluster-client-ip"], FieldRule::Forwarded),
        20 => any(&["x-forwarded-protocol"], FieldRule::Forwarded),
        _ => FieldRule::Pass,
    }
}

/// Fields of an answer that belong to the connection with the worker.
fn is_response_hop_by_hop(name: &[u8]) -> bool {
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
    match name.len() {
        2 => is("te"),
        7 => is("upgrade"),
        10 => is("connection") || is("keep-alive"),
        16 => is("proxy-connection"),
        _ => false,
    }
}

/// Whether a trailer field may be passed on. What frames, routes, authorizes or controls a message must stand in its
/// head (RFC 9110, section 6.5.1), and servers refuse bytes beyond ASCII in trailers that they take in heads.
pub(in crate::gateway) fn passes_as_trailer(name: &[u8], value: &[u8]) -> bool {
    const REFUSED: [&str; 22] = [
        "age",
        "authorization",
        "cache-control",
        "cookie",
        "date",
        "expect",
        "expires",
        "host",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
        "if-range",
        "location",
        "max-forwards",
        "pragma",
        "range",
        "set-cookie",
        "trailer",
        "transfer-encoding",
        "vary",
        "www-authenticate",
    ];
    let prefixed = |prefix: &str| name.len() >= prefix.len() && folds_to(&name[..prefix.len()], prefix);
    request_field(name) == FieldRule::Pass
        && !REFUSED.iter().any(|one| folds_to(name, one))
        && !["content-", "proxy-", "x-forwarded-"].iter().any(|prefix| prefixed(prefix))
        && value.iter().all(|b| matches!(b, b'\t' | b'\r' | b'\n' | b' '..=b'~'))
}

/// The same for a trailer of a request. Servers that read trailers as fields may read `_` as `-`.
pub(in crate::gateway) fn passes_as_request_trailer(name: &[u8], value: &[u8]) -> bool {
    !name.contains(&b'_') && passes_as_trailer(name, value)
}

/// Whether a `Connection` field of this head names the field. Hardly any message has such a list.
fn is_nominated<'a>(nominates: bool, connection: impl Iterator<Item = &'a [u8]>, name: &[u8]) -> bool {
    nominates && connection.flat_map(list).any(|token| folds_to(name, &String::from_utf8_lossy(token).to_lowercase()))
}

/// Who asks, as the worker is told.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct ClientInfo {
    pub(in crate::gateway) ip: Option<IpAddr>,
    pub(in crate::gateway) secure: bool,
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
    client: ClientInfo,
    own: &LoopName,
) -> WorkerHead {
    let mut passes = 0;
    let mut out = BytesMut::with_capacity(head.len + 256);
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
        let rule = request_field(name);
        if rule == FieldRule::Passes {
            passes += own.count(value);
            push_field(&mut out, name, value);
        } else if rule == FieldRule::Pass && !is_nominated(head.nominates, head.headers(buf).all("connection"), name) {
            push_field(&mut out, name, value);
        }
    }
    if head.websocket {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    push_prefix(&mut out, prefix);
    finish(&mut out, client, host(head, buf), own);
    WorkerHead { bytes: out, passes }
}

/// Tells what a route has taken off the path.
fn push_prefix(out: &mut BytesMut, prefix: &[u8]) {
    if !prefix.is_empty() {
        push_field(out, FORWARDED_PREFIX.as_bytes(), prefix);
    }
}

/// The fields that end every request's head.
fn finish(out: &mut BytesMut, client: ClientInfo, host: &[u8], own: &LoopName) {
    let forwarded = Forwarded { client: client.ip, secure: client.secure, host };
    forwarded.headers(|name, value| push_field(out, name.as_bytes(), value));
    push_field(out, b"CDN-Loop", own.as_str().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Tells a worker what a route has taken off the path.
pub(in crate::gateway) const FORWARDED_PREFIX: &str = "X-Forwarded-Prefix";

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
    limits: &crate::gateway::http1::head::Limits,
) -> Result<Http2Request<'a>, crate::gateway::http1::Reject> {
    use crate::gateway::http1::{Reject, head};
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
fn http2_body(fields: &HeaderMap, ends: bool) -> Result<Body, crate::gateway::http1::Reject> {
    use crate::gateway::http1::Reject;
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

/// An HTTP/2 request's head as an HTTP/1 worker gets it. Cookie fields become one (RFC 9113, section 8.2.3).
pub(in crate::gateway) fn request_from_http2(
    request: &Http2Request<'_>,
    line: RequestLine<'_>,
    client: ClientInfo,
    own: &LoopName,
) -> WorkerHead {
    let mut out = BytesMut::with_capacity(512);
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(line.path);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    push_field(&mut out, b"Host", request.host);
    for (name, value) in request.fields {
        let skipped = *name == http::header::HOST || *name == http::header::COOKIE;
        if !skipped && matches!(request_field(name.as_str().as_bytes()), FieldRule::Pass | FieldRule::Passes) {
            push_field(&mut out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    if let Some(cookies) = joined_cookies(request.fields) {
        push_field(&mut out, b"cookie", &cookies);
    }
    if request.body == Body::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    push_prefix(&mut out, line.prefix);
    finish(&mut out, client, request.host, own);
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

/// Whether an answer's field is passed on, by the status; `Connection` may name it still.
fn response_field_passes(status: u16, name: &[u8]) -> bool {
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
    // Where no body can be, framing would lead a reader astray (RFC 9110, section 8.6; RFC 9112, section 6.1).
    let framed = match status {
        100..200 | 204 => is("content-length") || is("transfer-encoding"),
        304 => is("transfer-encoding"),
        _ => false,
    };
    !framed && !is_response_hop_by_hop(name)
}

fn response_passes(head: &response::Head, buf: &[u8], name: &[u8]) -> bool {
    response_field_passes(head.status, name) && !is_nominated(head.nominates, head.headers(buf).all("connection"), name)
}

/// The fields of a worker's head that are not passed on, where another reader has taken the head apart.
pub(in crate::gateway) fn dropped_from_response(status: u16, fields: &HeaderMap) -> Vec<HeaderName> {
    let connection = || fields.get_all(http::header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let passes = |name: &[u8]| response_field_passes(status, name) && !is_nominated(true, connection(), name);
    fields.keys().filter(|name| !passes(name.as_str().as_bytes())).cloned().collect()
}

/// A worker's head as an HTTP/1 client gets it.
pub(in crate::gateway) fn response_to_http1(
    head: &response::Head,
    buf: &[u8],
    client: Version,
    persistence: Persistence<'_>,
    out: &mut BytesMut,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let digit = |place: u16| b'0' + (head.status / place % 10) as u8;
    out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
    out.extend_from_slice(head.phrase.of(buf));
    out.extend_from_slice(b"\r\n");
    for (name, value) in head.headers(buf) {
        if response_passes(head, buf, name) {
            push_field(out, name, value);
        }
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
    use crate::gateway::http1::{Progress, head};

    fn to_worker(wire: &str) -> String {
        let Ok(Progress::Complete(head)) = head::check(wire.as_bytes(), 0, &head::Limits::default()) else {
            panic!("{wire}");
        };
        let client = ClientInfo { ip: Some("10.0.0.7".parse().unwrap()), secure: false };
        let line = RequestLine::as_asked(head.path.of(wire.as_bytes()));
        let head = request_from_http1(&head, wire.as_bytes(), line, client, &LoopName::of(&[]));
        assert_eq!(head.passes, wire.matches(LoopName::of(&[]).as_str()).count(), "{wire}");
        let text = String::from_utf8(head.bytes.to_vec()).unwrap();
        // What the proxy adds of its own name comes last.
        let own = format!("CDN-Loop: {}\r\n\r\n", LoopName::of(&[]).as_str());
        format!("{}\r\n", text.strip_suffix(&own).unwrap())
    }

    const OWN: &str =
        "X-Forwarded-For: 10.0.0.7\r\nX-Real-IP: 10.0.0.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n\r\n";

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
            "Te",
            "Keep-Alive",
            "Proxy-Connection",
            "Upgrade",
        ];
        for name in names {
            let head = to_worker(&format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: x\r\nX-Own: y\r\n\r\n"));
            assert_eq!(head, format!("GET / HTTP/1.1\r\nHost: a\r\nX-Own: y\r\n{OWN}"), "{name}");
        }
        let kept = to_worker("GET / HTTP/1.1\r\nHost: a\r\nX_Own: y\r\n\r\n");
        assert!(kept.contains("X_Own: y\r\n"), "{kept}");
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
            response_to_http1(&head, wire.as_bytes(), Version::Http11, Persistence::Keep(b""), &mut out);
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
