//! Connections on their way to another process: descriptors, and bytes that say how they stand.
//!
//! The bytes are a JSON object, its length in 4 bytes (big-endian) before it, and what was read and not yet passed on
//! behind it. Which version of this both sides speak is agreed before by the handoff. The state of a connection over TLS is
//! the last of all. It holds keys, so it is no part of the object, which messages quote.

use crate::gateway::access::Entry;
use crate::tls::record::stream::RecordStream;
use crate::tls::stream::TlsStream;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{GetSocketDigest, SocketDigest, Stream};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

/// The most that one transfer holds, in bytes. What a connection holds has bounds far below it.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;
/// The most that its JSON object takes.
const MAX_HEAD: usize = 16 * 1024;

/// What the JSON object says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::gateway) enum Contents {
    Connection(Connection),
    Tunnel(Box<Tunnel>),
}

/// A connection between two requests. What was read of the next follows.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::gateway) struct Connection {
    /// The client, as its socket or a PROXY header has said.
    pub(in crate::gateway) peer: Option<SocketAddr>,
    /// The listener it came in at.
    #[serde(default)]
    pub(in crate::gateway) listener: Option<SocketAddr>,
    /// Its first bytes are to come and may be HTTP/2's.
    pub(in crate::gateway) greeting: bool,
    /// How long it may be idle, in milliseconds.
    pub(in crate::gateway) idle_ms: u64,
    /// How long is left of the wait for a request, or for the rest of a head that has begun.
    #[serde(default)]
    pub(in crate::gateway) left_ms: Option<u64>,
}

/// A tunnel. What waits for the client follows, then what waits for the worker, then the state of TLS.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::gateway) struct Tunnel {
    pub(in crate::gateway) peer: Option<SocketAddr>,
    pub(in crate::gateway) app: String,
    pub(in crate::gateway) slot: u16,
    pub(in crate::gateway) incarnation: u32,
    pub(in crate::gateway) tag: Option<String>,
    pub(in crate::gateway) socket: String,
    pub(in crate::gateway) idle_ms: u64,
    /// How long is left of that.
    #[serde(default)]
    pub(in crate::gateway) left_ms: Option<u64>,
    pub(in crate::gateway) to_client: Direction,
    pub(in crate::gateway) to_worker: Direction,
    /// Its Close frame's code, and how long until it is said, in milliseconds.
    pub(in crate::gateway) farewell: Option<(u16, u64)>,
    /// The room that leads it to its worker.
    #[serde(default)]
    pub(in crate::gateway) room: Option<u64>,
    /// Bytes of the client's state of TLS 1.3; none for a plain one. Sent to none but who takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::gateway) tls: Option<usize>,
    /// What the access log is told of it.
    #[serde(default)]
    pub(in crate::gateway) log: Option<Entry>,
    /// Whose it is, where it counts for an address.
    #[serde(default)]
    pub(in crate::gateway) client: Option<IpAddr>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::gateway) struct Direction {
    pub(in crate::gateway) waiting: usize,
    pub(in crate::gateway) state: State,
    pub(in crate::gateway) frames: Frames,
}

/// Where the WebSocket frames of a direction stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FramesOnTheWire")]
pub(in crate::gateway) struct Frames {
    /// Whole frames so far.
    pub(in crate::gateway) count: u64,
    /// Bytes to come of the frame that is passing, or its length so far.
    pub(in crate::gateway) left: u64,
    /// What the next byte is: 0 a frame's first, 1 its second, 2 its length, 3 its payload, 4 unknown.
    pub(in crate::gateway) stage: u64,
    /// Bytes of the length to come.
    pub(in crate::gateway) length_bytes: u64,
    /// The first byte of the frame that is passing.
    pub(in crate::gateway) first: u64,
    pub(in crate::gateway) flags: u64,
}

