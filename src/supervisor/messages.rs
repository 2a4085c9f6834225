//! What the supervisor's loop, its handles and its tasks tell each other.

use super::definition::Definition;
use super::estate::{Estate, Partial};
use crate::pool::Pool;
use crate::process::output::Pipe;
use crate::process::{Error, Exit, Process};
use crate::worker::Incarnation;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait to be looked at.
pub(super) const COMMANDS_MAX: usize = 64;
pub(super) const HANDOFF_REQUESTS_MAX: usize = 8;
/// Joins of external workers that may wait to be looked at.
pub(super) const JOINS_MAX: usize = 64;
/// Reports of workers and of effects: never full for long, as their reader waits for publishing only.
pub(super) const REPORTS_MAX: usize = 1024;

/// How it ended: `Err` says why no worker could be kept, for people.
pub(crate) type Outcome = Result<(), String>;

/// What is asked of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) enum RunState {
    Run,
    Stop,
    Kill,
}

/// The answer to an effect.
pub(super) struct EffectReport {
    pub(super) room: usize,
    pub(super) incarnation: Incarnation,
    pub(super) answer: EffectResult,
}

pub(super) enum EffectResult {
    Started(Result<Started, Error>),
    Probed { attempt: u32, answer: Result<(), String> },
    Checked { attempt: u32, answer: Result<(), String> },
    Exited(Exit),
    Cleaned,
}

/// Where answers go. Never full for long: its reader only waits for publishing.
pub(super) type EffectReports = mpsc::Sender<EffectReport>;

/// A process that was just started.
pub(super) struct Started {
    pub(super) process: Process,
    pub(super) out: Pipe,
    pub(super) err: Pipe,
}

/// What came of an order, for people; an error may have several lines.
pub(crate) type Answered = Result<String, String>;

/// How many workers an app is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Count(u16),
    /// More or fewer than now.
    By(i32),
    /// As the load asks for, between the configured bounds.
    Auto,
}

/// An app as it is to be, with its directory pinned.
pub(super) struct Wanted {
    pub(super) name: Arc<str>,
    pub(super) definition: Definition,
    pub(super) pool: Arc<Pool>,
}

pub(super) enum What {
    Reload(Vec<Wanted>),
    Restart(Option<String>),
    Scale(String, To),
}

pub(super) struct Order {
    pub(super) what: What,
    pub(super) reply: oneshot::Sender<Answered>,
}

/// What the handoff asks.
pub(super) enum HandoffRequest {
    Freeze(oneshot::Sender<Result<Estate, String>>),
    Dismiss(oneshot::Sender<()>),
    Hush(oneshot::Sender<Vec<Partial>>),
    Thaw(oneshot::Sender<()>),
    Cede(oneshot::Sender<()>),
}
