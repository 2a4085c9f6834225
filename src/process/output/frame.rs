//! Bytes to lines.

/// Longest line in bytes; a longer one is shown in pieces.
pub(super) const LONGEST: usize = 16 * 1024;
/// Bytes kept in hand for the next partial line.
const KEPT: usize = 1024;

/// Cuts a stream of bytes into lines. A line that came whole is not copied.
#[derive(Debug, Default)]
pub(super) struct Framer {
    /// The beginning of a line whose end has not come; never longer than [`LONGEST`].
    partial: Vec<u8>,
}

impl Framer {
    /// Goes on behind the beginning of a line. One that is too long to be one is cut.
    pub(super) fn behind(mut partial: Vec<u8>) -> Framer {
        partial.truncate(LONGEST);
        Framer { partial }
    }

    /// The beginning of the line whose end has not come.
    pub(super) fn into_partial(self) -> Vec<u8> {
        self.partial
    }

    /// Delivers each line without its end, and whether it is whole: false for a piece that goes on.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut deliver: impl FnMut(&[u8], bool)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            if self.partial.is_empty() && line.len() <= LONGEST {
                deliver(without_return(line), true);
            } else {
                self.extend(line, &mut deliver);
                deliver(without_return(&self.partial), true);
                self.forget();
            }
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.extend(bytes, &mut deliver);
    }

    /// The last line may have no end.
    pub(super) fn finish(self, mut deliver: impl FnMut(&[u8], bool)) {
        if !self.partial.is_empty() {
            deliver(without_return(&self.partial), true);
        }
    }

    fn extend(&mut self, mut bytes: &[u8], deliver: &mut impl FnMut(&[u8], bool)) {
        while self.partial.len() + bytes.len() > LONGEST {
            let room = LONGEST - self.partial.len();
            let (now, later) = bytes.split_at(room);
            self.partial.extend_from_slice(now);
            let rest = self.partial.split_off(character_boundary(&self.partial));
            deliver(&self.partial, false);
            self.partial = rest;
            bytes = later;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn forget(&mut self) {
        self.partial.clear();
        self.partial.shrink_to(KEPT);
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Where to cut so that a UTF-8 character stays whole; the end, for what is no UTF-8.
fn character_boundary(bytes: &[u8]) -> usize {
    let end = bytes.len();
    let start = (end.saturating_sub(3)..end).rev().find(|at| bytes.get(*at).is_some_and(|b| b & 0xc0 == 0xc0));
    let incomplete =
        |at: &usize| std::str::from_utf8(bytes.get(*at..).unwrap_or_default()).is_err_and(|e| e.error_len().is_none());
    start.filter(incomplete).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut got = Vec::new();
        let mut framer = Framer::default();
        for chunk in chunks {
            framer.push(chunk, |line, _| got.push(line.to_vec()));
            assert!(framer.partial.len() <= LONGEST);
        }
        framer.finish(|line, _| got.push(line.to_vec()));
        got
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let text = "one\r\ntwo\n\nthrée\nlast".as_bytes();
        let expected = ["one", "two", "", "thrée", "last"].map(|line| line.as_bytes().to_vec());
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
            assert!(got.iter().all(|line| line.len() <= LONGEST && std::str::from_utf8(line).is_ok()));
            assert_eq!(got.concat(), ("é".repeat(20_000) + "end").as_bytes());
            assert_eq!(got.len(), 4);
        }
        // No character at all to respect.
        assert_eq!(lines(&[&[0xff; LONGEST * 2]]).len(), 2);
        assert_eq!(lines(&[&[0x80; LONGEST * 2]]).len(), 2);
    }

    #[test]
    fn pieces_are_told_from_lines() {
        let mut whole = Vec::new();
        let mut framer = Framer::default();
        framer.push(&[b'x'; LONGEST + 1], |_, w| whole.push(w));
        framer.push(b"\nshort\n", |_, w| whole.push(w));
        assert_eq!(whole, [false, true, true]);
    }
}
