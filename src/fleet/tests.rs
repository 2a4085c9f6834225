//! Each transition by itself; `simulation.rs` has what happens in all orders.

use super::rules::{KILL_RETRY, KILL_ROUNDS, PROBE_LOST, PROBE_RETRY, SIGNAL_DELAY};
use super::*;

fn ms(n: u64) -> Time {
    Duration::from_millis(n)
}

fn policy() -> Policy {
    Policy {
        start_timeout: ms(5000),
        drain_timeout: ms(3000),
        stop_timeout: ms(2000),
        backoff_min: ms(100),
        backoff_max: ms(10_000),
        min_uptime: ms(1000),
        ..Policy::default()
    }
}

/// A fleet and what it asked for at the last step, without its notes.
struct Play {
    fleet: Fleet,
    asked: Vec<Action>,
    notes: Vec<String>,
}

const A: Incarnation = Incarnation(7);

impl Play {
    fn new(policy: Policy) -> Play {
        Play { fleet: Fleet::new("app".into(), policy, 1, A.0), asked: vec![], notes: vec![] }
    }

    fn at(&mut self, now: u64, event: Event) -> &[Action] {
        self.fleet.handle(event, ms(now));
        self.asked.clear();
        while let Some(action) = self.fleet.poll_action() {
            match action {
                Action::Note { text, .. } => self.notes.push(text),
                action => self.asked.push(action),
            }
        }
        &self.asked
    }

    fn state(&self) -> State {
        self.fleet.workers().last().unwrap().state
    }

    fn reason(&self) -> &str {
        &self.fleet.workers().last().unwrap().reason
    }

    fn seats(&self) -> Vec<(Incarnation, bool)> {
        self.fleet.seats().collect()
    }

    /// Brings the first worker up at time 0, with its control channel.
    fn up(policy: Policy) -> Play {
        let mut play = Play::new(policy);
        play.at(0, Event::Start);
        play.at(0, Event::Spawned { incarnation: A, pid: 11 });
        play.at(0, Event::Hello { incarnation: A });
        play.at(0, Event::AppReady { incarnation: A });
        play.at(0, Event::Path { incarnation: A });
        assert_eq!(play.at(0, Event::ProbeOk { incarnation: A, attempt: 1 }), [Action::Publish]);
        assert_eq!(play.seats(), [(A, true)]);
        play
    }
}

fn exited() -> Event {
    Event::Exited { incarnation: A, how: "exited with code 1".into() }
}

#[test]
fn a_worker_comes_up_step_by_step() {
    let mut play = Play::new(policy());
    assert_eq!(play.at(0, Event::Tick), []);
    assert_eq!(play.at(1, Event::Start), [Action::Spawn { slot: Slot(0), incarnation: A, generation: Generation(1) }]);
    assert_eq!(play.fleet.next_deadline(), Some(ms(5001)));
    play.at(2, Event::Spawned { incarnation: A, pid: 11 });
    assert_eq!((play.state(), play.reason()), (State::Starting, "no server of it listens yet"));
    assert_eq!(play.at(3, Event::Path { incarnation: A }), [Action::Probe { incarnation: A, attempt: 1 }]);
    assert_eq!(play.state(), State::Listening);
    play.at(4, Event::ProbeFailed { incarnation: A, attempt: 1, why: "refused".into() });
    assert_eq!(play.reason(), "its socket does not answer: refused");
    assert_eq!(play.fleet.next_deadline(), Some(ms(4) + PROBE_RETRY));
    assert_eq!(play.at(54, Event::Tick), [Action::Probe { incarnation: A, attempt: 2 }]);
    // An answer to the first one says nothing any more.
    assert_eq!(play.at(55, Event::ProbeOk { incarnation: A, attempt: 1 }), []);
    assert_eq!(play.at(56, Event::ProbeOk { incarnation: A, attempt: 2 }), [Action::Publish]);
    assert_eq!((play.state(), play.seats()), (State::Ready, vec![(A, true)]));
    assert!(play.notes.last().unwrap().contains("app[0] #7 (pid 11): ready after 55ms"));
}

