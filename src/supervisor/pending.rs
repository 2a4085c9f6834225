//! What a command waits for before it is answered.

use super::app::ManagedApp;
use super::apps::Apps;
use super::messages::{AppId, CommandOutcome};
use crate::worker::{Generation, Slot, counted_being};

/// What a command waits for, and what has come of it so far.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) conditions: Vec<Condition>,
    pub(super) done: Vec<CommandOutcome>,
    /// A newer reload decides what comes into force.
    pub(super) superseded: bool,
}

pub(super) enum Condition {
    /// The rollout has ended.
    Rolled {
        app: AppId,
        generation: Generation,
        /// What had changed.
        why: String,
    },
    /// The app has as many ready workers as it is to have. `excused` are slots that had failed before.
    Up { app: AppId, excused: Vec<Slot> },
}

impl Pending {
    pub(super) fn is_over(&self) -> bool {
        self.conditions.is_empty()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.done.iter().any(Result::is_err)
    }

    /// Takes the conditions away that are met, or never will be.
    pub(super) fn look(&mut self, apps: &Apps) {
        let done = &mut self.done;
        self.conditions.retain(|condition| match condition.outcome(apps) {
            Some(outcome) => {
                done.push(outcome);
                false
            }
            None => true,
        });
    }

    pub(super) fn outcome(self) -> CommandOutcome {
        let failed = self.has_failed();
        // What failed stands first: it is what matters.
        let bad = self.done.iter().filter_map(|outcome| outcome.as_ref().err());
        let good = self.done.iter().filter_map(|outcome| outcome.as_ref().ok());
        let text = bad.chain(good).map(String::as_str).collect::<Vec<_>>().join("\n");
        match failed {
            true => Err(text),
            false if self.superseded => {
                Err(format!("{text}\na newer reload took its place: what that one says counts"))
            }
            false => Ok(text),
        }
    }
}

impl Condition {
    /// `None` while it is open.
    fn outcome(&self, apps: &Apps) -> Option<CommandOutcome> {
        match self {
            Condition::Rolled { app, generation, why } => match apps.get(*app) {
                Some(app) => {
                    let outcome = app.rollouts.get(generation).cloned()?;
                    Some(outcome.map(|text| if why.is_empty() { text } else { format!("{text} ({why})") }))
                }
                None => Some(Err("the app is gone".into())),
            },
            Condition::Up { app, excused } => match apps.get(*app).filter(|app| !app.removed) {
                Some(app) => is_up(app, excused),
                None => Some(Err("the app is gone".into())),
            },
        }
    }
}

fn is_up(app: &ManagedApp, excused: &[Slot]) -> Option<CommandOutcome> {
    if app.fleet.is_external() {
        return Some(Ok(format!("{}: its workers join by themselves", app.name)));
    }
    let (ready, desired) = (app.serving(), usize::from(app.fleet.desired()));
    if let Some(slot) = app.failing().into_iter().find(|slot| !excused.contains(slot)) {
        let why = app.why_failed(Some(slot), "a worker failed");
        return Some(Err(format!("{}: {ready} of {desired} workers are ready: {why}", app.name)));
    }
    // Slots that failed before the command say nothing about it.
    let failing = app.failing().len();
    (ready + failing >= desired).then(|| Ok(format!("{}: {} ready", app.name, counted_being(ready as u64, "worker"))))
}
