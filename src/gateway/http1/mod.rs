//! HTTP/1 on the wire: what a request head, a request body and a worker's answer say, and where each ends.
//!
//! Pure functions over bytes: no I/O, no clock, nothing allocated. A head is judged line by line, and a line only
//! when its LF has come, so the verdict never depends on how the network cut the bytes. What is accepted here is
//! read the same way by every later reader: that is what keeps request smuggling out (RFC 9112, section 11.2).
//!
//! The modules import each other by relative paths only, so that `fuzz/` can build them without the whole package.

pub(crate) mod body;
pub(crate) mod fields;
pub(crate) mod head;
pub(crate) mod response;
mod scan;
#[cfg(test)]
mod tests;

use std::fmt;

/// The longest length that a Content-Length or a chunk size may state: readers that count in signed 64 bits, or
/// add a few bytes to what was stated, must not overflow.
const MAX_LENGTH: u64 = i64::MAX as u64;

/// A part of the buffer in which a head was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Heads are bounded far below 4 GiB.
    fn new(start: usize, end: usize) -> Span {
        Span { start: start as u32, end: end as u32 }
    }

    /// The bytes meant, in the buffer that was checked; nothing when the buffer is a shorter one.
    pub(crate) fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// How far the check of a head came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress<H> {
    /// The head goes on beyond the buffer. Call again with more bytes and this number.
    Partial {
        scanned: usize,
    },
    Complete(H),
}

/// Where a message's body ends (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    None,
    Length(u64),
    Chunked,
    /// Answers only, never a request.
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http10,
    Http11,
}

/// Request methods that some rule asks for. Case counts (RFC 9110, section 9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Trace,
    Other,
}

impl Method {
    pub(crate) fn of(name: &[u8]) -> Method {
        match name {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }
}

/// Why a request is not taken, and the status that tells the client so. The connection cannot be used again:
/// nobody knows where the next request would begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reject {
    pub(crate) status: u16,
    /// A short phrase for the log and the answer's body; holds nothing of the request.
    pub(crate) reason: &'static str,
}

impl Reject {
    const fn new(status: u16, reason: &'static str) -> Reject {
        Reject { status, reason }
    }

    const fn bad(reason: &'static str) -> Reject {
        Reject::new(400, reason)
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.reason)
    }
}

impl std::error::Error for Reject {}
