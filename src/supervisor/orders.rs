//! What people ask of a running supervisor: reload, restart, scale. Each is answered once its
//! outcome is known.

use super::definition::Definition;
use super::keeper::Keeper;
use super::messages::{Answered, Order, RunState, To, Wanted, What};
use super::room::Room;
use super::{AppSpec, Control};
use crate::fleet::Event;
use crate::worker::{Generation, Slot};
use tokio::sync::oneshot;

/// Most workers of an app.
const MOST: i64 = 1024;

/// An order under way.
pub(super) struct Pending {
    parts: Vec<Part>,
    done: Vec<Answered>,
    reply: Option<oneshot::Sender<Answered>>,
}

/// What an order waits for.
enum Part {
    Rolled {
        room: usize,
        generation: Generation,
    },
    /// The app has as many ready workers as it is to have.
    Up {
        room: usize,
        slots: Vec<Slot>,
    },
}

impl Control {
    /// Makes the apps as they are given: those whose definition or real directory changed roll out,
    /// new ones start, missing ones stop; all others are not touched. An app that fails keeps its
    /// old generation. A newer reload takes the place of one under way.
    pub(crate) async fn reload(&self, apps: Vec<AppSpec>) -> Answered {
        let pin = move || apps.into_iter().map(pinned).collect::<Vec<_>>();
        let pinned = tokio::task::spawn_blocking(pin).await.map_err(|e| e.to_string())?;
        let (good, bad): (Vec<_>, Vec<_>) = pinned.into_iter().partition(Result::is_ok);
        if !bad.is_empty() {
            let bad: Vec<String> = bad.into_iter().filter_map(Result::err).collect();
            return Err(format!("nothing was changed: {}", bad.join("\n")));
        }
        self.order(What::Reload(good.into_iter().filter_map(Result::ok).collect())).await
    }

    /// Replaces every worker of an app, or of all, by one of the same definition.
    pub(crate) async fn restart(&self, app: Option<String>) -> Answered {
        self.order(What::Restart(app)).await
    }

    pub(crate) async fn scale(&self, app: &str, to: To) -> Answered {
        self.order(What::Scale(app.to_owned(), to)).await
    }

    async fn order(&self, what: What) -> Answered {
        let (reply, answer) = oneshot::channel();
        let gone = |_| "the supervisor has ended".to_owned();
        self.orders.send(Order { what, reply }).await.map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))?
    }
}

impl Wanted {
    /// Where the directory may not be there yet: the start of a worker says what is wrong.
    pub(super) fn pin_or_keep(app: AppSpec) -> Wanted {
        Wanted { name: app.name, definition: Definition::pin_or_keep(app.spec, app.policy), pool: app.pool }
    }
}

fn pinned(app: AppSpec) -> Result<Wanted, String> {
    let definition = Definition::pin(app.spec, app.policy).map_err(|why| format!("{}: {why}", app.name))?;
    Ok(Wanted { name: app.name, definition, pool: app.pool })
}

impl Keeper {
    pub(super) fn obey(&mut self, Order { what, reply }: Order) {
        let begun = match what {
            _ if *self.wishes.borrow() != RunState::Run => Err("the proxy is stopping".to_owned()),
            What::Reload(apps) => self.reload(apps),
            What::Restart(app) => self.restart(app.as_deref()),
            What::Scale(app, to) => self.scale(&app, to),
        };
        match begun {
            Ok(pending) => self.pending.push(Pending { reply: Some(reply), ..pending }),
            // Who asked may have left.
            Err(why) => drop(reply.send(Err(why))),
        }
    }

    fn find(&self, app: &str) -> Result<usize, String> {
        let found = self.rooms.iter().find(|(_, room)| *room.name == *app && !room.removed);
        found.map(|(at, _)| *at).ok_or_else(|| format!("there is no app {app}"))
    }

