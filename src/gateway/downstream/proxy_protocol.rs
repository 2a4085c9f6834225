//! The PROXY protocol, versions 1 and 2: a load balancer that passes bytes on says first, in front of them, who its
//! client is (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>). Only from networks that are listed, since
//! whoever may say it can be anybody; and from those always, since else one who reaches them could say it in their name.

use super::connection::fill;
use crate::gateway::migration::format;
use crate::gateway::request::networks::Networks;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::{SocketDigest, Stream};
use ppp::{v1, v2};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::time::timeout;

/// From the connection's begin to the end of the header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a header of version 1, by its definition.
const LONGEST_V1: usize = 107;
/// Bytes of a header of version 2. Its length could say 64 KiB; of what load balancers add, certificates are the longest.
const LONGEST_V2: usize = 4096;
const V2_FIXED: usize = 16;

/// Why a connection is refused.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::gateway) enum HeaderFault {
    /// The peer is in none of the networks.
    NotListed(Option<IpAddr>),
    Late,
    Gone,
    Malformed,
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderFault::NotListed(Some(ip)) => write!(f, "{ip} is not listed in proxy_protocol.from"),
            HeaderFault::NotListed(None) => f.write_str("its address is not known"),
            HeaderFault::Late => f.write_str("no PROXY header came in time"),
            HeaderFault::Gone => f.write_str("the peer left before its PROXY header"),
            HeaderFault::Malformed => f.write_str("it did not begin with a PROXY header"),
        }
    }
}

/// Reads the header that a connection begins with, before anything else, TLS too. From here on the stream's peer is the client
/// that the header names, also for whoever takes the connection over. Gives back what was read beyond it.
///
/// # Errors
/// Why the connection is not to be served. Nothing has been written.
pub(in crate::gateway) async fn accept(stream: &mut Stream, from: &Networks) -> Result<BytesMut, HeaderFault> {
    let peer = format::peer(stream).map(|peer| peer.ip());
    if !peer.is_some_and(|ip| from.contains(ip)) {
        return Err(HeaderFault::NotListed(peer));
    }
    let mut read = BytesMut::new();
    let (source, len) = timeout(HEADER_TIMEOUT, header(stream, &mut read)).await.map_err(|_| HeaderFault::Late)??;
    if let Some(source) = source {
        set_peer(stream, source);
    }
    read.advance(len);
    Ok(if read.is_empty() { BytesMut::new() } else { read })
}

async fn header(stream: &mut Stream, read: &mut BytesMut) -> Result<(Option<SocketAddr>, usize), HeaderFault> {
    loop {
        match std::future::poll_fn(|cx| fill(stream, read, cx)).await {
            Ok(n) if n > 0 => {}
            _ => return Err(HeaderFault::Gone),
        }
        if let Some(found) = parse(read)? {
            return Ok(found);
        }
    }
}

fn set_peer(stream: &mut Stream, source: SocketAddr) {
    let Ok(fd) = format::descriptor(stream).map(|fd| fd.as_raw_fd()) else { return };
    let digest = SocketDigest::from_raw_fd(fd);
    // The cell is new and empty.
    let _ = digest.peer_addr.set(Some(source.into()));
    stream.set_socket_digest(digest);
}

/// The client that a header names, if it names one, and the header's length; `None` while it is not whole.
fn parse(read: &[u8]) -> Result<Option<(Option<SocketAddr>, usize)>, HeaderFault> {
    let begins = |with: &[u8]| read.starts_with(&with[..with.len().min(read.len())]);
    if begins(v2::PROTOCOL_PREFIX) {
        return parse_v2(read);
    }
    if begins(b"PROXY ") {
        return parse_v1(read);
    }
    Err(HeaderFault::Malformed)
}

