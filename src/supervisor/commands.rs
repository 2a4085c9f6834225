//! What people ask of a running supervisor: reload, restart, scale. Each command is answered once its outcome is known.

use super::app::ManagedApp;
use super::apps::Apps;
use super::definition::{Compare, Definition};
use super::messages::{
    AppId, AppTarget, Command, CommandKind, CommandOutcome, Defined, ReloadScope, RunState, ScaleTo,
};
use super::setup::AppSpec;
use crate::fleet::Event;
use crate::worker::{Generation, Slot};
use tokio::sync::{mpsc, oneshot};

/// Workers of an app at most.
const WORKERS_MAX: i64 = 1024;

/// The commands that are not answered yet.
pub(super) struct Commands {
    queue: mpsc::Receiver<Command>,
    /// Those under way.
    pending: Vec<(Pending, oneshot::Sender<CommandOutcome>)>,
}

/// What a command waits for, and what has come of it so far.
#[derive(Default)]
struct Pending {
    conditions: Vec<Condition>,
    done: Vec<CommandOutcome>,
}

enum Condition {
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

impl Commands {
    pub(super) fn new(queue: mpsc::Receiver<Command>) -> Commands {
        Commands { queue, pending: Vec::new() }
    }

    pub(super) async fn next(&mut self) -> Option<Command> {
        self.queue.recv().await
    }

    pub(super) fn execute(&mut self, Command { kind, reply }: Command, run_state: RunState, apps: &mut Apps) {
        let begun = match kind {
            _ if run_state != RunState::Run => Err("the proxy is stopping".to_owned()),
            CommandKind::Reload(targets, scope) => reload(apps, targets, &scope),
            CommandKind::Restart { targets, named } => restart(apps, targets, named),
            CommandKind::Scale(app, to) => scale(apps, &app, to),
            CommandKind::Show(app, shown) => {
                // Nobody may listen any more.
                let _ = shown.send(show(apps, app.as_deref()));
                Ok(Pending::default())
            }
        };
        match begun {
            Ok(pending) => self.pending.push((pending, reply)),
            // Nobody may listen any more.
            Err(why) => drop(reply.send(Err(why))),
        }
    }

    /// Answers the commands whose outcome is known.
    pub(super) fn settle(&mut self, apps: &Apps) {
        self.pending.iter_mut().for_each(|(pending, _)| pending.look(apps));
        let waits = |(pending, _): &(Pending, _)| !pending.conditions.is_empty();
        let (waiting, done) = self.pending.drain(..).partition(waits);
        self.pending = waiting;
        for (pending, reply) in done {
            let _ = reply.send(pending.outcome());
        }
    }

