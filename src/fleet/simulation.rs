//! The fleet in a world that goes wrong in every way, by seed.
//!
//! `FLEET_SEED=17 cargo test --lib fleet::simulation` replays one seed and prints every step;
//! `FLEET_SEEDS=100000` tries so many.

use super::policy::{Crashes, Health, Limits, Scaling};
use super::*;
use std::collections::{BTreeSet, HashSet};

/// Lives per run of the tests; `FLEET_SEEDS` says another number.
const SEEDS: u64 = if cfg!(debug_assertions) { 250 } else { 10_000 };

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    None,
    /// The old worker goes before the new one is ready.
    EarlyRetirement,
    /// A crashed worker starts from the generation that is rolling out.
    WrongGeneration,
}

fn ms(n: u64) -> Time {
    Duration::from_millis(n)
}

/// What the world plays with a process.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// Ends by itself so long after its start.
    crash: Option<Time>,
    /// Says hello and where it listens so long after its start.
    listens: Option<Time>,
    says_ready: Option<Time>,
    /// Probes fail until so long after its start.
    answers: Time,
    /// Ends so long after the shutdown message or the stop signal.
    obeys: Option<Time>,
    /// SIGKILL has no effect.
    immortal: bool,
    /// Requests end so long after a drain begins.
    idle: Option<Time>,
    /// Its event loop stands still from so long after its start, for so long.
    hangs: Option<(Time, Time)>,
    /// Grows by so many bytes a second.
    leak: u64,
    busy: f64,
}

struct World {
    random: fastrand::Rng,
    fleet: Fleet,
    policy: Policy,
    now: Time,
    /// What will be told, ordered by time, then by number.
    future: BTreeSet<(Time, u64, Happens)>,
    number: u64,
    processes: BTreeMap<Incarnation, Process>,
    published: Vec<(Incarnation, bool)>,
    cleaned: HashSet<Incarnation>,
    /// Who sat where, also if no process came of it.
    seated: BTreeMap<Incarnation, Slot>,
    /// When the last one in a slot was gone.
    gone: BTreeMap<Slot, Time>,
    calm: bool,
    verbose: bool,
    /// Generations whose code does not work.
    broken: HashSet<Generation>,
    /// The newest that was rolled out to the end, and those begun whose end was not told.
    committed: Generation,
    rolling: BTreeSet<Generation>,
    /// Where drains began.
    drains: BTreeMap<Incarnation, Time>,
}

struct Process {
    slot: Slot,
    fate: Fate,
    started: Time,
    alive: bool,
    /// Whether its exit was told, or lost for good.
    told: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    Tell(Told, Incarnation, u32),
    Dies(Incarnation),
    Stop,
    Kill,
    Roll,
    Scale,
    Second,
    Look,
    /// Another process takes over.
    Inherit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Spawned,
    SpawnFailed,
    Hello,
    HungUp,
    Path,
    PathClosed,
    AppReady,
    ProbeOk,
    ProbeFailed,
    CheckOk,
    CheckFailed,
    Exited,
    Cleaned,
}

