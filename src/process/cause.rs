//! What a process died of, as far as its last lines of output tell: the line that names the error, with the lines
//! around it. A stack, or what a launcher says at the end, is no cause.

use std::borrow::Cow;

/// Lines before and behind the one that names the error.
const BEFORE: usize = 6;
const AFTER: usize = 6;
/// Bytes of a line that are shown.
const LONGEST_LINE: usize = 240;
/// Frames of a stack that stands in a field of a JSON line.
const JSON_LINES: usize = 8;

/// An error that ended a process, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    /// The line that names it, as `Error: no database`.
    pub(crate) headline: String,
    /// The lines around it, with it.
    pub(crate) lines: Vec<String>,
}

/// How surely a line names the error, the least first. Of equally sure ones the last counts: what was printed before was
/// survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sureness {
    /// What launchers say of the end of what they have launched.
    Launcher,
    /// A logged error.
    Logged,
    /// What runtimes print when they end.
    Fatal,
}

/// What launchers begin their lines with.
const LAUNCHERS: &[&str] =
    &["npm ERR!", "npm error", "ELIFECYCLE", "error Command failed", "[nodemon]", "Command failed with"];
/// What lines of runtimes hold that have met their end.
const FATAL: &[&str] = &[
    "panicked at",
    "FATAL ERROR",
    "heap out of memory",
    "UnhandledPromiseRejection",
    "EADDRINUSE",
    "Uncaught ",
    "terminate called after throwing",
    "Segmentation fault",
    "fatal error:",
];
/// Words of levels in the lines of loggers.
const LEVELS: &[&str] = &["ERROR", "FATAL", "CRITICAL"];
const TRACEBACK: &str = "Traceback (most recent call last):";

/// The cause that these lines tell, the oldest first.
pub(crate) fn of(lines: &[String]) -> Option<Cause> {
    let (at, _) = find(lines)?;
    let line = lines.get(at)?;
    if let Some(cause) = of_json(line) {
        return Some(cause);
    }
    let headline = bounded(plain(line).trim());
    let around = lines.get(at.saturating_sub(BEFORE)..lines.len().min(at + 1 + AFTER))?;
    let around = around.iter().map(|line| bounded(plain(line).trim_end()));
    Some(Cause { headline, lines: around.skip_while(String::is_empty).collect() })
}

/// How surely these lines tell a cause.
pub(super) fn sureness(lines: &[String]) -> Option<Sureness> {
    find(lines).map(|(_, sureness)| sureness)
}

fn find(lines: &[String]) -> Option<(usize, Sureness)> {
    let mut found: Option<(usize, Sureness)> = None;
    // Of Python, whose exceptions may have any name: they stand behind the indented lines of the stack.
    let mut in_traceback = false;
    for (at, line) in lines.iter().enumerate() {
        let line = plain(line);
        let ends_traceback = in_traceback && !line.trim().is_empty() && !line.starts_with([' ', '\t']);
        in_traceback = line.ends_with(TRACEBACK) || (in_traceback && !ends_traceback);
        let sureness = if ends_traceback { Some(Sureness::Fatal) } else { judge(&line) };
        if let Some(sureness) = sureness
            && found.is_none_or(|(_, before)| sureness >= before)
        {
            found = Some((at, sureness));
        }
    }
    found
}

fn judge(line: &str) -> Option<Sureness> {
    let text = line.trim();
    let is_indented = line.len() > line.trim_start().len();
    if LAUNCHERS.iter().any(|start| text.starts_with(start)) {
        return Some(Sureness::Launcher);
    }
    if text.starts_with('{') && text.contains(':') {
        return json_level(text);
    }
    if text.starts_with("at ") || text.ends_with(TRACEBACK) {
        return None;
    }
    let names = names_error(text) || FATAL.iter().any(|sign| text.contains(sign));
    match (names, is_indented) {
        (true, false) => Some(Sureness::Fatal),
        // A cause within, or a line of a logger that indents.
        (true, true) => Some(Sureness::Logged),
        (false, _) => has_level(text).then_some(Sureness::Logged),
    }
}

