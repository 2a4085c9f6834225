//! Whole lines that no worker wrote, on their way to a file or to one of our own streams: by the same queue and the same
//! kind of writer.

use super::files::{Files, Rotate};
use super::format::{Encoder, Format};
use super::logs::Logs;
use super::sink::{Bounds, Lane, Sink};
use super::writer::{self, Stderr, Stdout};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Absolute.
    File(PathBuf, Rotate),
    Stdout,
    Stderr,
}

/// A log of whole lines. Its writer's thread starts with the first of them.
#[derive(Debug)]
pub(crate) struct Lines {
    target: Target,
    /// How a gap is told.
    format: Format,
    logs: Arc<Logs>,
    dropped: Arc<AtomicU64>,
    /// `None` within: it could not be opened.
    way: OnceLock<Option<Way>>,
    closed: AtomicBool,
}

type Way = (Arc<Sink>, Arc<Lane>);

impl Lines {
    /// Standard output is shared with `logs`. Lines that are lost are added to `dropped`.
    pub(crate) fn new(target: Target, format: Format, logs: Arc<Logs>, dropped: Arc<AtomicU64>) -> Lines {
        Lines { target, format, logs, dropped, way: OnceLock::new(), closed: AtomicBool::new(false) }
    }

    /// Queues whole lines, or drops and counts them. Never waits for the output.
    pub(crate) fn push(&self, bytes: &[u8], lines: u64) {
        if lines == 0 {
            return;
        }
        match self.way() {
            Some((sink, lane)) => sink.push(lane, &bytes.into(), lines),
            None => drop(self.dropped.fetch_add(lines, Relaxed)),
        }
    }

    /// Closes the file and opens it anew: it was moved away.
    pub(crate) fn reopen(&self) {
        self.started().into_iter().for_each(|(sink, _)| sink.reopen());
    }

    /// Takes no more, and waits at most `limit` until what is queued is written. Blocks.
    pub(crate) fn close(&self, limit: Duration) {
        if !self.closed.swap(true, Relaxed) {
            self.started().into_iter().for_each(|(sink, _)| sink.close(limit));
        }
    }

    fn started(&self) -> Option<&Way> {
        self.way.get().and_then(Option::as_ref)
    }

    fn way(&self) -> Option<&Way> {
        if self.target == Target::Stdout && !self.logs.is_settled() {
            return None;
        }
        let start = || {
            let shared = if self.target == Target::Stdout { self.logs.share_stdout() } else { None };
            Some((shared.or_else(|| self.start())?, self.lane()))
        };
        self.way.get_or_init(start).as_ref()
    }

    fn lane(&self) -> Arc<Lane> {
        let to = match &self.target {
            Target::File(path, _) => path.as_path(),
            Target::Stdout => Path::new(""),
            Target::Stderr => Path::new("standard error"),
        };
        Lane::new(to.into(), Encoder::comment(self.format).into(), self.dropped.clone())
    }

    fn start(&self) -> Option<Arc<Sink>> {
        let (own, bounds) = (Encoder::comment(self.format), Bounds::default());
        // One lane has all of it.
        let bounds = Bounds { lane: bounds.all, ..bounds };
        let started: io::Result<Arc<Sink>> = match &self.target {
            Target::File(_, rotate) => writer::start_with(Files::new(rotate.clone()), own, bounds),
            Target::Stdout => Stdout::open().and_then(|stdout| writer::start_with(stdout, own, bounds)),
            Target::Stderr => Stderr::open().and_then(|stderr| writer::start_with(stderr, own, bounds)),
        };
        started.inspect_err(|error| log::error!("an access log cannot be written: {error}")).ok()
    }
}

impl Drop for Lines {
    /// What is queued is still written.
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}
