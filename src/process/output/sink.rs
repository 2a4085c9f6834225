//! One queue and one thread between all workers' lines and our own stdout.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Bytes that may wait to be written.
const CAPACITY: usize = 4 * 1024 * 1024;
/// Bytes written at once.
const BATCH: usize = 64 * 1024;

/// Takes lines without ever waiting; drops and counts them when its writer is slow.
#[derive(Debug)]
pub(crate) struct Sink {
    queue: Mutex<Queue>,
    /// Something to write, or closed.
    filled: Condvar,
    /// Nothing left to write, or the writer has ended.
    emptied: Condvar,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// Dropped lines in all.
    dropped: u64,
    /// The writer has taken lines and not finished writing them.
    writing: bool,
    closed: bool,
    writer_gone: bool,
}

#[derive(Debug)]
enum Item {
    Line(String),
    /// So many lines are missing here.
    Dropped(u64),
}

impl Sink {
    /// Starts the writer thread. It ends after [`Sink::close`], or when the output fails.
    pub(crate) fn start(output: Box<dyn Write + Send>) -> io::Result<Arc<Sink>> {
        Sink::with_capacity(output, CAPACITY)
    }

    pub(super) fn with_capacity(output: Box<dyn Write + Send>, capacity: usize) -> io::Result<Arc<Sink>> {
        let sink =
            Arc::new(Sink { queue: Mutex::default(), filled: Condvar::new(), emptied: Condvar::new(), capacity });
        let writer = sink.clone();
        std::thread::Builder::new().name("worker-output".into()).spawn(move || writer.write_to(output))?;
        Ok(sink)
    }

    /// Queues a whole line, with its end.
    pub(crate) fn push(&self, line: String) {
        let mut queue = self.lock();
        // Once lines were dropped, wait for some room: few large gaps read better than many small.
        let dropping = matches!(queue.items.back(), Some(Item::Dropped(_)));
        let limit = if dropping { self.capacity / 2 } else { self.capacity };
        if queue.writer_gone || queue.closed || queue.bytes + line.len() > limit {
            queue.dropped += 1;
            if let Some(Item::Dropped(count)) = queue.items.back_mut() {
                *count += 1;
            } else if !queue.writer_gone && !queue.closed {
                queue.items.push_back(Item::Dropped(1));
            }
            return;
        }
        queue.bytes += line.len();
        queue.items.push_back(Item::Line(line));
        self.filled.notify_one();
    }

    /// How many lines were dropped since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Takes no more, and waits at most `limit` until what is queued is written. Blocks.
    pub(crate) fn close(&self, limit: Duration) {
        let mut queue = self.lock();
        queue.closed = true;
        self.filled.notify_one();
        let pending = |queue: &mut Queue| (queue.writing || !queue.items.is_empty()) && !queue.writer_gone;
        drop(self.emptied.wait_timeout_while(queue, limit, pending));
    }

    fn write_to(&self, mut output: Box<dyn Write + Send>) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.next_batch(&mut batch) {
            let written = output.write_all(&batch).and_then(|()| output.flush());
            if let Err(e) = written {
                log::error!("workers' output cannot be written any more and is dropped: {e}");
                break;
            }
        }
        let mut queue = self.lock();
        queue.writer_gone = true;
        queue.items.clear();
        self.emptied.notify_all();
    }

    /// Waits for lines; false when closed and empty.
    fn next_batch(&self, batch: &mut Vec<u8>) -> bool {
        batch.clear();
        let mut queue = self.lock();
        queue.writing = false;
        if queue.items.is_empty() {
            self.emptied.notify_all();
        }
        let idle = |queue: &mut Queue| queue.items.is_empty() && !queue.closed;
        queue = self.filled.wait_while(queue, idle).unwrap_or_else(|e| e.into_inner());
        while batch.len() < BATCH
            && let Some(item) = queue.items.pop_front()
        {
            match item {
                Item::Line(line) => {
                    queue.bytes -= line.len();
                    batch.extend_from_slice(line.as_bytes());
                }
                Item::Dropped(count) => {
                    let note = format!("pingora-unix-proxy | {count} lines dropped: our own output is too slow\n");
                    batch.extend_from_slice(note.as_bytes());
                }
            }
        }
        queue.writing = !batch.is_empty();
        queue.writing
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }
}
