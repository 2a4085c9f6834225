//! Files of variables, `NAME=value` on each line, as dotenv, Docker Compose and systemd read them.
//!
//! ```text
//! # a comment
//! PLAIN=text without quotes      # a comment, as it follows a space
//! export QUOTED="two\nlines"     # \n \r \t \" \\ \$ stand for characters
//! LITERAL='nothing ${stands} for anything'
//! ```
//!
//! A quoted value may go over several lines. Variables in values are not expanded.

use super::environment::is_ours;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of a file that is read at all.
const LARGEST: u64 = 1024 * 1024;

/// In the order of the file; the last of one name counts.
pub(crate) type Variables = Vec<(String, String)>;

/// Reads a file.
///
/// # Errors
/// `FILE:LINE: what is wrong`, for people.
pub(crate) fn read(path: &Path) -> Result<Variables, String> {
    let whole = |what: String| format!("{}: {what}", path.display());
    let bytes = bytes_of(path).map_err(whole)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
        format!("{}:{line}: not UTF-8; save it as UTF-8 text", path.display())
    })?;
    parse(&text).map_err(|(line, what)| format!("{}:{line}: {what}", path.display()))
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, String> {
    let because = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => e.to_string(),
    };
    // A FIFO in its place must not hold up anybody.
    let flags = nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(because)?;
    if !file.metadata().map_err(because)?.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(because)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(format!("it is larger than {LARGEST} bytes")),
        false => Ok(bytes),
    }
}

/// Reads a text; an error is a line, from 1, and what is wrong there.
pub(crate) fn parse(text: &str) -> Result<Variables, (usize, String)> {
    let mut reader = Reader { rest: text.strip_prefix('\u{feff}').unwrap_or(text), line: 1 };
    let mut variables = Variables::new();
    while !reader.rest.is_empty() {
        variables.extend(reader.entry()?);
    }
    Ok(variables)
}

struct Reader<'t> {
    rest: &'t str,
    /// That `rest` begins in.
    line: usize,
}

impl Reader<'_> {
    /// What stands on the next line, if it is a variable.
    fn entry(&mut self) -> Result<Option<(String, String)>, (usize, String)> {
        let at = self.line;
        let wrong = |what: &str| (at, what.to_owned());
        let line = self.rest.split('\n').next().unwrap_or_default();
        let plain = line.trim();
        if plain.is_empty() || plain.starts_with(['#', ';']) {
            self.skip_line();
            return Ok(None);
        }
        if line.contains('\0') {
            return Err(wrong("a NUL character, which no variable may have"));
        }
        let Some((name, _)) = line.split_once('=') else {
            return Err(wrong(&format!("{} is not NAME=value", shown(plain))));
        };
        let after = name.len() + 1;
        let name = name.trim();
        let name = name.strip_prefix("export ").map_or(name, str::trim);
        if !is_name(name) {
            let what = format!("{} cannot be the name of a variable; use letters, digits and _", shown(name));
            return Err(wrong(&what));
        }
        if is_ours(name) {
            return Err(wrong(&format!("{name} is set by the proxy; remove it")));
        }
        let name = name.to_owned();
        self.rest = self.rest.get(after..).unwrap_or_default().trim_start_matches([' ', '\t']);
        Ok(Some((name, self.value()?)))
    }

    fn value(&mut self) -> Result<String, (usize, String)> {
        let quote = self.rest.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'));
        let Some(quote) = quote else {
            let line = self.rest.split('\n').next().unwrap_or_default();
            let value = bare(line).to_owned();
            self.skip_line();
            return Ok(value);
        };
        let begun = self.line;
        let (value, length) = quoted(self.rest, quote)
            .ok_or_else(|| (begun, format!("the quoted value that begins here has no {quote} at its end")))?;
        if value.contains('\0') {
            return Err((begun, "a NUL character, which no variable may have".to_owned()));
        }
        let (within, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        self.line += within.matches('\n').count();
        self.rest = rest;
        let behind = self.rest.split('\n').next().unwrap_or_default().trim();
        if !behind.is_empty() && !behind.starts_with('#') {
            return Err((self.line, format!("{} stands behind the quoted value", shown(behind))));
        }
        self.skip_line();
        Ok(value)
    }

    fn skip_line(&mut self) {
        self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        self.line += 1;
    }
}