#[test]
fn a_lost_probe_is_repeated() {
    let mut play = Play::new(policy());
    play.at(0, Event::Start);
    play.at(0, Event::Spawned { incarnation: A, pid: 11 });
    play.at(0, Event::Path { incarnation: A });
    let lost = PROBE_LOST.as_millis() as u64;
    assert_eq!(play.at(lost, Event::Tick), [Action::Probe { incarnation: A, attempt: 2 }]);
}

#[test]
fn an_app_that_says_when_is_waited_for() {
    let mut play = Play::new(Policy { wait_ready: true, ..policy() });
    play.at(0, Event::Start);
    play.at(0, Event::Spawned { incarnation: A, pid: 11 });
    play.at(0, Event::Path { incarnation: A });
    assert_eq!(play.at(0, Event::ProbeOk { incarnation: A, attempt: 1 }), []);
    assert_eq!(play.reason(), "the app has not said process.send('ready') yet");
    assert_eq!(play.at(10, Event::AppReady { incarnation: A }), [Action::Publish]);
    assert_eq!(play.state(), State::Ready);
}

#[test]
fn a_start_that_takes_too_long_is_killed_and_says_why() {
    let mut play = Play::new(policy());
    play.at(0, Event::Start);
    play.at(0, Event::Spawned { incarnation: A, pid: 11 });
    assert_eq!(play.at(5000, Event::Tick), [Action::KillGroup { incarnation: A }]);
    assert_eq!(play.reason(), "not ready within 5s: no server of it listens yet");
    play.at(5010, Event::Exited { incarnation: A, how: "killed by SIGKILL".into() });
    let (_, seat) = play.fleet.slots().next().unwrap();
    assert_eq!(seat.last_exit.as_deref(), Some("not ready within 5s: no server of it listens yet (killed by SIGKILL)"));
    assert!(matches!(seat.occupant, Occupant::BackingOff { until } if until > ms(5010)));
}

#[test]
fn a_crash_backs_off_longer_each_time_and_recovers() {
    let crashes = policy::Crashes { max: 100, ..Default::default() };
    let mut play = Play::up(Policy { crashes, ..policy() });
    assert_eq!(play.at(500, exited()), [Action::Publish, Action::Cleanup { incarnation: A }]);
    assert_eq!(play.seats(), []);
    let due = play.fleet.next_deadline().unwrap();
    assert!((ms(575)..=ms(625)).contains(&due), "{due:?}");
    assert_eq!(play.at(due.as_millis() as u64 - 1, Event::Tick), []);
    play.at(due.as_millis() as u64 + 1, Event::Cleaned { incarnation: A });
    assert_eq!(play.fleet.workers().count(), 1);

    let mut now = 1000;
    for round in 1..=10u32 {
        let incarnation = Incarnation(A.0 + round);
        let how = "exited with code 1".to_owned();
        play.at(now, Event::Exited { incarnation, how });
        play.at(now, Event::Cleaned { incarnation });
        let pause = (play.fleet.next_deadline().unwrap() - ms(now)).as_secs_f64();
        let expected = (0.1 * 2f64.powi(round as i32)).min(10.0);
        assert!(pause > expected * 0.7 && pause <= (expected * 1.3).min(10.0), "{round}: {pause}");
        now += (pause * 1000.0) as u64 + 1;
        play.at(now, Event::Tick);
    }
    // Ready for min_uptime: the slot has recovered.
    let incarnation = Incarnation(A.0 + 11);
    play.at(now, Event::Spawned { incarnation, pid: 12 });
    play.at(now, Event::Path { incarnation });
    play.at(now, Event::ProbeOk { incarnation, attempt: 1 });
    assert_eq!(play.fleet.slots().next().unwrap().1.failures, 11);
    play.at(now + 1000, Event::Tick);
    assert_eq!(play.fleet.slots().next().unwrap().1.failures, 0);
}

