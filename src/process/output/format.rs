//! One line of output as text or as JSON.

use super::Stream;
use crate::worker::{Generation, WorkerId};
use std::io::Write;

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// `TIME chat[0] 4711 g1 out | the line`
    #[default]
    Text,
    /// An object with `time`, `app`, `slot`, `pid`, `generation`, `stream` and `line`.
    Json,
}

/// Writes the lines of one stream. The part that never changes is made once.
#[derive(Debug)]
pub(super) struct Encoder {
    format: Format,
    /// Before a line of text.
    mark: &'static str,
    head: String,
}

impl Encoder {
    pub(super) fn new(format: Format, id: &WorkerId, pid: u32, generation: Generation, stream: Stream) -> Encoder {
        let (app, slot, stream) = (&id.app, id.slot, stream.short());
        let head = match format {
            Format::Text => format!("{app}[{slot}] {pid} g{generation} {stream}"),
            // The names of apps have nothing that JSON would escape; were it otherwise, it would be escaped.
            Format::Json => format!(
                "\"app\":{},\"slot\":{slot},\"pid\":{pid},\"generation\":{generation},\"stream\":\"{stream}\"",
                serde_json::Value::from(&**app)
            ),
        };
        Encoder { format, mark: "", head }
    }

    /// For gaps among lines that others than workers write: those who read them pass over what begins with `#`.
    pub(super) fn comment(format: Format) -> Encoder {
        Encoder { mark: "# ", ..Encoder::own(format) }
    }

    /// Of the proxy itself, for what it has to say amid the lines of several streams.
    pub(super) fn own(format: Format) -> Encoder {
        let head = match format {
            Format::Text => "pingora-unix-proxy",
            Format::Json => "\"stream\":\"proxy\"",
        };
        Encoder { format, mark: "", head: head.to_owned() }
    }

    /// A line, without its end. `whole` is false for a piece of a line that goes on.
    pub(super) fn line(&self, time: &str, line: &[u8], whole: bool, out: &mut Vec<u8>) {
        match self.format {
            Format::Text => {
                self.begin_text(time, b" | ", out);
                printable(line, out);
            }
            Format::Json => {
                self.begin_json(time, out);
                out.extend_from_slice(b",\"line\":\"");
                escaped(line, out);
                out.extend_from_slice(if whole { b"\"}" } else { b"\",\"partial\":true}" });
            }
        }
        out.push(b'\n');
    }

    /// Lines are missing here. In text the `!` stands where a worker's line has a `|`, so that none can pretend
    /// to be one.
    pub(super) fn gap(&self, time: &str, count: u64, why: &str, out: &mut Vec<u8>) {
        let lines = if count == 1 { "line" } else { "lines" };
        match self.format {
            Format::Text => self.begin_text(time, b" ! ", out),
            Format::Json => {
                self.begin_json(time, out);
                // A Vec takes all that is written to it.
                let _ = write!(out, ",\"dropped\":{count},\"line\":\"");
            }
        }
        let _ = write!(out, "… {count} {lines} dropped: {why}");
        out.extend_from_slice(match self.format {
            Format::Text => b"\n",
            Format::Json => b"\"}\n",
        });
    }

    fn begin_text(&self, time: &str, separator: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(self.mark.as_bytes());
        out.extend_from_slice(time.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.head.as_bytes());
        out.extend_from_slice(separator);
    }

    fn begin_json(&self, time: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(time.as_bytes());
        out.extend_from_slice(b"\",");
        out.extend_from_slice(self.head.as_bytes());
    }
}

/// Nothing but printable ASCII and tabs. Without an early end, so that it is done many bytes at a time.
fn is_plain(line: &[u8]) -> bool {
    line.iter().fold(true, |plain, byte| plain & (matches!(byte, b' '..=b'~') | (*byte == b'\t')))
}

/// A line that cannot pretend to be another's: colours stay, whatever else moves a cursor, ends a
/// line or drives a terminal is made visible (`^M`), and bytes that are no UTF-8 become U+FFFD.
pub(super) fn printable(line: &[u8], out: &mut Vec<u8>) {
    if is_plain(line) {
        return out.extend_from_slice(line);
    }
    let text = String::from_utf8_lossy(line);
    let mut coloured = false;
    let mut rest = text.as_ref();
    while let Some(c) = rest.chars().next() {
        if let Some(colour) = colour(rest) {
            out.extend_from_slice(colour.as_bytes());
            coloured = !matches!(colour, "\x1b[0m" | "\x1b[m");
            rest = rest.get(colour.len()..).unwrap_or_default();
            continue;
        }
        match c {
            '\t' => out.push(b'\t'),
            '\0'..='\x1f' | '\x7f' => out.extend([b'^', c as u8 ^ 0x40]),
            _ if is_hidden(c) => push(char::REPLACEMENT_CHARACTER, out),
            _ => push(c, out),
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    if coloured {
        // Else the colour would run on into the next line's label.
        out.extend_from_slice(b"\x1b[0m");
    }
}

/// The inside of a JSON string. What would drive a terminal is escaped too.
pub(crate) fn escaped(line: &[u8], out: &mut Vec<u8>) {
    if is_plain(line) && !line.iter().fold(false, |found, byte| found | matches!(byte, b'"' | b'\\' | b'\t')) {
        return out.extend_from_slice(line);
    }
    for c in String::from_utf8_lossy(line).chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\r' => out.extend_from_slice(b"\\r"),
            _ if c < ' ' || c == '\x7f' || is_hidden(c) => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            _ => push(c, out),
        }
    }
}

