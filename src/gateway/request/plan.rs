//! Where a request goes: what it asks of the pool, by the app's affinity.

use super::limits::RequestLimits;
use super::path::path_of;
use super::socketio;
use crate::gateway::http1::head::Head;
use crate::pool::affinity::Affinity;
use crate::pool::{Lease, Room, Use, Wanted};
use http::header::HeaderMap;
use std::borrow::Cow;
use std::net::IpAddr;

/// Headers of a request, wherever they are kept.
pub(in crate::gateway) trait HeaderSource<'a> {
    /// The first value of a header, by lower-case name.
    fn first(&self, name: &str) -> Option<&'a [u8]>;
    /// All values of a header in their order, by lower-case name.
    fn each(&self, name: &str, take: impl FnMut(&'a [u8]));
    /// The value that a cookie has in any `Cookie` header.
    fn cookie(&self, name: &str) -> Option<&'a [u8]>;
}

impl<'a> HeaderSource<'a> for &'a HeaderMap {
    fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.get(name).map(|value| value.as_bytes())
    }

    fn each(&self, name: &str, take: impl FnMut(&'a [u8])) {
        self.get_all(name).iter().map(|value| value.as_bytes()).for_each(take);
    }

    fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        self.get_all(http::header::COOKIE).iter().find_map(|value| socketio::cookie(value.as_bytes(), name))
    }
}

/// The headers of an HTTP/1 head, in the buffer that it was read into.
#[derive(Clone, Copy)]
pub(in crate::gateway) struct RawHeaders<'a> {
    pub(in crate::gateway) head: &'a Head,
    pub(in crate::gateway) buf: &'a [u8],
}

impl<'a> HeaderSource<'a> for RawHeaders<'a> {
    fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.head.headers(self.buf).all(name).next()
    }

    fn each(&self, name: &str, take: impl FnMut(&'a [u8])) {
        self.head.headers(self.buf).all(name).for_each(take);
    }

    fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        self.head.headers(self.buf).all("cookie").find_map(|value| socketio::cookie(value, name))
    }
}

/// Where a request should go, and whether it will be work there or only wait.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Plan<'a> {
    key: RoutingKey<'a>,
    pub(in crate::gateway) usage: Use,
    /// The answer begins a session: it may hold a sid to learn.
    pub(in crate::gateway) handshake: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum RoutingKey<'a> {
    None,
    NewSession,
    /// The session, and the path that it was asked for on.
    Sid(Cow<'a, [u8]>, &'a [u8]),
    Key(Cow<'a, [u8]>),
    Room(Room),
    Address([u8; 16]),
}

impl Plan<'_> {
    /// A session id names the worker.
    pub(in crate::gateway) fn is_bound(&self) -> bool {
        matches!(self.key, RoutingKey::Sid(..))
    }

    /// It waits at its worker for the session's next packet. Only said of requests that are no upgrade.
    pub(in crate::gateway) fn is_waiting_poll(&self) -> bool {
        self.is_bound() && self.usage == Use::Parked
    }

    /// The limits of this request at the worker that it has got. A poll waits for as long as its session is silent, where
    /// the worker itself has said that it has sessions there. Only asked of requests that are no upgrade.
    pub(in crate::gateway) fn limits(&self, limits: RequestLimits, lease: &Lease) -> RequestLimits {
        match &self.key {
            RoutingKey::Sid(_, path) if self.is_waiting_poll() && lease.is_poll_of_session(path) => limits.of_poll(),
            _ => limits,
        }
    }

    pub(in crate::gateway) fn wanted(&self) -> Wanted<'_> {
        match &self.key {
            RoutingKey::None => Wanted::Any,
            RoutingKey::NewSession => Wanted::NewSession,
            RoutingKey::Sid(sid, path) => Wanted::Sid { sid, path },
            RoutingKey::Key(key) => Wanted::Key(key),
            RoutingKey::Room(room) => Wanted::Room(*room),
            RoutingKey::Address(octets) => Wanted::Key(octets),
        }
    }
}

