//! What a proxy knows of its workers, as it is written down: the types, and how they are read.
//!
//! Both directions are compatible: `rename` keeps the names that older proxies write and read.

use super::super::alarms;
use super::super::restarts::Restarts;
use crate::fleet;
use crate::fleet::policy::Policy;
use crate::process::control::{Stats, Token};
use crate::process::output::Stream;
use crate::process::release::Release;
use crate::process::spec::Spec;
use crate::process::{AppUser, state};
use crate::worker::{Generation, Incarnation, Slot, Tag, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Counts up when an older proxy could not read it any more.
pub(super) const VERSION: u32 = 1;

/// All workers, and all that was decided about them. Fields that come later need a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) version: u32,
    pub(super) boot: String,
    /// The supervisor's start by the clock that all processes of a boot share.
    pub(super) epoch: Duration,
    pub(super) next_tag: u32,
    #[serde(rename = "rooms")]
    pub(super) apps: Vec<SavedApp>,
    #[serde(default)]
    pub(super) alarms: alarms::Saved,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedApp {
    pub(super) name: String,
    pub(super) removed: bool,
    pub(super) definitions: BTreeMap<Generation, SavedDefinition>,
    pub(super) rollouts: BTreeMap<Generation, Result<String, String>>,
    pub(super) fleet: fleet::Saved,
    pub(super) workers: Vec<SavedWorker>,
    pub(super) last_words: BTreeMap<Slot, Vec<String>>,
    pub(super) restarts: Restarts,
    /// Owners of the sids that do not name theirs.
    #[serde(default)]
    pub(super) learnt: Vec<(String, Incarnation)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedDefinition {
    pub(super) spec: Spec,
    pub(super) policy: Policy,
    /// Where the working directory led when the generation began.
    pub(super) cwd: PathBuf,
    /// All that was pinned, and what was found then.
    #[serde(default)]
    pub(super) pinned: Option<Spec>,
    #[serde(default)]
    pub(super) release: Option<Release>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedWorker {
    pub(super) slot: Slot,
    pub(super) incarnation: Incarnation,
    /// Its process and when that was started (proc_pid_stat(5), field 22): together they name it.
    pub(super) process: Option<(u32, u64)>,
    pub(super) serving_pid: Option<u32>,
    /// Of its main server.
    #[serde(default)]
    pub(super) main_port: Option<u16>,
    /// Whether it had a control channel.
    pub(super) connected: bool,
    pub(super) token: Option<Token>,
    pub(super) tag: Option<Tag>,
    pub(super) uid: u32,
    /// Where its main server is told to listen.
    pub(super) socket: PathBuf,
    /// Where it listens and has listened; the last is the present one.
    pub(super) paths: Vec<String>,
    pub(super) served: u64,
    pub(super) stats: Option<Stats>,
    /// Where its Engine.IO serves, and how many sessions it has: known until it dials in again.
    #[serde(default)]
    pub(super) engine: Option<Vec<String>>,
    #[serde(default)]
    pub(super) sessions: Option<u64>,
}

/// The beginning of a line that a paused reader of a worker's output had read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartialLine {
    pub(crate) app: String,
    pub(crate) incarnation: u32,
    pub(crate) stream: Stream,
    pub(crate) bytes: Vec<u8>,
}

impl Snapshot {
    /// Reads what another process has written.
    ///
    /// # Errors
    /// Says why it is of no use.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Snapshot, String> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |e: serde_json::Error| format!("it is damaged: {e}");
        let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(format!("it has version {version}, this program reads {VERSION}"));
        }
        let snapshot: Snapshot = serde_json::from_slice(bytes).map_err(damaged)?;
        match snapshot.boot == state::boot_id() {
            true => Ok(snapshot),
            false => Err("it was written before the machine was started".to_owned()),
        }
    }

    /// Whose processes live in the directory: the apps of the snapshot as they are, then those of the
    /// configuration that are new. A change comes with the reload that follows.
    pub(in crate::supervisor) fn app_users(&self, configured: Vec<AppUser>) -> Vec<AppUser> {
        let app_user = |app: &SavedApp| {
            let user = app.definitions.values().rev().find_map(|d| d.spec.user.clone());
            AppUser { app: app.name.clone(), user }
        };
        let mut app_users: Vec<AppUser> = self.apps.iter().map(app_user).collect();
        let new = |app: &AppUser| !self.apps.iter().any(|known| known.name == app.app);
        app_users.extend(configured.into_iter().filter(new));
        app_users
    }
}

impl SavedWorker {
    /// Whether its socket is one that this directory has for it.
    pub(super) fn lives_in(&self, dir: &Path, id: &WorkerId) -> bool {
        let name = format!("{}.{}.{}.sock", id.app, id.slot, id.incarnation);
        let workers = dir.join("workers");
        self.socket == workers.join(&name) || self.socket == workers.join(&*id.app).join(&name)
    }
}