    fn reload(&mut self, apps: Vec<Wanted>) -> Result<Pending, String> {
        if apps.is_empty() {
            return Err("nothing was changed: no app would be left".into());
        }
        let mut pending = Pending { parts: Vec::new(), done: Vec::new(), reply: None };
        for (at, room) in &mut self.rooms {
            if !room.removed && !apps.iter().any(|app| app.name == room.name) {
                room.removed = true;
                self.leaving.push(*at);
                pending.done.push(Ok(format!("{}: stops, it is not configured any more", room.name)));
            }
        }
        for app in apps {
            match self.find(&app.name) {
                Ok(at) => self.change(at, app, &mut pending),
                Err(_) => self.add(app, &mut pending),
            }
        }
        Ok(pending)
    }

    fn change(&mut self, at: usize, app: Wanted, pending: &mut Pending) {
        let now = self.now();
        let Some(room) = self.rooms.get_mut(&at) else { return };
        if let Some(why) = room.cannot_become(&app.definition) {
            return pending.done.push(Err(why));
        }
        room.use_pool(app.pool);
        let (present, target) = room.fleet.generations();
        let newest = target.unwrap_or(present);
        room.admit_users(&app.definition);
        let same = room.definitions.get(&newest).is_some_and(|d| d.runs_the_same(&app.definition));
        let same = same || room.fleet.is_external();
        if !same {
            if let Err(e) = self.dir.admit(app.definition.tenant(&app.name)) {
                return pending.done.push(Err(format!("{}: {e}", app.name)));
            }
            let generation = room.roll(app.definition, now);
            return pending.parts.push(Part::Rolled { room: at, generation });
        }
        if let Some(generation) = target {
            return pending.parts.push(Part::Rolled { room: at, generation });
        }
        let alike = |d: &Definition| d.policy == app.definition.policy && d.spec == app.definition.spec;
        let unchanged = room.definitions.get(&newest).is_some_and(alike);
        if unchanged {
            return pending.done.push(Ok(format!("{}: unchanged", room.name)));
        }
        let policy = app.definition.policy.clone();
        room.definitions.insert(newest, app.definition);
        room.fleet.handle(Event::Adopt(Box::new(policy)), now);
        pending.done.push(Ok(format!("{}: new rules, the same workers", room.name)));
        pending.parts.push(Part::Up { room: at, slots: room.failing() });
    }

    fn add(&mut self, app: Wanted, pending: &mut Pending) {
        let tenant = app.definition.tenant(&app.name);
        if let Err(e) = self.dir.admit(tenant) {
            return pending.done.push(Err(format!("{}: {e}", app.name)));
        }
        // Its namesake may still be stopping: no number is used twice.
        let namesake = self.rooms.values().filter(|room| room.name == app.name).map(Room::next_incarnation).max();
        let first = self.dir.first_incarnation(&app.name).0.max(namesake.unwrap_or(1));
        let at = self.next_room;
        self.next_room += 1;
        let seed = super::effects::random_seed();
        let mut room = Room::new(app.name, app.definition, app.pool, seed, crate::worker::Incarnation(first));
        room.fleet.handle(Event::Start, self.now());
        let name = room.name.clone();
        self.rooms.insert(at, room);
        if let Err(e) = self.open_entrance(at, false) {
            self.rooms.remove(&at);
            return pending.done.push(Err(format!("{name}: {e}")));
        }
        pending.parts.push(Part::Up { room: at, slots: Vec::new() });
    }

    fn restart(&mut self, app: Option<&str>) -> Result<Pending, String> {
        let rooms = match app {
            Some(app) => vec![self.find(app)?],
            None => self.rooms.iter().filter(|(_, room)| !room.removed).map(|(at, _)| *at).collect(),
        };
        let now = self.now();
        let mut pending = Pending { parts: Vec::new(), done: Vec::new(), reply: None };
        for at in rooms {
            let Some(room) = self.rooms.get_mut(&at) else { continue };
            if let Some(why) = room.refuses_orders() {
                match app {
                    Some(_) => return Err(why),
                    // Of all apps, those that can.
                    None => pending.done.push(Ok(why)),
                }
                continue;
            }
            let (present, _) = room.fleet.generations();
            let Some(definition) = room.definitions.get(&present).cloned() else { continue };
            let generation = room.roll(definition, now);
            pending.parts.push(Part::Rolled { room: at, generation });
        }
        Ok(pending)
    }

