//! What happens to the fleet, in order of time.

use super::*;

impl World {
    /// Goes on until `end`; returns early when the fleet is finished.
    pub(super) fn run(&mut self, end: Time) {
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

    pub(super) fn stop(&mut self) {
        self.handle(Event::Stop);
    }

    pub(super) fn roll(&mut self) {
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
    pub(super) fn inherit(&mut self) {
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
    pub(super) fn look(&mut self) {
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

    pub(super) fn second(&mut self) {
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
    pub(super) fn patience(&self) -> Time {
        let kills = rules::KILL_RETRY * (rules::KILL_ROUNDS + 1);
        let of = |f: fn(&Policy) -> Time| self.fleet.policies.values().map(|p| f(p)).max().unwrap_or_default();
        let stop = of(|p| p.drain_timeout + p.stop_timeout) + rules::SIGNAL_DELAY;
        stop + kills + rules::CLEANUP_LOST + ms(20_000)
    }
}
