//! Where a body ends, told while it streams by (RFC 9112, sections 6 and 7).

use super::{Body, MAX_LENGTH, Reject, scan};

/// Bytes of one chunk's extensions, from the `;` (or the space before it) to the CRLF.
const EXTENSION_BYTES: u16 = 256;
/// Bytes of all extensions of one body: they carry nothing, so many of them are only a way to waste time.
const ALL_EXTENSION_BYTES: u16 = 16 << 10;
/// Bytes of the trailer section, with its line ends.
const TRAILER_BYTES: u16 = 8 << 10;
const SIZE_DIGITS: u8 = 16;

/// Follows one body through the stream, however it is cut, and refuses what another reader could take for something else.
#[derive(Clone, Debug)]
pub(crate) struct BodyScanner {
    state: State,
    /// Data bytes still to come of the body, or of the chunk.
    left: u64,
    payload: u64,
    /// Digits of the size, or bytes of the extension or of the trailer section, so far.
    run: u16,
    extensions: u16,
}

/// What the last bytes that [`BodyScanner::next`] took are; those before them are framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Framing,
    /// So many bytes of content.
    Content(usize),
    /// So many bytes of the trailer section, its last empty line among them.
    Trailers(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Plain,
    UntilClose,
    Size,
    /// Spaces between a size and the `;` of its extension.
    Pad,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
    Refused(&'static str),
}

impl BodyScanner {
    pub(crate) fn new(body: Body) -> BodyScanner {
        let (state, left) = match body {
            Body::None | Body::Length(0) => (State::Done, 0),
            Body::Length(length) => (State::Plain, length),
            Body::Chunked => (State::Size, 0),
            Body::UntilClose => (State::UntilClose, u64::MAX),
        };
        BodyScanner { state, left, payload: 0, run: 0, extensions: 0 }
    }

    /// Takes the next bytes of the stream; returns how many of them, from the first, belong to this body. Fewer than
    /// given means that the body is done; what follows is the next request's.
    ///
    /// # Errors
    /// Malformed chunks (400). Every later call fails, too.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<usize, Reject> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            match self.state {
                State::Plain | State::Data | State::UntilClose => at += self.skip(bytes.len() - at),
                _ => {
                    self.state = self.framing(bytes[at]).unwrap_or_else(State::Refused);
                    at += 1;
                }
            }
            if let State::Refused(reason) = self.state {
                return Err(Reject::bad(reason));
            }
        }
        Ok(at)
    }

    /// Takes the next bytes of the stream up to the end of one run of content, of trailer bytes or of the bytes given,
    /// whichever comes first: how many were taken, and what the last of them are.
    ///
    /// # Errors
    /// As [`BodyScanner::advance`].
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<(usize, Piece), Reject> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            match self.state {
                State::Plain | State::Data | State::UntilClose => {
                    let taken = self.skip(bytes.len() - at);
                    return Ok((at + taken, Piece::Content(taken)));
                }
                State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf | State::LastLf => {
                    let taken = self.advance(&bytes[at..])?;
                    return Ok((at + taken, Piece::Trailers(taken)));
                }
                _ => {
                    self.state = self.framing(bytes[at]).unwrap_or_else(State::Refused);
                    at += 1;
                }
            }
            if let State::Refused(reason) = self.state {
                return Err(Reject::bad(reason));
            }
        }
        Ok((at, Piece::Framing))
    }

    /// Content still to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Plain => Some(self.left),
            _ => None,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of content so far, without chunk framing.
    #[allow(dead_code)] // for fuzz/, which includes this file
    pub(crate) fn payload(&self) -> u64 {
        self.payload
    }

    fn skip(&mut self, available: usize) -> usize {
        let taken = self.left.min(available as u64);
        self.payload = self.payload.saturating_add(taken);
        if self.state != State::UntilClose {
            self.left -= taken;
        }
        if self.left == 0 {
            self.state = if self.state == State::Plain { State::Done } else { State::DataCr };
        }
        taken as usize
    }

    /// The state after one byte of chunk framing.
    fn framing(&mut self, b: u8) -> Result<State, &'static str> {
        match (self.state, b) {
            (State::Size, _) => self.size(b),
            (State::Pad, b' ' | b'\t') => self.extension(State::Pad),
            (State::Pad, b';') => self.extension(State::Extension),
            (State::Pad, _) => Err("a space after a chunk size"),
            (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, b'\t' | b' '..=b'~') => self.extension(State::Extension),
            (State::Extension, _) => Err("a control character in a chunk extension"),
            (State::SizeLf, b'\n') if self.left > 0 => Ok(State::Data),
            (State::SizeLf, b'\n') => {
                self.run = 0;
                Ok(State::TrailerStart)
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => {
                self.run = 0;
                Ok(State::Size)
            }
            (State::DataCr | State::DataLf, _) => Err("a chunk longer than its size"),
            (State::SizeLf, _) => Err("a CR without LF after a chunk size"),
            (State::Done | State::Plain | State::Data | State::UntilClose, _) => Ok(self.state),
            (State::Refused(reason), _) => Err(reason),
            _ => self.trailer(b),
        }
    }

    fn size(&mut self, b: u8) -> Result<State, &'static str> {
        let digit = match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            b'A'..=b'F' => b - b'A' + 10,
            _ if self.run == 0 => return Err("a chunk without a size"),
            b'\r' => return Ok(State::SizeLf),
            b' ' | b'\t' | b';' => {
                self.run = 0;
                return self.extension(if b == b';' { State::Extension } else { State::Pad });
            }
            b'\n' => return Err("a line of the body ends in LF without CR"),
            _ => return Err("a malformed chunk size"),
        };
        self.run += 1;
        if self.run > u16::from(SIZE_DIGITS) {
            return Err("a chunk size of too many digits");
        }
        self.left = self.left << 4 | u64::from(digit);
        if self.left > MAX_LENGTH { Err("a chunk size too large") } else { Ok(State::Size) }
    }

    /// Counts one byte of an extension.
    fn extension(&mut self, next: State) -> Result<State, &'static str> {
        self.run += 1;
        self.extensions += 1;
        if self.run > EXTENSION_BYTES || self.extensions > ALL_EXTENSION_BYTES {
            return Err("chunk extensions too long");
        }
        Ok(next)
    }

    /// Trailer lines are held to the rules of field lines.
    fn trailer(&mut self, b: u8) -> Result<State, &'static str> {
        self.run += 1;
        if self.run > TRAILER_BYTES {
            return Err("trailers too long");
        }
        match (self.state, b) {
            (State::TrailerStart, b'\r') => Ok(State::LastLf),
            (State::TrailerStart | State::TrailerName, b) if scan::is_token(b) => Ok(State::TrailerName),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::LastLf, b'\n') => Ok(State::Done),
            _ => Err("a malformed trailer line"),
        }
    }
}