#[test]
fn a_process_that_cannot_start_backs_off() {
    let mut play = Play::new(policy());
    play.at(0, Event::Start);
    let failed = Event::SpawnFailed { incarnation: A, why: "program \"x\" not found".into() };
    assert_eq!(play.at(0, failed), [Action::Cleanup { incarnation: A }]);
    assert!(play.notes.last().unwrap().contains("could not be started: program \"x\" not found"));
    assert!(play.fleet.slots().all(|(_, seat)| matches!(seat.occupant, Occupant::BackingOff { .. })));
}

#[test]
fn a_stop_drains_asks_and_ends() {
    let mut play = Play::up(policy());
    let close = Action::CloseTunnels { incarnation: A, code: 1001, window: ms(2000) };
    assert_eq!(play.at(100, Event::Stop), [Action::Publish, close]);
    assert_eq!((play.state(), play.seats()), (State::Draining, vec![(A, false)]));
    // One look is not enough.
    assert_eq!(play.at(150, Event::Carries { incarnation: A, carried: Carried::default() }), []);
    assert_eq!(
        play.at(200, Event::Carries { incarnation: A, carried: Carried::default() }),
        [Action::Publish, Action::SendShutdown { incarnation: A }]
    );
    assert_eq!((play.state(), play.seats()), (State::Stopping, vec![]));
    let signal = Action::Signal { incarnation: A, signal: 15 };
    assert_eq!(play.at(200 + SIGNAL_DELAY.as_millis() as u64, Event::Tick), [signal]);
    assert_eq!(play.at(400, exited()), [Action::Cleanup { incarnation: A }]);
    assert!(!play.fleet.is_finished());
    play.at(410, Event::Cleaned { incarnation: A });
    assert!(play.fleet.is_finished());
    assert_eq!(play.fleet.next_deadline(), None);
}

#[test]
fn a_stop_is_bounded_whatever_the_worker_does() {
    let mut play = Play::up(policy());
    play.at(0, Event::Stop);
    assert_eq!(play.at(3000, Event::Tick), [Action::Publish, Action::SendShutdown { incarnation: A }]);
    assert_eq!(play.at(3100, Event::Tick), [Action::Signal { incarnation: A, signal: 15 }]);
    assert_eq!(play.at(5100, Event::Tick), [Action::KillGroup { incarnation: A }]);
    let mut now = ms(5100);
    for _ in 1..KILL_ROUNDS {
        now += KILL_RETRY;
        assert_eq!(play.at(now.as_millis() as u64, Event::Tick), [Action::KillGroup { incarnation: A }]);
    }
    now += KILL_RETRY;
    assert_eq!(play.at(now.as_millis() as u64, Event::Tick), [Action::Cleanup { incarnation: A }]);
    assert!(play.reason().contains("cannot be killed"));
    play.at(now.as_millis() as u64, Event::Cleaned { incarnation: A });
    assert!(play.fleet.is_finished());
}

#[test]
fn a_kill_has_no_patience() {
    let mut play = Play::up(policy());
    play.at(0, Event::Stop);
    assert_eq!(play.at(1, Event::Kill), [Action::Publish, Action::KillGroup { incarnation: A }]);
    assert_eq!(play.at(2, Event::Kill), []);
    assert_eq!(play.state(), State::Killing);
}

#[test]
fn a_stop_before_the_process_exists_reaches_it() {
    let mut play = Play::new(policy());
    play.at(0, Event::Start);
    assert_eq!(play.at(1, Event::Stop), []);
    let spawned = Event::Spawned { incarnation: A, pid: 11 };
    assert_eq!(play.at(2, spawned.clone()), [Action::Signal { incarnation: A, signal: 15 }]);

    let mut play = Play::new(policy());
    play.at(0, Event::Start);
    assert_eq!(play.at(1, Event::Kill), [Action::KillGroup { incarnation: A }]);
    assert_eq!(play.at(2, spawned), [Action::KillGroup { incarnation: A }]);
}