/// C1 controls; line and paragraph separator.
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{80}'..='\u{9f}' | '\u{2028}' | '\u{2029}')
}

fn push(c: char, out: &mut Vec<u8>) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// The "select graphic rendition" sequence (ECMA-48 8.3.117) that the text begins with.
fn colour(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\x1b[")?;
    let length = parameters.bytes().take_while(|b| b.is_ascii_digit() || *b == b';' || *b == b':').count();
    let whole = "\x1b[".len() + length + 1;
    (length <= 32 && parameters.as_bytes().get(length) == Some(&b'm')).then(|| text.get(..whole)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::{Incarnation, Slot};

    fn shown(line: impl AsRef<[u8]>) -> String {
        let mut out = Vec::new();
        printable(line.as_ref(), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn encoder(format: Format) -> Encoder {
        let id = WorkerId { app: "chat".into(), slot: Slot(3), incarnation: Incarnation(9) };
        Encoder::new(format, &id, 4711, Generation(2), Stream::Err)
    }

    fn line(format: Format, line: &[u8], whole: bool) -> String {
        let mut out = Vec::new();
        encoder(format).line("2026-01-02T03:04:05.678Z", line, whole, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_says_when_and_who() {
        assert_eq!(line(Format::Text, b"a\tb", true), "2026-01-02T03:04:05.678Z chat[3] 4711 g2 err | a\tb\n");
    }

    #[test]
    fn json_says_the_same_and_any_line_comes_back() {
        let lines: [&[u8]; 6] =
            [b"plain", b"say \"hi\" \\ \t\r", b"\x1b[31mred\x00\x7f", "é…\u{9b}\u{2028}".as_bytes(), b"", b"\xff\xfe"];
        for given in lines {
            let text = line(Format::Json, given, true);
            let value: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
            let expected = serde_json::json!({
                "time": "2026-01-02T03:04:05.678Z", "app": "chat", "slot": 3, "pid": 4711, "generation": 2,
                "stream": "err", "line": String::from_utf8_lossy(given),
            });
            assert_eq!(value, expected);
            let ends = text.matches('\n').count();
            assert!(ends == 1 && !text.trim_end().contains(|c: char| c.is_control() || c == '\u{2028}'), "{text}");
        }
        assert!(line(Format::Json, b"a", false).ends_with("\"line\":\"a\",\"partial\":true}\n"));
    }

    #[test]
    fn gaps_are_told_apart_from_lines() {
        let gap = |format, count| {
            let mut out = Vec::new();
            encoder(format).gap("T", count, "too slow", &mut out);
            Encoder::own(format).gap("T", count, "disk", &mut out);
            String::from_utf8(out).unwrap()
        };
        let text =
            "T chat[3] 4711 g2 err ! … 1 line dropped: too slow\nT pingora-unix-proxy ! … 1 line dropped: disk\n";
        assert_eq!(gap(Format::Text, 1), text);
        let json = gap(Format::Json, 12);
        let values: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(values.iter().all(|value| value["dropped"] == 12), "{json}");
        assert_eq!((&values[0]["slot"], &values[1]["stream"]), (&3.into(), &"proxy".into()));
    }

    #[test]
    fn nothing_can_forge_a_label() {
        assert_eq!(shown("a\rchat[1] 7 g1 out | forged"), "a^Mchat[1] 7 g1 out | forged");
        assert_eq!(shown("up\x1b[1A\x1b[2Kforged"), "up^[[1A^[[2Kforged");
        assert_eq!(shown("bell\x07 nul\0 del\x7f tab\t."), "bell^G nul^@ del^? tab\t.");
        assert_eq!(shown("c1\u{9b}2J nel\u{85} ls\u{2028}"), "c1\u{fffd}2J nel\u{fffd} ls\u{fffd}");
        assert_eq!(shown("\x1b]0;title\x07"), "^[]0;title^G");
    }

    #[test]
    fn colours_stay_and_end_with_the_line() {
        assert_eq!(shown("\x1b[31mred\x1b[0m ok"), "\x1b[31mred\x1b[0m ok");
        assert_eq!(shown("\x1b[38;5;1mred"), "\x1b[38;5;1mred\x1b[0m");
        assert_eq!(shown("cut\x1b[3"), "cut^[[3");
    }

    #[test]
    fn what_is_no_utf8_is_made_printable() {
        assert_eq!(shown(b"a\xff\xfeb"), "a\u{fffd}\u{fffd}b");
        assert_eq!(shown("…—☃ ordinary"), "…—☃ ordinary");
    }
}
