//! What people ask of a running supervisor: reload, restart, scale. Each command is answered once its outcome is known.

use super::app::ManagedApp;
use super::apps::Apps;
use super::messages::{AppTarget, Command, CommandKind, CommandOutcome, Defined, Enforce, RunState, ScaleTo};
use super::pending::{Condition, Pending};
use super::reload::{self, Transaction};
use super::setup::AppSpec;
use crate::fleet::Event;
use tokio::sync::{mpsc, oneshot};

/// Workers of an app at most.
const WORKERS_MAX: i64 = 1024;

/// The commands that are not answered yet.
pub(super) struct Commands {
    queue: mpsc::Receiver<Command>,
    /// Those under way.
    pending: Vec<Waiting>,
    /// Of the newest reload under way.
    transaction: Option<Transaction>,
}

struct Waiting {
    pending: Pending,
    /// Of the newest reload.
    enforce: Option<Enforce>,
    reply: oneshot::Sender<CommandOutcome>,
}

impl Waiting {
    /// A newer reload decides.
    fn give_way(&mut self) {
        if self.enforce.take().is_some() {
            self.pending.superseded = true;
        }
    }
}

impl Commands {
    pub(super) fn new(queue: mpsc::Receiver<Command>) -> Commands {
        Commands { queue, pending: Vec::new(), transaction: None }
    }

    pub(super) async fn next(&mut self) -> Option<Command> {
        self.queue.recv().await
    }

    pub(super) fn execute(&mut self, Command { kind, reply }: Command, run_state: RunState, apps: &mut Apps) {
        let mut newest = None;
        let begun = match kind {
            _ if run_state != RunState::Run => Err("the proxy is stopping".to_owned()),
            CommandKind::Reload { targets, scope, enforce } => {
                reload::reload(apps, targets, &scope, &mut self.transaction).inspect(|_| {
                    self.pending.iter_mut().for_each(Waiting::give_way);
                    newest = Some(enforce);
                })
            }
            CommandKind::Restart { targets, named } => restart(apps, targets, named),
            CommandKind::Scale(app, to) => scale(apps, &app, to),
            CommandKind::Show(app, shown) => {
                // Nobody may listen any more.
                let _ = shown.send(show(apps, app.as_deref()));
                Ok(Pending::default())
            }
        };
        match begun {
            Ok(pending) => self.pending.push(Waiting { pending, enforce: newest, reply }),
            // Nobody may listen any more.
            Err(why) => drop(reply.send(Err(why))),
        }
    }

    /// Answers the commands whose outcome is known. Tells whether the apps have been asked for something.
    pub(super) fn settle(&mut self, apps: &mut Apps) -> bool {
        let mut asked = false;
        for Waiting { pending, enforce, .. } in &mut self.pending {
            pending.look(apps);
            if !pending.is_over() && !pending.has_failed() {
                continue;
            }
            let Some(enforce) = enforce.take() else { continue };
            let transaction = self.transaction.take().unwrap_or_default();
            if pending.has_failed() {
                transaction.abort(apps, pending);
            } else {
                enforce();
                transaction.commit(apps, pending);
            }
            asked = true;
        }
        let (done, waiting): (Vec<_>, _) = self.pending.drain(..).partition(|waiting| waiting.pending.is_over());
        self.pending = waiting;
        for Waiting { pending, reply, .. } in done {
            let _ = reply.send(pending.outcome());
        }
        asked
    }

    /// Answers all commands, also those that nobody has looked at.
    pub(super) fn answer_all(&mut self, why: &str) {
        let waiting = self.pending.drain(..).map(|waiting| waiting.reply);
        let queued = std::iter::from_fn(|| self.queue.try_recv().ok()).map(|command| command.reply);
        waiting.chain(queued).for_each(|reply| drop(reply.send(Err(why.to_owned()))));
    }
}

fn show(apps: &Apps, name: Option<&str>) -> Vec<Defined> {
    let asked = apps.by_id.values().filter(|app| !app.removed && name.is_none_or(|name| *app.name == *name));
    let defined = |app: &ManagedApp| {
        let definition = app.definitions.get(&app.fleet.generations().0)?;
        let (spec, policy) = (definition.spec.clone(), definition.policy.clone());
        let spec = AppSpec { name: app.name.clone(), spec, policy, pool: app.pool.clone() };
        Some((spec, definition.pinned.given.sent.clone()))
    };
    asked.filter_map(defined).collect()
}

fn restart(apps: &mut Apps, targets: Vec<AppTarget>, named: bool) -> Result<Pending, String> {
    let now = apps.now();
    let mut pending = Pending::default();
    for target in targets {
        let Ok(id) = apps.find(&target.name) else { continue };
        let Some(app) = apps.get_mut(id) else { continue };
        if let Some(why) = app.refuses_commands() {
            match named {
                true => return Err(why),
                // Of all apps, those that can.
                false => pending.done.push(Ok(why)),
            }
            continue;
        }
        let (present, _) = app.fleet.generations();
        let Some(known) = app.definitions.get(&present) else { continue };
        // A reload that came between has pinned it anew.
        let changed = known.spec != target.definition.spec || known.policy != target.definition.policy;
        let definition = if changed { known.clone() } else { target.definition };
        let generation = app.roll(definition, now);
        pending.conditions.push(Condition::Rolled { app: id, generation, why: String::new() });
    }
    Ok(pending)
}

fn scale(apps: &mut Apps, name: &str, to: ScaleTo) -> Result<Pending, String> {
    let (id, now) = (apps.find(name)?, apps.now());
    let app = apps.get_mut(id).ok_or("the app is gone")?;
    if let Some(why) = app.refuses_commands() {
        return Err(why);
    }
    let wanted = match to {
        ScaleTo::Auto => None,
        ScaleTo::Count(n) => Some(i64::from(n)),
        ScaleTo::By(n) => Some(i64::from(app.fleet.desired()) + i64::from(n)),
    };
    let wanted = match wanted {
        Some(n) if !(1..=WORKERS_MAX).contains(&n) => {
            return Err(format!("{name}: an app has 1 to {WORKERS_MAX} workers, not {n}; nothing was changed"));
        }
        wanted => wanted.and_then(|n| u16::try_from(n).ok()),
    };
    let excused = app.failing();
    app.fleet.handle(Event::Scale(wanted), now);
    Ok(Pending { conditions: vec![Condition::Up { app: id, excused }], ..Pending::default() })
}