#[test]
fn a_stop_before_the_start_is_finished_at_once() {
    let mut play = Play::new(policy());
    play.at(0, Event::Stop);
    assert!(play.fleet.is_finished());
    assert_eq!(play.at(1, Event::Start), []);
    assert!(play.fleet.is_finished());
}

#[test]
fn a_stop_empties_slots_that_back_off() {
    let mut play = Play::new(policy());
    play.at(0, Event::Start);
    play.at(0, Event::SpawnFailed { incarnation: A, why: "no".into() });
    play.at(0, Event::Cleaned { incarnation: A });
    play.at(1, Event::Stop);
    assert!(play.fleet.is_finished());
    assert_eq!(play.at(60_000, Event::Tick), []);
}

#[test]
fn a_closed_server_is_waited_for_again() {
    let mut play = Play::up(policy());
    assert_eq!(play.at(2000, Event::PathClosed { incarnation: A }), [Action::Publish]);
    assert_eq!((play.state(), play.seats()), (State::Starting, vec![]));
    assert_eq!(play.at(3000, Event::Path { incarnation: A }), [Action::Probe { incarnation: A, attempt: 2 }]);
    assert_eq!(play.at(3000, Event::ProbeOk { incarnation: A, attempt: 2 }), [Action::Publish]);
    play.at(4000, Event::PathClosed { incarnation: A });
    assert_eq!(play.at(9000, Event::Tick), [Action::KillGroup { incarnation: A }]);
}

#[test]
fn a_moved_server_is_probed_before_it_gets_traffic() {
    let mut play = Play::up(policy());
    let probe = Action::Probe { incarnation: A, attempt: 2 };
    assert_eq!(play.at(10, Event::Path { incarnation: A }), [Action::Publish, probe]);
    assert_eq!(play.seats(), []);
    assert_eq!(play.at(11, Event::ProbeOk { incarnation: A, attempt: 2 }), [Action::Publish]);
}

#[test]
fn a_clock_that_goes_back_is_ignored() {
    let mut play = Play::up(policy());
    play.at(500, Event::Tick);
    play.at(100, exited());
    assert!(play.fleet.next_deadline().unwrap() > ms(500));
}

#[test]
fn late_and_foreign_events_change_nothing() {
    let mut play = Play::up(policy());
    let other = Incarnation(99);
    for event in [
        Event::Hello { incarnation: other },
        Event::Path { incarnation: other },
        Event::Exited { incarnation: other, how: "x".into() },
        Event::Cleaned { incarnation: other },
        Event::Cleaned { incarnation: A },
        Event::Carries { incarnation: A, carried: Carried::default() },
        Event::Start,
    ] {
        assert_eq!(play.at(1, event), []);
    }
    assert_eq!(play.seats(), [(A, true)]);
    // A process that nobody waits for must not live.
    assert_eq!(play.at(1, Event::Spawned { incarnation: other, pid: 5 }), [Action::KillGroup { incarnation: other }]);
}

