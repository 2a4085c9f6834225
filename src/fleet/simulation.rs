//! The fleet in a world that goes wrong in every way, by seed.
//!
//! `FLEET_SEED=17 cargo test --lib fleet::simulation` replays one seed and prints every step;
//! `FLEET_SEEDS=100000` tries so many.

use super::*;
use std::collections::{BTreeSet, HashSet};

const SEEDS: u64 = 2500;

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
    Idle,
    Exited,
    Cleaned,
}

impl World {
    fn new(seed: u64, verbose: bool) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let backoff_min = ms(random.u64(0..500));
        let policy = Policy {
            instances: random.u16(1..6),
            start_timeout: ms(random.u64(50..5000)),
            wait_ready: random.bool(),
            stop_timeout: ms(random.u64(0..3000)),
            drain_timeout: ms(random.u64(0..3000)),
            stop_signal: 15,
            backoff_min,
            backoff_max: backoff_min + ms(random.u64(0..5000)),
            min_uptime: ms(random.u64(0..3000)),
        };
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
        }
    }

    fn handle(&mut self, event: Event) {
        if self.verbose {
            println!("{:?} {event:?}", self.now);
        }
        self.fleet.handle(event, self.now);
        self.fleet.verify().unwrap();
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
            Action::Note { .. } => {}
            Action::Publish => self.published = self.fleet.seats().collect(),
            Action::Spawn { slot, incarnation, .. } => self.spawn(slot, incarnation),
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

    fn spawn(&mut self, slot: Slot, incarnation: Incarnation) {
        let others = self.processes.values().filter(|p| p.slot == slot && p.alive && !p.told && !p.fate.immortal);
        assert_eq!(others.count(), 0, "slot {slot} is taken");
        self.seated.insert(incarnation, slot);
        if let Some(gone) = self.gone.get(&slot) {
            let pause = self.now - *gone;
            assert!(pause >= self.policy.backoff_min.mul_f64(0.74), "slot {slot} paused only {pause:?}");
        }
        if self.chance(10) {
            self.tell(ms(3), Told::SpawnFailed, incarnation, 0);
            return;
        }
        let fate = self.fate();
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
            Told::Idle => Event::Idle { incarnation },
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
        let draining: Vec<_> = self.fleet.workers().filter(|w| w.state == State::Draining).collect();
        let idle: Vec<_> = draining
            .iter()
            .filter_map(|w| Some((w.incarnation, self.processes.get(&w.incarnation)?.fate.idle?)))
            .collect();
        for (incarnation, at) in idle {
            self.tell(at, Told::Idle, incarnation, 0);
        }
    }

    /// A stop ends within the sum of its limits.
    fn patience(&self) -> Time {
        let kills = rules::KILL_RETRY * (rules::KILL_ROUNDS + 1);
        let stop = self.policy.drain_timeout + self.policy.stop_timeout + rules::SIGNAL_DELAY;
        stop + kills + rules::CLEANUP_LOST + ms(20_000)
    }
}

fn one_life(seed: u64, verbose: bool) {
    let mut world = World::new(seed, verbose);
    if verbose {
        println!("{:?}", world.policy);
    }
    world.handle(Event::Start);
    let storm = ms(world.random.u64(0..40_000));
    world.run(storm);
    if world.random.bool() {
        // When nothing goes wrong any more, everybody is there before long.
        world.calm = true;
        let longest = world.policy.start_timeout + world.policy.backoff_max + world.patience();
        world.run(world.now + longest * 2);
        let ready = world.fleet.workers().filter(|w| w.state == State::Ready).count();
        assert_eq!(ready, usize::from(world.policy.instances), "a slot stays empty");
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

#[test]
fn every_invariant_holds_in_every_life() {
    let number = |name: &str| {
        #[allow(clippy::disallowed_methods)] // not a rule of the fleet
        let value = std::env::var(name);
        value.ok().map(|value| value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
    };
    if let Some(seed) = number("FLEET_SEED") {
        return one_life(seed, true);
    }
    for seed in 0..number("FLEET_SEEDS").unwrap_or(SEEDS) {
        if std::panic::catch_unwind(|| one_life(seed, false)).is_err() {
            panic!("seed {seed} failed; FLEET_SEED={seed} replays it");
        }
    }
}
