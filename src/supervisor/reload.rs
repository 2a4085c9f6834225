//! Makes of the running apps what a file says. What is configured comes into force for all apps or for none: when one
//! fails, the others return to what they were configured as before. Code counts for each app by itself: where nothing
//! but files changed, the configuration before says the same, and who has new workers keeps them.

use super::app::ManagedApp;
use super::apps::Apps;
use super::definition::{Compare, Definition};
use super::messages::{AppId, AppTarget, ReloadScope};
use super::pending::{Condition, Pending};
use crate::fleet::{Event, Time};
use crate::worker::Generation;
use std::collections::{BTreeMap, BTreeSet};

/// Said of a reload in which an app has failed.
pub(super) const NOT_IN_FORCE: &str = "routes, limits and all else of the file stay as they were";

/// A reload under way, and the way back. A newer reload takes it over: the way back is to what was in force before both.
#[derive(Default)]
pub(super) struct Transaction {
    /// How the apps that it configures otherwise were defined.
    before: BTreeMap<AppId, Definition>,
    /// Apps that were not there.
    added: BTreeSet<AppId>,
    /// Apps that are not configured any more. They serve until the new routes are in force.
    left_out: BTreeSet<AppId>,
}

/// Begins a reload, which takes the place of the one under way.
///
/// # Errors
/// Why nothing was begun.
pub(super) fn reload(
    apps: &mut Apps,
    targets: Vec<AppTarget>,
    scope: &ReloadScope,
    under_way: &mut Option<Transaction>,
) -> Result<Pending, String> {
    if targets.is_empty() {
        return Err("nothing was changed: no app would be left".into());
    }
    if let ReloadScope::App(name) = scope {
        let id = apps.find(name)?;
        if let Some(why) = apps.get(id).and_then(ManagedApp::refuses_commands) {
            return Err(why);
        }
    }
    // A new process has read the file already, and knows no other.
    let can_return = *scope != ReloadScope::Configured;
    if can_return {
        check(apps, &targets).map_err(|why| format!("nothing was changed: {why}"))?;
    }
    let mut transaction = under_way.take().unwrap_or_default();
    let mut pending = Pending::default();
    let is_target = |app: &ManagedApp| targets.iter().any(|target| target.name == app.name);
    let left_out = apps.by_id.iter().filter(|(_, app)| !app.removed && !is_target(app));
    transaction.left_out = left_out.map(|(id, _)| *id).collect();
    for target in targets {
        match apps.find(&target.name) {
            Ok(id) => change(apps, id, target, scope, &mut pending, &mut transaction),
            Err(_) => add(apps, target, &mut pending, &mut transaction),
        }
    }
    match can_return {
        true => *under_way = Some(transaction),
        false => transaction.commit(apps, &mut pending),
    }
    Ok(pending)
}

/// All that can be known to fail before anything is touched.
fn check(apps: &Apps, targets: &[AppTarget]) -> Result<(), String> {
    for target in targets {
        let known = apps.find(&target.name).ok().and_then(|id| apps.get(id));
        if let Some(why) = known.and_then(|app| app.cannot_become(&target.definition)) {
            return Err(why);
        }
        let tenant = target.definition.tenant(&target.name);
        apps.dir.admit(tenant).map_err(|e| format!("{}: {e}", target.name))?;
    }
    Ok(())
}

/// Makes of a running app what is configured now.
fn change(
    apps: &mut Apps,
    id: AppId,
    mut target: AppTarget,
    scope: &ReloadScope,
    pending: &mut Pending,
    transaction: &mut Transaction,
) {
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
    transaction.remember(id, known, &target.definition);
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
    if known.is_configured_as(&target.definition) {
        return pending.done.push(Ok(unchanged(&app.name, known, scope)));
    }
    app.adopt(newest, &target.definition, now);
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

fn add(apps: &mut Apps, target: AppTarget, pending: &mut Pending, transaction: &mut Transaction) {
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
    transaction.added.insert(id);
    pending.conditions.push(Condition::Up { app: id, excused: Vec::new() });
}

/// Ends apps that are not configured any more.
fn stop(apps: &mut Apps, ids: impl IntoIterator<Item = AppId>) {
    let now = apps.now();
    for id in ids {
        if let Some(app) = apps.get_mut(id) {
            app.removed = true;
            app.fleet.handle(Event::Stop, now);
        }
    }
}

impl Transaction {
    fn remember(&mut self, id: AppId, known: &Definition, target: &Definition) {
        if !known.is_configured_as(target) && !self.added.contains(&id) {
            self.before.entry(id).or_insert_with(|| known.clone());
        }
    }

    /// All went well, and traffic goes to the new apps.
    pub(super) fn commit(self, apps: &mut Apps, pending: &mut Pending) {
        for app in self.left_out.iter().filter_map(|id| apps.get(*id)) {
            pending.done.push(Ok(format!("{}: stops, it is not configured any more", app.name)));
        }
        stop(apps, self.left_out);
    }

    /// An app has failed: the others return to what they were configured as.
    pub(super) fn abort(self, apps: &mut Apps, pending: &mut Pending) {
        let Transaction { before, added, left_out } = self;
        let of_it = |id: &AppId| before.contains_key(id) || added.contains(id);
        pending.conditions.retain(|condition| match condition {
            Condition::Up { app, .. } => !of_it(app),
            Condition::Rolled { app, .. } => !added.contains(app),
        });
        let now = apps.now();
        for (id, definition) in before {
            if let Some(app) = apps.get_mut(id).filter(|app| !app.removed) {
                give_back(app, id, definition, now, pending);
            }
        }
        for app in added.iter().filter_map(|id| apps.get(*id)).filter(|app| !app.removed) {
            pending.done.push(Ok(format!("{}: is stopped again, it was not configured before", app.name)));
        }
        for app in left_out.iter().filter_map(|id| apps.get(*id)).filter(|app| !app.removed) {
            pending.done.push(Ok(format!("{}: stays", app.name)));
        }
        stop(apps, added);
        pending.done.push(Ok(NOT_IN_FORCE.to_owned()));
    }
}

/// Makes of an app again what it was.
fn give_back(app: &mut ManagedApp, id: AppId, before: Definition, now: Time, pending: &mut Pending) {
    const WHY: &str = "an app that was to change with it has failed";
    let (present, rolling) = app.fleet.generations();
    let is_before =
        |generation: Generation| app.definitions.get(&generation).is_some_and(|known| known.is_configured_as(&before));
    app.admit_users(&before);
    match rolling {
        None if is_before(present) => {}
        // Its condition is there already, and tells.
        Some(generation) if is_before(present) && !is_before(generation) => {
            app.fleet.handle(Event::GiveUp { generation, why: WHY.to_owned() }, now);
        }
        Some(generation) if is_before(generation) => {}
        None if app.fleet.is_external() || app.runs_as(present, &before) => {
            app.adopt(present, &before, now);
            pending.done.push(Ok(format!("{}: its rules of before are in force again: {WHY}", app.name)));
        }
        _ => {
            let generation = app.roll(before, now);
            let why = format!("as it was configured before: {WHY}");
            pending.conditions.push(Condition::Rolled { app: id, generation, why });
        }
    }
}