/// A value without quotes ends with its line, or with a `#` after a space.
fn bare(line: &str) -> &str {
    let comment = line.match_indices('#').map(|(at, _)| at);
    let mut comment = comment.filter(|at| line.get(..*at).is_some_and(|before| before.ends_with([' ', '\t'])));
    line.get(..comment.next().unwrap_or(line.len())).unwrap_or(line).trim()
}

/// The value of a text that begins with a quote, and the bytes up to behind the quote at its end.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => return Some((value.replace("\r\n", "\n"), at + c.len_utf8())),
            '\\' if quote == '"' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                c @ ('"' | '\\' | '$') => value.push(c),
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// The beginning only: what is behind it may be a secret.
fn shown(text: &str) -> String {
    const MOST: usize = 24;
    let short: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(MOST).is_some() { "…" } else { "" };
    format!("\"{short}{more}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    fn value(text: &str) -> String {
        let read = of(text);
        assert_eq!(read.len(), 1, "{text:?}: {read:?}");
        read[0].1.clone()
    }

    #[test]
    fn lines_comments_and_names() {
        let text = "\u{feff}# first\r\nA=1\r\n\n  ; as systemd has it\n  export B = two words  \nC=\nA=3";
        let pairs = [("A", "1"), ("B", "two words"), ("C", ""), ("A", "3")];
        assert_eq!(of(text), pairs.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(of(""), []);
        assert_eq!(of("\n\n"), []);
    }

    #[test]
    fn values_without_quotes_end_at_a_comment() {
        assert_eq!(value("A=abc#def"), "abc#def");
        assert_eq!(value("A=abc # def"), "abc");
        assert_eq!(value("A=# def"), "# def");
        assert_eq!(value("A=a b='c' \"d\""), "a b='c' \"d\"");
        assert_eq!(value("A=postgres://u:p=1@h/d?x=${Y}"), "postgres://u:p=1@h/d?x=${Y}");
        assert_eq!(value("A=back\\slash\\n"), "back\\slash\\n");
    }

    #[test]
    fn quotes_keep_what_is_in_them() {
        assert_eq!(value(r#"A="a # b" # c"#), "a # b");
        assert_eq!(value(r#"A="1\n2\t\"\\\$\d""#), "1\n2\t\"\\$\\d");
        assert_eq!(value(r"A='1\n2'"), r"1\n2");
        assert_eq!(value("A=`it's \"so\"`"), "it's \"so\"");
        assert_eq!(value("A=''"), "");
        let key = of("KEY=\"-----BEGIN\r\nabc\r\n-----END\"\nNEXT=ü");
        assert_eq!(key[0].1, "-----BEGIN\nabc\n-----END");
        assert_eq!(key[1].1, "ü");
    }

    #[test]
    fn mistakes_say_their_line() {
        let cases = [
            ("A=1\nnonsense", 2, "\"nonsense\" is not NAME=value"),
            ("=1", 1, "cannot be the name"),
            ("1A=1", 1, "cannot be the name"),
            ("A B=1", 1, "cannot be the name"),
            ("A='1\n2'\nB=\"x\n\n", 3, "has no \" at its end"),
            ("A='1\n2' more", 2, "\"more\" stands behind"),
            ("NODE_APP_INSTANCE=1", 1, "is set by the proxy"),
            ("PINGORA_UNIX_PROXY_SOCKET=1", 1, "is set by the proxy"),
            ("A=1\0", 1, "NUL"),
            ("A='1\n\0'", 1, "NUL"),
        ];
        for (text, line, what) in cases {
            let (at, why) = parse(text).unwrap_err();
            assert_eq!(at, line, "{text:?}: {why}");
            assert!(why.contains(what), "{text:?}: {why}");
        }
        // A line without a sign of equality may be a secret.
        assert!(
            !parse("0123456789012345678901234567890123456789").unwrap_err().1.contains("0123456789012345678901234")
        );
    }

    #[test]
    fn files_that_cannot_be_read() {
        let temp = super::super::tests::Temp::new();
        let file = temp.0.join(".env");
        assert_eq!(read(&file).unwrap_err(), format!("{}: there is no such file", file.display()));
        std::fs::write(&file, b"A=1\nB=\xff\n").unwrap();
        assert_eq!(read(&file).unwrap_err(), format!("{}:2: not UTF-8; save it as UTF-8 text", file.display()));
        std::fs::write(&file, "A=1\nB").unwrap();
        assert_eq!(read(&file).unwrap_err(), format!("{}:2: \"B\" is not NAME=value", file.display()));
        std::fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read(&file).unwrap_err().ends_with("it is not a regular file"));
    }
}
