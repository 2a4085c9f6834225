//! The last words of a worker.

use super::Stream;
use super::format::printable;
use crate::process::cause;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// The last lines of both streams.
#[derive(Debug, Default)]
pub(crate) struct LastWords {
    out: Arc<Tail>,
    err: Arc<Tail>,
}

impl LastWords {
    pub(crate) fn of(&self, stream: Stream) -> Arc<Tail> {
        match stream {
            Stream::Out => self.out.clone(),
            Stream::Err => self.err.clone(),
        }
    }

    /// Those of stderr, or those of stdout where they tell the cause of an end and stderr does not: some apps log there.
    pub(crate) fn lines(&self) -> Vec<String> {
        let (out, err) = (self.out.lines(), self.err.lines());
        if err.is_empty() || cause::sureness(&out) > cause::sureness(&err) { out } else { err }
    }
}

/// The last lines of a stream, bounded in number and size: what a crash is explained with.
#[derive(Debug, Default)]
pub(crate) struct Tail(Mutex<VecDeque<Vec<u8>>>);

impl Tail {
    const LINES: usize = 50;
    /// Bytes kept of one line.
    const LINE: usize = 512;

    pub(super) fn push(&self, line: &[u8]) {
        let mut lines = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let mut kept = if lines.len() == Self::LINES { lines.pop_front().unwrap_or_default() } else { Vec::new() };
        kept.clear();
        // Made printable when somebody asks: most lines are never asked for.
        kept.extend_from_slice(line.get(..Self::LINE).unwrap_or(line));
        lines.push_back(kept);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(|e| e.into_inner());
        lines.iter().map(|line| shown(line)).collect()
    }
}

/// A line, printable, without the piece of a character at its end.
fn shown(line: &[u8]) -> String {
    let whole = match std::str::from_utf8(line) {
        Err(e) if e.error_len().is_none() => line.get(..e.valid_up_to()).unwrap_or_default(),
        _ => line,
    };
    let mut out = Vec::with_capacity(whole.len());
    printable(whole, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}