/// Older versions name no fields.
#[derive(Deserialize)]
#[serde(untagged)]
enum FramesOnTheWire {
    Named { count: u64, left: u64, stage: u64, length_bytes: u64, first: u64, flags: u64 },
    Positional([u64; 6]),
}

impl From<FramesOnTheWire> for Frames {
    fn from(wire: FramesOnTheWire) -> Frames {
        match wire {
            FramesOnTheWire::Named { count, left, stage, length_bytes, first, flags } => {
                Frames { count, left, stage, length_bytes, first, flags }
            }
            FramesOnTheWire::Positional(parts) => parts.into(),
        }
    }
}

impl From<[u64; 6]> for Frames {
    fn from([count, left, stage, length_bytes, first, flags]: [u64; 6]) -> Frames {
        Frames { count, left, stage, length_bytes, first, flags }
    }
}

impl From<Frames> for [u64; 6] {
    fn from(frames: Frames) -> [u64; 6] {
        let Frames { count, left, stage, length_bytes, first, flags } = frames;
        [count, left, stage, length_bytes, first, flags]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::gateway) enum State {
    Open,
    Ending,
    Ended,
}

/// As transfers say it.
pub(in crate::gateway) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Contents {
    /// # Errors
    /// More than a transfer may hold.
    pub(in crate::gateway) fn pack(&self, behind: &[&[u8]]) -> io::Result<Zeroizing<Vec<u8>>> {
        let head = serde_json::to_vec(self)?;
        let len = 4 + head.len() + behind.iter().map(|part| part.len()).sum::<usize>();
        if len > MAX_BYTES || head.len() > MAX_HEAD {
            return Err(io::Error::other(format!("{len} bytes are more than a transfer holds")));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        bytes.extend_from_slice(&(head.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&head);
        behind.iter().for_each(|part| bytes.extend_from_slice(part));
        Ok(bytes)
    }

    /// What a transfer says, and the bytes behind it.
    ///
    /// # Errors
    /// A sentence that names what is wrong.
    pub(in crate::gateway) fn unpack(bytes: &[u8]) -> Result<(Contents, &[u8]), String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("{} bytes are more than a transfer may have ({MAX_BYTES})", bytes.len()));
        }
        let (length, rest) = bytes.split_first_chunk().ok_or("the transfer ends within its length")?;
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_HEAD {
            return Err(format!("its description of {length} bytes is longer than {MAX_HEAD}"));
        }
        let (head, behind) = rest.split_at_checked(length).ok_or("the transfer ends within its description")?;
        let contents = serde_json::from_slice(head).map_err(|error| format!("its description: {error}"))?;
        Ok((contents, behind))
    }
}

/// What waits in a tunnel, and its state of TLS, out of the bytes behind its object.
pub(in crate::gateway) fn split_tls<'a>(
    said: &Tunnel,
    behind: &'a [u8],
) -> Result<(&'a [u8], Option<&'a [u8]>), String> {
    let Some(length) = said.tls else { return Ok((behind, None)) };
    let waiting = behind.len().checked_sub(length).and_then(|waiting| behind.split_at_checked(waiting));
    let (waiting, state) = waiting.ok_or("its state of TLS is cut off")?;
    Ok((waiting, Some(state)))
}

/// A plain TCP stream of Pingora's; `None` for one over TLS, and any other kind.
pub(in crate::gateway) fn plain(stream: &Stream) -> Option<&L4Stream> {
    let plain = (**stream).as_any().downcast_ref::<L4Stream>()?;
    peer(stream).and(Some(plain))
}

/// A client's connection that has left rustls for its tunnel.
pub(in crate::gateway) fn records(stream: &Stream) -> Option<&RecordStream<L4Stream>> {
    (**stream).as_any().downcast_ref()
}

/// Whether a tunnel with this client can be given away.
pub(in crate::gateway) fn can_carry_tunnel(stream: &Stream) -> bool {
    plain(stream).is_some() || (records(stream).is_some() && peer(stream).is_some())
}

