//! The last words of a slot.

use std::collections::VecDeque;
use std::sync::Mutex;

/// The last lines of stderr, bounded in number and size: what a crash is explained with.
#[derive(Debug, Default)]
pub(crate) struct Tail(Mutex<VecDeque<String>>);

impl Tail {
    const LINES: usize = 50;
    /// Bytes kept of one line.
    const LINE: usize = 512;

    pub(super) fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if lines.len() == Self::LINES {
            lines.pop_front();
        }
        let end = (0..=Self::LINE.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        lines.push_back(line.get(..end).unwrap_or_default().to_owned());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).iter().cloned().collect()
    }
}