impl World {
    fn new(seed: u64, verbose: bool) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let policy = World::policy(&mut random);
        World {
            fleet: Fleet::new("sim".into(), policy.clone(), random.u64(..), random.u32(1..100)),
            random,
            policy,
            now: ms(0),
            future: BTreeSet::new(),
            number: 0,
            processes: BTreeMap::new(),
            published: Vec::new(),
            cleaned: HashSet::new(),
            seated: BTreeMap::new(),
            gone: BTreeMap::new(),
            calm: false,
            verbose,
            broken: HashSet::new(),
            committed: Generation(1),
            rolling: BTreeSet::new(),
            drains: BTreeMap::new(),
        }
    }

    fn policy(random: &mut fastrand::Rng) -> Policy {
        let backoff_min = ms(random.u64(0..500));
        let instances = random.u16(1..6);
        Policy {
            instances,
            max_instances: if random.bool() { instances + random.u16(0..4) } else { instances },
            start_timeout: ms(random.u64(50..5000)),
            wait_ready: random.bool(),
            stop_timeout: ms(random.u64(0..3000)),
            drain_timeout: ms(random.u64(0..3000)),
            stop_signal: 15,
            backoff_min,
            backoff_max: backoff_min + ms(random.u64(0..5000)),
            min_uptime: ms(random.u64(0..3000)),
            min_ready: ms(random.u64(0..1500)),
            surge: random.u16(1..3),
            drain_window: ms(random.u64(0..2000)),
            crashes: Crashes {
                max: random.u32(1..8),
                window: ms(random.u64(100..20_000)),
                retry: ms(random.u64(100..8000)),
            },
            health: Health {
                heartbeat_timeout: ms(random.u64(1500..4000)),
                unhealthy_timeout: ms(random.u64(100..4000)),
                interval: ms(random.u64(100..3000)),
                unhealthy_threshold: random.u32(1..4),
                healthy_threshold: random.u32(1..3),
                ..Health::default()
            },
            scaling: Scaling {
                up_window: ms(random.u64(0..5000)),
                down_window: ms(random.u64(0..10_000)),
                young: ms(random.u64(0..2000)),
                cordon_timeout: ms(random.u64(0..8000)),
                max_sessions: random.bool().then(|| random.u32(1..50)),
                ..Scaling::default()
            },
            limits: Limits {
                memory: random.bool().then_some(100 << 20),
                requests: random.bool().then(|| random.u64(10..1000)),
                lifetime: random.bool().then(|| ms(random.u64(500..20_000))),
            },
            external: false,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        !self.calm && self.random.u32(0..100) < percent
    }

    fn after(&mut self, pause: Time, happens: Happens) {
        self.number += 1;
        self.future.insert((self.now + pause, self.number, happens));
    }

    /// Tells after a moment; may be lost, late or told twice.
    fn tell(&mut self, pause: Time, told: Told, incarnation: Incarnation, attempt: u32) {
        if self.chance(3) {
            return;
        }
        let late = if self.chance(5) { ms(self.random.u64(0..8000)) } else { ms(self.random.u64(0..5)) };
        self.after(pause + late, Happens::Tell(told, incarnation, attempt));
        if self.chance(3) {
            let again = ms(self.random.u64(0..1000));
            self.after(pause + late + again, Happens::Tell(told, incarnation, attempt));
        }
    }

    fn fate(&mut self) -> Fate {
        let some =
            |random: &mut fastrand::Rng, percent, most| (random.u32(0..100) < percent).then(|| ms(random.u64(0..most)));
        if self.calm {
            let zero = Some(ms(0));
            return Fate {
                crash: None,
                listens: zero,
                says_ready: zero,
                answers: ms(0),
                obeys: zero,
                immortal: false,
                idle: zero,
                hangs: None,
                leak: 0,
                busy: 0.5,
            };
        }
        let random = &mut self.random;
        Fate {
            crash: some(random, 60, 6000),
            listens: some(random, 90, 2000),
            says_ready: some(random, 80, 2000),
            answers: ms(random.u64(0..1500)),
            obeys: some(random, 80, 4000),
            immortal: random.u32(0..100) < 1,
            idle: some(random, 80, 4000),
            hangs: some(random, 20, 8000).map(|at| (at, ms(random.u64(0..20_000)))),
            leak: if random.u32(0..100) < 20 { random.u64(0..40 << 20) } else { 0 },
            busy: random.f64(),
        }
    }

    fn hangs(&self, incarnation: Incarnation) -> bool {
        let Some(process) = self.processes.get(&incarnation) else { return false };
        let age = self.now.saturating_sub(process.started);
        process.fate.hangs.is_some_and(|(from, long)| age >= from && age < from + long)
    }

    /// Workers that serve as the user wants it.
    fn serving(&self) -> usize {
        self.fleet.workers().filter(|w| w.serves()).count()
    }

    fn handle(&mut self, event: Event) {
        if self.verbose {
            println!("{:?} {event:?}", self.now);
        }
        // What may take a ready worker away, beside ourselves.
        let blameless = !matches!(
            event,
            Event::Exited { .. }
                | Event::SpawnFailed { .. }
                | Event::PathClosed { .. }
                | Event::Path { .. }
                | Event::Checked { .. }
                | Event::Stop
                | Event::Kill
                | Event::Spawned { .. }
        );
        let before = self.serving();
        let served: BTreeSet<Incarnation> =
            self.fleet.workers().filter(|w| w.serves()).map(|w| w.incarnation).collect();
        self.fleet.handle(event, self.now);
        self.fleet.verify().unwrap();
        if blameless && self.fleet.goal == Goal::Run {
            // Who is well is never asked to end without a drain.
            let ill = |w: &&Worker| match w.state {
                State::Unhealthy | State::Killing => true,
                State::Stopping => w.policy.drain_timeout > Time::ZERO,
                _ => false,
            };
            let lost = self.fleet.workers().filter(ill).filter(|w| served.contains(&w.incarnation)).count();
            let floor = before.min(usize::from(self.fleet.desired())).saturating_sub(lost);
            let seen =
                || self.fleet.workers().map(|w| format!("{} {} {:?} {}", w.incarnation, w.state, w.role, w.reason));
            assert!(self.serving() >= floor, "{before} served, {lost} fell ill: {:#?}", seen().collect::<Vec<_>>());
        }
        while let Some(action) = self.fleet.poll_action() {
            if self.verbose {
                println!("{:?}     {action:?}", self.now);
            }
            self.carry_out(action);
        }
        // Whoever may get traffic is who was published, at every moment between steps.
        assert_eq!(self.published, self.fleet.seats().collect::<Vec<_>>(), "the pool was not told");
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Note { .. } | Action::Alarm { .. } | Action::Examine { .. } => {}
            Action::CloseTunnels { incarnation, .. } => {
                self.drains.entry(incarnation).or_insert(self.now);
            }
            Action::Rolled { generation, outcome } => {
                assert!(self.rolling.remove(&generation), "generation {generation} ended twice");
                if outcome.is_ok() {
                    assert!(!self.broken.contains(&generation), "broken code was rolled out");
                    self.committed = generation;
                }
            }
            Action::Check { incarnation, attempt } => {
                let Some(process) = self.processes.get(&incarnation) else { return };
                let ok = process.alive && !self.hangs(incarnation) && !self.chance(5);
                let told = if ok { Told::CheckOk } else { Told::CheckFailed };
                self.tell(ms(1), told, incarnation, attempt);
            }
            Action::Publish => self.published = self.fleet.seats().collect(),
            Action::Spawn { slot, incarnation, generation } => self.spawn(slot, incarnation, generation),
            Action::Probe { incarnation, attempt } => {
                let Some(process) = self.processes.get(&incarnation) else { return };
                let ok = process.alive && self.now >= process.started + process.fate.answers;
                let told = if ok { Told::ProbeOk } else { Told::ProbeFailed };
                self.tell(ms(1), told, incarnation, attempt);
            }
            Action::SendShutdown { incarnation } | Action::Signal { incarnation, .. } => {
                if let Some(obeys) = self.processes.get(&incarnation).and_then(|p| p.fate.obeys) {
                    self.after(obeys, Happens::Dies(incarnation));
                }
            }
            Action::KillGroup { incarnation } => {
                let Some(process) = self.processes.get(&incarnation) else { return };
                if !process.fate.immortal {
                    self.after(ms(1), Happens::Dies(incarnation));
                }
            }
            Action::Cleanup { incarnation } => {
                assert!(self.cleaned.insert(incarnation), "#{incarnation} is cleaned up after twice");
                self.gone.insert(self.seated[&incarnation], self.now);
                if let Some(process) = self.processes.get(&incarnation) {
                    let given_up = process.fate.immortal || process.told;
                    assert!(!process.alive || given_up, "#{incarnation} is cleaned up after while it lives");
                }
                self.tell(ms(2), Told::Cleaned, incarnation, 0);
            }
        }
    }

    fn spawn(&mut self, slot: Slot, incarnation: Incarnation, generation: Generation) {
        let worker = self.fleet.workers().find(|w| w.incarnation == incarnation);
        let role = worker.map_or(Role::Retired, |w| w.role);
        if role == Role::Seated {
            let of = |i: &Incarnation| self.fleet.workers().find(|w| w.incarnation == *i);
            let alive = |(i, p): &(&Incarnation, &Process)| {
                p.slot == slot
                    && p.alive
                    && !p.told
                    && !p.fate.immortal
                    && of(i).is_some_and(|w| w.role == Role::Seated)
            };
            assert_eq!(self.processes.iter().filter(alive).count(), 0, "slot {slot} is taken");
            assert_eq!(generation, self.committed, "a restart is no deploy");
        }
        self.seated.insert(incarnation, slot);
        if self.chance(10) {
            self.tell(ms(3), Told::SpawnFailed, incarnation, 0);
            return;
        }
        let mut fate = self.fate();
        if self.broken.contains(&generation) {
            fate.listens = None;
            fate.crash = fate.crash.filter(|at| *at < ms(500)).or(Some(ms(300)));
        }
        let process = Process { slot, fate, started: self.now, alive: true, told: false };
        assert!(self.processes.insert(incarnation, process).is_none(), "#{incarnation} is used twice");
        self.tell(ms(0), Told::Spawned, incarnation, 0);
        if let Some(at) = fate.listens {
            self.tell(at, Told::Hello, incarnation, 0);
            self.tell(at, Told::Path, incarnation, 0);
        }
        if let Some(at) = fate.says_ready {
            self.tell(at, Told::AppReady, incarnation, 0);
        }
        if let Some(at) = fate.crash {
            self.after(at, Happens::Dies(incarnation));
        }
        for told in [Told::PathClosed, Told::Path, Told::HungUp] {
            if self.chance(10) {
                let at = ms(self.random.u64(0..5000));
                self.tell(at, told, incarnation, 0);
            }
        }
    }

    fn dies(&mut self, incarnation: Incarnation) {
        let Some(process) = self.processes.get_mut(&incarnation).filter(|p| p.alive) else { return };
        process.alive = false;
        self.tell(ms(1), Told::Exited, incarnation, 0);
    }

    fn told(&mut self, told: Told, incarnation: Incarnation, attempt: u32) {
        if let Some(process) = self.processes.get_mut(&incarnation).filter(|_| told == Told::Exited) {
            process.told = true;
        }
        let text = || "said the world".to_owned();
        self.handle(match told {
            Told::Spawned => Event::Spawned { incarnation, pid: incarnation.0 + 1000 },
            Told::SpawnFailed => Event::SpawnFailed { incarnation, why: text() },
            Told::Hello => Event::Hello { incarnation },
            Told::HungUp => Event::HungUp { incarnation },
            Told::Path => Event::Path { incarnation },
            Told::PathClosed => Event::PathClosed { incarnation },
            Told::AppReady => Event::AppReady { incarnation },
            Told::ProbeOk => Event::ProbeOk { incarnation, attempt },
            Told::ProbeFailed => Event::ProbeFailed { incarnation, attempt, why: text() },
            Told::CheckOk => Event::Checked { incarnation, attempt, answer: Ok(()) },
            Told::CheckFailed => Event::Checked { incarnation, attempt, answer: Err(text()) },
            Told::Exited => Event::Exited { incarnation, how: text() },
            Told::Cleaned => Event::Cleaned { incarnation },
        });
    }

    /// Goes on until `end`; returns early when the fleet is finished.
    fn run(&mut self, end: Time) {
        for _ in 0..200_000 {
            let happens = self.future.first().map(|(at, ..)| *at);
            let Some(next) = happens.into_iter().chain(self.fleet.next_deadline()).min() else { return };
            if next > end || self.fleet.is_finished() {
                return;
            }
            self.now = self.now.max(next);
            if happens == Some(next) {
                let Some((_, _, happens)) = self.future.pop_first() else { return };
                match happens {
                    Happens::Tell(told, incarnation, attempt) => self.told(told, incarnation, attempt),
                    Happens::Dies(incarnation) => self.dies(incarnation),
                    Happens::Stop => self.stop(),
                    Happens::Kill => self.handle(Event::Kill),
                    Happens::Roll => self.roll(),
                    Happens::Scale => {
                        let to = self.random.bool().then(|| self.random.u16(1..8));
                        self.handle(Event::Scale(to));
                    }
                    Happens::Second => self.second(),
                    Happens::Look => self.look(),
                    Happens::Inherit => self.inherit(),
                }
            } else {
                // A timer may fire late.
                let late = if self.chance(10) { ms(self.random.u64(0..500)) } else { ms(0) };
                self.now += late;
                self.handle(Event::Tick);
            }
        }
        panic!("too many steps: something spins");
    }

    fn stop(&mut self) {
        self.handle(Event::Stop);
    }

    fn roll(&mut self) {
        let generation = Generation(self.fleet.newest().0 + 1);
        let policy = if self.random.bool() { self.policy.clone() } else { World::policy(&mut self.random) };
        if self.chance(40) {
            self.broken.insert(generation);
        }
        self.rolling.insert(generation);
        self.handle(Event::Roll { generation, policy: Box::new(policy) });
    }

    /// The proxy is replaced, or killed and started again a moment later: all that it was to be told
    /// meanwhile is lost, but the ends of processes are seen, as is who was being started.
    fn inherit(&mut self) {
        let text = serde_json::to_string(&self.fleet.save()).unwrap();
        let saved = serde_json::from_str(&text).unwrap();
        let planted = self.fleet.planted;
        self.now += ms(if self.random.bool() { 0 } else { self.random.u64(0..5000) });
        // Nobody was there to be told, but processes went on.
        let missed: Vec<_> = self.future.iter().filter(|(at, ..)| *at <= self.now).cloned().collect();
        for item in missed {
            self.future.remove(&item);
            match item.2 {
                Happens::Dies(incarnation) => self.dies(incarnation),
                Happens::Tell(Told::Spawned | Told::SpawnFailed | Told::Path | Told::Exited, ..) => {
                    self.future.insert((self.now, item.1, item.2));
                }
                Happens::Tell(..) => {}
                other => self.after(ms(0), other),
            }
        }
        self.fleet = Fleet::restore("sim".into(), saved, self.now).unwrap();
        self.fleet.planted = planted;
        for worker in self.fleet.workers().filter(|w| !w.is_alive()) {
            self.cleaned.remove(&worker.incarnation);
        }
        if self.verbose {
            println!("{:?} taken over", self.now);
        }
        let living: Vec<_> = self.processes.iter().filter(|(_, p)| p.alive).map(|(i, p)| (*i, p.fate)).collect();
        self.handle(Event::Tick);
        for (incarnation, _) in living.iter().filter(|(_, fate)| fate.listens.is_some()) {
            self.tell(ms(100), Told::Hello, *incarnation, 0);
        }
    }

    /// What the supervisor looks at every moment, while anybody drains.
    fn look(&mut self) {
        let draining = self.fleet.workers().filter(|w| w.state == State::Draining).map(|w| w.incarnation);
        for incarnation in draining.collect::<Vec<_>>() {
            let since = *self.drains.entry(incarnation).or_insert(self.now);
            let idle = self.processes.get(&incarnation).and_then(|p| p.fate.idle);
            let busy = u32::from(idle.is_none_or(|idle| self.now < since + idle));
            let carried = Carried { active: busy, parked: busy, tunnels: busy };
            self.handle(Event::Carries { incarnation, carried });
        }
        if !self.fleet.is_finished() {
            self.after(ms(200), Happens::Look);
        }
    }

    fn second(&mut self) {
        let alive: Vec<(Incarnation, Fate, Time)> =
            self.processes.iter().filter(|(_, p)| p.alive).map(|(i, p)| (*i, p.fate, p.started)).collect();
        for (incarnation, fate, started) in alive {
            let age = self.now.saturating_sub(started).as_secs();
            if fate.listens.is_some() && !self.hangs(incarnation) && !self.chance(1) {
                self.handle(Event::Heartbeat { incarnation });
            }
            let sessions = if self.chance(50) { self.random.u64(0..100) } else { 0 };
            let load = Load {
                elu: Some(fate.busy),
                cpu: None,
                rss: Some((50 << 20) + fate.leak * age),
                carried: Carried { active: 0, parked: 0, tunnels: 0 },
                sessions,
                requests: age * 20,
            };
            self.handle(Event::Measured { incarnation, load });
        }
        let queue_wait = ms(if self.chance(20) { 500 } else { 0 });
        let head_room = self.random.bool().then(|| self.random.u64(0..1 << 30));
        self.handle(Event::Second(Surroundings { queue_wait, head_room }));
        if !self.fleet.is_finished() {
            self.after(ms(1000), Happens::Second);
        }
        if self.fleet.goal == Goal::Run && self.chance(4) {
            // The machine slept.
            self.now += ms(self.random.u64(0..20_000));
        }
    }

    /// A stop ends within the sum of its limits.
    fn patience(&self) -> Time {
        let kills = rules::KILL_RETRY * (rules::KILL_ROUNDS + 1);
        let of = |f: fn(&Policy) -> Time| self.fleet.policies.values().map(|p| f(p)).max().unwrap_or_default();
        let stop = of(|p| p.drain_timeout + p.stop_timeout) + rules::SIGNAL_DELAY;
        stop + kills + rules::CLEANUP_LOST + ms(20_000)
    }
}

