//! What a proxy knows of its workers, written down for another process on the same boot: for a successor, or for the
//! proxy that is started after a crash.
//!
//! [`format`] are the types as they are written. [`capture`] makes them from the apps, [`restore`] makes apps of them.
//! [`writer`] keeps the state file up to date, [`reclaim`] ends workers that nobody takes over.

mod barrier;
mod capture;
mod format;
mod reclaim;
mod restore;
mod writer;

pub(super) use barrier::{WriteBarrier, Written};
pub(super) use capture::capture;
pub(crate) use format::{PartialLine, Snapshot};
pub(crate) use reclaim::terminate_orphans;
pub(super) use restore::{Restored, expect_workers, read_left, set_aside};
pub(super) use writer::SnapshotWriter;
