//! Workers that others start and that dial in by themselves, such as those of a neighbour container.
//!
//! There is no process to start, to signal or to kill, and no seat that waits to be filled: a worker
//! takes the lowest free slot when it comes, and the slot goes when the worker does.

use super::backoff::after;
use super::worker::REDIAL_TIMEOUT;
use super::{Action, Alarm, Fleet, Goal, Occupant, State, Time, Worker};
use crate::worker::{Incarnation, Slot};
use log::Level;

impl Fleet {
    /// Whether workers come by themselves.
    pub(crate) fn is_external(&self) -> bool {
        self.policy().external
    }

    /// The place that the next worker would take, for [`Event::Joined`](super::Event::Joined).
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(crate) fn vacancy(&self) -> Result<(Slot, Incarnation), String> {
        if !self.is_external() {
            return Err("this app starts its workers itself".into());
        }
        if self.goal != Goal::Run {
            return Err("the proxy is stopping".into());
        }
        let most = self.policy().most();
        let free = (0..most).map(Slot).find(|slot| !self.slots.contains_key(slot));
        let slot = free.ok_or_else(|| match most {
            1 => "there is 1 worker, which is the most allowed".to_owned(),
            most => format!("there are {most} workers, which is the most allowed"),
        })?;
        Ok((slot, Incarnation(self.next_incarnation)))
    }

    pub(super) fn joined(&mut self, slot: Slot, incarnation: Incarnation, pid: Option<u32>) {
        // Whoever asked long ago has lost the place.
        if self.vacancy() != Ok((slot, incarnation)) {
            return;
        }
        self.next_incarnation += 1;
        let mut worker = Worker::new(slot, incarnation, self.generation, self.policy(), self.now);
        worker.pid = pid;
        worker.connected = true;
        worker.reason = "it has joined, and no server of it listens yet".into();
        self.workers.insert(incarnation, worker);
        self.seat_mut(slot).occupant = Occupant::Worker(incarnation);
        self.note(Level::Info, incarnation, "has joined");
    }

