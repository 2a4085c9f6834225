//! What commands print. A stream that takes nothing is no reason to panic: `println!` and `eprintln!` are not used.

use std::io::{self, ErrorKind, Write, stderr, stdout};
use std::process::ExitCode;

/// What the first word of every line on standard error is.
const NAME: &str = "pingora-unix-proxy";

/// The exit code of whoever could not say what was asked for.
const UNSAID: u8 = 1;

/// Standard output. What it does not take is remembered, so that no caller has to look at each line.
#[derive(Default)]
pub(super) struct Output {
    failed: Option<io::Error>,
}

impl Output {
    /// The exit code of a command that is over. Not 0 if what it said went nowhere, as on a full disk; whoever has closed
    /// the other end, as `head` does, wanted no more, and then the code says how the command ended.
    pub(super) fn finish(mut self, code: u8) -> u8 {
        let _ = self.flush();
        match self.failed {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                complain(&format!("standard output: {error}"));
                code.max(UNSAID)
            }
            _ => code,
        }
    }

    fn keep<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.inspect_err(|error| {
            self.failed.get_or_insert_with(|| error.kind().into());
        })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = stdout().lock().write(bytes);
        self.keep(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = stdout().lock().flush();
        self.keep(flushed)
    }
}

/// Prints a text and ends with a code.
pub(super) fn say(text: &str, code: u8) -> ExitCode {
    let mut output = Output::default();
    let _ = output.write_all(text.as_bytes());
    ExitCode::from(output.finish(code))
}

/// A line on standard error. When nobody takes that, nobody is left to tell.
pub(super) fn complain(why: &str) {
    print_error(&format!("{NAME}: {why}\n"));
}

/// The same, of a text with its newline.
pub(super) fn print_error(text: &str) {
    let _ = stderr().lock().write_all(text.as_bytes());
}
