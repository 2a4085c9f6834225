//! The path of a request: the form in which routes are matched and files are found, and the other ways in which a server
//! may read it.
//!
//! The normal form is that of RFC 3986, section 6.2.2: escapes of characters that need none are undone (`%61` is `a`), the
//! others are in capitals, `.` and `..` are resolved; and as file systems and most servers have it, `//` is `/`. What is
//! forwarded stays as the client sent it, so a worker may read it otherwise: [`readings`] has what it may read.

use std::borrow::Cow;

/// How often an escape may stand for another one (`%252f`): what decodes more often is not known of any server.
const DECODINGS: usize = 3;

/// The path of an origin-form or absolute-form target; `/` where there is none.
pub(in crate::gateway) fn path_of(target: &[u8]) -> &[u8] {
    split(target).0
}

/// The path of a target and what follows it, which is empty or begins with `?` (or `#`).
pub(in crate::gateway) fn split(target: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr2(b'?', b'#', target).unwrap_or(target.len());
    let (path, rest) = target.split_at(end);
    if path.starts_with(b"/") {
        return (path, rest);
    }
    let Some(scheme) = memchr::memmem::find(path, b"://") else { return (b"/", rest) };
    let path = &path[scheme + 3..];
    (memchr::memchr(b'/', path).map_or(b"/", |at| &path[at..]), rest)
}

/// The normal form of a path that begins with `/`. Costs nothing where it is the path itself.
pub(crate) fn normal(path: &[u8]) -> Cow<'_, [u8]> {
    if is_normal(path) {
        return Cow::Borrowed(path);
    }
    Cow::Owned(resolved(&unreserved_decoded(path)))
}

/// Whether a path is surely in its normal form.
fn is_normal(path: &[u8]) -> bool {
    let mut after_slash = false;
    for &byte in path {
        if byte == b'%' || (after_slash && matches!(byte, b'/' | b'.')) {
            return false;
        }
        after_slash = byte == b'/';
    }
    path.first() == Some(&b'/')
}

/// What another server may read in a path whose readings differ from [`normal`], up to three of them; nothing for all
/// other paths.
///
/// The first leaves `.` and `..` as they are, as servers do that compare text. The other two undo every escape, also of
/// `/` and `\`, of escapes themselves and in overlong UTF-8; they take `\` for `/`, drop `;parameters` of segments and end
/// at a NUL. One of them resolves dots then, one does not.
pub(in crate::gateway) fn readings(path: &[u8]) -> Vec<Vec<u8>> {
    let has_dots = |path: &[u8]| path.split(|&b| b == b'/').any(|segment| matches!(segment, b"." | b".."));
    let plain = unreserved_decoded(path);
    let is_opaque = plain.iter().any(|b| matches!(b, b'\\' | b';' | 0)) || has_telling_escape(&plain);
    let mut found = Vec::new();
    if has_dots(&plain) {
        found.push(merged(&plain));
    }
    if is_opaque {
        let decoded = wholly_decoded(plain);
        if has_dots(&decoded) {
            found.push(merged(&decoded));
        }
        found.push(resolved(&decoded));
    }
    found
}

/// An escape that may stand for something that delimits: `/`, `\`, `;`, `%`, NUL, or the start of overlong UTF-8.
fn has_telling_escape(path: &[u8]) -> bool {
    memchr::memchr_iter(b'%', path).any(|at| match path.get(at + 1..at + 3) {
        Some([high, low]) => match hex(*high).zip(hex(*low)) {
            Some((high, low)) => {
                matches!(high << 4 | low, b'/' | b'\\' | b';' | b'%' | 0 | 0xc0 | 0xc1 | 0xe0 | 0xef)
            }
            // `%u002f`, and what is cut off: servers differ in them.
            None => true,
        },
        _ => true,
    })
}

/// The name of a file below a directory, without a slash in front: every escape undone. `None` for a path that names no
/// file: one with a NUL, `\` or an escaped `/`, and one with a part that begins with a dot (`.git`, `.env`), except
/// `.well-known` as the first (RFC 8615). `path` is in its normal form.
pub(in crate::gateway) fn file_name(path: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(path.len());
    for (nth, segment) in path.strip_prefix(b"/")?.split(|&b| b == b'/').enumerate() {
        if nth > 0 {
            name.push(b'/');
        }
        let from = name.len();
        decode(segment, &mut name, |_| true);
        let segment = &name[from..];
        let is_hidden = segment.starts_with(b".") && (nth > 0 || segment != b".well-known");
        if is_hidden || segment.iter().any(|b| matches!(b, 0 | b'/' | b'\\')) {
            return None;
        }
    }
    Some(name)
}

