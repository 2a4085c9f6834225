//! Who asks. A connection's peer is known from its socket, or from a load balancer's PROXY header; a request's client is
//! that peer, or whom a trusted proxy says that it asks for. Every rule that speaks of the client's address takes it from here.

use super::forwarding::{Forwarding, RequestIds};
use super::hsts::Hsts;
use super::plan::HeaderSource;
use super::request_id::{self, RequestId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct ClientInfo {
    pub(in crate::gateway) ip: Option<IpAddr>,
    /// The connection is over TLS.
    pub(in crate::gateway) secure: bool,
    /// What its answers say of https.
    pub(in crate::gateway) hsts: Option<Hsts>,
}

/// Who asks, of one request.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct RequestClient {
    /// Canonical: an IPv4 client of an IPv6 listener is an IPv4 address.
    pub(in crate::gateway) ip: Option<IpAddr>,
    /// The client asked over TLS, here or at the proxy before us.
    pub(in crate::gateway) secure: bool,
    /// The connection is a trusted proxy's.
    pub(in crate::gateway) via_proxy: bool,
    pub(in crate::gateway) id: RequestId,
}

impl RequestClient {
    pub(in crate::gateway) fn of<'a>(
        forwarding: &Forwarding,
        peer: ClientInfo,
        headers: impl HeaderSource<'a>,
    ) -> RequestClient {
        let ip = peer.ip.map(|ip| ip.to_canonical());
        let via_proxy = ip.is_some_and(|ip| forwarding.trusted.contains(ip));
        let keeps = match forwarding.request_id {
            RequestIds::Trusted => via_proxy,
            RequestIds::Any => true,
            RequestIds::Off => false,
        };
        let kept = || headers.first(request_id::FIELD).filter(|_| keeps).and_then(RequestId::kept);
        let id = match forwarding.request_id {
            RequestIds::Off => RequestId::NONE,
            _ => kept().unwrap_or_else(RequestId::fresh),
        };
        let mut client = RequestClient { ip, secure: peer.secure, via_proxy, id };
        if via_proxy {
            client.ip = original(forwarding, &headers).or(ip);
            client.secure = last(&headers, "x-forwarded-proto").and_then(is_secure).unwrap_or(peer.secure);
        }
        client
    }

    /// The address that limits go by; `None` for a proxy that asks for itself, and where no address is known.
    pub(in crate::gateway) fn limited(&self, forwarding: &Forwarding) -> Option<IpAddr> {
        self.ip.filter(|ip| !self.via_proxy || !forwarding.trusted.contains(*ip))
    }
}

/// Whom a trusted proxy asks for: the last address of `X-Forwarded-For` that is none of a trusted proxy. What stands before
/// it anybody may have written. If all are trusted, the first of them; what is no address ends the chain.
fn original<'a>(forwarding: &Forwarding, headers: &impl HeaderSource<'a>) -> Option<IpAddr> {
    let (mut client, mut first_proxy) = (None, None);
    headers.each("x-forwarded-for", |value| {
        for entry in value.split(|&b| b == b',') {
            match address(entry) {
                None => (client, first_proxy) = (None, None),
                Some(ip) if !forwarding.trusted.contains(ip) => (client, first_proxy) = (Some(ip), None),
                Some(ip) if client.is_none() => first_proxy = first_proxy.or(Some(ip)),
                Some(_) => {}
            }
        }
    });
    client.or(first_proxy)
}

/// An address with or without a port, in brackets or not.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry.trim_ascii()).ok()?;
    let bare = || entry.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    entry.parse().ok().or_else(with_port).or_else(bare).map(|ip| ip.to_canonical())
}

/// The last element of all fields of a name: what the peer itself has written.
pub(in crate::gateway) fn last<'a>(headers: &impl HeaderSource<'a>, name: &str) -> Option<&'a [u8]> {
    let mut last = None;
    headers.each(name, |value| last = Some(value));
    last?.rsplit(|&b| b == b',').next().map(<[u8]>::trim_ascii)
}

fn is_secure(scheme: &[u8]) -> Option<bool> {
    let is = |wanted: &[u8]| scheme.eq_ignore_ascii_case(wanted);
    if is(b"https") || is(b"wss") {
        return Some(true);
    }
    (is(b"http") || is(b"ws")).then_some(false)
}

/// Whether a proxy on this machine may ask from there, for everybody. It need not be listed to have more than one client's share.
pub(in crate::gateway) fn is_local(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

/// What limits count by: an IPv4 address, or the /64 that an IPv6 subscriber has to himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::gateway) struct ClientKey {
    is_v6: bool,
    prefix: u64,
}

impl From<IpAddr> for ClientKey {
    fn from(ip: IpAddr) -> ClientKey {
        match ip.to_canonical() {
            IpAddr::V4(ip) => ClientKey { is_v6: false, prefix: u32::from(ip).into() },
            IpAddr::V6(ip) => ClientKey { is_v6: true, prefix: (u128::from(ip) >> 64) as u64 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::request::networks::Networks;
    use http::{HeaderMap, HeaderName};

    fn asked(peer: &str, fields: &[(&str, &str)]) -> RequestClient {
        let forwarding = Forwarding {
            trusted: Networks::of(["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]),
            ..Forwarding::default()
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        RequestClient::of(
            &forwarding,
            ClientInfo { ip: Some(peer.parse().unwrap()), secure: false, hsts: None },
            &headers,
        )
    }

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        for (peer, chain, client) in [
            ("9.9.9.9", &["1.1.1.1"][..], "9.9.9.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("::ffff:10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &["8.8.8.8, 1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &["8.8.8.8", "1.1.1.1, 10.0.0.2"], "1.1.1.1"),
            ("10.0.0.1", &["1.1.1.1,10.0.0.3, 10.0.0.2"], "1.1.1.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["8.8.8.8, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["8.8.8.8, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1:4711"], "1.1.1.1"),
            ("10.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("fd00::1", &["::ffff:1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &["1.1.1.1, "], "10.0.0.1"),
        ] {
            let fields: Vec<(&str, &str)> = chain.iter().map(|value| ("x-forwarded-for", *value)).collect();
            assert_eq!(asked(peer, &fields).ip, Some(client.parse().unwrap()), "{peer} {chain:?}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_says_that_the_client_came_over_tls() {
        for (peer, said, secure) in [
            ("9.9.9.9", "https", false),
            ("10.0.0.1", "https", true),
            ("10.0.0.1", "http, HTTPS", true),
            ("10.0.0.1", "https, http", false),
            ("10.0.0.1", "wss", true),
            ("10.0.0.1", "gopher", false),
        ] {
            assert_eq!(asked(peer, &[("x-forwarded-proto", said)]).secure, secure, "{peer} {said}");
        }
    }

    #[test]
    fn an_id_is_a_trusted_proxys_or_new() {
        assert_eq!(asked("10.0.0.1", &[("x-request-id", "abc")]).id.as_str(), "abc");
        for (peer, said) in [("9.9.9.9", "abc"), ("10.0.0.1", "a b")] {
            assert_eq!(asked(peer, &[("x-request-id", said)]).id.as_str().len(), 32, "{peer} {said}");
        }
    }

    #[test]
    fn limits_go_by_the_address_or_the_64() {
        let key = |ip: &str| ClientKey::from(ip.parse::<IpAddr>().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:1.2.3.4"), key("1.2.3.4"));
        assert_ne!(key("1.2.3.4"), key("1.2.3.5"));
        assert_ne!(key("::1"), key("0.0.0.0"));
    }
}
