//! What to start: the policy type that `config` fills.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How an app's worker process is started. No shell is ever involved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Program and arguments. `{socket}` in any of them stands for the worker's socket path,
    /// `{slot}` for its slot number.
    pub(crate) command: Vec<String>,
    /// Working directory; pinned to its real path when a generation begins.
    pub(crate) cwd: PathBuf,
    /// Added to the inherited environment; values may hold `{socket}` and `{slot}`.
    pub(crate) env: Vec<(String, String)>,
    /// Files of variables, absolute; read when a generation begins. `env` counts before them.
    #[serde(default)]
    pub(crate) env_file: Vec<PathBuf>,
    /// Empty in what is configured.
    #[serde(default)]
    pub(crate) given: Given,
    /// Whether a Node.js preload script takes over `listen()`. Without it the command must
    /// bind `{socket}` itself.
    pub(crate) preload: bool,
    /// Run as this user (only a root proxy can).
    pub(crate) user: Option<Identity>,
    /// File mode creation mask of the worker, e.g. `0o027`.
    pub(crate) umask: Option<u32>,
    pub(crate) rlimits: Rlimits,
    /// Of its servers, where the preload script takes them over.
    #[serde(default)]
    pub(crate) ports: Ports,
    /// Nothing is started: workers dial in by themselves, and the rest of this says nothing.
    #[serde(default)]
    pub(crate) external: Option<External>,
}

/// Variables that a generation was begun with, beside those that are configured. They are taken as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Given {
    /// By who asked for it; in the place of what this process has inherited.
    pub(crate) sent: Vec<(String, String)>,
    /// From `env_file`; a later one of the same name counts.
    pub(crate) read: Vec<(String, String)>,
}

impl Spec {
    /// The keys of the configuration in which two differ.
    pub(crate) fn differences(&self, other: &Spec) -> Vec<&'static str> {
        let keys = [
            ("command", self.command != other.command),
            ("cwd", self.cwd != other.cwd),
            ("env", self.env != other.env),
            ("env_file", self.env_file != other.env_file),
            ("preload", self.preload != other.preload),
            ("user", self.user != other.user),
            ("umask", self.umask != other.umask),
            ("rlimits", self.rlimits != other.rlimits),
            ("ports", self.ports != other.ports),
            ("external", self.external != other.external),
        ];
        keys.into_iter().filter(|(_, differ)| *differ).map(|(key, _)| key).collect()
    }
}

/// Which of an app's servers is for everybody, and where the others are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    /// The main server's; `None`: PORT names it, or the first worker shows it.
    pub(crate) main: Option<u16>,
    /// What is said of other ports; [`PortUse::One`] of those that are not here.
    pub(crate) further: BTreeMap<u16, PortUse>,
}

/// What becomes of a port that every worker of an app listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PortUse {
    /// One worker has it.
    One,
    /// Each worker has one: the port plus its slot.
    Each,
    /// Nobody has it.
    Off,
}

/// Workers that somebody else starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct External {
    /// Shared with them: holds the socket they dial, the script they load, the sockets they bind. Absolute.
    pub(crate) directory: PathBuf,
    /// Whose processes may dial in.
    pub(crate) users: Vec<u32>,
}

/// Resource limits of the worker (getrlimit(2)), soft and hard; ours where `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rlimits {
    /// Open files.
    pub(crate) nofile: Option<u64>,
    /// Bytes of a core dump; `u64::MAX` is no limit.
    pub(crate) core: Option<u64>,
}

/// A resolved user and group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The user's name, for `HOME`-like variables and messages.
    pub(crate) name: String,
    pub(crate) home: PathBuf,
}

#[cfg(test)]
impl Spec {
    /// A command with the preload script, and all else as by default.
    pub(crate) fn of(command: &[&str], cwd: impl Into<PathBuf>) -> Spec {
        Spec {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            cwd: cwd.into(),
            env: Vec::new(),
            preload: true,
            user: None,
            umask: None,
            rlimits: Default::default(),
            ports: Default::default(),
            external: None,
            env_file: Vec::new(),
            given: Default::default(),
        }
    }
}
