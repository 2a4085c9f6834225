//! What workers write, on its way to our own output and to log files.
//!
//! Each stream is a FIFO that the worker holds open read-write, so its writes never fail and never
//! see a closed reader. A task per stream ([`read`]) reads without ever stopping, cuts the bytes into lines
//! ([`frame`]), makes text or JSON of them ([`format`](mod@format)) and queues blocks of them ([`sink`]) for a thread that
//! writes ([`writer`]): one for our stdout, one for all files ([`files`]). When that is slow or fails, lines are
//! dropped and counted: neither the worker nor our memory pays for it.
//!
//! What bounds it: a queue holds 8 MiB, 16 at the very most; one stream holds 4 MiB of that; a reader keeps a
//! partial line of 16 KiB and shares all other buffers with its thread. A stream that drops is only counted,
//! and a busy one is read a few hundred times a second, so output costs little however it comes.

#![forbid(unsafe_code)]

mod files;
mod format;
mod frame;
mod lines;
mod logs;
mod pipe;
mod place;
mod sink;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use files::Rotate;
pub(crate) use format::{Format, escaped as json_escaped};
pub(crate) use lines::{Lines, Target};
pub(crate) use logs::{Feed, FilePolicy, Logs, Policy};
#[cfg(test)]
use pipe::open_reader;
pub(crate) use pipe::{Pipe, make_pipe, open_reader_of};
pub(crate) use tail::{LastWords, Tail};

use frame::Framer;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One of a worker's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

thread_local! {
    /// A thread reads one stream at a time, so all of its streams share this.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a reader that was hushed has in hand.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) pipe: Pipe,
    /// The beginning of a line.
    pub(crate) partial: Vec<u8>,
}

/// What tells a reader to end.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    /// Says true when the process is gone.
    pub(crate) exited: watch::Receiver<bool>,
    /// Says true when another is to read on.
    pub(crate) hush: watch::Receiver<bool>,
}

/// Reads one stream to its end: until no process holds it, or, once the process has exited, for a
/// bounded time more. One that is hushed before gives back what it has.
pub(crate) async fn read(from: Rest, feed: Feed, tail: Option<Arc<Tail>>, ends: Ends) -> Option<Rest> {
    let Rest { pipe, partial } = from;
    let Ends { mut exited, mut hush } = ends;
    let framer = Framer::behind(partial);
    let mut reader = Reader { pace: Pace::new(pipe::size(&pipe)), pipe, feed, tail, framer };
    let limit = async {
        // An error means that the sender is gone, and with it whoever could say more.
        let _ = exited.wait_for(|exited| *exited).await;
        tokio::time::sleep(AFTER_EXIT).await;
    };
    let hushed = async {
        if hush.wait_for(|hush| *hush).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(limit, hushed);
    loop {
        tokio::select! {
            biased;
            () = &mut hushed => return Some(Rest { pipe: reader.pipe, partial: reader.framer.into_partial() }),
            more = reader.step() => match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    log::warn!("output of a worker cannot be read any more: {e}");
                    break;
                }
            },
            () = &mut limit => break,
        }
    }
    reader.finish();
    None
}

struct Reader {
    pipe: Pipe,
    feed: Feed,
    tail: Option<Arc<Tail>>,
    framer: Framer,
    pace: Pace,
}

impl Reader {
    /// Reads what is there; false at the end. May be dropped at any await.
    async fn step(&mut self) -> io::Result<bool> {
        self.pipe.readable().await?;
        let got = match self.take() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            got => got?,
        };
        match self.pace.after(got, Instant::now()) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => tokio::task::yield_now().await,
        }
        Ok(got > 0)
    }

    fn take(&mut self) -> io::Result<usize> {
        let mut chunk = SCRATCH.take();
        chunk.resize(CHUNK, 0);
        let got = self.pipe.try_read(&mut chunk);
        let bytes = got.as_ref().ok().and_then(|n| chunk.get(..*n)).unwrap_or_default();
        if !bytes.is_empty() {
            let (framer, tail) = (&mut self.framer, self.tail.as_deref());
            self.feed.take(|line| framer.push(bytes, told(tail, line)));
        }
        SCRATCH.set(chunk);
        got
    }

    fn finish(self) {
        let (framer, tail) = (self.framer, self.tail.as_deref());
        self.feed.take(|line| framer.finish(told(tail, line)));
    }
}

/// The tail hears of every line, also of those that are dropped.
fn told<'a>(tail: Option<&'a Tail>, line: &'a mut dyn FnMut(&[u8], bool)) -> impl FnMut(&[u8], bool) + 'a {
    move |bytes, whole| {
        if let Some(tail) = tail {
            tail.push(bytes);
        }
        line(bytes, whole);
    }
}

/// Lets a stream that comes in many small pieces gather for a moment: a wake-up for each of them would cost more
/// than all the rest.
#[derive(Debug)]
struct Pace {
    /// Less than this may gather; `None` when the FIFO has no room for it.
    little: Option<usize>,
    last: Option<Instant>,
}

impl Pace {
    const BUSY: Duration = Duration::from_millis(10);
    const PAUSE: Duration = Duration::from_millis(3);

    fn new(size: usize) -> Pace {
        Pace { little: (size >= 512 * 1024).then_some(size / 16), last: None }
    }

    fn after(&mut self, got: usize, now: Instant) -> Option<Duration> {
        let busy = self.last.is_some_and(|last| now.duration_since(last) < Self::BUSY);
        self.last = Some(now);
        (busy && got > 0 && self.little.is_some_and(|little| got < little)).then_some(Self::PAUSE)
    }
}
