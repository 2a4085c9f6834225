//! What the proxy must see of Engine.IO and Socket.IO (1.x to 4.x) to keep a session on its worker: the query of a
//! request, the session id (sid) in the answer to a handshake, cookies. Pure functions over bytes.
//!
//! Source: the Engine.IO protocol, revisions 3 and 4 (socket.io-engine-protocol), and what the servers really send.

// The path is spelled out for `fuzz/` and `benches/`, which include this file from elsewhere.
#[cfg(test)]
#[path = "socketio/tests.rs"]
mod tests;

use std::borrow::Cow;

/// Longer sids are not followed: a generated one has 20 bytes.
const SID_BYTES: usize = 256;
/// How far into a handshake answer the sid is looked for. Node's servers put it into the first 120 bytes.
const LOOK_BYTES: usize = 1024;
/// Digits of a packet's length in front of a handshake.
const LENGTH_DIGITS: usize = 10;

/// The query parameters by which Engine.IO requests are known and led.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    /// The protocol revision, `3` or `4`.
    pub(crate) eio: Option<Cow<'a, [u8]>>,
    pub(crate) transport: Option<Cow<'a, [u8]>>,
    /// Never empty and never longer than 256 bytes; without it, the request is a handshake.
    pub(crate) sid: Option<Cow<'a, [u8]>>,
}

impl<'a> Query<'a> {
    /// Looks through the query of a request target. As in Engine.IO, the last of several equal names counts.
    pub(crate) fn parse(target: &'a [u8]) -> Query<'a> {
        let mut query = Query::default();
        let (mut eio, mut transport, mut sid) = (None, None, None);
        for (name, value) in params(target) {
            match name {
                b"EIO" => eio = Some(value),
                b"transport" => transport = Some(value),
                b"sid" => sid = Some(value),
                _ if !is_encoded(name) => {}
                _ if decodes_to(name, b"EIO") => eio = Some(value),
                _ if decodes_to(name, b"transport") => transport = Some(value),
                _ if decodes_to(name, b"sid") => sid = Some(value),
                _ => {}
            }
        }
        query.eio = eio.map(decode);
        query.transport = transport.map(decode);
        // Decoding shrinks to a third at most: no long value is decoded for nothing.
        let fits = |sid: &Cow<'_, [u8]>| !sid.is_empty() && sid.len() <= SID_BYTES;
        query.sid = sid.filter(|raw| raw.len() <= 3 * SID_BYTES).map(decode).filter(fits);
        query
    }

    /// Whether this is a request to an Engine.IO server, whatever its path.
    pub(crate) fn is_engine(&self) -> bool {
        self.eio.is_some() && self.transport.is_some()
    }

    pub(crate) fn is_polling(&self) -> bool {
        self.transport.as_deref() == Some(b"polling")
    }
}

/// The whole answer to a waiting poll that ends its session (packet type 1, close): the client takes it for the server's
/// own and begins anew.
pub(crate) fn close_poll(target: &[u8]) -> Vec<u8> {
    let (kind, body) = close_poll_body(target);
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Its content type and its body.
pub(crate) fn close_poll_body(target: &[u8]) -> (String, String) {
    let is_4 = Query::parse(target).eio.as_deref() == Some(b"4");
    let packet = if is_4 { "1" } else { "1:1" };
    // JSONP: a client without XHR names the callback by a number.
    let number = param(target, "j").filter(|j| !j.is_empty() && j.len() <= 10 && j.iter().all(u8::is_ascii_digit));
    let (kind, body) = match number {
        Some(j) => ("javascript", format!("___eio[{}](\"{packet}\");", String::from_utf8_lossy(&j))),
        None => ("plain", packet.to_owned()),
    };
    (format!("text/{kind}; charset=UTF-8"), body)
}

/// The last query parameter of this name, decoded.
pub(crate) fn param<'a>(target: &'a [u8], name: &str) -> Option<Cow<'a, [u8]>> {
    params(target).filter(|(raw, _)| decodes_to(raw, name.as_bytes())).last().map(|(_, value)| decode(value))
}

/// Names and values of a target's query, still encoded.
fn params(target: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let query = memchr::memchr(b'?', target).map_or(&[][..], |mark| &target[mark + 1..]);
    query.split(|&b| b == b'&').filter(|pair| !pair.is_empty()).map(|pair| match memchr::memchr(b'=', pair) {
        Some(sign) => (&pair[..sign], &pair[sign + 1..]),
        None => (pair, &[][..]),
    })
}

fn is_encoded(text: &[u8]) -> bool {
    memchr::memchr2(b'%', b'+', text).is_some()
}

