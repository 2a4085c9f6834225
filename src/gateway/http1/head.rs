//! The strict check of an HTTP/1 request head (RFC 9112, sections 2, 3, 5 and 6).

use super::fields::{self, Connection, Headers, Line};
use super::{Body, Method, Progress, Reject, Span, Version, scan};

/// Empty lines (CRLF) tolerated before a request line: some clients send one after a body (RFC 9112, section 2.2).
const LEADING_LINES: usize = 2;
const METHOD_BYTES: usize = 32;
/// From here on the first byte of the request line has been seen.
const START_SEEN: usize = 2 * LEADING_LINES + 2;

/// Bounds of one request head, in bytes from the start of the buffer and in fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The request line, with its CRLF and what stands before it; 414 beyond.
    pub(crate) request_line: usize,
    /// The whole head, with the empty line at its end; 431 beyond.
    pub(crate) total: usize,
    /// Field lines; 431 beyond.
    pub(crate) fields: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { request_line: 8 << 10, total: 16 << 10, fields: 100 }
    }
}

/// An accepted head: facts, and ranges into the buffer that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes up to and with the empty line; the body begins here.
    pub(crate) len: usize,
    pub(crate) method: Method,
    pub(crate) method_name: Span,
    /// The whole request target as sent.
    pub(crate) target: Span,
    /// Path and query. Of an absolute-form target what follows the authority, which may be empty (meaning `/`).
    pub(crate) path: Span,
    pub(crate) version: Version,
    pub(crate) body: Body,
    /// Host and port as sent, maybe empty. `None` only in HTTP/1.0. An absolute-form target names the same host.
    pub(crate) host: Option<Span>,
    /// The client lets the connection go on after this request.
    pub(crate) keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expect_continue: bool,
    /// A WebSocket handshake by its head (RFC 6455, section 4.1): GET, HTTP/1.1, `Upgrade` and `Connection`, no body.
    pub(crate) websocket: bool,
    /// `Connection` names fields that must not be passed on.
    pub(crate) nominates: bool,
    pub(crate) field_count: u16,
    request_line: u32,
    first_field: u32,
}

impl Head {
    /// The fields, in the buffer that was checked.
    pub(crate) fn headers<'a>(&self, buf: &'a [u8]) -> Headers<'a> {
        Headers::new(buf.get(..self.len).unwrap_or_default(), self.first_field as usize)
    }

    /// The request line with its CRLF; what stands before it is not part of the request.
    #[cfg(test)]
    pub(crate) fn request_line(&self) -> Span {
        Span { start: self.request_line, end: self.first_field }
    }
}

/// Checks the head at the start of `buf`. `scanned` is 0 at first, then what the last `Partial` said.
///
/// The result is a function of `buf` alone; `scanned` only spares work: a head that comes byte by byte is read again
/// once per line, not once per byte.
///
/// # Errors
/// 400 bad syntax or ambiguous framing, 414 and 431 limits, 417 an unknown expectation, 501 an unknown transfer coding
/// or CONNECT, 505 a version other than 1.0 and 1.1.
pub(crate) fn check(buf: &[u8], scanned: usize, limits: &Limits) -> Result<Progress<Head>, Reject> {
    if nothing_new(buf, scanned, limits) {
        return Ok(Progress::Partial { scanned: buf.len() });
    }
    let total = &buf[..buf.len().min(limits.total)];
    let line_limit = limits.request_line.min(limits.total);
    let Some(line) = request_line(&total[..total.len().min(line_limit)])? else {
        if buf.len() >= line_limit {
            return Err(Reject::new(414, "the request line is too long"));
        }
        return Ok(Progress::Partial { scanned: buf.len() });
    };
    match field_lines(total, line.end, limits.fields)? {
        Some(fields) => finish(total, &line, &fields).map(Progress::Complete),
        None if buf.len() >= limits.total => Err(Reject::new(431, "the request head is too long")),
        None => Ok(Progress::Partial { scanned: buf.len() }),
    }
}