/// A hanging worker does not dial in to the proxy that comes after: its silence must tell.
#[test]
fn whose_heart_was_heard_must_be_heard_again_by_the_next_proxy() {
    let restored = |play: &Play, now| {
        let text = serde_json::to_string(&play.fleet.save()).unwrap();
        let fleet = Fleet::restore("app".into(), serde_json::from_str(&text).unwrap(), ms(now)).unwrap();
        Play { fleet, asked: vec![], notes: vec![] }
    };
    // Whoever ticks too late has heard nobody.
    let silence = |play: &mut Play, end| {
        while let Some(at) = play.fleet.next_deadline().filter(|at| *at < ms(end)) {
            play.fleet.handle(Event::Tick, at);
            while play.fleet.poll_action().is_some() {}
        }
        play.at(end, Event::Tick);
    };
    let beat = || Event::Heartbeat { incarnation: A };
    let mut play = Play::up(policy());
    play.at(2000, beat());
    // Nobody was there for a minute: the worker has some time to dial in.
    let mut next = restored(&play, 60_000);
    silence(&mut next, 67_900);
    assert_eq!(next.state(), State::Ready);
    silence(&mut next, 68_100);
    assert_eq!(next.state(), State::Unhealthy);
    let mut next = restored(&play, 60_000);
    silence(&mut next, 67_000);
    next.at(67_000, beat());
    silence(&mut next, 69_900);
    assert_eq!(next.state(), State::Ready);
    // Who has a channel has a heart, even if it was not heard yet; who has none is not waited for.
    for (with_channel, end, then) in [(true, 68_100, State::Unhealthy), (false, 99_000, State::Ready)] {
        let mut play = Play::new(policy());
        play.at(0, Event::Start);
        play.at(0, Event::Spawned { incarnation: A, pid: 100 });
        if with_channel {
            play.at(0, Event::Hello { incarnation: A });
        }
        play.at(0, Event::Path { incarnation: A });
        play.at(0, Event::ProbeOk { incarnation: A, attempt: 1 });
        let mut next = restored(&play, 60_000);
        silence(&mut next, end);
        assert_eq!(next.state(), then);
    }
    // Nor is it known by whom it hung up on: after a handoff that came to nothing.
    play.at(2500, Event::HungUp { incarnation: A });
    silence(&mut play, 10_400);
    assert_eq!(play.state(), State::Ready);
    silence(&mut play, 10_600);
    assert_eq!(play.state(), State::Unhealthy);
}

#[test]
fn while_nobody_is_ready_a_slot_does_not_wait_unless_its_worker_never_was() {
    let crashes = policy::Crashes { max: 1, ..Default::default() };
    let mut play = Play::up(Policy { crashes, ..policy() });
    let spawns = |asked: &[Action]| asked.iter().any(|action| matches!(action, Action::Spawn { .. }));
    // It has served: the next one starts at once, although this is a crash loop by the rule.
    assert!(spawns(play.at(5000, exited())));
    play.at(5000, Event::Cleaned { incarnation: A });
    let mut now = 5000;
    for (round, pause) in [0, 100, 200, 400, 500, 500].into_iter().enumerate() {
        let incarnation = Incarnation(A.0 + 1 + round as u32);
        if pause > 0 {
            assert_eq!(play.fleet.next_deadline(), Some(ms(now + pause)));
            now += pause;
            assert!(spawns(play.at(now, Event::Tick)), "after {pause} ms");
        }
        play.at(now, Event::Spawned { incarnation, pid: 12 });
        play.at(now, Event::Path { incarnation });
        play.at(now, Event::ProbeOk { incarnation, attempt: 1 });
        assert_eq!(play.seats(), [(incarnation, true)]);
        // Ready, and gone at once.
        play.at(now, Event::Exited { incarnation, how: "exited with code 1".into() });
        play.at(now, Event::Cleaned { incarnation });
    }
    now += 500;
    assert!(spawns(play.at(now, Event::Tick)));
    // This one never becomes ready.
    let incarnation = Incarnation(A.0 + 7);
    assert!(!spawns(play.at(now, Event::Exited { incarnation, how: "exited with code 1".into() })));
    play.at(now, Event::Cleaned { incarnation });
    assert_eq!(play.fleet.next_deadline(), Some(ms(now + 60_000)));
}

