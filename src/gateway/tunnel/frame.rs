//! Follows the WebSocket frames of one direction of a tunnel (RFC 6455, section 5), so that the proxy knows when it may
//! put in a frame of its own. It changes nothing and holds nothing back.

// The path is spelled out for `fuzz/` and `benches/`, which include this file from elsewhere.
#[cfg(test)]
#[path = "frame/tests.rs"]
mod tests;

const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const OPCODE_CLOSE: u8 = 8;
const MASK: u8 = 0x80;
/// Longest payload of a control frame.
const CONTROL_BYTES: u8 = 125;

/// Where one direction of a tunnel stands. 24 bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracker {
    /// Whole frames so far.
    frames: u64,
    /// Bytes of masking key and payload to come; while the length is read, the length so far.
    left: u64,
    stage: Stage,
    /// Bytes of the extended length to come.
    length_bytes: u8,
    /// First byte of the frame that is passing.
    first: u8,
    flags: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// At a frame boundary.
    #[default]
    First,
    Second,
    Length,
    Payload,
    /// Not WebSocket, or broken: where frames begin is unknown from here on.
    Malformed,
}

impl Tracker {
    const MASKED: u8 = 1;
    /// A message has begun whose last fragment has not passed.
    const MESSAGE_OPEN: u8 = 2;
    const CLOSED: u8 = 4;

    pub(crate) fn new() -> Tracker {
        Tracker::default()
    }

    /// All of it as numbers, so that another process can go on from here.
    pub(crate) fn parts(&self) -> [u64; 6] {
        let stage = match self.stage {
            Stage::First => 0,
            Stage::Second => 1,
            Stage::Length => 2,
            Stage::Payload => 3,
            Stage::Malformed => 4,
        };
        [self.frames, self.left, stage, self.length_bytes.into(), self.first.into(), self.flags.into()]
    }

    /// What [`Tracker::parts`] gave; `None` for numbers that it never gives.
    pub(crate) fn from_parts(parts: [u64; 6]) -> Option<Tracker> {
        let [frames, left, stage, length_bytes, first, flags] = parts;
        let stage = match stage {
            0 => Stage::First,
            1 => Stage::Second,
            2 if (1..=8).contains(&length_bytes) => Stage::Length,
            3 if (1..=i64::MAX as u64 + 4).contains(&left) => Stage::Payload,
            4 => Stage::Malformed,
            _ => return None,
        };
        let flags = u8::try_from(flags).ok().filter(|flags| *flags < 8)?;
        let (length_bytes, first) = (u8::try_from(length_bytes).ok()?, u8::try_from(first).ok()?);
        Some(Tracker { frames, left, stage, length_bytes, first, flags })
    }

