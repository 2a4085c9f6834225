//! What is configured, and the way from a stream to where its lines go.

use super::Stream;
use super::files::{Files, Rotate};
use super::format::{Encoder, Format};
use super::sink::{Bounds, Lane, Sink, now_text};
use super::writer::{self, Stdout};
use crate::worker::{Generation, WorkerId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Where workers' output goes, and in what form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) format: Format,
    pub(crate) stdout: bool,
    pub(crate) files: Option<FilePolicy>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { format: Format::Text, stdout: true, files: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilePolicy {
    /// Absolute; `{app}`, `{slot}` and `{stream}` (`out` or `err`) are filled in.
    pub(crate) path: String,
    pub(crate) rotate: Rotate,
}

impl FilePolicy {
    pub(crate) const PLACEHOLDERS: [&str; 3] = ["{app}", "{slot}", "{stream}"];

    fn path(&self, id: &WorkerId, stream: Stream) -> PathBuf {
        let values = [&*id.app, &id.slot.to_string(), stream.short()];
        let fill = |path: String, (name, value): (&str, &str)| path.replace(name, value);
        Self::PLACEHOLDERS.into_iter().zip(values).fold(self.path.clone(), fill).into()
    }

    /// Where files stand, up to the first placeholder: what has to have room on its disk.
    pub(crate) fn directory(&self) -> &Path {
        let fixed = self.path.split('{').next().unwrap_or_default();
        let end = fixed.rfind('/').map_or(0, |slash| slash.max(1));
        Path::new(fixed.get(..end).unwrap_or("/"))
    }
}

/// All workers' output. Cheap to share; takes lines once it is started.
#[derive(Debug)]
pub(crate) struct Logs {
    policy: Policy,
    sinks: OnceLock<Vec<Arc<Sink>>>,
    /// Lines dropped since the start, by app.
    dropped: Mutex<BTreeMap<Arc<str>, Arc<AtomicU64>>>,
}

impl Logs {
    pub(crate) fn new(policy: Policy) -> Arc<Logs> {
        Arc::new(Logs { policy, sinks: OnceLock::new(), dropped: Mutex::default() })
    }

    /// Starts the threads that write; the process must not fork afterwards. `stdout` stands for our own if given.
    pub(crate) fn start(&self, stdout: Option<Box<dyn Write + Send>>) -> io::Result<()> {
        let format = self.policy.format;
        let mut sinks = Vec::new();
        if self.policy.stdout {
            sinks.push(match stdout {
                Some(stdout) => writer::start(stdout, format, Bounds::default())?,
                None => writer::start(Stdout::open()?, format, Bounds::default())?,
            });
        }
        if let Some(files) = &self.policy.files {
            sinks.push(writer::start(Files::new(files.rotate.clone()), format, Bounds::default())?);
        }
        // A second start keeps the first one's.
        let _ = self.sinks.set(sinks);
        Ok(())
    }

    /// The way of one stream of a worker.
    pub(crate) fn feed(&self, id: &WorkerId, pid: u32, generation: Generation, stream: Stream) -> Feed {
        let encoder = Arc::new(Encoder::new(self.policy.format, id, pid, generation, stream));
        let dropped = {
            let mut all = self.dropped.lock().unwrap_or_else(|e| e.into_inner());
            all.entry(id.app.clone()).or_default().clone()
        };
        let lane = |sink: &Arc<Sink>| {
            let path = self.policy.files.as_ref().filter(|_| sink.by_path).map(|files| files.path(id, stream));
            (sink.clone(), Lane::new(path.unwrap_or_default().into(), encoder.clone(), dropped.clone()))
        };
        let lanes = self.sinks.get().into_iter().flatten().map(lane).collect();
        Feed { encoder, lanes }
    }

    /// Closes all files and opens them anew: they were moved away.
    pub(crate) fn reopen(&self) {
        self.sinks.get().into_iter().flatten().for_each(|sink| sink.reopen());
    }

    /// Whether it is known who writes to our standard output.
    pub(super) fn is_settled(&self) -> bool {
        !self.policy.stdout || self.sinks.get().is_some()
    }

    /// Our standard output, where workers' go, for others who have lines for it. Whoever gets it closes it.
    pub(super) fn share_stdout(&self) -> Option<Arc<Sink>> {
        let sink = self.sinks.get()?.iter().find(|sink| !sink.by_path)?;
        sink.share();
        Some(sink.clone())
    }

    /// Lines that are missing in an output since the start, by app.
    pub(crate) fn dropped(&self) -> Vec<(Arc<str>, u64)> {
        let all = self.dropped.lock().unwrap_or_else(|e| e.into_inner());
        all.iter().map(|(app, count)| (app.clone(), count.load(Relaxed))).collect()
    }

    /// Where log files stand, if there are any.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.policy.files.as_ref().map(FilePolicy::directory)
    }

    /// Waits at most `limit` until what is queued now is written. Blocks.
    pub(crate) fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        for sink in self.sinks.get().into_iter().flatten() {
            sink.flush(end.saturating_duration_since(Instant::now()));
        }
    }

    /// Takes no more, and waits at most `limit` until what is queued is written. Blocks.
    pub(crate) fn close(&self, limit: Duration) {
        let end = Instant::now() + limit;
        for sink in self.sinks.get().into_iter().flatten() {
            sink.close(end.saturating_duration_since(Instant::now()));
        }
    }
}

/// One stream's way to every output.
#[derive(Debug)]
pub(crate) struct Feed {
    encoder: Arc<Encoder>,
    lanes: Vec<(Arc<Sink>, Arc<Lane>)>,
}

/// A block is queued once it has so many bytes.
const BLOCK: usize = 64 * 1024;

thread_local! {
    /// Lines are put together here, then copied at their exact length.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Feed {
    /// Takes lines that came at the same time.
    pub(super) fn take(&self, lines: impl FnOnce(&mut dyn FnMut(&[u8], bool))) {
        let mut out = SCRATCH.take();
        let mut time = None;
        let (mut made, mut skipped) = (0, 0);
        lines(&mut |line, whole| {
            // Not even put together, when nobody would take it.
            if made == 0 && self.is_dropping() {
                skipped += 1;
                return;
            }
            self.encoder.line(time.get_or_insert_with(now_text), line, whole, &mut out);
            made += 1;
            if out.len() >= BLOCK {
                self.push(&out, made);
                out.clear();
                made = 0;
            }
        });
        self.push(&out, made);
        if skipped > 0 {
            self.lanes.iter().for_each(|(sink, lane)| sink.skip(lane, skipped));
        }
        out.clear();
        out.shrink_to(2 * BLOCK);
        SCRATCH.set(out);
    }

    fn is_dropping(&self) -> bool {
        self.lanes.iter().all(|(_, lane)| lane.is_dropping())
    }

    fn push(&self, bytes: &[u8], lines: u64) {
        if lines > 0 && !self.lanes.is_empty() {
            let block: Arc<[u8]> = bytes.into();
            self.lanes.iter().for_each(|(sink, lane)| sink.push(lane, &block, lines));
        }
    }
}
