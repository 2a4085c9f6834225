//! What a request asks of a file: which encoding, whether it has changed, which part. Pure (RFC 9110, sections 12 to 14).

use super::plan::HeaderSource;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct FileFacts {
    pub(in crate::gateway) size: u64,
    pub(in crate::gateway) modified: SystemTime,
}

/// What is sent of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Selected {
    Whole,
    /// First byte, and the one after the last.
    Part(u64, u64),
    /// 304.
    NotModified,
    /// 412.
    Failed,
    /// 416.
    OutOfRange,
}

/// A form in which a file may lie beside itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Encoding {
    Brotli,
    Zstd,
    Gzip,
}

impl Encoding {
    /// The best first.
    const ALL: [Encoding; 3] = [Encoding::Brotli, Encoding::Zstd, Encoding::Gzip];

    pub(in crate::gateway) fn name(self) -> &'static str {
        match self {
            Encoding::Brotli => "br",
            Encoding::Zstd => "zstd",
            Encoding::Gzip => "gzip",
        }
    }

    /// What is appended to the file's name.
    pub(in crate::gateway) fn suffix(self) -> &'static str {
        match self {
            Encoding::Brotli => ".br",
            Encoding::Zstd => ".zst",
            Encoding::Gzip => ".gz",
        }
    }
}

impl FileFacts {
    /// Another one for each change, and for each encoding: of size and time, to the nanosecond.
    pub(in crate::gateway) fn etag(&self, encoding: Option<Encoding>) -> String {
        let since = self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let suffix = encoding.map_or(String::new(), |encoding| format!("-{}", encoding.name()));
        format!("\"{:x}.{:x}-{:x}{suffix}\"", since.as_secs(), since.subsec_nanos(), self.size)
    }

    /// As `Last-Modified` says it, which knows no fractions.
    fn whole_seconds(&self) -> SystemTime {
        let since = self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
    }
}

/// Decides by the conditions of a request, then by its range. `etag` is that of what would be sent.
pub(in crate::gateway) fn select<'a>(
    facts: &FileFacts,
    etag: &str,
    headers: impl HeaderSource<'a> + Copy,
    is_get: bool,
) -> Selected {
    let date = |name| headers.first(name).and_then(http_date);
    if let Some(list) = headers.first("if-match") {
        if !names(list, etag, false) {
            return Selected::Failed;
        }
    } else if date("if-unmodified-since").is_some_and(|date| facts.whole_seconds() > date) {
        return Selected::Failed;
    }
    if let Some(list) = headers.first("if-none-match") {
        if names(list, etag, true) {
            return Selected::NotModified;
        }
    } else if date("if-modified-since").is_some_and(|date| facts.whole_seconds() <= date) {
        return Selected::NotModified;
    }
    let Some(range) = headers.first("range").filter(|_| is_get) else { return Selected::Whole };
    let is_same = match headers.first("if-range") {
        None => true,
        Some(tag) if tag.starts_with(b"\"") => tag == etag.as_bytes(),
        Some(date) => http_date(date).is_some_and(|date| date == facts.whole_seconds()),
    };
    if is_same { part(range, facts.size) } else { Selected::Whole }
}

fn http_date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?.trim()).ok()
}

/// Whether a list of entity tags names this one. A weak comparison takes `W/` off.
fn names(list: &[u8], etag: &str, is_weak: bool) -> bool {
    list.split(|&b| b == b',').map(<[u8]>::trim_ascii).any(|tag| {
        let bare = tag.strip_prefix(b"W/").filter(|_| is_weak).unwrap_or(tag);
        tag == b"*" || bare == etag.as_bytes()
    })
}

