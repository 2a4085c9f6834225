//! What is decided about a request, written once for every path a request may take.

use super::http1::head::Head;
use super::socketio;
use crate::pool::affinity::Affinity;
use crate::pool::{Member, Pool, Use, Wanted};
use http::header::HeaderMap;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

/// Headers of a request, wherever they are kept.
pub(crate) trait HeaderSource<'a> {
    /// The first value of a header, by lower-case name.
    fn first(&self, name: &str) -> Option<&'a [u8]>;
    /// The value that a cookie has in any `Cookie` header.
    fn cookie(&self, name: &str) -> Option<&'a [u8]>;
}

impl<'a> HeaderSource<'a> for &'a HeaderMap {
    fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.get(name).map(|value| value.as_bytes())
    }

    fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        self.get_all(http::header::COOKIE).iter().find_map(|value| socketio::cookie(value.as_bytes(), name))
    }
}

/// The headers of an HTTP/1 head, in the buffer that it was read into.
pub(crate) struct RawHeaders<'a> {
    pub(crate) head: &'a Head,
    pub(crate) buf: &'a [u8],
}

impl<'a> HeaderSource<'a> for RawHeaders<'a> {
    fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.head.headers(self.buf).all(name).next()
    }

    fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        self.head.headers(self.buf).all("cookie").find_map(|value| socketio::cookie(value, name))
    }
}

/// Where a request should go and what it will be there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan<'a> {
    lead: Lead<'a>,
    pub(crate) usage: Use,
    /// The answer begins a session: it may hold a sid to learn.
    pub(crate) handshake: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Lead<'a> {
    None,
    NewSession,
    Sid(Cow<'a, [u8]>),
    Key(Cow<'a, [u8]>),
    Address([u8; 16]),
}

impl Plan<'_> {
    /// A session or key names the worker.
    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.lead, Lead::Sid(_))
    }

    /// It waits at its worker for the session's next packet. Only said of requests that are no upgrade.
    pub(crate) fn is_waiting_poll(&self) -> bool {
        self.is_bound() && self.usage == Use::Parked
    }

    pub(crate) fn wanted(&self) -> Wanted<'_> {
        match &self.lead {
            Lead::None => Wanted::Any,
            Lead::NewSession => Wanted::NewSession,
            Lead::Sid(sid) => Wanted::Sid(sid),
            Lead::Key(key) => Wanted::Key(key),
            Lead::Address(octets) => Wanted::Key(octets),
        }
    }
}

/// Decides by an app's affinity. `upgrade` says that the request asks for a WebSocket.
pub(crate) fn plan<'a>(
    affinity: &Affinity,
    target: &'a [u8],
    headers: impl HeaderSource<'a>,
    client: Option<IpAddr>,
    get: bool,
    upgrade: bool,
) -> Plan<'a> {
    let usage = if upgrade { Use::Parked } else { Use::Request };
    let lead = match affinity {
        Affinity::SocketIo => return socket_io(target, get, upgrade),
        Affinity::None => Lead::None,
        Affinity::Cookie(name) => keyed(headers.cookie(name).map(Cow::Borrowed)),
        Affinity::Header(name) => keyed(headers.first(name).map(Cow::Borrowed)),
        Affinity::Query(name) => keyed(socketio::param(target, name)),
        Affinity::ClientAddress => client.map_or(Lead::None, |ip| Lead::Address(octets(ip))),
    };
    Plan { lead, usage, handshake: false }
}