/// `TypeError: ...`, `Error [ERR_X]: ...`, `sqlalchemy.exc.OperationalError: ...`, `[Error: ...]`, `AssertionError`.
fn names_error(text: &str) -> bool {
    let text = text.trim_start_matches('[');
    let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | ':' | '$'))).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let has_colon = name.ends_with(':') || rest.starts_with(" [") || rest.is_empty();
    let name = name.trim_end_matches(':');
    let last = name.rsplit(['.', ':']).next().unwrap_or(name);
    has_colon && (last.ends_with("Error") || last.ends_with("Exception")) && name.starts_with(char::is_alphabetic)
}

/// A level word that stands alone, or `error:` in front.
fn has_level(text: &str) -> bool {
    let mut words = text.split(|c: char| !c.is_alphanumeric()).take(16);
    let lower = text.get(..6).unwrap_or(text).to_ascii_lowercase();
    lower == "error:" || lower == "fatal:" || words.any(|word| LEVELS.contains(&word))
}

/// Of loggers that write JSON: pino has levels by number (50 error, 60 fatal), others words.
fn json_level(text: &str) -> Option<Sureness> {
    let level = raw_field(text, "level").or_else(|| raw_field(text, "severity"))?;
    let level = level.trim_start_matches('"').to_ascii_lowercase();
    let number = level.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok();
    let is = |words: &[&str]| words.iter().any(|word| level.starts_with(word));
    if number.is_some_and(|n| n >= 60) || is(&["fatal", "crit", "emerg", "panic", "alert"]) {
        return Some(Sureness::Fatal);
    }
    (number.is_some_and(|n| n >= 50) || is(&["err"])).then_some(Sureness::Logged)
}

/// What a line of JSON says of its error. It may be cut, so it is no JSON any more.
fn of_json(line: &str) -> Option<Cause> {
    let text = line.trim();
    text.starts_with('{').then_some(())?;
    let stack = raw_field(text, "stack").map(unescaped);
    let said = ["message", "msg", "error"].iter().find_map(|name| raw_field(text, name)).map(unescaped);
    let first = stack.as_ref().and_then(|stack| stack.lines().next()).map(str::to_owned);
    let headline = bounded(first.or(said).filter(|text| !text.is_empty())?.trim());
    let lines: Vec<String> = match &stack {
        Some(stack) => stack.lines().take(JSON_LINES).map(bounded).collect(),
        None => vec![bounded(text)],
    };
    Some(Cause { headline, lines })
}

/// What stands behind `"name":`.
fn raw_field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let at = text.find(&format!("\"{name}\":"))?;
    Some(text.get(at + name.len() + 3..)?.trim_start())
}

/// A JSON string up to its end, or to where it was cut.
fn unescaped(raw: &str) -> String {
    let mut out = String::new();
    let mut chars = raw.strip_prefix('"').unwrap_or_default().chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push(' '),
                Some(c) => out.push(c),
                None => {}
            },
            c => out.push(c),
        }
    }
    out
}

/// Without colours, whose escapes were made printable.
fn plain(line: &str) -> Cow<'_, str> {
    if !line.contains("^[[") {
        return Cow::Borrowed(line);
    }
    let mut parts = line.split("^[[");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    Cow::Owned(out)
}

