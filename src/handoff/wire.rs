//! Frames with descriptors over a Unix stream socket.
//!
//! A frame is a header of 8 bytes (kind, number of descriptors, length of the body, all little-endian) and the body.
//! The descriptors travel with the header, so a frame's are never mistaken for another's. A short frame goes in one piece:
//! it is said or it is not.

use super::message::Message;
use super::{Error, step_limit};
use crate::process::ConnectionTransfer;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recv, recvmsg, sendmsg, shutdown,
};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::{Zeroize, Zeroizing};

/// Descriptors of one frame: the kernel passes 253 at once (unix(7)).
const MAX_FDS: usize = 200;
/// Bytes of a frame's body.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// Bytes of connections that go in one frame, if it has more than one.
const BATCH: usize = 256 * 1024;
const HEADER: usize = 8;
/// Bytes before each connection in a frame.
const PREFIX: usize = 5;
/// The kernel bounds descriptors on their way; the reader takes them meanwhile.
const TOO_MANY_PAUSE: Duration = Duration::from_millis(5);

const KIND_MESSAGE: u16 = 1;
const KIND_PARCELS: u16 = 2;
const KIND_SECRET: u16 = 3;

/// Bytes that are in no log, no `Debug` and no file, and do not stay in memory.
pub(crate) struct Secret(pub(crate) Zeroizing<Vec<u8>>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// What came.
#[derive(Debug)]
pub(super) enum Frame {
    Message(Message, Vec<OwnedFd>),
    Connections(Vec<ConnectionTransfer>),
    Secret(Secret),
    /// The other side has closed the connection.
    End,
}

/// One end of the conversation.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    limit: Duration,
}

impl Channel {
    /// Needs a Tokio runtime.
    pub(super) fn new(stream: UnixStream) -> Channel {
        Channel { stream, limit: step_limit() }
    }

    /// Out of the runtime it is registered with.
    pub(super) fn into_std(self) -> io::Result<std::os::unix::net::UnixStream> {
        self.stream.into_std()
    }

    pub(super) fn from_std(stream: std::os::unix::net::UnixStream) -> io::Result<Channel> {
        stream.set_nonblocking(true)?;
        Ok(Channel::new(UnixStream::from_std(stream)?))
    }