    /// Takes the next bytes of the stream, however they are cut.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = &rest[self.step(rest)..];
        }
    }

    /// Takes bytes up to the end of the current frame and returns how many those were: all of them when the frame
    /// goes on beyond (or the stream is malformed). So a relay can stop at a boundary within what it has read.
    pub(crate) fn step(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        let frames = self.frames;
        while at < bytes.len() && self.frames == frames {
            match self.stage {
                Stage::First => self.first_byte(bytes[at]),
                Stage::Second => self.second_byte(bytes[at]),
                Stage::Length => self.length_byte(bytes[at]),
                Stage::Payload => {
                    let taken = self.left.min((bytes.len() - at) as u64);
                    self.left -= taken;
                    at += taken as usize;
                    self.end_if_empty();
                    continue;
                }
                Stage::Malformed => return bytes.len(),
            }
            at += 1;
        }
        at
    }

    /// Between two frames: a control frame may be put in here, even inside a fragmented message.
    pub(crate) fn at_frame_boundary(&self) -> bool {
        self.stage == Stage::First
    }

    /// Between two messages.
    #[allow(dead_code)] // for fuzz/ and benches/, which include this file
    pub(crate) fn at_message_boundary(&self) -> bool {
        self.at_frame_boundary() && self.flags & Self::MESSAGE_OPEN == 0
    }

    /// A whole Close frame has passed: nothing may follow it.
    pub(crate) fn close_seen(&self) -> bool {
        self.flags & Self::CLOSED != 0
    }

    pub(crate) fn is_malformed(&self) -> bool {
        self.stage == Stage::Malformed
    }

    /// Whole frames so far, control frames included.
    #[allow(dead_code)] // for fuzz/ and benches/, which include this file
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// Extension bits (RSV) and reserved opcodes are the endpoints' business.
    fn first_byte(&mut self, b: u8) {
        self.first = b;
        let is_open = self.flags & Self::MESSAGE_OPEN != 0;
        let fits = match b & OPCODE {
            0 => is_open,
            1..=7 => !is_open,
            _ => b & FIN != 0,
        };
        self.stage = if fits { Stage::Second } else { Stage::Malformed };
    }

    /// Lengths that are not in their shortest form are tolerated: where the frame ends is plain.
    fn second_byte(&mut self, b: u8) {
        let length = b & !MASK;
        self.flags = if b & MASK != 0 { self.flags | Self::MASKED } else { self.flags & !Self::MASKED };
        self.left = 0;
        match length {
            _ if self.is_control() && length > CONTROL_BYTES => self.stage = Stage::Malformed,
            126 => (self.stage, self.length_bytes) = (Stage::Length, 2),
            127 => (self.stage, self.length_bytes) = (Stage::Length, 8),
            _ => self.begin_payload(u64::from(length)),
        }
    }

    fn length_byte(&mut self, b: u8) {
        self.left = self.left << 8 | u64::from(b);
        self.length_bytes -= 1;
        if self.length_bytes > 0 {
            return;
        }
        if self.left > i64::MAX as u64 {
            self.stage = Stage::Malformed;
        } else {
            self.begin_payload(self.left);
        }
    }

    fn begin_payload(&mut self, length: u64) {
        self.left = length + if self.flags & Self::MASKED != 0 { 4 } else { 0 };
        self.stage = Stage::Payload;
        self.end_if_empty();
    }

    fn end_if_empty(&mut self) {
        if self.left > 0 {
            return;
        }
        self.stage = Stage::First;
        self.frames = self.frames.wrapping_add(1);
        if self.first & OPCODE == OPCODE_CLOSE {
            self.flags |= Self::CLOSED;
        } else if !self.is_control() && self.first & FIN != 0 {
            self.flags &= !Self::MESSAGE_OPEN;
        } else if !self.is_control() {
            self.flags |= Self::MESSAGE_OPEN;
        }
    }

    fn is_control(&self) -> bool {
        self.first & OPCODE >= 8
    }
}

/// A Close frame, ready to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CloseFrame {
    bytes: [u8; 2 + 4 + CONTROL_BYTES as usize],
    len: u8,
}

impl std::ops::Deref for CloseFrame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Builds a Close frame (RFC 6455, section 5.5.1). Of the reason at most 123 bytes are sent, cut at a character.
/// Frames to a server must be masked with an unpredictable `mask`, frames to a client must not be (section 5.1).
pub(crate) fn close_frame(code: u16, reason: &str, mask: Option<[u8; 4]>) -> CloseFrame {
    let mut payload = [0; CONTROL_BYTES as usize];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    let mut cut = reason.len().min(CONTROL_BYTES as usize - 2);
    while !reason.is_char_boundary(cut) {
        cut -= 1;
    }
    let len = 2 + cut;
    payload[2..len].copy_from_slice(&reason.as_bytes()[..cut]);

    let mut frame = CloseFrame { bytes: [0; 131], len: 0 };
    let mut at = 2;
    frame.bytes[0] = FIN | OPCODE_CLOSE;
    frame.bytes[1] = len as u8 | if mask.is_some() { MASK } else { 0 };
    if let Some(key) = mask {
        frame.bytes[2..6].copy_from_slice(&key);
        at += key.len();
    }
    let key = mask.unwrap_or_default();
    for (i, b) in payload[..len].iter().enumerate() {
        frame.bytes[at + i] = b ^ key[i % 4];
    }
    frame.len = (at + len) as u8;
    frame
}
