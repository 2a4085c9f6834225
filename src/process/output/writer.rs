//! The thread that writes. An output that fails loses lines, which are counted; it is tried again and again, and
//! the log says when the trouble begins and when it ends.

use super::format::{Encoder, Format};
use super::sink::{Batch, Bounds, Part, Sink, Work, now_text};
use crate::worker::counted;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

/// Between two tries to write where it failed.
const RETRY: Duration = Duration::from_secs(1);

/// A write that failed, and how many bytes of it were written before.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) written: usize,
    pub(super) error: io::Error,
}

/// Where lines end up. May block: it runs on a thread of its own.
pub(super) trait Output: Send {
    /// Whether `to` tells places apart.
    fn by_path(&self) -> bool {
        false
    }

    /// Writes whole lines.
    fn write(&mut self, to: &Path, bytes: &[u8], now: SystemTime) -> Result<(), Failed>;

    /// Opens anew what is open.
    fn reopen(&mut self, _now: SystemTime) {}

    /// Does what is due, and says after what time to come again.
    fn wake(&mut self, _now: SystemTime) -> Option<Duration> {
        None
    }
}

/// Starts a thread that writes to `output` what is pushed to the sink. It ends after [`Sink::close`].
pub(super) fn start(output: impl Output + 'static, format: Format, bounds: Bounds) -> io::Result<Arc<Sink>> {
    start_with(output, Encoder::own(format), bounds)
}

/// The same; `own` is how it says in the output what is missing there.
pub(super) fn start_with(output: impl Output + 'static, own: Encoder, bounds: Bounds) -> io::Result<Arc<Sink>> {
    let sink = Arc::new(Sink::new(bounds, output.by_path()));
    let writer = Writer::new(Box::new(output), own);
    let theirs = sink.clone();
    std::thread::Builder::new().name("worker-output".into()).spawn(move || {
        // Also when it panics.
        let _ended = Ended(&theirs);
        writer.run(&theirs);
    })?;
    Ok(sink)
}

struct Ended<'a>(&'a Sink);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.writer_ended();
    }
}

pub(super) struct Writer {
    output: Box<dyn Output>,
    own: Encoder,
    troubles: HashMap<Arc<Path>, Trouble>,
}

/// A place that could not be written to the last time.
#[derive(Debug)]
struct Trouble {
    retry_at: Instant,
    /// Lines lost since it began.
    lost: u64,
    /// What was written last is no whole line.
    torn: bool,
    why: String,
}

impl Writer {
    fn new(output: Box<dyn Output>, own: Encoder) -> Writer {
        Writer { output, own, troubles: HashMap::new() }
    }

    pub(super) fn run(mut self, sink: &Sink) {
        let mut wake = None;
        loop {
            match sink.next(wake) {
                Work::Write(batch) => self.write(batch),
                Work::Reopen => {
                    self.output.reopen(SystemTime::now());
                    self.troubles.values_mut().for_each(|trouble| trouble.retry_at = Instant::now());
                }
                Work::Wake => {}
                Work::End => return,
            }
            if wake.is_none_or(|at| at <= Instant::now()) {
                wake = self.output.wake(SystemTime::now()).map(|after| Instant::now() + after);
            }
        }
    }

    fn write(&mut self, Batch { to, mut bytes, parts }: Batch) {
        if let Some(trouble) = self.troubles.get_mut(&to)
            && Instant::now() < trouble.retry_at
        {
            trouble.lost += lose(&parts);
            return;
        }
        let mut before = 0;
        if let Some(trouble) = self.troubles.get(&to) {
            let mut note = if trouble.torn { b"\n".to_vec() } else { Vec::new() };
            self.own.gap(&now_text(), trouble.lost, &trouble.why, &mut note);
            before = note.len();
            note.append(&mut bytes);
            bytes = note;
        }
        match self.output.write(&to, &bytes, SystemTime::now()) {
            Ok(()) => {
                if let Some(trouble) = self.troubles.remove(&to) {
                    let lost = counted(trouble.lost, "line");
                    let were = if trouble.lost == 1 { "was" } else { "were" };
                    log::info!("{} can be written again; {lost} {were} dropped", name(&to));
                }
            }
            Err(failed) => self.failed(to, &bytes, before, &parts, failed),
        }
    }