    /// For passing the conversation on.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn peer(&self) -> io::Result<tokio::net::unix::UCred> {
        self.stream.peer_cred()
    }

    /// Ends when there is something to hear.
    pub(super) async fn stirs(&self) {
        // The runtime may believe in bytes that have been read already: a look tells. An error is something to hear,
        // too.
        let look = || Ok(recv(&self.stream, &mut [0u8], RecvFlags::PEEK | RecvFlags::DONTWAIT)?);
        let _ = self.stream.async_io(Interest::READABLE, look).await;
    }

    pub(super) async fn say(&mut self, message: &Message) -> Result<(), Error> {
        self.say_with(message, &[]).await
    }

    pub(super) async fn say_with(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let body = serde_json::to_vec(message).map_err(|e| Error::new(format!("{}: {e}", message.name())))?;
        self.send(KIND_MESSAGE, &body, fds).await.map_err(|e| Error::new(format!("saying {}: {e}", message.name())))
    }

    pub(super) async fn send_secret(&mut self, secret: &Secret) -> Result<(), Error> {
        self.send(KIND_SECRET, &secret.0, &[]).await.map_err(|e| Error::new(format!("sending keys: {e}")))
    }

    /// Sends connections in as few frames as they fit into. They are only borrowed: the sender keeps its descriptors.
    pub(super) async fn send_connections<'a>(
        &mut self,
        connections: impl Iterator<Item = (Zeroizing<Vec<u8>>, Vec<BorrowedFd<'a>>)>,
    ) -> Result<usize, Error> {
        // There may be keys in it: it does not grow, which would leave a copy behind, and is wiped.
        let (mut body, mut fds, mut count) = (Zeroizing::new(Vec::<u8>::new()), Vec::new(), 0);
        let failed = |e| Error::new(format!("sending connections: {e}"));
        for (bytes, own) in connections {
            let length = u32::try_from(bytes.len()).map_err(|e| Error::new(format!("a connection's state: {e}")))?;
            if !fds.is_empty() && (fds.len() + own.len() > MAX_FDS || body.len() + bytes.len() > BATCH) {
                self.send(KIND_PARCELS, &body, &fds).await.map_err(failed)?;
                body.zeroize();
                fds.clear();
            }
            if body.is_empty() {
                body.reserve_exact(BATCH.max(bytes.len()) + MAX_FDS * PREFIX);
            }
            body.extend_from_slice(&length.to_le_bytes());
            body.push(own.len() as u8);
            body.extend_from_slice(&bytes);
            fds.extend(own);
            count += 1;
        }
        if !body.is_empty() {
            self.send(KIND_PARCELS, &body, &fds).await.map_err(failed)?;
        }
        Ok(count)
    }

    async fn send(&mut self, kind: u16, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        if fds.len() > MAX_FDS || body.len() > MAX_BODY {
            return Err(invalid("too much for one frame"));
        }
        let mut header = [0; HEADER];
        header[..2].copy_from_slice(&kind.to_le_bytes());
        header[2..4].copy_from_slice(&(fds.len() as u16).to_le_bytes());
        header[4..].copy_from_slice(&(body.len() as u32).to_le_bytes());
        let limit = self.limit;
        let send = async {
            let sent = loop {
                match self.stream.async_io(Interest::WRITABLE, || send_once(&self.stream, &header, body, fds)).await {
                    Err(e) if e.raw_os_error() == Some(rustix::io::Errno::TOOMANYREFS.raw_os_error()) => {
                        tokio::time::sleep(TOO_MANY_PAUSE).await;
                    }
                    other => break other?,
                }
            };
            self.stream.write_all(header.get(sent..).unwrap_or_default()).await?;
            self.stream.write_all(body.get(sent.saturating_sub(HEADER)..).unwrap_or_default()).await
        };
        timeout(limit, send).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// The next frame, within the limit of a step.
    pub(super) async fn hear(&mut self) -> Result<Frame, Error> {
        let limit = self.limit;
        self.hear_within(limit).await
    }

    /// The next frame; the wait for its beginning has `limit`, then it must come without a pause.
    pub(super) async fn hear_within(&mut self, limit: Duration) -> Result<Frame, Error> {
        timeout(limit, self.stirs()).await.map_err(|_| Error::new(format!("no word within {limit:?}")))?;
        let rest = self.limit;
        match timeout(rest, self.receive()).await {
            Ok(frame) => frame.map_err(|e| Error::new(e.to_string())),
            Err(_) => Err(Error::new(format!("a message did not come whole within {rest:?}"))),
        }
    }

    /// Hears what has been said, and sees to it that nothing more can be: the other side's next word fails. So both know
    /// whether it was said.
    pub(super) async fn last_word(&mut self) -> Result<Frame, Error> {
        shutdown(&self.stream, Shutdown::Read).map_err(|e| Error::new(e.to_string()))?;
        self.hear().await
    }

    async fn receive(&mut self) -> io::Result<Frame> {
        let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut header = [0; HEADER];
        let (received, fds) =
            self.stream.async_io(Interest::READABLE, || receive_once(&self.stream, &mut header)).await?;
        if received == 0 {
            return Ok(Frame::End);
        }
        self.stream.read_exact(&mut header[received..]).await?;
        let [k0, k1, f0, f1, l0, l1, l2, l3] = header;
        let (kind, count) = (u16::from_le_bytes([k0, k1]), usize::from(u16::from_le_bytes([f0, f1])));
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_BODY {
            return Err(odd("a message is too long"));
        }
        if fds.len() != count {
            return Err(odd("descriptors are missing: is the limit of open files too low?"));
        }
        let mut body = Zeroizing::new(vec![0; length]);
        self.stream.read_exact(&mut body).await?;
        match kind {
            KIND_MESSAGE => {
                let message =
                    serde_json::from_slice(&body).map_err(|e| odd(&format!("a message is not understood: {e}")))?;
                Ok(Frame::Message(message, fds))
            }
            KIND_PARCELS => {
                connections(&body, fds).map(Frame::Connections).ok_or_else(|| odd("connections are cut wrongly"))
            }
            KIND_SECRET => Ok(Frame::Secret(Secret(body))),
            _ => Err(odd("an unknown kind of message")),
        }
    }
}

pub(super) fn connections(mut body: &[u8], fds: Vec<OwnedFd>) -> Option<Vec<ConnectionTransfer>> {
    let mut fds = fds.into_iter();
    let mut connections = Vec::new();
    while !body.is_empty() {
        let (length, rest) = body.split_first_chunk::<4>()?;
        let (count, rest) = rest.split_first()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let own: Vec<OwnedFd> = fds.by_ref().take(usize::from(*count)).collect();
        if own.len() != usize::from(*count) {
            return None;
        }
        connections.push(ConnectionTransfer { bytes: Zeroizing::new(bytes.to_vec()), fds: own });
        body = rest;
    }
    fds.next().is_none().then_some(connections)
}

fn send_once(stream: &UnixStream, header: &[u8], body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parts = [IoSlice::new(header), IoSlice::new(body)];
    Ok(sendmsg(stream, &parts, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

fn receive_once(stream: &UnixStream, header: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(stream, &mut [IoSliceMut::new(header)], &mut control, flags)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    // Told by the missing count, with a better text.
    let _cut = received.flags.contains(ReturnFlags::CTRUNC);
    Ok((received.bytes, fds))
}