/// A path in its normal form as part of a `Location`, where browsers take `\` for `/`.
pub(in crate::gateway) fn in_location(path: &[u8]) -> Vec<u8> {
    let mut safe = Vec::with_capacity(path.len());
    for &byte in path {
        match byte {
            b'\\' => safe.extend_from_slice(b"%5C"),
            byte if byte.is_ascii_graphic() => safe.push(byte),
            byte => push_escape(byte, &mut safe),
        }
    }
    safe
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn unreserved_decoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    decode(path, &mut out, is_unreserved);
    out
}

/// Undoes the escapes of the bytes that `which` names; the others are written in capitals. A `%` without two hex digits
/// stands for itself.
fn decode(path: &[u8], out: &mut Vec<u8>, which: impl Fn(u8) -> bool) {
    let mut rest = path;
    while let [first, after @ ..] = rest {
        rest = after;
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        let Some((high, low)) = escaped else {
            out.push(*first);
            continue;
        };
        rest = &after[2..];
        match high << 4 | low {
            byte if which(byte) => out.push(byte),
            byte => push_escape(byte, out),
        }
    }
}

fn push_escape(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Without doubled slashes.
fn merged(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for &byte in path {
        if byte != b'/' || out.last() != Some(&b'/') {
            out.push(byte);
        }
    }
    out
}

/// Without doubled slashes, `.` and `..` (RFC 3986, section 5.2.4).
fn resolved(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() + 1);
    let mut is_open = true;
    for segment in path.split(|&b| b == b'/') {
        is_open = false;
        match segment {
            b"" | b"." => is_open = true,
            b".." => {
                let cut = memchr::memrchr(b'/', &out).unwrap_or(0);
                out.truncate(cut);
                is_open = true;
            }
            segment => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    if is_open {
        out.push(b'/');
    }
    out
}

/// As the most generous of servers reads it; see [`readings`].
fn wholly_decoded(mut path: Vec<u8>) -> Vec<u8> {
    for _ in 0..DECODINGS {
        let mut out = Vec::with_capacity(path.len());
        decode(&unicode_escapes_undone(&path), &mut out, |_| true);
        let out = overlong_undone(&out);
        if out == path {
            break;
        }
        path = out;
    }
    path.truncate(memchr::memchr(0, &path).unwrap_or(path.len()));
    path.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
    let mut out = Vec::with_capacity(path.len());
    for (nth, segment) in path.split(|&b| b == b'/').enumerate() {
        if nth > 0 {
            out.push(b'/');
        }
        out.extend_from_slice(segment.split(|&b| b == b';').next().unwrap_or_default());
    }
    out
}

/// `%u002f`, which IIS and its heirs read.
fn unicode_escapes_undone(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        rest = after;
        if let (b'%', [b'u' | b'U', digits @ ..]) = (first, after)
            && let Some(digits) = digits.get(..4)
            && let Some(code) = digits.iter().try_fold(0_u32, |code, digit| Some(code << 4 | u32::from(hex(*digit)?)))
        {
            rest = &after[5..];
            out.push(ascii_of(code).unwrap_or(b'?'));
            continue;
        }
        out.push(*first);
    }
    out
}

/// ASCII in two or three bytes (`%c0%af`), which no decoder may take and some do; full-width forms with it.
fn overlong_undone(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        let (code, len) = match (first, after) {
            (0xc0 | 0xc1, [a, ..]) => (u32::from(first & 0x1f) << 6 | u32::from(a & 0x3f), 2),
            (0xe0 | 0xef, [a, b, ..]) => {
                (u32::from(first & 0xf) << 12 | u32::from(a & 0x3f) << 6 | u32::from(b & 0x3f), 3)
            }
            _ => (u32::MAX, 1),
        };
        match ascii_of(code) {
            Some(byte) => {
                out.push(byte);
                rest = &rest[len..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// The ASCII character that a code stands for, by itself or in its full-width form (U+FF01 to U+FF5E).
fn ascii_of(code: u32) -> Option<u8> {
    let code = if (0xff01..=0xff5e).contains(&code) { code - 0xff01 + 0x21 } else { code };
    u8::try_from(code).ok().filter(u8::is_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: impl AsRef<[u8]>) -> String {
        String::from_utf8_lossy(bytes.as_ref()).into_owned()
    }

    #[test]
    fn a_path_has_one_normal_form() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b//", "/a/b/"),
            ("/./a/./b/.", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/../../a", "/a"),
            ("/..", "/"),
            ("/%61dmin", "/admin"),
            ("/%7euser/%2D", "/~user/-"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/%zz/%4", "/%zz/%4"),
            ("/%2561", "/%2561"),
            ("/.git/x", "/.git/x"),
            ("/...", "/..."),
            ("/a\\b", "/a\\b"),
        ] {
            assert_eq!(text(normal(path.as_bytes())), expected, "{path}");
            assert_eq!(text(normal(expected.as_bytes())), expected, "the normal form of {path} is one");
        }
        assert!(matches!(normal(b"/a/b.c?"), Cow::Borrowed(_)));
    }

    #[test]
    fn the_path_is_cut_out_of_a_target() {
        for (target, path, rest) in [
            ("/a?b=/c", "/a", "?b=/c"),
            ("/", "/", ""),
            ("*", "/", ""),
            ("http://h/a?b", "/a", "?b"),
            ("http://h", "/", ""),
            ("http://h?b", "/", "?b"),
        ] {
            assert_eq!(split(target.as_bytes()), (path.as_bytes(), rest.as_bytes()), "{target}");
        }
    }

    #[test]
    fn what_servers_may_read_otherwise() {
        for path in ["/", "/a/b", "/a//b", "/%61", "/caf%C3%A9", "/a%20b", "/.well-known/x", "/a=b&c"] {
            assert!(readings(path.as_bytes()).is_empty(), "{path}");
        }
        for (path, reading) in [
            ("/x/../admin", "/x/../admin"),
            ("/x/%2e%2e/admin", "/x/../admin"),
            ("/x%2fy", "/x/y"),
            ("/x/..%2fadmin", "/admin"),
            ("/admin%2f..%2fx", "/admin/../x"),
            ("/x\\..\\admin", "/admin"),
            ("/x%5c..%5cadmin", "/admin"),
            ("/%2561dmin", "/admin"),
            ("/%252561dmin", "/admin"),
            ("/x/%252e%252e/admin", "/admin"),
            ("/admin%00.css", "/admin"),
            ("/admin;x=1/y", "/admin/y"),
            ("/x/..;/admin", "/admin"),
            ("/admin%3bx", "/admin"),
            ("/x%c0%afadmin", "/x/admin"),
            ("/x/%c0%ae%c0%ae/admin", "/admin"),
            ("/x/%e0%80%ae./admin", "/admin"),
            ("/x%ef%bc%8fadmin", "/x/admin"),
            ("/x%u002fadmin", "/x/admin"),
            ("/x/%u002e%U002e/admin", "/admin"),
            ("/x%uff0fadmin", "/x/admin"),
        ] {
            let all: Vec<String> = readings(path.as_bytes()).into_iter().map(text).collect();
            assert!(all.iter().any(|one| one == reading), "{path}: {all:?}");
            assert!(all.len() <= 3);
        }
        // Cut off, or no escape at all.
        for path in ["/a%", "/a%4", "/a%zz", "/%u00", "/%u12", "/%c0", "/%e0%80"] {
            readings(path.as_bytes());
        }
    }

    #[test]
    fn a_file_has_a_name_below_its_directory() {
        for (path, name) in [
            ("/a/b.css", Some("a/b.css")),
            ("/", Some("")),
            ("/a/", Some("a/")),
            ("/caf%C3%A9.html", Some("café.html")),
            ("/a%20b", Some("a b")),
            ("/.well-known/security.txt", Some(".well-known/security.txt")),
            ("/a/.well-known/x", None),
            ("/.env", None),
            ("/a/.git/config", None),
            ("/a%2Fb", None),
            ("/a%5Cb", None),
            ("/a\\b", None),
            ("/a%00b", None),
            ("", None),
        ] {
            assert_eq!(file_name(path.as_bytes()).map(text).as_deref(), name, "{path}");
        }
    }

    #[test]
    fn a_location_leads_to_no_other_host() {
        assert_eq!(text(in_location(&normal(b"//evil.example/"))), "/evil.example/");
        assert_eq!(text(in_location(&normal(b"/\\evil.example/"))), "/%5Cevil.example/");
    }
}