/// The bytes of a form-encoded text.
fn decoded(text: &[u8]) -> impl Iterator<Item = u8> {
    unescaped(text, b' ')
}

/// The bytes of a percent-encoded text.
pub(crate) fn percent_decoded(text: &[u8]) -> impl Iterator<Item = u8> {
    unescaped(text, b'+')
}

/// A `%` without two hex digits stands for itself.
fn unescaped(text: &[u8], plus: u8) -> impl Iterator<Item = u8> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        rest = after;
        match (first, after) {
            (b'+', _) => Some(plus),
            (b'%', [high, low, ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = &after[2..];
                    Some(high << 4 | low)
                }
                _ => Some(first),
            },
            _ => Some(first),
        }
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|n| n as u8)
}

fn decodes_to(raw: &[u8], name: &[u8]) -> bool {
    decoded(raw).eq(name.iter().copied())
}

fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if is_encoded(text) { Cow::Owned(decoded(text).collect()) } else { Cow::Borrowed(text) }
}

/// The value of a cookie in a `Cookie` field, the first of that name (RFC 6265, section 4.2.1).
pub(crate) fn cookie<'a>(header_value: &'a [u8], name: &str) -> Option<&'a [u8]> {
    header_value.split(|&b| b == b';').find_map(|pair| {
        let (key, value) = pair.split_at(memchr::memchr(b'=', pair)?);
        (key.trim_ascii() == name.as_bytes()).then(|| value[1..].trim_ascii())
    })
}

/// The sid in a `Set-Cookie` field of Socket.IO 1 and 2: `io=SID; Path=/; HttpOnly`.
pub(crate) fn sid_in_set_cookie(header_value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let pair = header_value.split(|&b| b == b';').next()?;
    cookie(pair, "io").map(decode).filter(|sid| !sid.is_empty() && sid.len() <= SID_BYTES)
}

/// What a look for the sid found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look<'a> {
    Found(Cow<'a, [u8]>),
    /// The sid may be in what has not come yet: call again with more of the body, from its start.
    NeedMore,
    /// This is no handshake, or it cannot be read (compressed, cut, sid too long).
    Nothing,
}

/// Looks for the sid in the start of a polling handshake's answer, in any of the framings:
/// `0{...}` (protocol 4), `97:0{...}2:40` (3), `00 09 07 ff 30 {...` (binary framing of 3), and each of the
/// first two as the text of a JSONP call, `___eio[0]("...");`.
pub(crate) fn sid_in_handshake(body_start: &[u8]) -> Look<'_> {
    let start = &body_start[..body_start.len().min(LOOK_BYTES)];
    let found = match start {
        [b'_', ..] => jsonp(start).map(|sid| Cow::Owned(sid.into_owned())),
        _ => open_packet(start).and_then(sid_in_object),
    };
    match found {
        Ok(sid) if !sid.is_empty() && sid.len() <= SID_BYTES => Look::Found(sid),
        Err(Stop::NeedMore) if body_start.len() < LOOK_BYTES => Look::NeedMore,
        Ok(_) | Err(_) => Look::Nothing,
    }
}

/// Why a look ended without a sid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    NeedMore,
    Nothing,
}

/// The JSON text of the open packet that a payload begins with, from its `{`.
fn open_packet(payload: &[u8]) -> Result<&[u8], Stop> {
    let packet = match payload {
        [b'0', ..] => payload,
        // Binary framing: 0 (text), the length in bytes of value 0 to 9, 255.
        [0, rest @ ..] => after_length(rest, |b| b <= 9, 0xff)?,
        _ => after_length(payload, |b| b.is_ascii_digit(), b':')?,
    };
    match packet {
        [b'0', b'{', ..] => Ok(&packet[1..]),
        [] | [b'0'] => Err(Stop::NeedMore),
        _ => Err(Stop::Nothing),
    }
}

fn after_length(text: &[u8], is_digit: impl Fn(u8) -> bool, end: u8) -> Result<&[u8], Stop> {
    let digits = text.iter().take(LENGTH_DIGITS + 1).take_while(|&&b| is_digit(b)).count();
    match text.get(digits) {
        None if digits <= LENGTH_DIGITS => Err(Stop::NeedMore),
        Some(&b) if b == end && (1..=LENGTH_DIGITS).contains(&digits) => Ok(&text[digits + 1..]),
        _ => Err(Stop::Nothing),
    }
}

