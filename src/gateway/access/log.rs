//! From a record to the writer's queue, by a buffer of each thread.

use super::encode;
use super::policy::Policy;
use super::record::Record;
use super::template::Format;
use crate::process::output::{self, Lines, Logs};
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// A thread's buffer goes to the writer when it holds so many bytes ...
const BLOCK: usize = 32 * 1024;
/// ... or after this.
const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// What outlives every reload.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    written: AtomicU64,
    dropped: Arc<AtomicU64>,
    /// A buffer holds lines, and the task that empties them knows.
    armed: AtomicBool,
    wake: Notify,
}

impl Counters {
    /// Lines that were made since the start.
    pub(in crate::gateway) fn lines(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Those of them that are lost.
    pub(in crate::gateway) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Ends when lines have waited for their time.
    pub(in crate::gateway) async fn due(&self) {
        self.wake.notified().await;
        tokio::time::sleep(FLUSH_AFTER).await;
        self.armed.store(false, Relaxed);
    }

    fn arm(&self) {
        if !self.armed.load(Relaxed) && !self.armed.swap(true, Relaxed) {
            self.wake.notify_one();
        }
    }
}

/// The access log in force: how lines look, and where they go.
pub(in crate::gateway) struct AccessLog {
    policy: Policy,
    place: Arc<Place>,
}

/// Where lines go. It may be that of the configuration before.
struct Place {
    /// Never that of another one.
    number: u64,
    lines: Lines,
    counters: Arc<Counters>,
    buffers: Mutex<Vec<Arc<Mutex<Buffer>>>>,
    /// A reload has named another place: what still comes is written at once.
    is_left: AtomicBool,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
}

/// A thread's buffer, and the number of the place that it is for.
type Mine = Option<(u64, Arc<Mutex<Buffer>>)>;

thread_local! {
    static MINE: RefCell<Mine> = const { RefCell::new(None) };
}

impl AccessLog {
    pub(in crate::gateway) fn new(policy: Policy, logs: Arc<Logs>, counters: Arc<Counters>) -> AccessLog {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let form = if policy.format == Format::Json { output::Format::Json } else { output::Format::Text };
        let place = Place {
            number: NUMBERS.fetch_add(1, Relaxed),
            lines: Lines::new(policy.target.clone(), form, logs, counters.dropped.clone()),
            counters,
            buffers: Mutex::default(),
            is_left: AtomicBool::new(false),
        };
        AccessLog { policy, place: Arc::new(place) }
    }

    /// This log in the place of `before`: what writes to the same place goes on, and opens it anew.
    pub(in crate::gateway) fn succeeding(mut self, before: &AccessLog) -> AccessLog {
        let is_same =
            |a: &Policy, b: &Policy| a.target == b.target && (a.format == Format::Json) == (b.format == Format::Json);
        if is_same(&self.policy, &before.policy) {
            self.place = before.place.clone();
            self.reopen();
        } else {
            before.leave();
        }
        self
    }

    /// No more is to come here but what has begun.
    pub(in crate::gateway) fn leave(&self) {
        self.place.is_left.store(true, Relaxed);
        self.place.collect();
    }

    pub(super) fn write(&self, record: &Record<'_>) {
        if self.policy.sample < 1.0 && record.is_ordinary() && fastrand::f64() >= self.policy.sample {
            return;
        }
        self.place.write(|out| encode::line(record, &self.policy.format, &self.policy.redact, out));
    }

    pub(in crate::gateway) fn tells_beginnings(&self) -> bool {
        self.policy.tunnel_begin
    }

    pub(in crate::gateway) fn redacted(&self, target: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(target.len());
        self.policy.redact.pieces(target, |piece| out.extend_from_slice(piece));
        out
    }

    /// Gives the writer what the threads have.
    pub(in crate::gateway) fn collect(&self) {
        self.place.collect();
    }

    /// Opens its file anew: it was moved away.
    pub(in crate::gateway) fn reopen(&self) {
        self.place.collect();
        self.place.lines.reopen();
    }

    /// Takes no more, and waits at most `limit` until all is written. Blocks.
    pub(in crate::gateway) fn close(&self, limit: Duration) {
        self.place.collect();
        self.place.lines.close(limit);
    }
}

impl Place {
    /// Never waits: where the thread's buffer is being emptied, or the thread is ending, the line goes by itself.
    fn write(&self, make: impl FnOnce(&mut Vec<u8>)) {
        self.counters.written.fetch_add(1, Relaxed);
        let mut make = Some(make);
        let buffered = MINE.try_with(|mine| self.buffer(&mut mine.borrow_mut(), &mut make));
        if let (Some(make), false) = (make, buffered.unwrap_or(false)) {
            let mut bytes = Vec::new();
            make(&mut bytes);
            self.lines.push(&bytes, 1);
        }
    }

    /// Puts a line into this thread's buffer, if that is free.
    fn buffer(&self, mine: &mut Mine, make: &mut Option<impl FnOnce(&mut Vec<u8>)>) -> bool {
        let mine = match mine {
            Some((number, buffer)) if *number == self.number => buffer,
            _ => &mut mine.insert((self.number, self.register())).1,
        };
        let Ok(mut buffer) = mine.try_lock() else { return false };
        let Some(make) = make.take() else { return false };
        make(&mut buffer.bytes);
        buffer.lines += 1;
        if buffer.bytes.len() >= BLOCK || self.is_left.load(Relaxed) {
            self.empty(&mut buffer);
        } else if buffer.lines == 1 {
            self.counters.arm();
        }
        true
    }

    fn register(&self) -> Arc<Mutex<Buffer>> {
        let buffer = Arc::default();
        lock(&self.buffers).push(Arc::clone(&buffer));
        buffer
    }

    fn collect(&self) {
        let mut buffers = lock(&self.buffers);
        buffers.iter().for_each(|buffer| self.empty(&mut lock(buffer)));
        // Those of threads that have ended, or write elsewhere.
        buffers.retain(|buffer| Arc::strong_count(buffer) > 1 || lock(buffer).lines > 0);
    }

    fn empty(&self, buffer: &mut Buffer) {
        self.lines.push(&buffer.bytes, buffer.lines);
        buffer.bytes.clear();
        buffer.bytes.shrink_to(2 * BLOCK);
        buffer.lines = 0;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.collect();
    }
}

/// Nothing panics while one is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
