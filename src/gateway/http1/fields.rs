//! Field lines: the part that request and answer heads have in common.

use super::scan;

pub(super) const BARE_LF: &str = "a line ends in LF without CR";
pub(super) const BARE_CR: &str = "a CR without LF";

/// What stands at a place where a field line may begin.
pub(super) enum Line {
    /// Name and trimmed value, as ranges; the next line begins at `next`.
    Field {
        name: (usize, usize),
        value: (usize, usize),
        next: usize,
    },
    /// The empty line that ends the head.
    End {
        next: usize,
    },
    /// The line's LF has not come yet.
    Partial,
    Bad(&'static str),
}

/// Reads one field line of `buf` (RFC 9112, section 5), strictly: CRLF, no folding, no space before the colon,
/// no control character but HTAB in the value.
#[inline]
pub(super) fn line(buf: &[u8], start: usize) -> Line {
    let Some(colon) = scan::token_end(buf, start) else { return Line::Partial };
    if buf[colon] != b':' || colon == start {
        return not_a_field(buf, start, colon);
    }
    let Some(cr) = scan::control(buf, colon + 1) else { return Line::Partial };
    if buf[cr] != b'\r' || buf.get(cr + 1).is_some_and(|&b| b != b'\n') {
        return judged(buf, cr, control_reason(buf[cr]));
    }
    if cr + 1 == buf.len() {
        return Line::Partial;
    }
    let mut value = (colon + 1, cr);
    while value.0 < value.1 && is_space(buf[value.0]) {
        value.0 += 1;
    }
    while value.0 < value.1 && is_space(buf[value.1 - 1]) {
        value.1 -= 1;
    }
    Line::Field { name: (start, colon), value, next: cr + 2 }
}

#[cold]
fn not_a_field(buf: &[u8], start: usize, stop: usize) -> Line {
    if stop > start {
        let reason = match buf[stop] {
            b' ' | b'\t' => "a space in or after a field name",
            b'\r' | b'\n' => "a field line without a colon",
            _ => "a byte that no field name may hold",
        };
        return judged(buf, stop, reason);
    }
    match &buf[start..] {
        [b'\r', b'\n', ..] => Line::End { next: start + 2 },
        [b' ' | b'\t', ..] => judged(buf, start, "a folded field line (obs-fold)"),
        [b':', ..] => judged(buf, start, "a field line without a name"),
        [first, ..] => judged(buf, start, control_reason(*first)),
        [] => Line::Partial,
    }
}

/// A line is judged only when its LF has come: so a verdict does not depend on where the network cut it.
fn judged(buf: &[u8], fault: usize, reason: &'static str) -> Line {
    if line_is_whole(buf, fault) { Line::Bad(reason) } else { Line::Partial }
}

pub(super) fn line_is_whole(buf: &[u8], from: usize) -> bool {
    memchr::memchr(b'\n', buf.get(from..).unwrap_or_default()).is_some()
}

pub(super) fn control_reason(b: u8) -> &'static str {
    match b {
        b'\n' => BARE_LF,
        b'\r' => BARE_CR,
        _ => "a control character in a field line",
    }
}

fn is_space(b: u8) -> bool {
    b == b' ' || b == b'\t'
}

/// Takes the spaces and tabs off both ends (OWS of RFC 9110, section 5.6.3).
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The elements of a comma-separated list, trimmed; empty ones too. A comma inside a quoted string separates as well:
/// none of the lists read here knows quoted strings.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim)
}

/// Whether a comma-separated list (`Connection`, `Upgrade`) has this token, in any case.
pub(crate) fn list_contains(value: &[u8], token: &str) -> bool {
    list(value).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

/// More digits than the longest length has are refused by some servers, leading zeros or not.
const LENGTH_DIGITS: usize = 19;

/// Digits only, at most [`super::MAX_LENGTH`].
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    let read = value.iter().try_fold(0u64, |sum, &b| {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 { None } else { sum.checked_mul(10)?.checked_add(u64::from(digit)) }
    });
    read.filter(|&n| (1..=LENGTH_DIGITS).contains(&value.len()) && n <= super::MAX_LENGTH)
}

/// What the `Connection` fields of one message said.
#[derive(Clone, Copy, Default)]
pub(super) struct Connection {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// It names fields that belong to this connection only.
    pub(super) nominates: bool,
}

impl Connection {
    /// Adds one field's value. The list must not name a field that frames or routes the message: whoever drops what
    /// it names would read another message.
    pub(super) fn add(&mut self, value: &[u8]) -> Result<(), &'static str> {
        const FRAMES: &str = "Connection names a field that frames or routes the message";
        for element in list(value) {
            let is = |token: &str| element.eq_ignore_ascii_case(token.as_bytes());
            match element.len() {
                5 if is("close") => self.close = true,
                10 if is("keep-alive") => self.keep_alive = true,
                7 if is("upgrade") => self.upgrade = true,
                4 if is("host") => return Err(FRAMES),
                14 if is("content-length") => return Err(FRAMES),
                17 if is("transfer-encoding") => return Err(FRAMES),
                0 => {}
                _ => self.nominates = true,
            }
        }
        Ok(())
    }

    /// Whether the connection may carry another message (RFC 9112, section 9.3).
    pub(super) fn persists(self, version: super::Version) -> bool {
        !self.close && (version == super::Version::Http11 || self.keep_alive)
    }
}

/// The fields of an accepted head in their order: name as sent, value trimmed.
#[derive(Clone, Debug)]
pub(crate) struct Headers<'a> {
    buf: &'a [u8],
    at: usize,
}

impl<'a> Headers<'a> {
    /// `buf` ends with the head, `at` is where its field lines begin.
    pub(super) fn new(buf: &'a [u8], at: usize) -> Headers<'a> {
        Headers { buf, at }
    }

    /// Where in the buffer the next line begins: the range between two of these is a line as it was sent, CRLF included.
    #[cfg(test)]
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// The values of every field of this name.
    pub(crate) fn all(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.filter(move |(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match line(self.buf, self.at) {
            Line::Field { name, value, next } => {
                self.at = next;
                Some((&self.buf[name.0..name.1], &self.buf[value.0..value.1]))
            }
            Line::End { .. } | Line::Partial | Line::Bad(_) => None,
        }
    }
}