/// `___eio[3]("0{\"sid\":...}");`: JavaScript around a JSON string around the payload.
fn jsonp(start: &[u8]) -> Result<Cow<'_, [u8]>, Stop> {
    const HEAD: &[u8] = b"___eio[";
    let rest = match start.strip_prefix(HEAD) {
        Some(rest) => rest,
        None if HEAD.starts_with(start) => return Err(Stop::NeedMore),
        None => return Err(Stop::Nothing),
    };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let text = match &rest[digits..] {
        [b']', b'(', b'"', text @ ..] => text,
        [] | [b']'] | [b']', b'('] => return Err(Stop::NeedMore),
        _ => return Err(Stop::Nothing),
    };
    // Without its closing quote the text may end inside an escape: that part waits.
    let end = string_end(text).unwrap_or_else(|| whole_escapes(text));
    let (payload, ends_here) = match unescape(&text[..end]) {
        Ok(payload) => (payload, text.get(end) == Some(&b'"')),
        Err(before_fault) => (Cow::Owned(before_fault), true),
    };
    match open_packet(&payload).and_then(sid_in_object) {
        Ok(sid) => Ok(Cow::Owned(sid.into_owned())),
        Err(Stop::NeedMore) if ends_here => Err(Stop::Nothing),
        Err(stop) => Err(stop),
    }
}

/// The value of the top-level key `sid` of a JSON object that may be cut at its end.
fn sid_in_object(json: &[u8]) -> Result<Cow<'_, [u8]>, Stop> {
    let mut json = Cursor { rest: json };
    json.expect(b'{')?;
    loop {
        let key = json.string()?;
        json.expect(b':')?;
        if key == b"sid" {
            return unescape(json.string()?).map_err(|_| Stop::Nothing);
        }
        json.skip_value()?;
        json.expect(b',')?;
    }
}

/// Reads just enough JSON to step over what is not asked for.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn peek(&mut self) -> Result<u8, Stop> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied().ok_or(Stop::NeedMore)
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Stop> {
        if self.peek()? != wanted {
            return Err(Stop::Nothing);
        }
        self.rest = &self.rest[1..];
        Ok(())
    }

    /// A string's text, still escaped.
    fn string(&mut self) -> Result<&'a [u8], Stop> {
        self.expect(b'"')?;
        let end = string_end(self.rest).ok_or(Stop::NeedMore)?;
        let (text, after) = self.rest.split_at(end);
        self.rest = &after[1..];
        Ok(text)
    }

    /// Steps over a value up to the `,` or `}` behind it. The brackets inside are counted, not matched.
    fn skip_value(&mut self) -> Result<(), Stop> {
        let mut depth = 0u32;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b',' if depth == 0 => return Ok(()),
                b'}' | b']' if depth == 0 => return Err(Stop::Nothing),
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.rest = &self.rest[1..];
        }
    }
}

/// Where the quote stands that ends a string, of which `text` is what follows the opening one.
fn string_end(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// The length of an unfinished string without an escape that is cut at its end.
fn whole_escapes(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(next) = text.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        let escape = at + next;
        at = escape + if text.get(escape + 1) == Some(&b'u') { 6 } else { 2 };
        if at > text.len() {
            return escape;
        }
    }
    text.len()
}

/// Undoes JSON's escapes. The error is what stands before a malformed one.
fn unescape(text: &[u8]) -> Result<Cow<'_, [u8]>, Vec<u8>> {
    if memchr::memchr(b'\\', text).is_none() {
        return Ok(Cow::Borrowed(text));
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        plain.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(c) = escaped(&mut rest) else { return Err(plain) };
        plain.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    plain.extend_from_slice(rest);
    Ok(Cow::Owned(plain))
}

/// The character that an escape means, of which `rest` is what follows the backslash.
fn escaped(rest: &mut &[u8]) -> Option<char> {
    let (&kind, after) = rest.split_first()?;
    *rest = after;
    match kind {
        b'"' | b'\\' | b'/' => Some(char::from(kind)),
        b'b' => Some('\u{8}'),
        b'f' => Some('\u{c}'),
        b'n' => Some('\n'),
        b'r' => Some('\r'),
        b't' => Some('\t'),
        b'u' => code_unit(rest).map(|unit| character(unit, rest)),
        _ => None,
    }
}

/// Four hex digits.
fn code_unit(rest: &mut &[u8]) -> Option<u16> {
    let (digits, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | u16::from(hex(digit)?)))
}

/// The character that a code unit begins; takes the second half of a surrogate pair from `rest`.
fn character(unit: u16, rest: &mut &[u8]) -> char {
    if let Ok(c) = char::try_from(u32::from(unit)) {
        return c;
    }
    let mut after = *rest;
    let pair = after.strip_prefix(b"\\u").and_then(|tail| {
        after = tail;
        let low = code_unit(&mut after)?;
        char::decode_utf16([unit, low]).next()?.ok()
    });
    if pair.is_some() {
        *rest = after;
    }
    pair.unwrap_or(char::REPLACEMENT_CHARACTER)
}