/// The address at the other end.
pub(in crate::gateway) fn peer(stream: &Stream) -> Option<SocketAddr> {
    let digest = stream.get_socket_digest()?;
    digest.peer_addr()?.as_inet().copied()
}

/// The socket of a client's stream, over TLS or not.
pub(in crate::gateway) fn socket(stream: &Stream) -> Option<BorrowedFd<'_>> {
    let stream = (**stream).as_any();
    let tls = stream.downcast_ref::<TlsStream>().map(TlsStream::socket);
    let tls = tls.or_else(|| stream.downcast_ref::<RecordStream<L4Stream>>().map(RecordStream::get_ref));
    crate::process::descriptor(tls.or_else(|| stream.downcast_ref::<L4Stream>())?)
}

/// The descriptor of a client's stream, if it can be given away.
pub(in crate::gateway) fn descriptor(stream: &Stream) -> io::Result<BorrowedFd<'_>> {
    let tls = records(stream).map(RecordStream::get_ref);
    let socket = tls.or_else(|| plain(stream)).ok_or_else(|| io::Error::other("no connection that can be moved"))?;
    crate::process::descriptor(socket).ok_or_else(|| io::Error::other("no descriptor"))
}

/// A client's stream as Pingora's listener would give it, unbuffered. Only within a runtime.
pub(in crate::gateway) fn client(fd: OwnedFd, peer: Option<SocketAddr>) -> Result<Stream, String> {
    Ok(Box::new(client_socket(fd, peer)?))
}

/// The same over TLS, in this state. Only within a runtime.
pub(in crate::gateway) fn tls_client(fd: OwnedFd, peer: Option<SocketAddr>, state: &[u8]) -> Result<Stream, String> {
    Ok(Box::new(RecordStream::restore(client_socket(fd, peer)?, state)?))
}

fn client_socket(fd: OwnedFd, peer: Option<SocketAddr>) -> Result<L4Stream, String> {
    stream_socket(fd.as_fd(), &[AddressFamily::INET, AddressFamily::INET6])
        .map_err(|what| format!("the client's descriptor is {what}, not a TCP connection"))?;
    let adopt = || {
        let tcp = std::net::TcpStream::from(fd);
        tcp.set_nonblocking(true)?;
        TcpStream::from_std(tcp)
    };
    let mut stream = L4Stream::from(adopt().map_err(|error| format!("the client's connection: {error}"))?);
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    if let Some(peer) = peer {
        // The cell is new and empty.
        let _ = digest.peer_addr.set(Some(peer.into()));
    }
    stream.set_socket_digest(digest);
    Ok(stream)
}

/// A worker's end of a tunnel. Only within a runtime.
pub(in crate::gateway) fn worker(fd: OwnedFd) -> Result<UnixStream, String> {
    stream_socket(fd.as_fd(), &[AddressFamily::UNIX])
        .map_err(|what| format!("the worker's descriptor is {what}, not a connection of a Unix socket"))?;
    let adopt = || {
        let unix = std::os::unix::net::UnixStream::from(fd);
        unix.set_nonblocking(true)?;
        UnixStream::from_std(unix)
    };
    adopt().map_err(|error| format!("the worker's connection: {error}"))
}

/// Whether a descriptor is a stream socket of one of these families; else what it is.
fn stream_socket(fd: BorrowedFd<'_>, families: &[AddressFamily]) -> Result<(), String> {
    let family = socket_domain(fd).map_err(|error| format!("no socket ({error})"))?;
    let kind = socket_type(fd).map_err(|error| format!("no socket ({error})"))?;
    if !families.contains(&family) || kind != SocketType::STREAM {
        return Err(format!("a socket of family {} and type {}", family.as_raw(), kind.as_raw()));
    }
    match socket_acceptconn(fd) {
        Ok(true) => Err("a listener".into()),
        _ => Ok(()),
    }
}
