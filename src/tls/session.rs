//! A server's side of one TLS connection, without any IO: bytes of the wire go in and come out. Every call of rustls that a
//! stream makes stands here.
//!
//! rustls' unbuffered API keeps no bytes: whoever calls hands in what has come and keeps what is not used up, so a connection
//! that waits holds nothing but its keys. What is left over must be handed in again as it is: parts of it may be decrypted.

use super::record::convert::{Conversion, convert};
use super::record::secrets::{self, TrafficSecrets};
use bytes::BytesMut;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use rustls::{Error, ServerConfig};
use std::sync::Arc;

pub(crate) struct Session {
    connection: Box<UnbufferedServerConnection>,
    /// The peer has said that nothing more comes.
    peer_closed: bool,
    /// Told by rustls in the handshake, for a connection that leaves it.
    secrets: Option<Box<TrafficSecrets>>,
}

/// What became of received bytes.
pub(super) struct Received {
    /// So many from the front are used up.
    pub(super) used: usize,
    /// What is left may hold more.
    pub(super) more: bool,
    /// The connection cannot go on; what is to be sent says so to the peer.
    pub(super) failed: Option<Error>,
}

/// Takes plaintext. `false`: it has no room for another record.
pub(super) trait Sink {
    fn put(&mut self, plaintext: &[u8]) -> bool;
}

impl Sink for BytesMut {
    fn put(&mut self, plaintext: &[u8]) -> bool {
        self.extend_from_slice(plaintext);
        true
    }
}

/// What one look at the connection asks for.
enum Step {
    Again,
    Full,
    Enough,
}

impl Session {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Session, Error> {
        let connection = Box::new(UnbufferedServerConnection::new(config)?);
        Ok(Session { connection, peer_closed: false, secrets: None })
    }

    /// Handles received bytes: plaintext goes to `plain`, what is to be sent for them is added to `outgoing`.
    pub(super) fn receive(&mut self, incoming: &mut [u8], plain: &mut impl Sink, outgoing: &mut BytesMut) -> Received {
        let mut used = 0;
        loop {
            let (connection, rest) = (&mut self.connection, &mut incoming[used..]);
            let (UnbufferedStatus { discard, state }, told) = match connection.is_handshaking() {
                true => secrets::capture(|| connection.process_tls_records(rest)),
                false => (connection.process_tls_records(rest), None),
            };
            if told.is_some() {
                self.secrets = told;
            }
            let mut discard = discard;
            let step = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    let mut step = Step::Again;
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        if !plain.put(record.payload) {
                            step = Step::Full;
                        }
                    }
                    step
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(outgoing, |out| data.encode(out).map_err(TooSmall::from));
                    Step::Again
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // It is in `outgoing`, which leaves before anything else does.
                    data.done();
                    Step::Again
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_closed = true;
                    Step::Again
                }
                Ok(_) => Step::Enough,
                Err(error) => {
                    self.alert(outgoing);
                    return Received { used: (used + discard).min(incoming.len()), more: false, failed: Some(error) };
                }
            };
            used = (used + discard).min(incoming.len());
            match step {
                Step::Again => {}
                Step::Full => return Received { used, more: used < incoming.len(), failed: None },
                Step::Enough => return Received { used, more: false, failed: None },
            }
        }
    }

    /// What tells the peer of an error.
    fn alert(&mut self, outgoing: &mut BytesMut) {
        loop {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(outgoing, |out| data.encode(out).map_err(TooSmall::from));
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                _ => return,
            }
        }
    }

    /// Encrypts all of `plaintext` into `out`; what is to be sent before it goes first. `incoming` is what was received and
    /// not used up: it is only looked at if a record of it is whole, and what that holds goes to `plain`.
    ///
    /// # Errors
    /// The connection cannot go on.
    pub(super) fn seal(
        &mut self,
        incoming: &mut BytesMut,
        plain: &mut BytesMut,
        plaintext: &[u8],
        out: &mut Output<'_>,
    ) -> Result<(), Error> {
        self.write(incoming, plain, out, |traffic, out| traffic.encrypt(plaintext, out))
    }

    /// Writes the end of our side.
    ///
    /// # Errors
    /// The connection cannot go on.
    pub(super) fn seal_close(
        &mut self,
        incoming: &mut BytesMut,
        plain: &mut BytesMut,
        out: &mut Output<'_>,
    ) -> Result<(), Error> {
        self.write(incoming, plain, out, |traffic, out| traffic.queue_close_notify(out))
    }

    fn write(
        &mut self,
        incoming: &mut BytesMut,
        plain: &mut BytesMut,
        out: &mut Output<'_>,
        encrypt: impl Fn(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), Error> {
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(incoming);
            let mut discard = discard;
            let mut done = false;
            match state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    out.write(|room| encrypt(&mut traffic, room).map_err(TooSmall::from))?;
                    done = true;
                }
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    out.write(|room| data.encode(room).map_err(TooSmall::from))?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.peer_closed = true,
                ConnectionState::Closed => return Ok(()),
                _ => return Err(Error::HandshakeNotComplete),
            }
            if discard > 0 {
                let _ = incoming.split_to(discard.min(incoming.len()));
            }
            if done {
                return Ok(());
            }
        }
    }

    /// For a tunnel: what is left of TLS then, or the session as it was.
    pub(super) fn into_records(self) -> Conversion<Session> {
        let Session { connection, peer_closed, secrets } = self;
        let Some(secrets) = secrets else {
            return Conversion::Stays(Session { connection, peer_closed, secrets: None }, Vec::new());
        };
        match convert(connection, &secrets, peer_closed) {
            Conversion::Converted(layer, unsent) => Conversion::Converted(layer, unsent),
            Conversion::Stays(connection, unsent) => {
                Conversion::Stays(Session { connection, peer_closed, secrets: Some(secrets) }, unsent)
            }
            Conversion::Broken(why) => Conversion::Broken(why),
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    pub(super) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    pub(super) fn is_http2(&self) -> bool {
        self.connection.alpn_protocol() == Some(b"h2")
    }

    pub(super) fn has_alpn(&self) -> bool {
        self.connection.alpn_protocol().is_some()
    }

    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.connection.peer_certificates()
    }

    /// Cipher suite and protocol version, by the names of their registries.
    pub(super) fn names(&self) -> (&'static str, &'static str) {
        let suite = self.connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let version = self.connection.protocol_version().and_then(|version| version.as_str());
        (suite.unwrap_or_default(), version.unwrap_or_default())
    }
}