fn parse_v1(read: &[u8]) -> Result<Option<(Option<SocketAddr>, usize)>, HeaderFault> {
    let line = &read[..read.len().min(LONGEST_V1)];
    let Some(end) = memchr::memmem::find(line, b"\r\n").map(|at| at + 2) else {
        return if read.len() < LONGEST_V1 { Ok(None) } else { Err(HeaderFault::Malformed) };
    };
    let header = v1::Header::try_from(&read[..end]).map_err(|_| HeaderFault::Malformed)?;
    let source = match header.addresses {
        v1::Addresses::Tcp4(said) => Some((said.source_address, said.source_port).into()),
        v1::Addresses::Tcp6(said) => Some((said.source_address, said.source_port).into()),
        v1::Addresses::Unknown => None,
    };
    Ok(Some((source, end)))
}

fn parse_v2(read: &[u8]) -> Result<Option<(Option<SocketAddr>, usize)>, HeaderFault> {
    let Some(&[high, low]) = read.get(V2_FIXED - 2..V2_FIXED) else { return Ok(None) };
    let len = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if len > LONGEST_V2 {
        return Err(HeaderFault::Malformed);
    }
    let Some(whole) = read.get(..len) else { return Ok(None) };
    let header = v2::Header::try_from(whole).map_err(|_| HeaderFault::Malformed)?;
    // A health check of the load balancer's own.
    let source = match header.addresses {
        _ if header.command == v2::Command::Local || header.protocol != v2::Protocol::Stream => None,
        v2::Addresses::IPv4(said) => Some((said.source_address, said.source_port).into()),
        v2::Addresses::IPv6(said) => Some((said.source_address, said.source_port).into()),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    };
    Ok(Some((source, len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([0x20 | command, family]);
        header.extend((payload.len() as u16).to_be_bytes());
        header.extend(payload);
        header
    }

    fn v4_payload() -> Vec<u8> {
        [&[192, 0, 2, 7][..], &[10, 0, 0, 1], &4711u16.to_be_bytes(), &443u16.to_be_bytes()].concat()
    }

    fn v6_payload() -> Vec<u8> {
        let ip = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        [&ip("2001:db8::7")[..], &ip("2001:db8::1"), &4711u16.to_be_bytes(), &443u16.to_be_bytes()].concat()
    }

    #[test]
    fn a_header_names_the_client_or_nobody() {
        let v4 = Some("192.0.2.7:4711");
        let v6 = Some("[2001:db8::7]:4711");
        for (header, client) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n".to_vec(), v4),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec(), v6),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(1, 0x11, &v4_payload()), v4),
            (v2(1, 0x21, &v6_payload()), v6),
            (v2(0, 0x11, &v4_payload()), None),
            (v2(0, 0, &[]), None),
            (v2(1, 0, &[]), None),
            (v2(1, 0x31, &[0; 216]), None),
            (v2(1, 0x12, &v4_payload()), None),
            // Further facts (TLV) are passed over.
            (v2(1, 0x11, &[v4_payload(), vec![1, 0, 2, b'h', b'2', 0xea, 0, 0]].concat()), v4),
        ] {
            let client = client.map(|client| client.parse::<SocketAddr>().unwrap());
            let shown = String::from_utf8_lossy(&header).into_owned();
            assert_eq!(parse(&header), Ok(Some((client, header.len()))), "{shown}");
            let more = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&more), Ok(Some((client, header.len()))), "{shown}");
            for end in 1..header.len() {
                assert_eq!(parse(&header[..end]), Ok(None), "{end} bytes of {shown}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_it_is_seen() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"PROXYTCP4",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 99999\r\n",
            b"PROXY TCP4 2001:db8::7 10.0.0.1 4711 443\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 4711 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443 \r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04abcd",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        ] {
            assert_eq!(parse(bytes), Err(HeaderFault::Malformed), "{}", String::from_utf8_lossy(bytes));
        }
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; LONGEST_V1]].concat();
        assert_eq!(parse(&long), Err(HeaderFault::Malformed));
    }
}