    fn failed(&mut self, to: Arc<Path>, bytes: &[u8], before: usize, parts: &[Part], failed: Failed) {
        let Failed { written, error } = failed;
        let retry_at = Instant::now() + RETRY;
        let lost = lose_from(parts, written.saturating_sub(before), bytes.get(before..).unwrap_or_default());
        let torn_now = |before: bool| match written.checked_sub(1).and_then(|last| bytes.get(last)) {
            Some(last) => *last != b'\n',
            None => before,
        };
        let why = format!("writing failed: {error}");
        match self.troubles.get_mut(&to) {
            Some(trouble) => {
                // Its note was written: what it told must not be told again.
                let told = written >= before;
                trouble.lost = if told { lost } else { trouble.lost + lost };
                *trouble = Trouble { retry_at, lost: trouble.lost, torn: torn_now(trouble.torn), why };
            }
            None => {
                log::warn!("{} cannot be written: {error}; its lines are dropped until it can", name(&to));
                self.troubles.insert(to, Trouble { retry_at, lost, torn: torn_now(false), why });
            }
        }
    }
}

/// Counts lines as dropped; returns how many are missing.
fn lose(parts: &[Part]) -> u64 {
    parts.iter().map(|part| lose_lines(part, part.lines)).sum()
}

/// The same for what lies beyond the first `written` bytes. A torn line is lost.
fn lose_from(parts: &[Part], written: usize, bytes: &[u8]) -> u64 {
    let mut begin = 0;
    let mut lost = 0;
    for part in parts {
        if part.end > written {
            let rest = bytes.get(written.max(begin)..part.end).unwrap_or_default();
            let lines = match part.dropped {
                Some(_) => memchr::memchr_iter(b'\n', rest).count() as u64,
                None => part.lines,
            };
            lost += lose_lines(part, lines);
        }
        begin = part.end;
    }
    lost
}

fn lose_lines(part: &Part, lines: u64) -> u64 {
    if let Some(dropped) = &part.dropped {
        dropped.fetch_add(lines, Relaxed);
    }
    lines
}

fn name(to: &Path) -> String {
    match to.as_os_str().is_empty() {
        true => "standard output, where workers' output goes,".to_owned(),
        false => format!("the log file {}", to.display()),
    }
}

/// Our standard output, without a buffer of its own.
pub(super) struct Stdout(File);

impl Stdout {
    pub(super) fn open() -> io::Result<Stdout> {
        Ok(Stdout(io::stdout().as_fd().try_clone_to_owned()?.into()))
    }

    #[cfg(test)]
    pub(super) fn of(file: File) -> Stdout {
        Stdout(file)
    }
}

impl Output for Stdout {
    fn write(&mut self, _: &Path, bytes: &[u8], _: SystemTime) -> Result<(), Failed> {
        write_all(&mut self.0, bytes, |output| {
            // Whoever we share it with has made it non-blocking.
            let mut ready = [rustix::event::PollFd::new(&*output, rustix::event::PollFlags::OUT)];
            let _ = rustix::event::poll(&mut ready, None);
            true
        })
    }
}

/// Our standard error, which others write to as well: no line of at most [`Stderr::ATOMIC`] bytes is torn by theirs.
pub(super) struct Stderr(Stdout);

impl Stderr {
    /// What one write(2) puts into a pipe as a whole (PIPE_BUF).
    const ATOMIC: usize = 4096;

    pub(super) fn open() -> io::Result<Stderr> {
        Ok(Stderr(Stdout(io::stderr().as_fd().try_clone_to_owned()?.into())))
    }
}

impl Output for Stderr {
    fn write(&mut self, to: &Path, bytes: &[u8], now: SystemTime) -> Result<(), Failed> {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            let part = whole_lines(rest, Self::ATOMIC);
            let done = self.0.write(to, part, now);
            done.map_err(|failed| Failed { written: written + failed.written, ..failed })?;
            written += part.len();
        }
        Ok(())
    }
}

/// As many lines as `most` bytes hold, but at least one.
fn whole_lines(bytes: &[u8], most: usize) -> &[u8] {
    let head = bytes.get(..most).unwrap_or(bytes);
    let end = memchr::memrchr(b'\n', head).or_else(|| memchr::memchr(b'\n', bytes));
    end.and_then(|end| bytes.get(..=end)).unwrap_or(bytes)
}

impl Output for Box<dyn Write + Send> {
    fn write(&mut self, _: &Path, bytes: &[u8], _: SystemTime) -> Result<(), Failed> {
        write_all(self, bytes, |_| false)
    }
}

/// Like `Write::write_all`, but says how far it came. `wait` is asked when the output would block, and says
/// whether to try again.
pub(super) fn write_all<W: Write>(
    output: &mut W,
    bytes: &[u8],
    mut wait: impl FnMut(&mut W) -> bool,
) -> Result<(), Failed> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match output.write(rest) {
            Ok(0) => return Err(Failed { written, error: io::ErrorKind::WriteZero.into() }),
            Ok(n) => written += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && wait(output) => {}
            Err(error) => return Err(Failed { written, error }),
        }
    }
    Ok(())
}
