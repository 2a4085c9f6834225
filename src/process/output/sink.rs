//! A bounded queue between the readers and the thread that writes.
//!
//! Each stream has a lane in it. A lane that has too much queued, or finds the queue full, drops: from then on its
//! lines are counted at the place where they are missing, until the writer has come to that place. So gaps are few
//! and large, a lane that drops costs its reader nothing but counting, and one that writes little is not dropped
//! because others write much.

use super::format::Encoder;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

/// Bounds of a queue, in bytes of memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// What may wait to be written, in all.
    pub(super) all: usize,
    /// The same of one lane.
    pub(super) lane: usize,
    /// What a lane may always have waiting, unless twice `all` is reached.
    pub(super) reserve: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { all: 8 << 20, lane: 4 << 20, reserve: 32 << 10 }
    }
}

/// Bytes written at once, about.
const BATCH: usize = 64 * 1024;
/// Counted for each block beside its text.
const OVERHEAD: usize = 128;

/// Takes lines without ever waiting.
#[derive(Debug)]
pub(super) struct Sink {
    queue: Mutex<Queue>,
    /// Something to do for the writer.
    filled: Condvar,
    /// Nothing left to write, or the writer has ended.
    emptied: Condvar,
    bounds: Bounds,
    /// Whether lines are written to files, by lane, or all of them to one place.
    pub(super) by_path: bool,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// The writer has taken lines and not finished writing them.
    writing: bool,
    reopen: bool,
    closed: bool,
    /// Who else has lines for it, and closes it once each.
    others: usize,
    writer_gone: bool,
}

#[derive(Debug)]
struct Item {
    lane: Arc<Lane>,
    what: What,
}

#[derive(Debug)]
enum What {
    /// Whole lines, and how many.
    Block(Arc<[u8]>, u64),
    /// Lines are missing here; the lane knows how many.
    Gap,
}

/// One stream's way through a sink.
#[derive(Debug)]
pub(super) struct Lane {
    to: Arc<Path>,
    encoder: Arc<Encoder>,
    /// Lines of the app that were dropped since the start.
    dropped: Arc<AtomicU64>,
    /// Changed under the queue's lock only.
    queued: AtomicUsize,
    /// Lines dropped since a gap was queued that the writer has not come to; 0 when there is none. Changed under
    /// the queue's lock only.
    gap: AtomicU64,
}

impl Lane {
    pub(super) fn new(to: Arc<Path>, encoder: Arc<Encoder>, dropped: Arc<AtomicU64>) -> Arc<Lane> {
        Arc::new(Lane { to, encoder, dropped, queued: AtomicUsize::new(0), gap: AtomicU64::new(0) })
    }

    /// Whatever is pushed now is dropped, most likely.
    pub(super) fn is_dropping(&self) -> bool {
        self.gap.load(Relaxed) > 0
    }
}

/// Part of a batch: lines that end at a byte of it, and who counts them when they are lost.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) end: usize,
    pub(super) lines: u64,
    /// `None` for the note of a gap, whose lines were counted when they were dropped.
    pub(super) dropped: Option<Arc<AtomicU64>>,
}

/// Lines for one place.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) to: Arc<Path>,
    pub(super) bytes: Vec<u8>,
    pub(super) parts: Vec<Part>,
}

pub(super) enum Work {
    Write(Batch),
    Reopen,
    /// The given time has come.
    Wake,
    End,
}

impl Sink {
    /// For a writer, which [`Sink::close`] ends; see [`super::writer::start`].
    pub(super) fn new(bounds: Bounds, by_path: bool) -> Sink {
        Sink { queue: Mutex::default(), filled: Condvar::new(), emptied: Condvar::new(), bounds, by_path }
    }

    /// Nothing is written any more: whoever waits for that must not wait for ever.
    pub(super) fn writer_ended(&self) {
        let mut queue = self.lock();
        queue.writer_gone = true;
        queue.items.clear();
        queue.bytes = 0;
        self.emptied.notify_all();
    }

    /// Queues whole lines, or drops and counts them.
    pub(super) fn push(&self, lane: &Arc<Lane>, block: &Arc<[u8]>, lines: u64) {
        let cost = block.len() + OVERHEAD;
        let mut queue = self.lock();
        let (all, mine) = (queue.bytes + cost, lane.queued.load(Relaxed) + cost);
        let Bounds { all: limit, lane: share, reserve } = self.bounds;
        let fits = (all <= limit && mine <= share) || (mine <= reserve && all <= 2 * limit);
        if lane.is_dropping() || queue.closed || queue.writer_gone || !fits {
            return self.drop_lines(&mut queue, lane, lines);
        }
        queue.bytes = all;
        lane.queued.store(mine, Relaxed);
        queue.items.push_back(Item { lane: lane.clone(), what: What::Block(block.clone(), lines) });
        self.filled.notify_one();
    }