fn one_life(seed: u64, verbose: bool, bug: Bug) {
    let mut world = World::new(seed, verbose);
    world.fleet.planted = bug;
    if verbose {
        println!("{:?}", world.policy);
    }
    world.handle(Event::Start);
    let storm = ms(world.random.u64(0..40_000));
    world.after(ms(500), Happens::Second);
    world.after(ms(0), Happens::Look);
    for happens in [Happens::Roll, Happens::Roll, Happens::Roll, Happens::Scale, Happens::Scale] {
        if world.chance(40) {
            let at = ms(world.random.u64(0..40_000));
            world.after(at, happens);
        }
    }
    while world.chance(50) {
        let at = ms(world.random.u64(0..50_000));
        world.after(at, Happens::Inherit);
    }
    world.run(storm);
    if world.random.bool() {
        // When nothing goes wrong any more, everybody is there before long.
        world.calm = true;
        world.future.retain(|(_, _, happens)| !matches!(happens, Happens::Roll | Happens::Scale));
        let policies: Vec<_> = world.fleet.policies.values().cloned().collect();
        let of = |f: fn(&Policy) -> Time| policies.iter().map(|p| f(p)).max().unwrap_or_default();
        let each = of(|p| p.start_timeout + p.min_ready + p.drain_timeout + p.stop_timeout);
        let rest = of(|p| p.backoff_max + p.crashes.retry + p.crashes.window + p.health.unhealthy_timeout);
        let limit = world.now + (each + rest) * 16 + world.patience() * 2;
        let whole = |world: &World| world.rolling.is_empty() && world.serving() >= usize::from(world.fleet.desired());
        while !whole(&world) && world.now < limit {
            world.run(world.now + ms(2000));
        }
        let (ready, wanted) = (world.serving(), usize::from(world.fleet.desired()));
        // One may be on its way to another: limits go on in the calm.
        assert!(ready + 1 >= wanted, "{ready} of {wanted}: {:#?}", world.fleet.workers().collect::<Vec<_>>());
        assert!(world.rolling.is_empty(), "a rollout has no end");
        world.calm = false;
    }
    world.after(ms(0), Happens::Stop);
    if world.chance(30) {
        let pause = ms(world.random.u64(0..4000));
        world.after(pause, Happens::Kill);
    }
    let end = world.now + world.patience();
    world.run(end);
    assert!(world.fleet.is_finished(), "not finished: {:?}", world.fleet.workers().collect::<Vec<_>>());
    assert!(world.published.is_empty());
    for (incarnation, process) in &world.processes {
        assert!(!process.alive || process.fate.immortal || process.told, "#{incarnation} is left behind");
    }
}

fn number(name: &str) -> Option<u64> {
    #[allow(clippy::disallowed_methods)] // not a rule of the fleet
    let value = std::env::var(name);
    value.ok().map(|value| value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

#[test]
fn every_invariant_holds_in_every_life() {
    if let Some(seed) = number("FLEET_SEED") {
        return one_life(seed, true, Bug::None);
    }
    for seed in 0..number("FLEET_SEEDS").unwrap_or(SEEDS) {
        if std::panic::catch_unwind(|| one_life(seed, false, Bug::None)).is_err() {
            panic!("seed {seed} failed; FLEET_SEED={seed} replays it");
        }
    }
}

#[test]
fn a_planted_bug_is_found() {
    for bug in [Bug::EarlyRetirement, Bug::WrongGeneration] {
        let found = (0..300).find(|seed| std::panic::catch_unwind(|| one_life(*seed, false, bug)).is_err());
        assert!(found.is_some(), "{bug:?} was not noticed");
    }
}
