//! Reads what workers write. A handoff pauses all readers: each gives back the line that it has begun.

use super::worker_record::{OutputReader, WorkerRecord};
use crate::process::output::{Ends, Logs, Rest, Stream, read};
use crate::worker::Generation;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// How long a paused reader may take to come to rest, and then the queues to be written.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A stream that nobody reads for now.
pub(super) struct PausedReader {
    pub(super) stream: Stream,
    pub(super) rest: Rest,
    pub(super) reading: mpsc::Sender<()>,
}

/// Starts and pauses the readers of all workers.
pub(super) struct OutputReaders {
    pub(super) logs: Arc<Logs>,
    paused: watch::Sender<bool>,
}

impl OutputReaders {
    pub(super) fn new(logs: Arc<Logs>) -> OutputReaders {
        OutputReaders { logs, paused: watch::channel(false).0 }
    }

    /// Starts to read a stream, or goes on. Does nothing without a process.
    pub(super) fn read(&self, worker: &mut WorkerRecord, generation: Generation, from: PausedReader) {
        let PausedReader { stream, rest, reading } = from;
        let (Some(child), Some(exited)) = (&worker.child, worker.exited.clone()) else { return };
        let feed = self.logs.feed(&worker.id, child.pid(), generation, stream);
        let tail = Some(worker.tail.of(stream));
        let ends = Ends { exited, hush: self.paused.subscribe() };
        let read = read(rest, feed, tail, ends);
        let task = tokio::spawn(async move { (read.await, reading) });
        worker.readers.push(OutputReader { stream, task });
    }

    /// Tells all readers to come to rest; [`OutputReaders::stop`] collects them.
    pub(super) fn pause(&self) {
        self.paused.send_replace(true);
    }

    pub(super) fn resume(&self) {
        self.paused.send_replace(false);
    }

    /// Collects the readers of a worker. They must have been told to pause.
    pub(super) async fn stop(worker: &mut WorkerRecord) -> Vec<PausedReader> {
        let mut stopped = Vec::new();
        for OutputReader { stream, task } in std::mem::take(&mut worker.readers) {
            match timeout(PAUSE_TIMEOUT, task).await {
                Ok(Ok((Some(rest), reading))) => stopped.push(PausedReader { stream, rest, reading }),
                // It had come to its end.
                Ok(_) => {}
                Err(_) => log::error!("{}: its output is still being read", worker.id),
            }
        }
        stopped
    }

    /// Writes what has been read.
    pub(super) async fn flush(&self) {
        let logs = self.logs.clone();
        if let Err(e) = tokio::task::spawn_blocking(move || logs.flush(PAUSE_TIMEOUT)).await {
            log::error!("writing the workers' output: {e}");
        }
    }
}
