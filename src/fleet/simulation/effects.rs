//! What the fleet asks for, done to the world, and what must hold at every step.

use super::*;

impl World {
    pub(super) fn handle(&mut self, event: Event) {
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
            let makes_room = usize::from(self.fleet.policies.values().any(|policy| policy.surge == 0));
            let floor = before.min(usize::from(self.fleet.desired())).saturating_sub(lost + makes_room);
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
        self.see_who_attends();
    }

    /// An app whose workers start well is never without a starting or ready worker for more than a second.
    fn see_who_attends(&mut self) {
        const LONGEST: Time = Time::from_secs(1);
        for worker in self.fleet.workers().filter(|w| w.role == Role::Seated) {
            self.sat_last.insert(worker.slot, worker.incarnation);
            if worker.state == State::Ready {
                self.were_ready.insert(worker.incarnation);
            }
        }
        let attends =
            |w: &Worker| w.role == Role::Seated && matches!(w.state, State::Starting | State::Listening | State::Ready);
        let starts_well = |slot| self.sat_last.get(&slot).is_some_and(|last| self.were_ready.contains(last));
        let free = |seat: &Seat| matches!(seat.occupant, Occupant::BackingOff { .. } | Occupant::Failed { .. });
        let deserted = self.fleet.goal == Goal::Run
            && !self.fleet.workers().any(attends)
            && self.fleet.slots().any(|(slot, seat)| free(seat) && starts_well(slot));
        let since = *self.deserted.get_or_insert(self.now);
        if !deserted {
            self.deserted = None;
            return;
        }
        assert!(self.now < since + LONGEST, "nobody is there since {since:?}");
        let next = self.fleet.next_deadline();
        assert!(next.is_some_and(|at| at <= since + LONGEST), "nobody since {since:?}, next at {next:?}");
    }

    pub(super) fn carry_out(&mut self, action: Action) {
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

    pub(super) fn spawn(&mut self, slot: Slot, incarnation: Incarnation, generation: Generation) {
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
        if self.fleet.replaces_in_place() {
            let alive = |p: &&Process| p.slot == slot && p.alive && !p.told && !p.fate.immortal;
            assert_eq!(self.processes.values().filter(alive).count(), 0, "slot {slot} is not free yet");
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
        for told in [Told::PathClosed, Told::Path, Told::HungUp, Told::Renounced] {
            if self.chance(10) {
                let at = ms(self.random.u64(0..5000));
                self.tell(at, told, incarnation, 0);
            }
        }
    }
}