/// Whether the bytes after `scanned` cannot change the verdict: no line ends in them and no limit is crossed.
fn nothing_new(buf: &[u8], scanned: usize, limits: &Limits) -> bool {
    let Some(fresh) = buf.get(scanned..) else { return false };
    scanned >= START_SEEN
        && buf.len() < limits.total
        && (scanned >= limits.request_line || buf.len() < limits.request_line)
        && memchr::memchr(b'\n', fresh).is_none()
}

struct RequestLine {
    start: usize,
    method: Method,
    method_name: Span,
    target: Span,
    path: Span,
    /// The authority of an absolute-form target.
    authority: Option<Span>,
    version: Version,
    /// Where the next line begins.
    end: usize,
}

/// `None` while the line's LF has not come.
fn request_line(buf: &[u8]) -> Result<Option<RequestLine>, Reject> {
    let Some(start) = first_byte(buf)? else { return Ok(None) };
    match read_request_line(buf, start) {
        Ok(line) => Ok(line),
        Err((fault, reject)) if fields::line_is_whole(buf, fault) => Err(reject),
        Err(_) => Ok(None),
    }
}

/// Skips the empty lines before a request. The first byte alone is judged without waiting for its line, because
/// what speaks another protocol may never send one.
fn first_byte(buf: &[u8]) -> Result<Option<usize>, Reject> {
    let mut at = 0;
    for _ in 0..LEADING_LINES {
        at += if buf[at..].starts_with(b"\r\n") { 2 } else { 0 };
    }
    match &buf[at..] {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Err(Reject::bad("more than two empty lines before the request")),
        [b'\r', ..] => Err(Reject::bad(fields::BARE_CR)),
        [b'\n', ..] => Err(Reject::bad(fields::BARE_LF)),
        [0x16, ..] => Err(Reject::bad("TLS on a listener without TLS")),
        [first, ..] if !scan::is_token(*first) => Err(Reject::bad("not an HTTP request")),
        _ => Ok(Some(at)),
    }
}

/// An error comes with the place of its fault.
fn read_request_line(buf: &[u8], start: usize) -> Result<Option<RequestLine>, (usize, Reject)> {
    let Some(method_end) = scan::token_end(buf, start) else { return Ok(None) };
    let bad = |at: usize, reason| Err((at, Reject::bad(reason)));
    if buf[method_end] != b' ' {
        return bad(method_end, "the request line is not `METHOD target HTTP/1.1`");
    }
    if method_end - start > METHOD_BYTES {
        return bad(method_end, "the method is too long");
    }
    let at = method_end + 1;
    let Some(target_end) = scan::target_end(buf, at) else { return Ok(None) };
    match buf[target_end] {
        b' ' if target_end == at => return bad(at, "two spaces in the request line"),
        b' ' => {}
        b'\r' => return bad(target_end, "no version in the request line (HTTP/0.9)"),
        b'\n' => return bad(target_end, fields::BARE_LF),
        b'#' => return bad(target_end, "a `#` in the request target"),
        _ => return bad(target_end, "a byte in the request target that must be percent-encoded"),
    }
    let Some(version) = version(buf, target_end + 1)? else { return Ok(None) };
    let method = Method::of(&buf[start..method_end]);
    let target = Span::new(at, target_end);
    let form = match target.of(buf) {
        _ if &buf[start..method_end] == b"CONNECT" => Err(Reject::new(501, "CONNECT is not served")),
        [b'/', ..] => Ok((target, None)),
        b"*" if method == Method::Options => Ok((target, None)),
        b"*" => Err(Reject::bad("the target `*` is for OPTIONS only")),
        _ => absolute_form(buf, target).map(|(authority, path)| (path, Some(authority))),
    };
    let (path, authority) = form.map_err(|reject| (target_end, reject))?;
    let end = target_end + b" HTTP/1.1\r\n".len();
    Ok(Some(RequestLine {
        start,
        method,
        method_name: Span::new(start, method_end),
        target,
        path,
        authority,
        version,
        end,
    }))
}

