//! Bytes to lines that are safe to show.

/// Longest line in bytes; a longer one is shown in pieces.
const LONGEST: usize = 16 * 1024;

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Framer {
    /// The beginning of a line whose end has not come; never longer than [`LONGEST`].
    partial: Vec<u8>,
}

impl Framer {
    pub(super) fn push(&mut self, mut bytes: &[u8], mut deliver: impl FnMut(&str)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            self.extend(line, &mut deliver);
            self.emit(&mut deliver);
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.extend(bytes, &mut deliver);
    }

    /// The last line may have no end.
    pub(super) fn finish(mut self, mut deliver: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.emit(&mut deliver);
        }
    }

    fn extend(&mut self, mut bytes: &[u8], deliver: &mut impl FnMut(&str)) {
        while self.partial.len() + bytes.len() > LONGEST {
            let room = LONGEST - self.partial.len();
            let (now, later) = bytes.split_at(room);
            self.partial.extend_from_slice(now);
            let rest = self.partial.split_off(character_boundary(&self.partial));
            self.emit(deliver);
            self.partial = rest;
            bytes = later;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn emit(&mut self, deliver: &mut impl FnMut(&str)) {
        let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        deliver(&printable(line));
        self.partial.clear();
    }
}

/// Where to cut so that a UTF-8 character stays whole; the end, for what is no UTF-8.
fn character_boundary(bytes: &[u8]) -> usize {
    let end = bytes.len();
    let start = (end.saturating_sub(3)..end).rev().find(|at| bytes.get(*at).is_some_and(|b| b & 0xc0 == 0xc0));
    let incomplete =
        |at: &usize| std::str::from_utf8(bytes.get(*at..).unwrap_or_default()).is_err_and(|e| e.error_len().is_none());
    start.filter(incomplete).unwrap_or(end)
}

/// A line that cannot pretend to be another's: colours stay, whatever else moves a cursor, ends a
/// line or drives a terminal is made visible (`^M`), and bytes that are no UTF-8 become U+FFFD.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    if !text.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f || b == 0xc2 || b == 0xe2) {
        return text.into_owned();
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut coloured = false;
    let mut rest = text.as_ref();
    while let Some(c) = rest.chars().next() {
        if let Some(colour) = colour(rest) {
            out.push_str(colour);
            coloured = !matches!(colour, "\x1b[0m" | "\x1b[m");
            rest = rest.get(colour.len()..).unwrap_or_default();
            continue;
        }
        match c {
            '\t' => out.push(c),
            '\0'..='\x1f' | '\x7f' => out.extend(['^', char::from(c as u8 ^ 0x40)]),
            // C1 controls; line and paragraph separator.
            '\u{80}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => out.push(char::REPLACEMENT_CHARACTER),
            _ => out.push(c),
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    if coloured {
        // Else the colour would run on into the next line's label.
        out.push_str("\x1b[0m");
    }
    out
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

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut got = Vec::new();
        let mut framer = Framer::default();
        for chunk in chunks {
            framer.push(chunk, |line| got.push(line.to_owned()));
            assert!(framer.partial.len() <= LONGEST);
        }
        framer.finish(|line| got.push(line.to_owned()));
        got
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let text = "one\r\ntwo\n\nthrée\nlast".as_bytes();
        let expected = ["one", "two", "", "thrée", "last"];
        assert_eq!(lines(&[text]), expected);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(lines(&bytes), expected);
    }

    #[test]
    fn a_long_line_comes_in_pieces_of_whole_characters() {
        let text = "é".repeat(20_000) + "\nend\n";
        for size in [1, 7, 1000, 65536] {
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let got = lines(&chunks);
            assert!(got.iter().all(|line| line.len() <= LONGEST && !line.contains('\u{fffd}')));
            assert_eq!(got.concat(), "é".repeat(20_000) + "end");
            assert_eq!(got.len(), 4);
        }
        // No character at all to respect.
        assert_eq!(lines(&[&[0xff; LONGEST * 2]]).len(), 2);
        assert_eq!(lines(&[&[0x80; LONGEST * 2]]).len(), 2);
    }

    #[test]
    fn nothing_can_forge_a_label() {
        let shown = |text: &str| lines(&[text.as_bytes()]).join("|");
        assert_eq!(shown("a\rchat[1] 7 out | forged"), "a^Mchat[1] 7 out | forged");
        assert_eq!(shown("up\x1b[1A\x1b[2Kforged"), "up^[[1A^[[2Kforged");
        assert_eq!(shown("bell\x07 nul\0 del\x7f tab\t."), "bell^G nul^@ del^? tab\t.");
        assert_eq!(shown("c1\u{9b}2J nel\u{85} ls\u{2028}"), "c1\u{fffd}2J nel\u{fffd} ls\u{fffd}");
        assert_eq!(shown("\x1b]0;title\x07"), "^[]0;title^G");
    }

    #[test]
    fn colours_stay_and_end_with_the_line() {
        assert_eq!(lines(&[b"\x1b[31mred\x1b[0m ok\n"]), ["\x1b[31mred\x1b[0m ok"]);
        assert_eq!(lines(&[b"\x1b[38;5;1mred\nnext\n"]), ["\x1b[38;5;1mred\x1b[0m", "next"]);
        assert_eq!(lines(&[b"cut\x1b[3"]), ["cut^[[3"]);
    }

    #[test]
    fn what_is_no_utf8_is_made_printable() {
        assert_eq!(lines(&[b"a\xff\xfeb\n"]), ["a\u{fffd}\u{fffd}b"]);
        assert_eq!(lines(&["…—☃ ordinary".as_bytes()]), ["…—☃ ordinary"]);
    }
}
