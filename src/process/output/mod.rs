//! What workers write, on its way to our own output.
//!
//! Each stream is a FIFO that the worker holds open read-write, so its writes never fail and never
//! see a closed reader; a task per stream reads without ever stopping, cuts the bytes into lines
//! and queues them, labelled, for one thread that writes to our stdout. When that is slow, lines
//! are dropped and counted: neither the worker nor our memory pays for it.

mod frame;
mod pipe;
mod sink;
mod tail;
#[cfg(test)]
mod tests;

pub(crate) use pipe::{Pipe, make_pipe};
pub(crate) use sink::Sink;
pub(crate) use tail::Tail;

use crate::worker::WorkerId;
use frame::Framer;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

/// One of a worker's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    Out,
    Err,
}

impl Stream {
    pub(crate) fn short(self) -> &'static str {
        match self {
            Stream::Out => "out",
            Stream::Err => "err",
        }
    }
}

/// Bytes taken from a FIFO at once.
const CHUNK: usize = 64 * 1024;
/// How long the output of a process that is gone may still come in: from what is left of the FIFO,
/// or from a child of it that left its process group.
const AFTER_EXIT: Duration = Duration::from_secs(2);

/// Reads one stream to its end: until no process holds it, or, once `exited` says true, for a
/// bounded time more.
pub(crate) async fn read(
    mut pipe: Pipe,
    label: String,
    sink: Arc<Sink>,
    tail: Option<Arc<Tail>>,
    mut exited: watch::Receiver<bool>,
) {
    let mut framer = Framer::default();
    let mut chunk = vec![0; CHUNK];
    let deliver = |line: &str| {
        if let Some(tail) = &tail {
            tail.push(line);
        }
        sink.push(format!("{label} | {line}\n"));
    };
    let limit = async {
        // An error means that the sender is gone, and with it whoever could say more.
        let _ = exited.wait_for(|exited| *exited).await;
        tokio::time::sleep(AFTER_EXIT).await;
    };
    tokio::pin!(limit);
    loop {
        tokio::select! {
            got = pipe.read(&mut chunk) => match got {
                Ok(0) => break,
                Ok(n) => framer.push(chunk.get(..n).unwrap_or_default(), deliver),
                Err(e) => {
                    log::warn!("{label}: its output cannot be read any more: {e}");
                    break;
                }
            },
            () = &mut limit => break,
        }
    }
    framer.finish(deliver);
}

/// What each line of a worker's stream begins with: `chat[0] 4711 out`.
pub(crate) fn label(id: &WorkerId, pid: u32, stream: Stream) -> String {
    format!("{}[{}] {pid} {}", id.app, id.slot, stream.short())
}