fn bounded(text: &str) -> String {
    let end = (0..=LONGEST_LINE.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn headline(text: &str) -> Option<String> {
        of(&lines(text)).map(|cause| cause.headline)
    }

    #[test]
    fn the_line_that_names_the_error_is_found() {
        let node = "ready\n/srv/app.js:3\n  throw new Error('bug');\n  ^\n\nError: bug\n    at f (/srv/app.js:3:9)\n    at g\n    at h\n    \
            at i\n    at j {\n  code: 'ENOENT',\n  [cause]: TypeError: inner\n      at k\n}\n\nNode.js v20.20.2";
        let cause = of(&lines(node)).unwrap();
        assert_eq!(cause.headline, "Error: bug");
        assert_eq!(cause.lines[1..5], ["/srv/app.js:3", "  throw new Error('bug');", "  ^", ""]);
        assert_eq!(cause.lines.len(), 12);
        for (text, expected) in [
            (
                "Error: listen EADDRINUSE: address already in use :::80\n    at x",
                "Error: listen EADDRINUSE: address already in use :::80",
            ),
            (
                "[UnhandledPromiseRejection: This error ... reason \"x\".] {\n  code: 'ERR'\n}",
                "[UnhandledPromiseRejection: This error ... reason \"x\".] {",
            ),
            ("TypeError [ERR_INVALID_ARG]: bad\n    at x", "TypeError [ERR_INVALID_ARG]: bad"),
            (
                "thread 'main' panicked at src/main.rs:2:5:\nno\nnote: run with",
                "thread 'main' panicked at src/main.rs:2:5:",
            ),
            (
                "<--- Last few GCs --->\n\n\nFATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory\n 1: 0xb9 node::Abort()",
                "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
            ),
            (
                "Traceback (most recent call last):\n  File \"a.py\", line 1\n    f()\nKeyError: 'x'\n\nDuring handling of the above exception, another \
              exception occurred:\n\nTraceback (most recent call last):\n  File \"b.py\"\ndjango.core.ImproperlyConfigured: no",
                "django.core.ImproperlyConfigured: no",
            ),
            (
                "Error: bug\n    at f\nnpm error code ELIFECYCLE\nnpm error Lifecycle script `start` failed",
                "Error: bug",
            ),
            ("Error: handled\n    at f\nlog\nError: the last\n    at g", "Error: the last"),
            ("2026-11-28 10:00:00 ERROR pool: no database\nbye", "2026-11-28 10:00:00 ERROR pool: no database"),
            ("^[[31mRangeError: red^[[0m", "RangeError: red"),
            ("npm error code 1", "npm error code 1"),
            (
                "panic: runtime error\n\ngoroutine 1 [running]:\nfatal error: all goroutines are asleep",
                "fatal error: all goroutines are asleep",
            ),
        ] {
            assert_eq!(headline(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "listening on 3000\n0 errors found\nno error here", "    at Error: x", "GET /error 200"] {
            assert_eq!(headline(text), None, "{text}");
        }
    }

    #[test]
    fn json_lines_of_loggers_tell_theirs() {
        let pino = r#"{"level":60,"time":1,"pid":2,"err":{"type":"Error","message":"no database","stack":"Error: no database\n    at f (/a.js:1:2)\n    at g"},"msg":"no database"}"#;
        let cause = of(&lines(&format!("{{\"level\":30,\"msg\":\"up\"}}\n{pino}"))).unwrap();
        assert_eq!(cause.headline, "Error: no database");
        assert_eq!(cause.lines, ["Error: no database", "    at f (/a.js:1:2)", "    at g"]);
        // Cut where a line is.
        let cause = of(&lines(&pino[..110])).unwrap();
        assert_eq!(cause.headline, "Error: no database");
        let winston = r#"{"level":"error","message":"port \"80\" is taken","timestamp":"x"}"#;
        assert_eq!(headline(winston).as_deref(), Some("port \"80\" is taken"));
        assert_eq!(headline(r#"{"level":30,"msg":"Error: no"}"#), None);
    }

    #[test]
    fn what_is_shown_is_bounded() {
        let long = format!("Error: {}\n{}", "é".repeat(1000), "    at f\n".repeat(1000));
        let cause = of(&lines(&long)).unwrap();
        assert!(cause.lines.len() <= BEFORE + 1 + AFTER && cause.lines.iter().all(|line| line.len() <= LONGEST_LINE));
        assert!(sureness(&lines("ERROR x")) < sureness(&lines("Error: x")));
    }
}
