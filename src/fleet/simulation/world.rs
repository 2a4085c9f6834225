//! How a world begins: its policy, and the fate of each process.

use super::super::policy::{Crashes, Health, Limits, Scaling};
use super::*;

impl World {
    pub(super) fn new(seed: u64, verbose: bool) -> World {
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
            were_ready: HashSet::new(),
            sat_last: BTreeMap::new(),
            deserted: None,
        }
    }

    pub(super) fn policy(random: &mut fastrand::Rng) -> Policy {
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
            surge: random.u16(0..3),
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

    pub(super) fn chance(&mut self, percent: u32) -> bool {
        !self.calm && self.random.u32(0..100) < percent
    }

    pub(super) fn after(&mut self, pause: Time, happens: Happens) {
        self.number += 1;
        self.future.insert((self.now + pause, self.number, happens));
    }

    /// Tells after a moment; may be lost, late or told twice.
    pub(super) fn tell(&mut self, pause: Time, told: Told, incarnation: Incarnation, attempt: u32) {
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

    pub(super) fn fate(&mut self) -> Fate {
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

    pub(super) fn hangs(&self, incarnation: Incarnation) -> bool {
        let Some(process) = self.processes.get(&incarnation) else { return false };
        let age = self.now.saturating_sub(process.started);
        process.fate.hangs.is_some_and(|(from, long)| age >= from && age < from + long)
    }

    /// Workers that serve as the user wants it.
    pub(super) fn serving(&self) -> usize {
        self.fleet.workers().filter(|w| w.serves()).count()
    }
}