    /// Lines that were not even made, because the lane is dropping.
    pub(super) fn skip(&self, lane: &Arc<Lane>, lines: u64) {
        self.drop_lines(&mut self.lock(), lane, lines);
    }

    fn drop_lines(&self, queue: &mut Queue, lane: &Arc<Lane>, lines: u64) {
        lane.dropped.fetch_add(lines, Relaxed);
        if lines == 0 || queue.closed || queue.writer_gone {
            return;
        }
        if lane.gap.fetch_add(lines, Relaxed) == 0 {
            queue.items.push_back(Item { lane: lane.clone(), what: What::Gap });
            self.filled.notify_one();
        }
    }

    pub(super) fn reopen(&self) {
        self.lock().reopen = true;
        self.filled.notify_one();
    }

    /// Another one has lines for it, and closes it, too: it ends with the last of them.
    pub(super) fn share(&self) {
        self.lock().others += 1;
    }

    /// Takes no more, and waits at most `limit` until what is queued is written. Blocks.
    pub(super) fn close(&self, limit: Duration) {
        let mut queue = self.lock();
        match queue.others.checked_sub(1) {
            Some(others) => queue.others = others,
            None => queue.closed = true,
        }
        self.filled.notify_one();
        drop(queue);
        self.flush(limit);
    }

    /// Waits at most `limit` until nothing waits to be written. Blocks.
    pub(super) fn flush(&self, limit: Duration) {
        let queue = self.lock();
        let pending = |queue: &mut Queue| (queue.writing || !queue.items.is_empty()) && !queue.writer_gone;
        drop(self.emptied.wait_timeout_while(queue, limit, pending));
    }

    /// For the writer: waits for something to do, at most until `wake`.
    pub(super) fn next(&self, wake: Option<Instant>) -> Work {
        let mut queue = self.lock();
        queue.writing = false;
        if queue.items.is_empty() {
            self.emptied.notify_all();
        }
        let idle = |queue: &mut Queue| queue.items.is_empty() && !queue.closed && !queue.reopen;
        queue = match wake {
            None => self.filled.wait_while(queue, idle).unwrap_or_else(|e| e.into_inner()),
            Some(at) => {
                let limit = at.saturating_duration_since(Instant::now());
                self.filled.wait_timeout_while(queue, limit, idle).unwrap_or_else(|e| e.into_inner()).0
            }
        };
        if std::mem::take(&mut queue.reopen) {
            return Work::Reopen;
        }
        match queue.items.front().map(|item| item.lane.to.clone()) {
            Some(to) => {
                queue.writing = true;
                Work::Write(queue.take(to))
            }
            None if queue.closed => Work::End,
            None => Work::Wake,
        }
    }

    /// The writer has taken all there was, and has it in hand.
    #[cfg(test)]
    pub(super) fn is_writing_all(&self) -> bool {
        let queue = self.lock();
        queue.writing && queue.items.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Queue {
    /// The first items, as far as they go to the same place.
    fn take(&mut self, to: Arc<Path>) -> Batch {
        let mut batch = Batch { to, bytes: Vec::new(), parts: Vec::new() };
        while batch.bytes.len() < BATCH
            && self.items.front().is_some_and(|item| same_place(&item.lane.to, &batch.to))
            && let Some(Item { lane, what }) = self.items.pop_front()
        {
            let (lines, dropped) = match what {
                What::Block(block, lines) => {
                    let cost = block.len() + OVERHEAD;
                    self.bytes -= cost;
                    lane.queued.fetch_sub(cost, Relaxed);
                    batch.bytes.extend_from_slice(&block);
                    (lines, Some(lane.dropped.clone()))
                }
                What::Gap => {
                    let lines = lane.gap.swap(0, Relaxed);
                    lane.encoder.gap(
                        &now_text(),
                        lines,
                        "they came faster than they could be written",
                        &mut batch.bytes,
                    );
                    (lines, None)
                }
            };
            batch.parts.push(Part { end: batch.bytes.len(), lines, dropped });
        }
        batch
    }
}

/// Byte by byte: comparing paths by their parts is slow.
fn same_place(a: &Path, b: &Path) -> bool {
    a.as_os_str() == b.as_os_str()
}

/// UTC, as RFC 3339 has it, with milliseconds.
pub(super) fn now_text() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}
