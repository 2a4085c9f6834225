//! The head of a worker's answer (RFC 9112, sections 4 and 6.3).
//!
//! Lenient in what changes nothing (no reason phrase, any bytes in it), strict where framing is at stake: an answer
//! whose end two readers could see in different places is no answer.

use super::fields::{self, Connection, Headers, Line};
use super::{Body, Method, Progress, Span, Version, scan};
use std::fmt;

/// Bytes of an answer's head, with its empty line.
pub(crate) const MAX_BYTES: usize = 64 << 10;
/// Field lines of an answer's head.
pub(crate) const MAX_FIELDS: usize = 256;

/// An accepted head: facts, and ranges into the buffer that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes up to and with the empty line; the body begins here.
    pub(crate) len: usize,
    /// 100 to 999.
    pub(crate) status: u16,
    /// The phrase after the status, often empty.
    pub(crate) phrase: Span,
    pub(crate) version: Version,
    /// Nothing after a 101 is a body: there the new protocol begins.
    pub(crate) body: Body,
    /// The worker lets the connection go on after this answer.
    pub(crate) keep_alive: bool,
    /// A 101 that switches to WebSocket (RFC 6455, section 4.2.2).
    pub(crate) websocket: bool,
    /// `Connection` names fields that must not be passed on.
    pub(crate) nominates: bool,
    pub(crate) field_count: u16,
    first_field: u32,
}

impl Head {
    /// The fields, in the buffer that was checked.
    pub(crate) fn headers<'a>(&self, buf: &'a [u8]) -> Headers<'a> {
        Headers::new(buf.get(..self.len).unwrap_or_default(), self.first_field as usize)
    }
}

/// Why bytes are not the head of an answer. The client gets 502.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) reason: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the worker's answer is malformed: {}", self.reason)
    }
}

impl std::error::Error for Malformed {}

const fn bad(reason: &'static str) -> Malformed {
    Malformed { reason }
}

/// Checks the head at the start of `buf`, the answer to a request with `method`. `scanned` is 0 at first, then what
/// the last `Partial` said.
///
/// # Errors
/// Bad syntax, ambiguous framing, more than [`MAX_BYTES`] or [`MAX_FIELDS`].
pub(crate) fn check(buf: &[u8], scanned: usize, method: Method) -> Result<Progress<Head>, Malformed> {
    let fresh = buf.get(scanned..).unwrap_or(buf);
    if scanned > 0 && buf.len() < MAX_BYTES && memchr::memchr(b'\n', fresh).is_none() {
        return Ok(Progress::Partial { scanned: buf.len() });
    }
    let window = &buf[..buf.len().min(MAX_BYTES)];
    let head = match status_line(window)? {
        Some(line) => field_lines(window, line.end)?.map(|fields| finish(&line, &fields, method)),
        None => None,
    };
    match head {
        Some(head) => head.map(Progress::Complete),
        None if buf.len() >= MAX_BYTES => Err(bad("its head is too long")),
        None => Ok(Progress::Partial { scanned: buf.len() }),
    }
}

struct StatusLine {
    version: Version,
    status: u16,
    phrase: Span,
    end: usize,
}

/// `HTTP/1.x SP 3DIGIT [SP phrase] CRLF`; `None` while the LF has not come.
fn status_line(buf: &[u8]) -> Result<Option<StatusLine>, Malformed> {
    let Some(lf) = memchr::memchr(b'\n', buf) else { return Ok(None) };
    let Some(line) = buf[..lf].strip_suffix(b"\r") else { return Err(bad(fields::BARE_LF)) };
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), b' ', a, b, c, phrase @ ..] = line else {
        return Err(bad("no status line of HTTP/1"));
    };
    let digits = [a, b, c];
    if !digits.iter().all(|d| d.is_ascii_digit()) || *a == b'0' {
        return Err(bad("no status of three digits"));
    }
    if !matches!(phrase, [] | [b' ', ..]) || scan::control(phrase, 0).is_some() {
        return Err(bad("a malformed status line"));
    }
    let status = digits.iter().fold(0, |sum, d| sum * 10 + u16::from(*d - b'0'));
    let phrase = Span::new(lf - 1 - phrase.len().saturating_sub(1), lf - 1);
    let version = if *minor == b'1' { Version::Http11 } else { Version::Http10 };
    Ok(Some(StatusLine { version, status, phrase, end: lf + 1 }))
}

#[derive(Default)]
struct Fields {
    count: usize,
    length: Option<u64>,
    chunked: bool,
    connection: Connection,
    upgrades: bool,
    upgrade_websocket: bool,
    first: usize,
    end: usize,
}

/// `None` while the empty line has not come.
fn field_lines(buf: &[u8], start: usize) -> Result<Option<Fields>, Malformed> {
    let mut seen = Fields { first: start, ..Fields::default() };
    let mut at = start;
    loop {
        match fields::line(buf, at) {
            Line::Field { name, value, next } => {
                seen.count += 1;
                if seen.count > MAX_FIELDS {
                    return Err(bad("too many header fields"));
                }
                field(&mut seen, &buf[name.0..name.1], &buf[value.0..value.1])?;
                at = next;
            }
            Line::End { next } => {
                seen.end = next;
                return Ok(Some(seen));
            }
            Line::Partial => return Ok(None),
            Line::Bad(reason) => return Err(bad(reason)),
        }
    }
}

fn field(seen: &mut Fields, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
    match name.len() {
        // Of several protocols, nobody knows which is on top.
        7 if is("upgrade") => {
            let is_first = !std::mem::replace(&mut seen.upgrades, true);
            seen.upgrade_websocket = is_first && value.eq_ignore_ascii_case(b"websocket");
        }
        10 if is("connection") => seen.connection.add(value).map_err(bad)?,
        14 if is("content-length") => {
            let length = fields::content_length(value).ok_or(bad("a malformed Content-Length"))?;
            if seen.length.replace(length).is_some() {
                return Err(bad("more than one Content-Length"));
            }
        }
        17 if is("transfer-encoding") => {
            let is_first = !std::mem::replace(&mut seen.chunked, true);
            if !is_first || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(bad("a Transfer-Encoding other than one `chunked`"));
            }
        }
        _ => {}
    }
    Ok(())
}

/// The rules that need the whole head.
fn finish(line: &StatusLine, seen: &Fields, method: Method) -> Result<Head, Malformed> {
    if seen.chunked && seen.length.is_some() {
        return Err(bad("both Content-Length and Transfer-Encoding"));
    }
    if seen.chunked && line.version == Version::Http10 {
        return Err(bad("Transfer-Encoding in HTTP/1.0"));
    }
    let body = match (line.status, seen.length) {
        (100..=199 | 204 | 304, _) => Body::None,
        _ if method == Method::Head => Body::None,
        _ if seen.chunked => Body::Chunked,
        (_, Some(length)) => Body::Length(length),
        (_, None) => Body::UntilClose,
    };
    let goes_on = line.status != 101 && body != Body::UntilClose;
    Ok(Head {
        len: seen.end,
        status: line.status,
        phrase: line.phrase,
        version: line.version,
        body,
        keep_alive: goes_on && seen.connection.persists(line.version),
        websocket: line.status == 101 && seen.upgrade_websocket && seen.connection.upgrade,
        nominates: seen.connection.nominates,
        field_count: seen.count as u16,
        first_field: seen.first as u32,
    })
}