/// One range of bytes. What is no range, several of them, or another unit is passed over, as RFC 9110 allows.
fn part(range: &[u8], size: u64) -> Selected {
    let Some(spec) = range.get(..6).filter(|unit| unit.eq_ignore_ascii_case(b"bytes=")).map(|_| &range[6..]) else {
        return Selected::Whole;
    };
    let spec = spec.trim_ascii();
    let Some(dash) = memchr::memchr(b'-', spec) else { return Selected::Whole };
    let number = |text: &[u8]| match text {
        [] => Some(None),
        text if text.iter().all(u8::is_ascii_digit) && text.len() <= 18 => {
            std::str::from_utf8(text).ok()?.parse::<u64>().ok().map(Some)
        }
        _ => None,
    };
    match (number(&spec[..dash]), number(&spec[dash + 1..])) {
        (Some(Some(first)), Some(last)) => {
            if last.is_some_and(|last| last < first) {
                return Selected::Whole;
            }
            if first >= size {
                return Selected::OutOfRange;
            }
            Selected::Part(first, last.map_or(size, |last| last.saturating_add(1).min(size)))
        }
        (Some(None), Some(Some(0))) => Selected::OutOfRange,
        (Some(None), Some(Some(_))) if size == 0 => Selected::OutOfRange,
        (Some(None), Some(Some(last))) => Selected::Part(size.saturating_sub(last), size),
        _ => Selected::Whole,
    }
}