type Traffic<'c> = rustls::unbuffered::WriteTraffic<'c, rustls::server::ServerConnectionData>;

/// Where bytes for the wire go: as long as they fit, into a buffer that is there already.
pub(super) struct Output<'a> {
    room: &'a mut [u8],
    filled: usize,
    /// What does not fit, and all after it.
    over: BytesMut,
}

impl<'a> Output<'a> {
    pub(super) fn new(room: &'a mut [u8]) -> Output<'a> {
        Output { room, filled: 0, over: BytesMut::new() }
    }

    /// What was written, and what of it did not fit.
    pub(super) fn finish(self) -> (&'a [u8], BytesMut) {
        (&self.room[..self.filled], self.over)
    }

    fn write(&mut self, mut write: impl FnMut(&mut [u8]) -> Result<usize, TooSmall>) -> Result<(), Error> {
        let room = if self.over.is_empty() { &mut self.room[self.filled..] } else { &mut [][..] };
        match write(room) {
            Ok(n) => self.filled += n,
            Err(TooSmall::By(size)) => {
                let at = self.over.len();
                self.over.resize(at + size, 0);
                let n = write(&mut self.over[at..]).map_err(|_| Error::EncryptError)?;
                self.over.truncate(at + n);
            }
            Err(TooSmall::Never) => return Err(Error::EncryptError),
        }
        Ok(())
    }
}

/// Why something could not be written.
enum TooSmall {
    /// It takes so many bytes.
    By(usize),
    Never,
}

impl From<EncodeError> for TooSmall {
    fn from(error: EncodeError) -> TooSmall {
        match error {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size, .. }) => TooSmall::By(required_size),
            EncodeError::AlreadyEncoded => TooSmall::Never,
        }
    }
}

impl From<EncryptError> for TooSmall {
    fn from(error: EncryptError) -> TooSmall {
        match error {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size, .. }) => TooSmall::By(required_size),
            EncryptError::EncryptExhausted => TooSmall::Never,
        }
    }
}

fn append(outgoing: &mut BytesMut, mut write: impl FnMut(&mut [u8]) -> Result<usize, TooSmall>) {
    let at = outgoing.len();
    if let Err(TooSmall::By(size)) = write(&mut []) {
        outgoing.resize(at + size, 0);
        let n = write(&mut outgoing[at..]).unwrap_or(0);
        outgoing.truncate(at + n);
    }
}