fn keyed(key: Option<Cow<'_, [u8]>>) -> Lead<'_> {
    key.filter(|key| !key.is_empty()).map_or(Lead::None, Lead::Key)
}

fn socket_io(target: &[u8], get: bool, upgrade: bool) -> Plan<'_> {
    let query = socketio::Query::parse(target);
    let polling_get = get && !upgrade && query.is_polling();
    match query.sid {
        // A poll waits at the worker for the next packet: it is parked, not work.
        Some(sid) if query.is_engine() => {
            let usage = if upgrade || polling_get { Use::Parked } else { Use::Request };
            Plan { lead: Lead::Sid(sid), usage, handshake: false }
        }
        _ if query.is_engine() => {
            let usage = if upgrade { Use::Parked } else { Use::Request };
            Plan { lead: Lead::NewSession, usage, handshake: polling_get }
        }
        _ if upgrade => Plan { lead: Lead::NewSession, usage: Use::Parked, handshake: false },
        _ => Plan { lead: Lead::None, usage: Use::Request, handshake: false },
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// What the worker is told about the client. A client's own words in these headers never pass.
pub(crate) struct Forwarded<'a> {
    pub(crate) client: Option<IpAddr>,
    pub(crate) secure: bool,
    pub(crate) host: &'a [u8],
}

/// Headers that only the proxy may write; those it does not write are dropped.
pub(crate) const FORWARDED_HEADERS: [&str; 6] =
    ["x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded"];

impl Forwarded<'_> {
    pub(crate) fn proto(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Every header to write, with its value. An IPv4 client of an IPv6 listener is shown as IPv4.
    pub(crate) fn headers(&self, mut write: impl FnMut(&'static str, &[u8])) {
        if let Some(client) = self.client {
            let client = client.to_canonical().to_string();
            write("X-Forwarded-For", client.as_bytes());
            write("X-Real-IP", client.as_bytes());
        }
        write("X-Forwarded-Proto", self.proto().as_bytes());
        if !self.host.is_empty() {
            write("X-Forwarded-Host", self.host);
        }
    }
}

/// Whether a request may be sent a second time after its first worker died without an answer
/// (idempotent methods, RFC 9110, section 9.2.2).
pub(crate) fn is_replayable(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

/// How much of a handshake answer is looked at for its sid, in bytes.
const HANDSHAKE_LOOK: usize = 1024;

/// Learns the owner of the sid that a handshake answer begins with, before its bytes leave.
pub(crate) struct Learner {
    pool: Arc<Pool>,
    owner: Arc<Member>,
    looking: bool,
    /// The first line of a chunked body is the chunk's size.
    skip_line: bool,
    early: Vec<u8>,
}

impl Learner {
    pub(crate) fn new(pool: &Arc<Pool>, owner: &Arc<Member>) -> Self {
        Learner { pool: pool.clone(), owner: owner.clone(), looking: true, skip_line: false, early: Vec::new() }
    }

    /// The answer's head came: is there anything to learn, and is its body chunked here?
    pub(crate) fn begin(&mut self, readable: bool, chunked: bool) {
        self.looking &= readable;
        self.skip_line = chunked;
    }

    /// Socket.IO 1 and 2 also say the sid in a cookie, where a JSONP answer may not hold it.
    pub(crate) fn set_cookie(&mut self, value: &[u8]) {
        if self.looking
            && let Some(sid) = socketio::sid_in_set_cookie(value)
        {
            self.pool.learn(&sid, &self.owner);
        }
    }

    /// Looks at the next bytes of the body.
    pub(crate) fn body(&mut self, bytes: &[u8]) {
        if !self.looking || bytes.is_empty() {
            return;
        }
        let room = HANDSHAKE_LOOK.saturating_sub(self.early.len()).min(bytes.len());
        self.early.extend_from_slice(&bytes[..room]);
        let start = match memchr::memchr(b'\n', &self.early).filter(|_| self.skip_line) {
            Some(end) => &self.early[end + 1..],
            None if self.skip_line => return,
            None => &self.early[..],
        };
        match socketio::sid_in_handshake(start) {
            socketio::Look::Found(sid) => {
                self.pool.learn(&sid, &self.owner);
                self.looking = false;
            }
            socketio::Look::NeedMore if self.early.len() < HANDSHAKE_LOOK => {}
            _ => self.looking = false,
        }
    }
}