    fn scale(&mut self, app: &str, to: To) -> Result<Pending, String> {
        let (at, now) = (self.find(app)?, self.now());
        let room = self.rooms.get_mut(&at).ok_or("the app is gone")?;
        if let Some(why) = room.refuses_orders() {
            return Err(why);
        }
        let wanted = match to {
            To::Auto => None,
            To::Count(n) => Some(i64::from(n)),
            To::By(n) => Some(i64::from(room.fleet.desired()) + i64::from(n)),
        };
        let wanted = match wanted {
            Some(n) if !(1..=MOST).contains(&n) => {
                return Err(format!("{app}: an app has 1 to {MOST} workers, not {n}; nothing was changed"));
            }
            wanted => wanted.and_then(|n| u16::try_from(n).ok()),
        };
        let slots = room.failing();
        room.fleet.handle(Event::Scale(wanted), now);
        Ok(Pending { parts: vec![Part::Up { room: at, slots }], done: Vec::new(), reply: None })
    }

    /// Answers all orders, also those that nobody has looked at.
    pub(super) fn answer_all(&mut self, why: &str) {
        let waiting = self.pending.drain(..).filter_map(|pending| pending.reply);
        let queued = std::iter::from_fn(|| self.orders.try_recv().ok()).map(|order| order.reply);
        waiting.chain(queued).for_each(|reply| drop(reply.send(Err(why.to_owned()))));
    }

    /// Answers the orders whose outcome is known.
    pub(super) fn settle_orders(&mut self) {
        let rooms = &self.rooms;
        for pending in &mut self.pending {
            let parts = std::mem::take(&mut pending.parts);
            for part in parts {
                match part.outcome(rooms) {
                    Some(outcome) => pending.done.push(outcome),
                    None => pending.parts.push(part),
                }
            }
        }
        let (done, waiting): (Vec<_>, Vec<_>) = self.pending.drain(..).partition(|pending| pending.parts.is_empty());
        self.pending = waiting;
        for mut pending in done {
            if let Some(reply) = pending.reply.take() {
                let _ = reply.send(pending.answer());
            }
        }
    }
}

impl Pending {
    fn answer(self) -> Answered {
        let failed = self.done.iter().any(Result::is_err);
        // What failed stands first: it is what matters.
        let bad = self.done.iter().filter_map(|outcome| outcome.as_ref().err());
        let good = self.done.iter().filter_map(|outcome| outcome.as_ref().ok());
        let text = bad.chain(good).map(String::as_str).collect::<Vec<_>>().join("\n");
        if failed { Err(text) } else { Ok(text) }
    }
}

impl Part {
    fn outcome(&self, rooms: &std::collections::BTreeMap<usize, Room>) -> Option<Answered> {
        match self {
            Part::Rolled { room, generation } => match rooms.get(room) {
                Some(room) => room.rollouts.get(generation).cloned(),
                None => Some(Err("the app is gone".into())),
            },
            Part::Up { room, slots } => {
                let Some(room) = rooms.get(room).filter(|room| !room.removed) else {
                    return Some(Err("the app is gone".into()));
                };
                if room.fleet.is_external() {
                    return Some(Ok(format!("{}: its workers join by themselves", room.name)));
                }
                let (ready, desired) = (room.serving(), usize::from(room.fleet.desired()));
                if let Some(slot) = room.failing().into_iter().find(|slot| !slots.contains(slot)) {
                    let why = room.why_failed(Some(slot), "a worker failed; it is tried again");
                    return Some(Err(format!("{}: {ready} of {desired} workers are ready: {why}", room.name)));
                }
                // Slots that failed before the order say nothing about it.
                let excused = room.failing().len();
                (ready + excused >= desired).then(|| Ok(format!("{}: {ready} workers are ready", room.name)))
            }
        }
    }
}