/// The encodings that a client takes, the one it likes best first; those of the same weight with the best first.
pub(in crate::gateway) fn encodings<'a>(headers: impl HeaderSource<'a>) -> Vec<Encoding> {
    let Some(accept) = headers.first("accept-encoding") else { return Vec::new() };
    let weight_of = |encoding: Encoding| {
        let mut any = None;
        for item in accept.split(|&b| b == b',') {
            let mut parts = item.split(|&b| b == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(weight).unwrap_or(1000);
            if name.eq_ignore_ascii_case(encoding.name().as_bytes()) {
                return weight;
            }
            if name == b"*" {
                any = Some(weight);
            }
        }
        any.unwrap_or(0)
    };
    let mut taken: Vec<_> = Encoding::ALL.map(|encoding| (weight_of(encoding), encoding)).into();
    taken.retain(|(weight, _)| *weight > 0);
    taken.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    taken.into_iter().map(|(_, encoding)| encoding).collect()
}

/// The media type of a file, by the end of its name.
pub(crate) fn content_type(name: &[u8]) -> String {
    let kind = mime_guess::from_path(Path::new(OsStr::from_bytes(name))).first_or_octet_stream();
    let kind = kind.essence_str();
    let is_text = kind.starts_with("text/") || matches!(kind, "application/javascript" | "application/json");
    if is_text { format!("{kind}; charset=utf-8") } else { kind.to_owned() }
}

/// Only files of these types are looked for in other encodings.
pub(in crate::gateway) fn is_compressible(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default();
    kind.starts_with("text/")
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
        || matches!(
            kind,
            "application/javascript"
                | "application/json"
                | "application/xml"
                | "application/wasm"
                | "application/vnd.ms-fontobject"
                | "font/ttf"
                | "font/otf"
                | "image/bmp"
                | "image/x-icon"
                | "image/vnd.microsoft.icon"
        )
}

/// The weight of `q=0.5`, in thousandths; `None` for another parameter. One that cannot be read counts as none.
pub(super) fn weight(parameter: &[u8]) -> Option<u16> {
    let value = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="))?;
    let weight = std::str::from_utf8(value).ok().and_then(|value| value.trim().parse::<f32>().ok());
    Some(weight.filter(|weight| (0.0..=1.0).contains(weight)).map_or(0, |weight| (weight * 1000.0) as u16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn conditions_and_ranges_select() {
        let modified = httpdate::parse_http_date("Sat, 28 Nov 2026 10:00:00 GMT").unwrap();
        let facts = FileFacts { size: 100, modified: modified + Duration::from_millis(500) };
        let tag = facts.etag(None);
        let (tag, weak) = (tag.as_str(), format!("W/{tag}"));
        let (same, before) = ("Sat, 28 Nov 2026 10:00:00 GMT", "Sat, 28 Nov 2026 09:59:59 GMT");
        let list = format!("\"x\", {tag}");
        for (fields, expected) in [
            (&[][..], Selected::Whole),
            (&[("if-none-match", tag)], Selected::NotModified),
            (&[("if-none-match", weak.as_str())], Selected::NotModified),
            (&[("if-none-match", list.as_str())], Selected::NotModified),
            (&[("if-none-match", "*")], Selected::NotModified),
            (&[("if-none-match", "\"x\""), ("if-modified-since", same)], Selected::Whole),
            (&[("if-modified-since", same)], Selected::NotModified),
            (&[("if-modified-since", before)], Selected::Whole),
            (&[("if-modified-since", "yesterday")], Selected::Whole),
            (&[("if-match", "\"x\"")], Selected::Failed),
            (&[("if-match", weak.as_str())], Selected::Failed),
            (&[("if-match", tag)], Selected::Whole),
            (&[("if-unmodified-since", before)], Selected::Failed),
            (&[("if-unmodified-since", same)], Selected::Whole),
            (&[("range", "bytes=0-9")], Selected::Part(0, 10)),
            (&[("range", "bytes=90-")], Selected::Part(90, 100)),
            (&[("range", "bytes=90-1000")], Selected::Part(90, 100)),
            (&[("range", "bytes=-10")], Selected::Part(90, 100)),
            (&[("range", "bytes=-1000")], Selected::Part(0, 100)),
            (&[("range", "Bytes= 5-5 ")], Selected::Part(5, 6)),
            (&[("range", "bytes=100-")], Selected::OutOfRange),
            (&[("range", "bytes=-0")], Selected::OutOfRange),
            (&[("range", "bytes=9-1")], Selected::Whole),
            (&[("range", "bytes=0-1,3-4")], Selected::Whole),
            (&[("range", "bytes=a-b")], Selected::Whole),
            (&[("range", "bytes=-")], Selected::Whole),
            (&[("range", "bytes=99999999999999999999-")], Selected::Whole),
            (&[("range", "items=0-1")], Selected::Whole),
            (&[("range", "bytes=0-9"), ("if-range", tag)], Selected::Part(0, 10)),
            (&[("range", "bytes=0-9"), ("if-range", weak.as_str())], Selected::Whole),
            (&[("range", "bytes=0-9"), ("if-range", "\"x\"")], Selected::Whole),
            (&[("range", "bytes=0-9"), ("if-range", same)], Selected::Part(0, 10)),
            (&[("range", "bytes=0-9"), ("if-range", before)], Selected::Whole),
            (&[("range", "bytes=0-9"), ("if-none-match", tag)], Selected::NotModified),
        ] {
            assert_eq!(select(&facts, tag, &headers(fields), true), expected, "{fields:?}");
        }
        assert_eq!(select(&facts, tag, &headers(&[("range", "bytes=0-9")]), false), Selected::Whole);
        let empty = FileFacts { size: 0, ..facts };
        for range in ["bytes=0-", "bytes=-5"] {
            assert_eq!(select(&empty, tag, &headers(&[("range", range)]), true), Selected::OutOfRange);
        }
    }

    #[test]
    fn a_tag_differs_by_time_size_and_encoding() {
        let facts = FileFacts { size: 1, modified: SystemTime::UNIX_EPOCH };
        let later = FileFacts { modified: SystemTime::UNIX_EPOCH + Duration::from_nanos(1), ..facts };
        let tags = [facts.etag(None), facts.etag(Some(Encoding::Gzip)), later.etag(None)];
        assert!(tags[0] != tags[1] && tags[0] != tags[2], "{tags:?}");
    }

    #[test]
    fn a_client_is_given_the_encoding_it_likes_best() {
        use Encoding::{Brotli, Gzip, Zstd};
        for (accept, expected) in [
            ("gzip, deflate, br, zstd", &[Brotli, Zstd, Gzip][..]),
            ("gzip", &[Gzip]),
            ("br;q=0.5, gzip", &[Gzip, Brotli]),
            ("br;q=0, *", &[Zstd, Gzip]),
            ("*;q=0.1, GZIP;q=0.2", &[Gzip, Brotli, Zstd]),
            ("gzip;q=x, br;q=2", &[]),
            ("identity", &[]),
            ("", &[]),
        ] {
            assert_eq!(encodings(&headers(&[("accept-encoding", accept)])), expected, "{accept}");
        }
        assert_eq!(encodings(&headers(&[])), []);
    }
}