/// Decides by an app's affinity. `upgrade` says that the request asks for a WebSocket.
pub(in crate::gateway) fn plan<'a>(
    affinity: &Affinity,
    target: &'a [u8],
    headers: impl HeaderSource<'a>,
    client: Option<IpAddr>,
    get: bool,
    upgrade: bool,
) -> Plan<'a> {
    let key = match affinity {
        Affinity::SocketIo => return socket_io(target, get, upgrade),
        Affinity::None => RoutingKey::None,
        Affinity::Cookie(name) => keyed(headers.cookie(name).map(Cow::Borrowed)),
        Affinity::Header(name) => keyed(headers.first(name).map(Cow::Borrowed)),
        Affinity::Query(name) => keyed(socketio::param(target, name)),
        Affinity::Path(nth) => room(path_of(target), *nth).map_or(RoutingKey::None, RoutingKey::Room),
        Affinity::ClientAddress => client.map_or(RoutingKey::None, |ip| RoutingKey::Address(octets(ip))),
    };
    // An upgrade is a request until its 101.
    Plan { key, usage: Use::Request, handshake: false }
}

fn keyed(key: Option<Cow<'_, [u8]>>) -> RoutingKey<'_> {
    key.filter(|key| !key.is_empty()).map_or(RoutingKey::None, RoutingKey::Key)
}

fn socket_io(target: &[u8], get: bool, upgrade: bool) -> Plan<'_> {
    let query = socketio::Query::parse(target);
    let polling_get = get && !upgrade && query.is_polling();
    match query.sid {
        // A poll waits at the worker for the next packet: it is parked, not work.
        Some(sid) if query.is_engine() => {
            let usage = if upgrade || polling_get { Use::Parked } else { Use::Request };
            Plan { key: RoutingKey::Sid(sid, path_of(target)), usage, handshake: false }
        }
        _ if query.is_engine() => Plan { key: RoutingKey::NewSession, usage: Use::Request, handshake: polling_get },
        _ if upgrade => Plan { key: RoutingKey::NewSession, usage: Use::Request, handshake: false },
        _ => Plan { key: RoutingKey::None, usage: Use::Request, handshake: false },
    }
}

/// The room that a segment of a path names, from 1. Empty segments are none, and what is percent-encoded is the same as
/// what is not: apps that tell them apart have both on one worker.
fn room(path: &[u8], nth: u8) -> Option<Room> {
    let mut segments = path.split(|&b| b == b'/').filter(|segment| !segment.is_empty());
    segments.nth(usize::from(nth).checked_sub(1)?).map(|segment| Room::named(socketio::percent_decoded(segment)))
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_of_the_path_names_the_room() {
        let none = HeaderMap::new();
        let key = |nth, target| plan(&Affinity::Path(nth), target, &none, None, true, false).key;
        let named = |name: &[u8]| RoutingKey::Room(Room::named(name.iter().copied()));
        for (nth, target, name) in [
            (1, &b"/a"[..], &b"a"[..]),
            (1, b"/a/b?c=/d", b"a"),
            (1, b"//a//b", b"a"),
            (2, b"/x/%61+b/", b"a+b"),
            (2, b"/x/%zz", b"%zz"),
            (3, b"/sockjs/000/abcdef12/xhr_send", b"abcdef12"),
            (2, b"http://a/room/alpha", b"alpha"),
            (2, b"https://a:8000/room/alpha?b=/c", b"alpha"),
        ] {
            assert_eq!(key(nth, target), named(name), "{}", String::from_utf8_lossy(target));
        }
        for (nth, target) in [
            (1, &b"/"[..]),
            (1, b"/?a/b"),
            (2, b"/a/?b"),
            (3, b"/sockjs/info"),
            (1, b"http://a"),
            (1, b"http://a?b=/c"),
            (2, b"http://a/b"),
        ] {
            assert_eq!(key(nth, target), RoutingKey::None, "{}", String::from_utf8_lossy(target));
        }
    }
}