    /// It is dead, or its connection broke and it is about to redial.
    pub(super) fn guest_hung_up(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation).filter(|w| w.is_alive()) else { return };
        if worker.is_coming_up() {
            return self.let_go(incarnation, "hung up");
        }
        worker.leaves_at = Some(after(now, REDIAL_TIMEOUT));
        if worker.is_up() {
            // A dead one refuses: then nobody waits.
            self.check(incarnation);
        }
    }

    /// Nobody could be heard until now: who is away may take as long to come back as if it had just left.
    pub(crate) fn await_redials(&mut self, now: Time) {
        for worker in self.workers.values_mut() {
            worker.leaves_at = worker.leaves_at.map(|at| at.max(after(now, REDIAL_TIMEOUT)));
            if !worker.connected {
                worker.health.due = worker.redial_limit(now);
            }
        }
    }

    /// It is none of ours any more. Whether it still runs is not for us to say.
    pub(super) fn let_go(&mut self, incarnation: Incarnation, how: &str) {
        self.gone(incarnation, how.to_owned());
    }

    /// The seat is dropped with its worker: restarts are somebody else's.
    pub(super) fn guest_left(&mut self, slot: Slot, incarnation: Incarnation, was: State, text: &str) {
        // Whoever closed its server first left in good order.
        let level = if was == State::Starting { Level::Info } else { Level::Warn };
        self.note(level, incarnation, text);
        if was == State::Unhealthy {
            self.actions.push_back(Action::Alarm {
                kind: Alarm::Hung,
                slot: Some(slot),
                active: false,
                detail: "it has left".into(),
            });
        }
        self.drop_seat(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::Policy;
    use super::super::{Carried, Event};
    use super::*;
    use std::time::Duration;

    struct Stage {
        fleet: Fleet,
        now: Duration,
    }

    impl Stage {
        fn new(most: u16) -> Stage {
            let policy = Policy { max_instances: most, external: true, ..Policy::default() };
            let mut stage = Stage { fleet: Fleet::new("chat".into(), policy, 1, 1), now: Duration::ZERO };
            stage.tell(Event::Start);
            stage
        }

        fn tell(&mut self, event: Event) -> Vec<Action> {
            self.now += Duration::from_millis(1);
            self.fleet.handle(event, self.now);
            std::iter::from_fn(|| self.fleet.poll_action()).collect()
        }

        fn join(&mut self) -> Incarnation {
            let (slot, incarnation) = self.fleet.vacancy().unwrap();
            self.tell(Event::Joined { slot, incarnation, pid: None });
            self.tell(Event::Hello { incarnation });
            incarnation
        }

        fn ready(&mut self) -> Incarnation {
            let incarnation = self.join();
            self.tell(Event::Path { incarnation });
            self.tell(Event::ProbeOk { incarnation, attempt: 1 });
            assert_eq!(self.state(incarnation), Some(State::Ready));
            incarnation
        }

        fn state(&self, incarnation: Incarnation) -> Option<State> {
            self.fleet.workers().find(|w| w.incarnation == incarnation).map(|w| w.state)
        }

        /// Runs until a moment, and sees that nothing is ever started or signalled.
        fn wait(&mut self, span: Duration) -> Vec<Action> {
            let end = self.now + span;
            let mut all = Vec::new();
            while self.now < end {
                self.now = self.fleet.next_deadline().unwrap_or(end).clamp(self.now, end);
                all.extend(self.tell(Event::Tick));
            }
            let forbidden = |action: &Action| {
                matches!(
                    action,
                    Action::Spawn { .. }
                        | Action::Signal { .. }
                        | Action::KillGroup { .. }
                        | Action::SendShutdown { .. }
                )
            };
            assert!(!all.iter().any(forbidden), "{all:?}");
            all
        }
    }

    #[test]
    fn they_take_the_lowest_free_slot_up_to_a_bound() {
        let mut stage = Stage::new(2);
        assert!(stage.wait(Duration::from_secs(100)).is_empty());
        let (first, second) = (stage.ready(), stage.ready());
        assert!(stage.fleet.vacancy().unwrap_err().contains("the most allowed"));
        assert_eq!(stage.fleet.seats().collect::<Vec<_>>(), [(first, true), (second, true)]);
        stage.tell(Event::HungUp { incarnation: first });
        stage.wait(Duration::from_secs(6));
        assert_eq!(stage.fleet.vacancy().unwrap().0, Slot(0));
        // A place that was promised to somebody else is not taken twice.
        let third = stage.join();
        stage.tell(Event::Joined { slot: Slot(0), incarnation: third, pid: None });
        assert_eq!(stage.fleet.slots().count(), 2);
    }

    #[test]
    fn who_hangs_up_has_a_moment_to_come_back() {
        let mut stage = Stage::new(4);
        let incarnation = stage.ready();
        let asked = stage.tell(Event::HungUp { incarnation });
        let Some(Action::Check { attempt, .. }) = asked.first() else { panic!("{asked:?}") };
        let attempt = *attempt;
        stage.tell(Event::Checked { incarnation, attempt, answer: Ok(()) });
        stage.wait(Duration::from_millis(4900));
        assert_eq!(stage.state(incarnation), Some(State::Ready));
        stage.tell(Event::Hello { incarnation });
        stage.wait(Duration::from_millis(4900));
        assert_eq!(stage.state(incarnation), Some(State::Ready));
        stage.tell(Event::HungUp { incarnation });
        let told = stage.wait(Duration::from_secs(6));
        assert_eq!(stage.state(incarnation), Some(State::Exited));
        assert!(!told.iter().any(|a| matches!(a, Action::Alarm { .. })), "{told:?}");
        stage.tell(Event::Cleaned { incarnation });
        assert_eq!((stage.fleet.slots().count(), stage.fleet.workers().count()), (0, 0));
    }

    #[test]
    fn nobody_leaves_while_nobody_listens() {
        let mut stage = Stage::new(4);
        let incarnation = stage.ready();
        stage.tell(Event::HungUp { incarnation });
        stage.now += Duration::from_secs(60);
        stage.fleet.await_redials(stage.now);
        stage.wait(Duration::from_millis(4900));
        assert_eq!(stage.state(incarnation), Some(State::Ready));
        stage.wait(Duration::from_millis(200));
        assert_eq!(stage.state(incarnation), Some(State::Exited));
    }

    #[test]
    fn who_is_dead_leaves_at_once() {
        let mut stage = Stage::new(4);
        let incarnation = stage.ready();
        stage.tell(Event::HungUp { incarnation });
        stage.tell(Event::Checked { incarnation, attempt: 1, answer: Err("refused".into()) });
        assert_eq!(stage.state(incarnation), Some(State::Exited));
        assert_eq!(stage.fleet.seats().count(), 0);
    }

    #[test]
    fn a_socket_that_dies_after_its_connection_is_looked_at_again_at_once() {
        let mut stage = Stage::new(4);
        let incarnation = stage.ready();
        stage.tell(Event::HungUp { incarnation });
        stage.tell(Event::Checked { incarnation, attempt: 1, answer: Ok(()) });
        let asked = stage.wait(Duration::from_millis(150));
        let Some(Action::Check { attempt, .. }) = asked.first() else { panic!("{asked:?}") };
        stage.tell(Event::Checked { incarnation, attempt: *attempt, answer: Err("refused".into()) });
        assert_eq!(stage.state(incarnation), Some(State::Exited));
        // Who comes back is looked at as rarely as before.
        let incarnation = stage.ready();
        stage.tell(Event::HungUp { incarnation });
        stage.tell(Event::Checked { incarnation, attempt: 1, answer: Ok(()) });
        stage.tell(Event::Hello { incarnation });
        let mut checks = 0;
        for _ in 0..20 {
            for action in stage.wait(Duration::from_millis(100)) {
                let Action::Check { attempt, .. } = action else { continue };
                stage.tell(Event::Checked { incarnation, attempt, answer: Ok(()) });
                checks += 1;
            }
        }
        assert!(checks <= 1, "{checks}");
    }

    #[test]
    fn who_hangs_keeps_its_sessions_only_and_lives() {
        let mut stage = Stage::new(4);
        let incarnation = stage.ready();
        stage.tell(Event::Heartbeat { incarnation });
        let told = stage.wait(Duration::from_secs(600));
        assert_eq!(stage.state(incarnation), Some(State::Unhealthy));
        let raised = |a: &&Action| matches!(a, Action::Alarm { active: true, .. });
        assert_eq!(told.iter().filter(raised).count(), 1);
        assert_eq!(stage.fleet.seats().collect::<Vec<_>>(), [(incarnation, false)]);
        stage.tell(Event::Heartbeat { incarnation });
        assert_eq!(stage.state(incarnation), Some(State::Ready));
    }

    #[test]
    fn who_hangs_before_its_heart_was_ever_heard_is_found_too() {
        let mut stage = Stage::new(4);
        let incarnation = stage.ready();
        stage.wait(Duration::from_millis(4900));
        assert_eq!(stage.state(incarnation), Some(State::Ready));
        stage.wait(Duration::from_millis(200));
        assert_eq!(stage.state(incarnation), Some(State::Unhealthy));
        // It redials, and hangs again at once.
        stage.tell(Event::Heartbeat { incarnation });
        stage.tell(Event::HungUp { incarnation });
        stage.tell(Event::Hello { incarnation });
        assert_eq!(stage.state(incarnation), Some(State::Ready));
        stage.wait(Duration::from_millis(5100));
        assert_eq!(stage.state(incarnation), Some(State::Unhealthy));
    }

    #[test]
    fn who_never_listens_loses_its_place() {
        let mut stage = Stage::new(4);
        let incarnation = stage.join();
        stage.wait(Duration::from_secs(61));
        assert_eq!(stage.state(incarnation), Some(State::Exited));
    }

    #[test]
    fn a_stop_lets_them_finish_and_live() {
        let mut stage = Stage::new(4);
        let (busy, idle) = (stage.ready(), stage.ready());
        let told = stage.tell(Event::Stop);
        let closes = |a: &&Action| matches!(a, Action::CloseTunnels { .. });
        assert_eq!(told.iter().filter(closes).count(), 2);
        assert!(stage.fleet.vacancy().is_err());
        for _ in 0..2 {
            stage.tell(Event::Carries { incarnation: idle, carried: Carried::default() });
            stage.tell(Event::Carries { incarnation: busy, carried: Carried { active: 1, ..Carried::default() } });
        }
        assert_eq!((stage.state(idle), stage.state(busy)), (Some(State::Exited), Some(State::Draining)));
        stage.wait(Duration::from_secs(31));
        assert_eq!(stage.state(busy), Some(State::Exited));
        for incarnation in [busy, idle] {
            stage.tell(Event::Cleaned { incarnation });
        }
        assert!(stage.fleet.is_finished());
    }
}
