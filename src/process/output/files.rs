//! Log files: opened when there is something to write, rotated by size and age, opened anew when asked.

use super::place::Place;
use super::writer::{Failed, Output, write_all};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// When a file is put aside and a new one begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rotate {
    /// Before it grows beyond so many bytes.
    pub(crate) size: Option<u64>,
    /// When it is so old.
    pub(crate) age: Option<Duration>,
    /// How many old ones stay, as `FILE.1` (the newest), `FILE.2` ...; with 0 it begins anew.
    pub(crate) keep: u32,
}

impl Default for Rotate {
    fn default() -> Rotate {
        Rotate { size: Some(100_000_000), age: None, keep: 5 }
    }
}

/// Files open at once. The one that was written to least recently is closed for another.
const OPEN: usize = 256;
/// Between two tries to rotate a file where it failed.
const RETRY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Files {
    rotate: Rotate,
    open: HashMap<PathBuf, Open>,
    writes: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    born: SystemTime,
    /// A pipe or a device is never rotated.
    regular: bool,
    /// The number of the last write to it.
    used: u64,
    no_rotation_before: Option<SystemTime>,
}

impl Files {
    pub(super) fn new(rotate: Rotate) -> Files {
        Files { rotate, open: HashMap::new(), writes: 0 }
    }

    fn opened(&mut self, path: &Path, now: SystemTime) -> io::Result<&mut Open> {
        self.writes += 1;
        if !self.open.contains_key(path) {
            let open = open(path, now)?;
            let oldest = self.open.iter().min_by_key(|(_, open)| open.used).map(|(path, _)| path.clone());
            if let Some(oldest) = oldest.filter(|_| self.open.len() >= OPEN) {
                self.open.remove(&oldest);
            }
            self.open.insert(path.to_owned(), open);
        }
        match self.open.get_mut(path) {
            Some(open) => {
                open.used = self.writes;
                Ok(open)
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Puts the file aside. When that fails it goes on as it is: a log too long is better than none.
    fn rotate(&mut self, path: &Path, now: SystemTime) -> io::Result<()> {
        let done = put_aside(path, self.rotate.keep).and_then(|()| open(path, now));
        match done {
            Ok(new) => {
                self.open.insert(path.to_owned(), new);
            }
            Err(e) => {
                log::warn!("the log file {} cannot be rotated and goes on growing: {e}", path.display());
                self.opened(path, now)?.no_rotation_before = Some(now + RETRY);
            }
        }
        Ok(())
    }

    fn is_due(&self, open: &Open, more: u64, now: SystemTime) -> bool {
        let Rotate { size, age, .. } = self.rotate;
        let large = size.is_some_and(|size| open.size + more > size);
        let old = age.is_some_and(|age| now.duration_since(open.born).is_ok_and(|is| is >= age));
        open.regular && open.size > 0 && (large || old) && open.no_rotation_before.is_none_or(|at| now >= at)
    }
}

impl Output for Files {
    fn by_path(&self) -> bool {
        true
    }

    fn write(&mut self, to: &Path, bytes: &[u8], now: SystemTime) -> Result<(), Failed> {
        let failed = |error| Failed { written: 0, error };
        self.opened(to, now).map_err(failed)?;
        if self.open.get(to).is_some_and(|open| self.is_due(open, bytes.len() as u64, now)) {
            self.rotate(to, now).map_err(failed)?;
        }
        let open = self.opened(to, now).map_err(failed)?;
        let done = write_all(&mut open.file, bytes, |_| false);
        match &done {
            Ok(()) => open.size += bytes.len() as u64,
            // Opened anew the next time: it may have been moved, or its file system mounted again.
            Err(_) => drop(self.open.remove(to)),
        }
        done
    }

    fn reopen(&mut self, now: SystemTime) {
        for path in std::mem::take(&mut self.open).into_keys() {
            // Now and not at the next line: whoever asked looks for the new file.
            if let Err(e) = self.opened(&path, now) {
                log::warn!("the log file {} cannot be opened again: {e}", path.display());
            }
        }
    }

    fn wake(&mut self, now: SystemTime) -> Option<Duration> {
        /// Age is looked at so often, and a clock that was set shows then.
        const LOOK: Duration = Duration::from_secs(10);
        let age = self.rotate.age?;
        let due: Vec<PathBuf> =
            self.open.iter().filter(|(_, open)| self.is_due(open, 0, now)).map(|(path, _)| path.clone()).collect();
        for path in due {
            if let Err(e) = self.rotate(&path, now) {
                log::warn!("the log file {} cannot be opened after rotation: {e}", path.display());
            }
        }
        Some(LOOK.min(age))
    }
}

fn open(path: &Path, now: SystemTime) -> io::Result<Open> {
    let file = match Place::of(path, false).and_then(|place| place.open()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Place::of(path, true)?.open()?,
        opened => opened?,
    };
    let meta = file.metadata()?;
    // Not every file system knows when a file was made.
    let born = if meta.len() > 0 { meta.created().unwrap_or(now) } else { now };
    Ok(Open { file, size: meta.len(), born, regular: meta.is_file(), used: 0, no_rotation_before: None })
}

/// `FILE` becomes `FILE.1`, that one `FILE.2`, and so on; the last one is overwritten.
fn put_aside(path: &Path, keep: u32) -> io::Result<()> {
    let place = Place::of(path, false)?;
    let name = place.name();
    if keep == 0 {
        return or_moved(place.remove());
    }
    if !place.exists(name) {
        return Ok(());
    }
    let old = |n: u32| {
        let mut old = name.to_owned();
        old.push(format!(".{n}"));
        old
    };
    // Up to the first number that is free: what lies beyond need not move.
    let mut last = 1;
    while last < keep && place.exists(&old(last)) {
        last += 1;
    }
    for n in (1..last).rev() {
        place.rename(&old(n), &old(n + 1))?;
    }
    or_moved(place.rename(name, &old(1)))
}

/// Somebody may have moved it away at any time, as log rotation by others does before it tells us.
fn or_moved(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}