#[test]
fn who_has_given_up_root_is_not_waited_for_and_is_replaced_once_it_has_lost_its_channel() {
    let renounced = || Event::Renounced { incarnation: A, user: "nobody".to_owned() };
    let mut play = Play::up(policy());
    play.at(100, Event::Heartbeat { incarnation: A });
    assert_eq!(play.at(200, renounced()), []);
    assert!(play.notes.last().unwrap().contains("write `user: nobody`"));
    let said = play.notes.len();
    assert_eq!(play.at(300, renounced()), []);
    assert_eq!(play.notes.len(), said);
    // Another proxy takes over: it hears nothing of it, and sends it requests as ever.
    let saved = serde_json::from_value(serde_json::to_value(play.fleet.save()).unwrap()).unwrap();
    play.fleet = Fleet::restore("app".into(), saved, ms(1000)).unwrap();
    play.at(1000, Event::Tick);
    let asked = play.at(1100, renounced());
    assert!(asked.iter().any(|action| matches!(action, Action::Spawn { .. })), "{asked:?}");
    play.at(60_000, Event::Tick);
    assert_eq!((play.seats(), play.fleet.workers().next().unwrap().state), (vec![(A, true)], State::Ready));
}

/// Brings a worker of a slot up, from its spawn on.
fn comes_up(play: &mut Play, now: u64, incarnation: Incarnation) {
    play.at(now, Event::Spawned { incarnation, pid: incarnation.0 });
    play.at(now, Event::Hello { incarnation });
    play.at(now, Event::Path { incarnation });
    play.at(now, Event::ProbeOk { incarnation, attempt: 1 });
}

fn ends(play: &mut Play, now: u64, incarnation: Incarnation) {
    play.at(now, Event::Exited { incarnation, how: "exited with code 0".into() });
}

#[test]
fn without_surge_the_old_worker_goes_first_and_its_tunnels_close_at_once() {
    let policy = Policy { surge: 0, min_ready: ms(1000), ..policy() };
    let mut play = Play::up(policy.clone());
    let next = Incarnation(A.0 + 1);
    let asked = play.at(2000, Event::Roll { generation: Generation(2), policy: Box::new(policy) }).to_vec();
    let closes = Action::CloseTunnels { incarnation: A, code: 1012, window: Duration::ZERO };
    assert!(asked.contains(&closes), "{asked:?}");
    assert!(!asked.iter().any(|action| matches!(action, Action::Spawn { .. })), "{asked:?}");
    assert_eq!(play.seats(), [(A, false)], "it finishes, and takes no new session");
    let carried = Carried::default();
    for now in [2200, 2400, 2600] {
        play.at(now, Event::Carries { incarnation: A, carried });
    }
    assert_eq!(play.state(), State::Stopping);
    play.at(2700, Event::Exited { incarnation: A, how: "exited with code 0".into() });
    let spawn = Action::Spawn { slot: Slot(0), incarnation: next, generation: Generation(2) };
    assert!(play.asked.contains(&spawn), "{:?}", play.asked);
    comes_up(&mut play, 2800, next);
    assert_eq!(play.seats(), [(next, true)], "it has nobody to prove itself beside");
    assert!(
        play.asked.iter().any(|action| matches!(action, Action::Rolled { outcome: Ok(_), .. })),
        "{:?}",
        play.asked
    );
}

#[test]
fn without_surge_a_generation_that_fails_leaves_its_slot_to_the_one_before() {
    let policy = Policy { surge: 0, drain_timeout: ms(0), ..policy() };
    let mut play = Play::up(policy.clone());
    let (bad, good) = (Incarnation(A.0 + 1), Incarnation(A.0 + 2));
    play.at(2000, Event::Roll { generation: Generation(2), policy: Box::new(policy) });
    ends(&mut play, 2100, A);
    play.at(2200, Event::Spawned { incarnation: bad, pid: 2 });
    ends(&mut play, 2300, bad);
    assert!(
        play.asked.iter().any(|action| matches!(action, Action::Rolled { outcome: Err(_), .. })),
        "{:?}",
        play.asked
    );
    let spawn = Action::Spawn { slot: Slot(0), incarnation: good, generation: Generation(1) };
    assert!(play.asked.contains(&spawn), "{:?}", play.asked);
    comes_up(&mut play, 2400, good);
    assert_eq!(play.seats(), [(good, true)]);
}
