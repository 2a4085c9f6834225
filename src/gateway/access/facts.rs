//! What a request says of itself.

use crate::gateway::http1::Version;
use crate::gateway::http1::head::Head;
use crate::gateway::request::client::{ClientInfo, RequestClient, TlsNames};
use crate::gateway::request::heads;
use http::HeaderMap;
use http::header::{HOST, REFERER, USER_AGENT};
use std::net::IpAddr;

/// Borrowed from a request's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::gateway) struct Facts<'a> {
    pub(in crate::gateway) client: Option<IpAddr>,
    /// The client asked over TLS, here or at a trusted proxy.
    pub(in crate::gateway) secure: bool,
    /// `HTTP/1.1`; empty where a head is not even one of HTTP/1.
    pub(in crate::gateway) protocol: &'a str,
    pub(in crate::gateway) method: &'a [u8],
    /// Path and query as asked for.
    pub(in crate::gateway) target: &'a [u8],
    pub(in crate::gateway) host: &'a [u8],
    pub(in crate::gateway) user_agent: Option<&'a [u8]>,
    pub(in crate::gateway) referer: Option<&'a [u8]>,
    /// It asks for a WebSocket.
    pub(in crate::gateway) upgrade: bool,
    /// Bytes of the request's head, where it has a fixed form.
    pub(in crate::gateway) head_bytes: u64,
    pub(in crate::gateway) app: Option<&'a str>,
    /// The rule that led to the app, or to the proxy's own answer.
    pub(in crate::gateway) route: Option<&'a str>,
    pub(in crate::gateway) request_id: Option<&'a [u8]>,
    pub(in crate::gateway) tls_version: Option<&'a str>,
    pub(in crate::gateway) tls_cipher: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// Of a head that was checked.
    pub(in crate::gateway) fn of_http1(head: &Head, buf: &'a [u8], client: &'a RequestClient) -> Facts<'a> {
        let first = |name: &str| head.headers(buf).all(name).next();
        Facts {
            protocol: if head.version == Version::Http11 { "HTTP/1.1" } else { "HTTP/1.0" },
            method: head.method_name.of(buf),
            target: head.target.of(buf),
            host: heads::host(head, buf),
            user_agent: first("user-agent"),
            referer: first("referer"),
            upgrade: head.websocket,
            head_bytes: head.len as u64,
            ..Facts::of_client(client)
        }
    }

    /// Of a head that was refused: of its first line what can be told apart.
    pub(in crate::gateway) fn of_refused(read: &'a [u8], client: ClientInfo) -> Facts<'a> {
        let line = read.trim_ascii_start();
        let line = &line[..memchr::memchr(b'\n', line).unwrap_or(line.len())];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut parts = line.splitn(2, |&b| b == b' ');
        let (method, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (target, protocol) = match memchr::memrchr(b' ', rest).map(|at| (&rest[..at], &rest[at + 1..])) {
            Some((target, b"HTTP/1.1")) => (target, "HTTP/1.1"),
            Some((target, b"HTTP/1.0")) => (target, "HTTP/1.0"),
            _ => (rest, ""),
        };
        let ClientInfo { ip: client, secure, hsts: _, tls } = client;
        Facts { client, secure, protocol, method, target, head_bytes: read.len() as u64, ..Facts::of_tls(tls) }
    }

    /// Of a head in parts.
    pub(in crate::gateway) fn of_fields(
        method: &'a http::Method,
        uri: &'a http::Uri,
        fields: &'a HeaderMap,
        client: &'a RequestClient,
    ) -> Facts<'a> {
        let first = |name| fields.get(name).map(|value| value.as_bytes());
        let host = uri.authority().map(|authority| authority.as_str().as_bytes()).or_else(|| first(HOST));
        Facts {
            protocol: "HTTP/2.0",
            method: method.as_str().as_bytes(),
            target: uri.path_and_query().map_or(&b"/"[..], |target| target.as_str().as_bytes()),
            host: host.unwrap_or_default(),
            user_agent: first(USER_AGENT),
            referer: first(REFERER),
            ..Facts::of_client(client)
        }
    }

    fn of_client(client: &'a RequestClient) -> Facts<'a> {
        let request_id = Some(client.id.as_bytes()).filter(|id| !id.is_empty());
        Facts { client: client.ip, secure: client.secure, request_id, ..Facts::of_tls(client.tls) }
    }

    fn of_tls(names: Option<TlsNames>) -> Facts<'a> {
        let (tls_version, tls_cipher) = (names.map(|names| names.version), names.map(|names| names.cipher));
        Facts { tls_version, tls_cipher, ..Facts::default() }
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}
