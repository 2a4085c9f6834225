//! Records of TLS 1.3, opened and sealed by the rules of RFC 8446, section 5, as a server. No input, no output, no clock.

use super::keys::{Protection, Secret, Suite, TAG};
use std::fmt;
use std::ops::Range;

/// Bytes of a record's header.
pub(super) const HEADER: usize = 5;
/// The most that a record carries, in bytes.
pub(super) const MAX_PLAINTEXT: usize = 1 << 14;
/// The most behind a record's header.
const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 256;
/// The longest record.
pub(super) const MAX_RECORD: usize = HEADER + MAX_CIPHERTEXT;
/// A record of ours that carries `n` bytes is at most this much longer, whatever goes before it.
pub(super) const MAX_OVERHEAD: usize = 2 * (HEADER + 1 + TAG) + KEY_UPDATE.len();
/// Records in a row that carry nothing, and the same of key updates (OpenSSL allows as many of the first, rustls of the second).
const MAX_IDLE_RECORDS: u8 = 32;
/// Records that are sealed with one key. AES-GCM allows for 2^24.5 (RFC 8446, section 5.5).
const MAX_SEALED: u64 = 1 << 23;

const CONTENT_ALERT: u8 = 21;
const CONTENT_HANDSHAKE: u8 = 22;
const CONTENT_DATA: u8 = 23;

const HANDSHAKE_KEY_UPDATE: u8 = 24;
/// A whole KeyUpdate message that asks for none in return.
const KEY_UPDATE: [u8; 5] = [HANDSHAKE_KEY_UPDATE, 0, 0, 1, 0];

const LEVEL_WARNING: u8 = 1;
const LEVEL_FATAL: u8 = 2;
const ALERT_CLOSE_NOTIFY: u8 = 0;
const ALERT_USER_CANCELED: u8 = 90;

/// Alerts that say what was wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alert {
    UnexpectedMessage = 10,
    BadRecordMac = 20,
    RecordOverflow = 22,
    IllegalParameter = 47,
    DecodeError = 50,
    InternalError = 80,
}

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// What is wrong with a record of the peer, and the alert that says so.
    Peer(Alert, &'static str),
    /// The peer has said that it gives up, with this alert.
    Alerted(u8),
    /// Nothing more can be opened, or sealed, after a fault or the end.
    Over,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Peer(_, what) => f.write_str(what),
            Fault::Alerted(alert) => write!(f, "the client has ended the connection with TLS alert {alert}"),
            Fault::Over => f.write_str("the TLS connection is over"),
        }
    }
}

impl From<Fault> for std::io::Error {
    fn from(fault: Fault) -> std::io::Error {
        let kind = match fault {
            Fault::Peer(..) => std::io::ErrorKind::InvalidData,
            Fault::Alerted(_) => std::io::ErrorKind::ConnectionAborted,
            Fault::Over => std::io::ErrorKind::BrokenPipe,
        };
        std::io::Error::new(kind, fault.to_string())
    }
}

const fn peer(alert: Alert, what: &'static str) -> Fault {
    Fault::Peer(alert, what)
}

const INTERNAL: Fault = peer(Alert::InternalError, "a key could not be made");

/// What the first record of some bytes came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// It is not whole.
    Partial,
    /// It took `consumed` bytes; `plaintext` is where in them its data is, empty if it carried none.
    Record { consumed: usize, plaintext: Range<usize> },
    /// The peer sends nothing more.
    Closed { consumed: usize },
}

/// Flags of a record layer, as [`super::state`] writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// A key update of ours is due before the next data.
    pub(super) update_due: bool,
    /// The peer has said close_notify.
    pub(super) read_closed: bool,
    /// We have.
    pub(super) write_closed: bool,
}

/// Both directions of a connection. [`super`] says why there must not be two of one.
pub(crate) struct RecordLayer {
    read: Protection,
    write: Protection,
    flags: Flags,
    /// Key updates since the last data.
    key_updates: u8,
    /// Records without content since the last data.
    empty_records: u8,
    failed: bool,
}

/// Nothing of the keys.
impl fmt::Debug for RecordLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordLayer").field("suite", &self.suite()).field("flags", &self.flags).finish_non_exhaustive()
    }
}

