//! The fleet in a world that goes wrong in every way, by seed.
//!
//! `FLEET_SEED=17 cargo test --lib fleet::simulation` replays one seed and prints every step;
//! `FLEET_SEEDS=100000` tries so many.

mod effects;
mod events;
mod world;

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
    /// All slots wait although nobody is ready.
    NoRelief,
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
    /// Who was seen ready, and who sat last in each slot.
    were_ready: HashSet<Incarnation>,
    sat_last: BTreeMap<Slot, Incarnation>,
    /// Since when nobody takes requests or is about to, although workers start well.
    deserted: Option<Time>,
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
    for bug in [Bug::EarlyRetirement, Bug::WrongGeneration, Bug::NoRelief] {
        let found = (0..300).find(|seed| std::panic::catch_unwind(|| one_life(*seed, false, bug)).is_err());
        assert!(found.is_some(), "{bug:?} was not noticed");
    }
}
