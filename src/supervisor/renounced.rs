//! Workers that were started as root and have given that up by themselves, as after setuid(2) behind listen(2).
//!
//! Their sockets are still root's, as the kernel has it, but they may not dial in again.

use super::app::ManagedApp;
use super::worker_record::WorkerRecord;
use crate::fleet::{Event, Time};
use crate::process::usage::real_user;

/// The user that a worker has now, if it was started as root and has another.
pub(super) fn user_of(record: &WorkerRecord) -> Option<u32> {
    let pid = record.serving_pid.or(record.child.as_ref().map(|child| child.pid()));
    let pid = pid.filter(|_| record.uid == 0 && !record.is_external)?;
    real_user(pid).ok().filter(|user| *user != 0)
}

/// Tells the fleet, once for each worker, and once more when that has lost its channel.
pub(super) fn search(app: &mut ManagedApp, now: Time) {
    let candidates = app.fleet.workers().filter(|worker| worker.may_renounce());
    let found = candidates.filter_map(|worker| {
        let user = user_of(app.workers.get(&worker.incarnation)?)?;
        Some((worker.incarnation, user))
    });
    for (incarnation, user) in found.collect::<Vec<_>>() {
        let known = nix::unistd::User::from_uid(user.into()).ok().flatten();
        let user = known.map_or_else(|| user.to_string(), |user| user.name);
        app.fleet.handle(Event::Renounced { incarnation, user }, now);
    }
}