impl RecordLayer {
    /// `read` and `write` are the secrets of either direction and the number of its next record. `None`: not the suite's.
    pub(super) fn new(suite: Suite, read: (Secret, u64), write: (Secret, u64), flags: Flags) -> Option<RecordLayer> {
        let read = Protection::new(suite, read.0, read.1).ok()?;
        let write = Protection::new(suite, write.0, write.1).ok()?;
        Some(RecordLayer { read, write, flags, key_updates: 0, empty_records: 0, failed: false })
    }

    pub(crate) fn suite(&self) -> Suite {
        self.write.suite()
    }

    pub(super) fn read(&self) -> &Protection {
        &self.read
    }

    pub(super) fn write(&self) -> &Protection {
        &self.write
    }

    pub(super) fn flags(&self) -> Flags {
        self.flags
    }

    /// Key updates and empty records since the last data.
    pub(super) fn idle_records(&self) -> [u8; 2] {
        [self.key_updates, self.empty_records]
    }

    pub(super) fn set_idle_records(&mut self, [key_updates, empty_records]: [u8; 2]) {
        self.key_updates = key_updates;
        self.empty_records = empty_records;
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Opens the first record of `input`, in place.
    ///
    /// # Errors
    /// The connection cannot go on; every later call fails, too. [`RecordLayer::seal_alert`] makes what is to be said.
    pub(crate) fn open(&mut self, input: &mut [u8]) -> Result<Opened, Fault> {
        if self.failed {
            return Err(Fault::Over);
        }
        if self.flags.read_closed {
            // Whatever comes after it is to be ignored (RFC 8446, section 6.1).
            return Ok(Opened::Closed { consumed: input.len() });
        }
        let opened = self.open_record(input);
        self.failed = opened.is_err();
        opened
    }

    fn open_record(&mut self, input: &mut [u8]) -> Result<Opened, Fault> {
        if input.first().is_some_and(|kind| *kind != CONTENT_DATA) {
            return Err(peer(Alert::UnexpectedMessage, "a TLS record is not encrypted"));
        }
        let Some((header, rest)) = input.split_first_chunk_mut::<HEADER>() else { return Ok(Opened::Partial) };
        let [_, _, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_CIPHERTEXT {
            return Err(peer(Alert::RecordOverflow, "a TLS record is longer than they may be"));
        }
        let Some(sealed) = rest.get_mut(..length) else { return Ok(Opened::Partial) };
        let bad_mac = |_| peer(Alert::BadRecordMac, "a TLS record was not sealed by the client, or not with this key");
        let opened = self.read.open(header, sealed).map_err(bad_mac)?;
        // The type of what is in it comes last, before any padding of zeros.
        let end = opened.iter().rposition(|byte| *byte != 0);
        let end = end.ok_or(peer(Alert::UnexpectedMessage, "a TLS record carries nothing, not even a type"))?;
        if opened.len() > MAX_PLAINTEXT + 1 {
            return Err(peer(Alert::RecordOverflow, "a TLS record carries more than they may"));
        }
        let (content, kind) = (&opened[..end], opened[end]);
        let consumed = HEADER + length;
        let nothing = Opened::Record { consumed, plaintext: HEADER..HEADER };
        match kind {
            CONTENT_DATA if content.is_empty() => {
                self.count_empty()?;
                Ok(nothing)
            }
            CONTENT_DATA => {
                self.set_idle_records([0, 0]);
                Ok(Opened::Record { consumed, plaintext: HEADER..HEADER + end })
            }
            CONTENT_ALERT => match *content {
                [_, ALERT_CLOSE_NOTIFY] => {
                    self.flags.read_closed = true;
                    Ok(Opened::Closed { consumed })
                }
                [_, ALERT_USER_CANCELED] => {
                    self.count_empty()?;
                    Ok(nothing)
                }
                [_, alert] => Err(Fault::Alerted(alert)),
                _ => Err(peer(Alert::DecodeError, "a TLS alert does not have two bytes")),
            },
            CONTENT_HANDSHAKE => {
                let asked = key_update(content)?;
                self.update_read(asked)?;
                Ok(nothing)
            }
            _ => Err(peer(Alert::UnexpectedMessage, "a TLS record of a kind that has no place here")),
        }
    }

    fn count_empty(&mut self) -> Result<(), Fault> {
        self.empty_records = self.empty_records.saturating_add(1);
        match self.empty_records > MAX_IDLE_RECORDS {
            true => Err(peer(Alert::UnexpectedMessage, "too many TLS records without content")),
            false => Ok(()),
        }
    }

    /// The peer goes on with its next key. `asked`: we are to do so, too.
    fn update_read(&mut self, asked: bool) -> Result<(), Fault> {
        self.key_updates = self.key_updates.saturating_add(1);
        if self.key_updates > MAX_IDLE_RECORDS {
            return Err(peer(Alert::UnexpectedMessage, "too many key updates without data between"));
        }
        self.read.update().map_err(|_| INTERNAL)?;
        // One answer is enough for all that were asked for before it is sent.
        self.flags.update_due |= asked;
        Ok(())
    }

    /// Seals up to one record's worth of `plaintext` behind what is in `out`, a key update before it where one is due.
    /// Gives how much of it went in.
    ///
    /// # Errors
    /// Nothing more may be sent.
    pub(crate) fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<usize, Fault> {
        if self.failed || self.flags.write_closed {
            return Err(Fault::Over);
        }
        if plaintext.is_empty() {
            return Ok(0);
        }
        if self.flags.update_due || self.write.sequence() >= MAX_SEALED {
            self.seal_record(CONTENT_HANDSHAKE, &KEY_UPDATE, out)?;
            self.write.update().map_err(|_| self.fail())?;
            self.flags.update_due = false;
        }
        let plaintext = &plaintext[..plaintext.len().min(MAX_PLAINTEXT)];
        self.seal_record(CONTENT_DATA, plaintext, out)?;
        Ok(plaintext.len())
    }

    /// Says that nothing more comes from here. Once only; nothing can be sealed after it.
    pub(crate) fn seal_close(&mut self, out: &mut Vec<u8>) {
        if !self.failed {
            self.seal_last([LEVEL_WARNING, ALERT_CLOSE_NOTIFY], out);
        }
    }

    /// Says what was wrong, if that is to be said. Nothing can be sealed after it.
    pub(crate) fn seal_alert(&mut self, fault: Fault, out: &mut Vec<u8>) {
        if let Fault::Peer(alert, _) = fault {
            self.seal_last([LEVEL_FATAL, alert as u8], out);
        }
    }

    fn seal_last(&mut self, alert: [u8; 2], out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.flags.write_closed, true) {
            // Who cannot say it leaves without a word.
            let _ = self.seal_record(CONTENT_ALERT, &alert, out);
        }
    }

    fn seal_record(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let length = content.len() + 1 + TAG;
        let Ok([high, low]) = u16::try_from(length).map(u16::to_be_bytes) else { return Err(self.fail()) };
        let header = [CONTENT_DATA, 3, 3, high, low];
        let start = out.len();
        out.reserve(HEADER + length);
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.push(kind);
        match self.write.seal(&header, &mut out[start + HEADER..]) {
            Ok(tag) => {
                out.extend_from_slice(&tag);
                Ok(())
            }
            Err(_) => {
                // No plaintext goes out.
                out.truncate(start);
                Err(self.fail())
            }
        }
    }

    fn fail(&mut self) -> Fault {
        self.failed = true;
        INTERNAL
    }
}

/// What a handshake record asks for: it must be one whole key update. `true`: with one in return.
fn key_update(content: &[u8]) -> Result<bool, Fault> {
    match *content {
        [HANDSHAKE_KEY_UPDATE, 0, 0, 1, asked] => match asked {
            0 | 1 => Ok(asked == 1),
            _ => Err(peer(Alert::IllegalParameter, "a key update asks for something unknown")),
        },
        [HANDSHAKE_KEY_UPDATE, ..] => {
            Err(peer(Alert::UnexpectedMessage, "a key update that is not whole, or not alone"))
        }
        _ => Err(peer(Alert::UnexpectedMessage, "a handshake message that has no place after the handshake")),
    }
}

#[cfg(test)]
impl RecordLayer {
    pub(super) fn update_soon(&mut self) {
        self.flags.update_due = true;
    }

    /// As after this many sealed records.
    pub(super) fn skip_sealed(&mut self, sealed: u64) {
        let secret = Secret::new(self.write.secret().as_bytes()).unwrap();
        self.write = Protection::new(self.write.suite(), secret, sealed).unwrap();
    }
}