/// Holds a target in origin or asterisk form, as other protocols give it, to the rules of a request line.
///
/// # Errors
/// 400.
pub(crate) fn check_target(target: &[u8], method: &Method) -> Result<(), Reject> {
    if scan::target_end(target, 0).is_some() {
        return Err(Reject::bad("a byte in the request target that must be percent-encoded"));
    }
    match target {
        [b'/', ..] => Ok(()),
        b"*" if *method == Method::Options => Ok(()),
        b"*" => Err(Reject::bad("the target `*` is for OPTIONS only")),
        _ => Err(Reject::bad("the request target begins neither with `/` nor with http://")),
    }
}

/// Reads `HTTP/1.x CRLF` at `at`.
fn version(buf: &[u8], at: usize) -> Result<Option<Version>, (usize, Reject)> {
    match &buf[at..] {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b'\r', b'\n', ..] => Ok(Some(Version::Http11)),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0', b'\r', b'\n', ..] => Ok(Some(Version::Http10)),
        rest => match memchr::memchr(b'\n', rest) {
            Some(lf) => Err((at, bad_version(&rest[..lf]))),
            None => Ok(None),
        },
    }
}

#[cold]
fn bad_version(rest: &[u8]) -> Reject {
    match rest.strip_suffix(b"\r") {
        None => Reject::bad(fields::BARE_LF),
        Some(b"") => Reject::bad("no version in the request line (HTTP/0.9)"),
        Some(b"HTTP/2.0") => Reject::new(505, "HTTP/2 on a listener without it"),
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Reject::new(505, "an HTTP version other than 1.0 and 1.1")
        }
        Some(text) if text.contains(&b'\r') => Reject::bad(fields::BARE_CR),
        Some(text) if text.contains(&b' ') => Reject::bad("a raw space in the request target"),
        Some(_) => Reject::bad("no HTTP version at the end of the request line"),
    }
}

/// Authority and path of `http://authority/path`.
fn absolute_form(buf: &[u8], target: Span) -> Result<(Span, Span), Reject> {
    let text = target.of(buf);
    let has = |scheme: &[u8]| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    let scheme = match (has(b"http://"), has(b"https://")) {
        (true, _) => b"http://".len(),
        (_, true) => b"https://".len(),
        _ => return Err(Reject::bad("the request target begins neither with `/` nor with http://")),
    };
    let rest = &text[scheme..];
    let authority_len = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let authority = &rest[..authority_len];
    if authority.is_empty() || authority.starts_with(b":") || !is_authority(authority) {
        return Err(Reject::bad("the host in the request target is malformed"));
    }
    let start = target.start as usize + scheme;
    let path = Span::new(start + authority_len, target.end as usize);
    Ok((Span::new(start, start + authority_len), path))
}

