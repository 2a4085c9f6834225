//! A record layer and the bytes around it, written down for another process.
//!
//! ```text
//! version 1 | suite 2 | flags 1 | key updates 1 | empty records 1
//! read: number 8, secret (the suite's length) | write: the same
//! incoming: length 4, bytes | plaintext: the same | unsent: the same
//! ```
//! All numbers are big-endian. These are keys: they go from memory to memory, into no file and no log, and are wiped
//! behind. [`super`] says who may go on with them.

use super::keys::{Secret, Suite};
use super::layer::{Flags, MAX_OVERHEAD, MAX_PLAINTEXT, MAX_RECORD, RecordLayer};
use zeroize::{Zeroize, Zeroizing};

/// Of what is written below.
const VERSION: u8 = 1;
const UPDATE_DUE: u8 = 1;
const READ_CLOSED: u8 = 2;
const WRITE_CLOSED: u8 = 4;
const KNOWN_FLAGS: u8 = UPDATE_DUE | READ_CLOSED | WRITE_CLOSED;

/// The most that waits of each kind, in bytes. One record, and what a handshake or a key update leaves beside it.
pub(crate) const MAX_INCOMING: usize = 2 * MAX_RECORD;
pub(crate) const MAX_PLAIN: usize = 4 * MAX_PLAINTEXT;
pub(crate) const MAX_UNSENT: usize = 4 * (MAX_PLAINTEXT + MAX_OVERHEAD);

/// Bytes on their way through a record layer.
#[derive(Default)]
pub(crate) struct Buffers {
    /// Read and not yet opened: less than a record, mostly.
    pub(crate) incoming: Vec<u8>,
    /// Opened and not yet taken.
    pub(crate) plain: Vec<u8>,
    /// Sealed and not yet sent: its numbers are spent, so it must go out as it is.
    pub(crate) unsent: Vec<u8>,
}

impl Buffers {
    /// Whether each keeps within its bounds.
    pub(super) fn fit(&self) -> bool {
        self.incoming.len() <= MAX_INCOMING && self.plain.len() <= MAX_PLAIN && self.unsent.len() <= MAX_UNSENT
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.plain.zeroize();
    }
}

/// Writes all of it down. `None`: it has failed, or more waits than may.
pub(super) fn save(layer: &RecordLayer, buffers: &Buffers) -> Option<Zeroizing<Vec<u8>>> {
    if layer.has_failed() || !buffers.fit() {
        return None;
    }
    let parts = [&buffers.incoming, &buffers.plain, &buffers.unsent];
    // No secret is left behind in memory that was too small.
    let room = 256 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Zeroizing::new(Vec::with_capacity(room));
    out.push(VERSION);
    out.extend_from_slice(&layer.suite().number().to_be_bytes());
    let Flags { update_due, read_closed, write_closed } = layer.flags();
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(flag(update_due, UPDATE_DUE) | flag(read_closed, READ_CLOSED) | flag(write_closed, WRITE_CLOSED));
    out.extend_from_slice(&layer.idle_records());
    for protection in [layer.read(), layer.write()] {
        out.extend_from_slice(&protection.sequence().to_be_bytes());
        out.extend_from_slice(protection.secret().as_bytes());
    }
    for part in parts {
        out.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
        out.extend_from_slice(part);
    }
    Some(out)
}

/// Goes on from what was written down.
///
/// # Errors
/// A sentence that says what is wrong, and nothing of what was written.
pub(super) fn restore(saved: &[u8]) -> Result<(RecordLayer, Buffers), String> {
    let mut reader = Reader(saved);
    match reader.byte()? {
        VERSION => {}
        other => return Err(format!("the TLS state has version {other}, not {VERSION}")),
    }
    let number = u16::from_be_bytes(reader.array()?);
    let suite = Suite::of_number(number).ok_or_else(|| format!("cipher suite {number:#06x} is not known"))?;
    let flags = reader.byte()?;
    if flags & !KNOWN_FLAGS != 0 {
        return Err("the TLS state has flags that are not known".into());
    }
    let flags = Flags {
        update_due: flags & UPDATE_DUE != 0,
        read_closed: flags & READ_CLOSED != 0,
        write_closed: flags & WRITE_CLOSED != 0,
    };
    let idle_records = reader.array()?;
    let read = reader.direction(suite)?;
    let write = reader.direction(suite)?;
    let buffers = Buffers {
        incoming: reader.part(MAX_INCOMING)?,
        plain: reader.part(MAX_PLAIN)?,
        unsent: reader.part(MAX_UNSENT)?,
    };
    if !reader.0.is_empty() {
        return Err("the TLS state goes on behind its end".into());
    }
    let mut layer = RecordLayer::new(suite, read, write, flags).ok_or("no key could be made of the TLS state")?;
    layer.set_idle_records(idle_records);
    Ok((layer, buffers))
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("the TLS state is cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("the TLS state is cut off")?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.array().map(|[byte]| byte)
    }

    fn direction(&mut self, suite: Suite) -> Result<(Secret, u64), String> {
        let sequence = u64::from_be_bytes(self.array()?);
        let secret = Secret::new(self.bytes(suite.secret_len())?).ok_or("a secret is too long")?;
        Ok((secret, sequence))
    }

    fn part(&mut self, most: usize) -> Result<Vec<u8>, String> {
        let length = u32::from_be_bytes(self.array()?) as usize;
        if length > most {
            return Err(format!("{length} bytes wait in the TLS state where {most} may"));
        }
        self.bytes(length).map(<[u8]>::to_vec)
    }
}
