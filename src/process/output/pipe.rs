//! The FIFO between a worker's stream and its reader.

use super::Stream;
use crate::process::Error;
use crate::process::spec::Identity;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The reader's end.
pub(crate) type Pipe = tokio::net::unix::pipe::Receiver;

/// What a FIFO should hold while nobody reads: the most that an unprivileged process may ask for
/// (`/proc/sys/fs/pipe-max-size`).
const SIZE: usize = 1024 * 1024;

/// Makes a FIFO and opens it: the worker's end, read-write so that it never sees it closed, and
/// the path's reader. Needs a Tokio runtime.
pub(crate) fn make_pipe(path: &Path, user: Option<&Identity>) -> Result<(File, Pipe), Error> {
    let failed = |what: &str| Error::io(format!("{what} {}", path.display()));
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(|e| failed("making")(e.into()))?;
    // With the file before it is given away.
    let worker = OpenOptions::new().read(true).write(true).open(path).map_err(failed("opening"))?;
    if let Some(user) = user {
        // So that the worker may open /dev/stderr again.
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).map_err(failed("giving away"))?;
    }
    // A smaller one blocks the worker sooner when we are away; no reason not to start it.
    let _ = rustix::pipe::fcntl_setpipe_size(&worker, SIZE);
    Ok((worker, open_reader(path)?))
}

/// Opens the reading end of a FIFO that a worker holds; also one of an earlier proxy's worker.
pub(crate) fn open_reader(path: &Path) -> Result<Pipe, Error> {
    let failed = || Error::io(format!("opening {}", path.display()));
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW;
    let reader = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed())?;
    Pipe::from_file(reader).map_err(failed())
}

/// The same; where its path is gone, by the end that process `pid` has as its standard output or error. Unread, it would
/// block the worker once it is full.
pub(crate) fn open_reader_of(pid: u32, path: &Path, stream: Stream) -> Result<Pipe, Error> {
    let error = match open_reader(path) {
        Ok(pipe) => return Ok(pipe),
        Err(error) => error,
    };
    let number = match stream {
        Stream::Out => 1,
        Stream::Err => 2,
    };
    let end = Path::new("/proc").join(pid.to_string()).join("fd").join(number.to_string());
    let mut removed = path.as_os_str().to_owned();
    removed.push(" (deleted)");
    // Anything else is its own affair.
    if !std::fs::read_link(&end).is_ok_and(|target| target.as_os_str() == removed) {
        return Err(error);
    }
    let failed = || Error::io(format!("opening {}", end.display()));
    let reader = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&end).map_err(failed())?;
    Pipe::from_file(reader).map_err(failed())
}

/// What a FIFO holds, in bytes.
pub(super) fn size(pipe: &Pipe) -> usize {
    rustix::pipe::fcntl_getpipe_size(pipe).unwrap_or(0)
}