    /// Answers all commands, also those that nobody has looked at.
    pub(super) fn answer_all(&mut self, why: &str) {
        let waiting = self.pending.drain(..).map(|(_, reply)| reply);
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

fn reload(apps: &mut Apps, targets: Vec<AppTarget>, scope: &ReloadScope) -> Result<Pending, String> {
    if targets.is_empty() {
        return Err("nothing was changed: no app would be left".into());
    }
    if let ReloadScope::App(name) = scope {
        let id = apps.find(name)?;
        if let Some(why) = apps.get(id).and_then(ManagedApp::refuses_commands) {
            return Err(why);
        }
    }
    let mut pending = Pending::default();
    let now = apps.now();
    for app in apps.by_id.values_mut() {
        if !app.removed && !targets.iter().any(|target| target.name == app.name) {
            app.removed = true;
            app.fleet.handle(Event::Stop, now);
            pending.done.push(Ok(format!("{}: stops, it is not configured any more", app.name)));
        }
    }
    for target in targets {
        match apps.find(&target.name) {
            Ok(id) => change(apps, id, target, scope, &mut pending),
            Err(_) => add(apps, target, &mut pending),
        }
    }
    Ok(pending)
}

/// Makes of a running app what is configured now.
fn change(apps: &mut Apps, id: AppId, mut target: AppTarget, scope: &ReloadScope, pending: &mut Pending) {
    let now = apps.now();
    let Some(app) = apps.by_id.get_mut(&id) else { return };
    if let Some(why) = app.cannot_become(&target.definition) {
        return pending.done.push(Err(why));
    }
    app.use_pool(target.pool);
    let (present, rolling) = app.fleet.generations();
    let newest = rolling.unwrap_or(present);
    app.admit_users(&target.definition);
    let Some(known) = app.definitions.get_mut(&newest) else { return };
    target.definition.keep_sent(known);
    let why = reasons(&app.name, known, &target.definition, scope);
    if !why.is_empty() && !app.fleet.is_external() {
        if let Err(e) = apps.dir.admit(target.definition.tenant(&target.name)) {
            return pending.done.push(Err(format!("{}: {e}", target.name)));
        }
        let generation = app.roll(target.definition, now);
        return pending.conditions.push(Condition::Rolled { app: id, generation, why: why.join(", ") });
    }
    if let Some(generation) = rolling {
        let why = "it was under way".to_owned();
        return pending.conditions.push(Condition::Rolled { app: id, generation, why });
    }
    known.adopt_release(&target.definition);
    if known.policy == target.definition.policy && known.spec == target.definition.spec {
        return pending.done.push(Ok(unchanged(&app.name, known, scope)));
    }
    let policy = target.definition.policy.clone();
    // Its processes stay, and so does what they were started from.
    let definition = if app.fleet.is_external() { target.definition } else { known.ruled(policy.clone()) };
    app.definitions.insert(newest, definition);
    app.fleet.handle(Event::Adopt(Box::new(policy)), now);
    pending.done.push(Ok(format!("{}: new rules, the same workers", app.name)));
    pending.conditions.push(Condition::Up { app: id, excused: app.failing() });
}

/// Why a reload is to replace the workers of an app; nothing when it is not.
fn reasons(name: &str, known: &Definition, target: &Definition, scope: &ReloadScope) -> Vec<String> {
    match scope {
        ReloadScope::Configured => known.differences(target, Compare::Configured),
        ReloadScope::App(asked) if asked != name => known.differences(target, Compare::Configured),
        ReloadScope::Changed => known.differences(target, Compare::Files),
        // In any case.
        ReloadScope::App(_) => match known.differences(target, Compare::Files) {
            none if none.is_empty() => vec!["as was asked".to_owned()],
            found => found,
        },
    }
}

fn unchanged(name: &str, known: &Definition, scope: &ReloadScope) -> String {
    match (scope, &known.release) {
        (ReloadScope::Changed, Some(release)) => {
            format!("{name}: unchanged since {}; `reload {name}` rolls it", release.since())
        }
        _ => format!("{name}: unchanged"),
    }
}

fn add(apps: &mut Apps, target: AppTarget, pending: &mut Pending) {
    let (name, tenant) = (target.name.clone(), target.definition.tenant(&target.name));
    if let Err(e) = apps.dir.admit(tenant) {
        return pending.done.push(Err(format!("{name}: {e}")));
    }
    let id = apps.add(target);
    apps.handle(id, Event::Start);
    if let Err(e) = apps.open_listener(id, false) {
        apps.by_id.remove(&id);
        return pending.done.push(Err(format!("{name}: {e}")));
    }
    pending.conditions.push(Condition::Up { app: id, excused: Vec::new() });
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
    Ok(Pending { conditions: vec![Condition::Up { app: id, excused }], done: Vec::new() })
}

impl Pending {
    /// Takes the conditions away that are met, or never will be.
    fn look(&mut self, apps: &Apps) {
        let done = &mut self.done;
        self.conditions.retain(|condition| match condition.outcome(apps) {
            Some(outcome) => {
                done.push(outcome);
                false
            }
            None => true,
        });
    }

    fn outcome(self) -> CommandOutcome {
        let failed = self.done.iter().any(Result::is_err);
        // What failed stands first: it is what matters.
        let bad = self.done.iter().filter_map(|outcome| outcome.as_ref().err());
        let good = self.done.iter().filter_map(|outcome| outcome.as_ref().ok());
        let text = bad.chain(good).map(String::as_str).collect::<Vec<_>>().join("\n");
        if failed { Err(text) } else { Ok(text) }
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
        let why = app.why_failed(Some(slot), "a worker failed; it is tried again");
        return Some(Err(format!("{}: {ready} of {desired} workers are ready: {why}", app.name)));
    }
    // Slots that failed before the command say nothing about it.
    let failing = app.failing().len();
    (ready + failing >= desired).then(|| Ok(format!("{}: {ready} workers are ready", app.name)))
}
