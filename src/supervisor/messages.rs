//! What the event loop, the handles and the tasks tell each other.

use super::child::ChildHandle;
use super::definition::Definition;
use super::setup::AppSpec;
use super::snapshot::{PartialLine, Snapshot};
use crate::pool::Pool;
use crate::process::output::{Pipe, Stream};
use crate::process::{Error, Exit};
use crate::worker::Incarnation;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Messages that may wait in each channel to the event loop.
pub(super) const COMMANDS_MAX: usize = 64;
pub(super) const HANDOFF_REQUESTS_MAX: usize = 8;
pub(super) const JOINS_MAX: usize = 64;
/// Reports of workers, and those of effects. Never full for long: the event loop waits for publishing only.
pub(super) const REPORTS_MAX: usize = 1024;

/// How the supervisor ended: `Err` says why no worker could be kept, for people.
pub(crate) type Outcome = Result<(), String>;

/// What the supervisor is to do with all workers. It only ever goes on, never back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) enum RunState {
    Run,
    Stop,
    Kill,
}

/// An app, by a number that is never used again: reports may come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AppId(pub(super) usize);

/// What came of an effect.
pub(super) struct EffectReport {
    pub(super) app: AppId,
    pub(super) incarnation: Incarnation,
    pub(super) result: EffectResult,
}

pub(super) enum EffectResult {
    Started(Result<Started, Error>),
    Probed {
        attempt: u32,
        outcome: Result<(), String>,
    },
    Checked {
        attempt: u32,
        outcome: Result<(), String>,
    },
    Exited(Exit),
    /// Nothing of the worker is left.
    Cleaned,
}

pub(super) type EffectReports = mpsc::Sender<EffectReport>;

/// A process that was just started, with what it writes.
pub(super) struct Started {
    pub(super) child: ChildHandle,
    pub(super) output: Vec<(Stream, Pipe)>,
}

/// What a person asks for, and whom to tell what came of it.
pub(super) struct Command {
    pub(super) kind: CommandKind,
    pub(super) reply: oneshot::Sender<CommandOutcome>,
}

pub(super) enum CommandKind {
    Reload {
        targets: Vec<AppTarget>,
        scope: ReloadScope,
        enforce: Enforce,
    },
    /// Of these apps. `named`: of one that was asked for by its name.
    Restart {
        targets: Vec<AppTarget>,
        named: bool,
    },
    Scale(String, ScaleTo),
    /// Tells how one app, or all, are defined as they run.
    Show(Option<String>, oneshot::Sender<Vec<Defined>>),
}

/// Which apps a reload replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReloadScope {
    /// Those that are configured otherwise, or whose files are others.
    Changed,
    /// This one in any case, and those that are configured otherwise.
    App(String),
    /// Those that are configured otherwise.
    Configured,
}

/// Puts the rest of a reloaded configuration into force: routes, limits. Must not wait.
pub(crate) type Enforce = Box<dyn FnOnce() + Send>;

/// Variables of who asks, for the workers that are started because of it.
pub(crate) type Sent = Vec<(String, String)>;

/// An app as it is configured, and the variables that its workers were started with because somebody sent them.
pub(super) type Defined = (AppSpec, Sent);

/// What came of a command, for people; an error may have several lines.
pub(crate) type CommandOutcome = Result<String, String>;

/// How many workers an app is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleTo {
    Count(u16),
    /// More or fewer than now.
    By(i32),
    /// As the load asks for, between the configured bounds.
    Auto,
}

/// An app as it is to be, with its paths pinned.
pub(super) struct AppTarget {
    pub(super) name: Arc<str>,
    pub(super) definition: Definition,
    pub(super) pool: Arc<Pool>,
}

impl AppTarget {
    /// Reads the file system.
    pub(super) fn pin((app, sent): Defined) -> Result<AppTarget, String> {
        let definition = Definition::pin(app.spec, app.policy, sent).map_err(|why| format!("{}: {why}", app.name))?;
        Ok(AppTarget { name: app.name, definition, pool: app.pool })
    }

    /// The same where the directory may not be there yet: the start of a worker says what is wrong.
    pub(super) fn pin_or_keep(app: AppSpec) -> AppTarget {
        AppTarget { name: app.name, definition: Definition::pin_or_keep(app.spec, app.policy), pool: app.pool }
    }
}

/// The steps of a handoff, as `server/` asks the predecessor's supervisor for them.
pub(super) enum HandoffRequest {
    Pause(oneshot::Sender<Result<Snapshot, String>>),
    DisconnectWorkers(oneshot::Sender<()>),
    PauseOutput(oneshot::Sender<Vec<PartialLine>>),
    Resume(oneshot::Sender<()>),
    Release(oneshot::Sender<()>),
}
