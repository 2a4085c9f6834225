//! Heads on their way through: what belongs to one connection stays there (RFC 9110, section 7.6.1).

use crate::gateway::front::{Client, host};
use crate::gateway::http1::fields::list;
use crate::gateway::http1::head::Head;
use crate::gateway::http1::{Body, Version, response};
use crate::gateway::policy::{FORWARDED_HEADERS, Forwarded};
use bytes::BytesMut;

/// Fields that speak of the connection they came on.
const HOP_BY_HOP: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "upgrade", "te"];

fn is_any(name: &[u8], of: &[&str]) -> bool {
    of.iter().any(|one| one.len() == name.len() && name.eq_ignore_ascii_case(one.as_bytes()))
}

fn push_line(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whether a `Connection` field names this one. Most messages have no such field beyond `close` and `keep-alive`.
fn is_nominated(name: &[u8], connection: Option<&[u8]>) -> bool {
    connection.is_some_and(|value| list(value).any(|token| token.eq_ignore_ascii_case(name)))
}

/// The request head as the worker gets it.
pub(super) fn request(head: &Head, buf: &[u8], client: Client) -> BytesMut {
    let mut out = BytesMut::with_capacity(head.len + 192);
    out.extend_from_slice(head.method_name.of(buf));
    out.extend_from_slice(b" ");
    let path = head.path.of(buf);
    if !path.starts_with(b"/") && path != b"*" {
        out.extend_from_slice(b"/");
    }
    out.extend_from_slice(path);
    out.extend_from_slice(match head.version {
        Version::Http11 => b" HTTP/1.1\r\n",
        // So the worker frames its answer as such a client understands it.
        Version::Http10 => b" HTTP/1.0\r\n",
    });
    let connection = head.headers(buf).all("connection").next();
    for (name, value) in head.headers(buf) {
        if !is_any(name, &HOP_BY_HOP) && !is_any(name, &FORWARDED_HEADERS) && !is_nominated(name, connection) {
            push_line(&mut out, name, value);
        }
    }
    let forwarded = Forwarded { client: client.ip, secure: client.secure, host: host(head, buf) };
    forwarded.headers(|name, value| push_line(&mut out, name.as_bytes(), value));
    out.extend_from_slice(b"\r\n");
    out
}

/// The answer head as the client gets it. `stay` says that the connection goes on.
pub(super) fn answer(head: &response::Head, buf: &[u8], client: Version, stay: bool, out: &mut BytesMut) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let digit = |place: u16| b'0' + (head.status / place % 10) as u8;
    out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
    out.extend_from_slice(head.phrase.of(buf));
    out.extend_from_slice(b"\r\n");
    let connection = head.headers(buf).all("connection").next();
    for (name, value) in head.headers(buf) {
        if !is_any(name, &HOP_BY_HOP) && !is_nominated(name, connection) {
            push_line(out, name, value);
        }
    }
    match (head.status, stay, client) {
        (100..200, ..) => {}
        (_, false, _) => out.extend_from_slice(b"Connection: close\r\n"),
        (_, true, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (_, true, Version::Http11) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether the client can tell where an answer ends without the connection's end.
pub(super) fn is_delimited(head: &response::Head, client: Version) -> bool {
    match head.body {
        Body::None | Body::Length(_) => true,
        Body::Chunked => client == Version::Http11,
        Body::UntilClose => false,
    }
}