/// `uri-host [":" port]`, without user information (RFC 9110, section 7.2). An empty host is syntax, too.
pub(crate) fn is_authority(value: &[u8]) -> bool {
    let port = match value {
        [b'[', rest @ ..] => {
            let Some(end) = memchr::memchr(b']', rest) else { return false };
            let is_address = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
            if end < 2 || !rest[..end].iter().all(is_address) {
                return false;
            }
            &rest[end + 1..]
        }
        _ => &value[value.iter().position(|&b| !scan::is_host(b)).unwrap_or(value.len())..],
    };
    match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// What the fields said, before it is weighed together.
#[derive(Default)]
struct Fields {
    count: usize,
    host: Option<Span>,
    length: Option<u64>,
    chunked: bool,
    connection: Connection,
    upgrade_websocket: bool,
    expect: Option<Span>,
    end: usize,
}

/// `None` while the empty line has not come.
fn field_lines(buf: &[u8], start: usize, limit: usize) -> Result<Option<Fields>, Reject> {
    let mut seen = Fields::default();
    let mut at = start;
    loop {
        match fields::line(buf, at) {
            Line::Field { name, value, next } => {
                seen.count += 1;
                if seen.count > limit {
                    return Err(Reject::new(431, "too many request header fields"));
                }
                field(buf, &mut seen, &buf[name.0..name.1], value)?;
                at = next;
            }
            Line::End { next } => {
                seen.end = next;
                return Ok(Some(seen));
            }
            Line::Partial => return Ok(None),
            Line::Bad(reason) => return Err(Reject::bad(reason)),
        }
    }
}

#[inline]
fn field(buf: &[u8], seen: &mut Fields, name: &[u8], span: (usize, usize)) -> Result<(), Reject> {
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
    let value = &buf[span.0..span.1];
    match name.len() {
        4 if is("host") => {
            if seen.host.replace(Span::new(span.0, span.1)).is_some() {
                return Err(Reject::bad("more than one Host"));
            }
            if !is_authority(value) {
                return Err(Reject::bad("a malformed Host"));
            }
        }
        6 if is("expect") => match seen.expect.replace(Span::new(span.0, span.1)) {
            None => {}
            Some(_) => return Err(Reject::bad("more than one Expect")),
        },
        7 if is("upgrade") => seen.upgrade_websocket |= fields::list_contains(value, "websocket"),
        10 if is("connection") => seen.connection.add(value).map_err(Reject::bad)?,
        14 if is("content-length") => {
            let length = fields::content_length(value).ok_or(Reject::bad("a malformed Content-Length"))?;
            if seen.length.replace(length).is_some() {
                return Err(Reject::bad("more than one Content-Length"));
            }
        }
        17 if is("transfer-encoding") => {
            if std::mem::replace(&mut seen.chunked, true) {
                return Err(Reject::bad("more than one Transfer-Encoding"));
            }
            match value {
                b"" => return Err(Reject::bad("an empty Transfer-Encoding")),
                value if value.eq_ignore_ascii_case(b"chunked") => {}
                _ => return Err(Reject::new(501, "a Transfer-Encoding other than chunked")),
            }
        }
        // CGI-style servers (WSGI, Rack) read these as the real ones.
        14 if is("content_length") => return Err(Reject::bad("a field named Content_Length")),
        17 if is("transfer_encoding") => return Err(Reject::bad("a field named Transfer_Encoding")),
        _ => {}
    }
    Ok(())
}

/// The rules that need the whole head.
fn finish(buf: &[u8], line: &RequestLine, seen: &Fields) -> Result<Head, Reject> {
    let is_11 = line.version == Version::Http11;
    if is_11 && seen.host.is_none() {
        return Err(Reject::bad("no Host"));
    }
    let body = match (seen.length, seen.chunked) {
        (Some(_), true) => return Err(Reject::bad("both Content-Length and Transfer-Encoding")),
        (None, true) if !is_11 => return Err(Reject::bad("Transfer-Encoding in HTTP/1.0")),
        (None, true) => Body::Chunked,
        (Some(length), false) => Body::Length(length),
        (None, false) => Body::None,
    };
    if let (Some(authority), Some(host)) = (line.authority, seen.host)
        && !authority.of(buf).eq_ignore_ascii_case(host.of(buf))
    {
        return Err(Reject::bad("Host and request target name different hosts"));
    }
    let expect_continue = match seen.expect {
        Some(value) if is_11 && !value.of(buf).eq_ignore_ascii_case(b"100-continue") => {
            return Err(Reject::new(417, "an Expect other than 100-continue"));
        }
        expect => is_11 && expect.is_some(),
    };
    let websocket = line.method == Method::Get && is_11 && seen.upgrade_websocket && seen.connection.upgrade;
    if websocket && !matches!(body, Body::None | Body::Length(0)) {
        return Err(Reject::bad("a WebSocket handshake with a body"));
    }
    Ok(Head {
        len: seen.end,
        method: line.method,
        method_name: line.method_name,
        target: line.target,
        path: line.path,
        version: line.version,
        body,
        host: seen.host.or(line.authority),
        keep_alive: seen.connection.persists(line.version),
        expect_continue,
        websocket,
        nominates: seen.connection.nominates,
        field_count: seen.count as u16,
        request_line: line.start as u32,
        first_field: line.end as u32,
    })
}
