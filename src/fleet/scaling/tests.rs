use super::*;

const RANGE: (u16, u16) = (2, 8);

fn workers(count: u16, busy: f64, sessions: u64) -> Vec<Seen> {
    let one = Seen { busy, sessions, rss: Some(100 << 20), adult: true, open: true };
    vec![one; usize::from(count)]
}

/// A load of so many processors, for so many seconds; the numbers that were decided.
struct Play {
    scaler: Scaler,
    rule: Scaling,
    desired: u16,
    now: u64,
    blocked: Vec<String>,
}

impl Play {
    fn new() -> Play {
        Play { scaler: Scaler::default(), rule: Scaling::default(), desired: 2, now: 0, blocked: vec![] }
    }

    fn load(&mut self, seconds: u64, busy: f64, sessions: u64, around: Surroundings) -> Vec<(u64, u16)> {
        let mut steps = Vec::new();
        for _ in 0..seconds {
            self.now += 1;
            let n = self.desired;
            let each = (busy / f64::from(n)).min(1.0);
            let seen = workers(n, each, sessions / u64::from(n));
            let now = Duration::from_secs(self.now);
            match self.scaler.decide(&self.rule, RANGE, n, &seen, around, now) {
                Decision::To(to, _) => {
                    steps.push((self.now, to));
                    self.desired = to;
                }
                Decision::Blocked(why) => self.blocked.push(why),
                Decision::Hold | Decision::Unblocked => {}
            }
        }
        steps
    }
}

#[test]
fn load_brings_all_within_half_a_minute_and_its_end_takes_them_away_one_by_one() {
    let mut play = Play::new();
    assert_eq!(play.load(60, 0.2, 0, Surroundings::default()), []);
    let up = play.load(30, 100.0, 0, Surroundings::default());
    assert_eq!(up.last().map(|(_, n)| *n), Some(8), "{up:?}");
    assert!(up.windows(2).all(|w| w[1].1 - w[0].1 <= (w[0].1 / 2).max(1)), "{up:?}");
    assert_eq!(play.load(290, 0.2, 0, Surroundings::default()), [], "not before the window is over");
    let down = play.load(200, 0.2, 0, Surroundings::default());
    assert_eq!(down.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [7, 6, 5, 4, 3, 2]);
    assert_eq!(play.load(1000, 0.2, 0, Surroundings::default()), []);
}

#[test]
fn idle_websockets_cost_nothing_unless_sessions_are_bounded() {
    let mut play = Play::new();
    assert_eq!(play.load(600, 0.004, 300, Surroundings::default()), []);
    play.rule.max_sessions = Some(100);
    assert_eq!(play.load(30, 0.004, 300, Surroundings::default()).last().map(|(_, n)| *n), Some(3));
}

#[test]
fn one_busy_worker_is_no_reason() {
    let mut scaler = Scaler::default();
    let mut seen = workers(2, 0.05, 0);
    seen[0].busy = 1.0;
    for second in 1..100 {
        let now = Duration::from_secs(second);
        let decision = scaler.decide(&Scaling::default(), RANGE, 2, &seen, Surroundings::default(), now);
        assert_eq!(decision, Decision::Hold);
    }
}

#[test]
fn requests_that_wait_ask_for_one_more() {
    let mut play = Play::new();
    let around = Surroundings { queue_wait: Duration::from_millis(300), head_room: None };
    let steps = play.load(12, 1.3, 0, around);
    assert_eq!(steps.first().map(|(_, n)| *n), Some(3), "{steps:?}");
    let calm = Surroundings { queue_wait: Duration::from_millis(100), head_room: None };
    assert_eq!(Play::new().load(60, 1.3, 0, calm), []);
}

#[test]
fn no_memory_no_workers_and_it_is_said_once() {
    let mut play = Play::new();
    let around = Surroundings { queue_wait: Duration::ZERO, head_room: Some(50 << 20) };
    assert_eq!(play.load(60, 5.0, 0, around), []);
    assert_eq!(play.blocked.len(), 1);
    assert!(play.blocked[0].contains("no memory"), "{:?}", play.blocked);
    // Room for one.
    let around = Surroundings { head_room: Some(120 << 20), ..around };
    assert_eq!(play.load(1, 5.0, 0, around).last().map(|(_, n)| *n), Some(3));
}

#[test]
fn young_workers_are_not_counted_and_are_waited_for() {
    let mut scaler = Scaler::default();
    let mut seen = workers(2, 1.0, 0);
    seen[1].adult = false;
    for second in 1..100 {
        let now = Duration::from_secs(second);
        let decision = scaler.decide(&Scaling::default(), RANGE, 2, &seen, Surroundings::default(), now);
        assert_eq!(decision, Decision::Hold);
    }
}

#[test]
fn workers_that_come_back_soon_stay_longer() {
    let mut play = Play::new();
    play.load(60, 2.0, 0, Surroundings::default());
    let first = play.load(400, 0.2, 0, Surroundings::default());
    let waited = first[0].0 - 60;
    let began = play.now;
    play.load(60, 2.0, 0, Surroundings::default());
    let second = play.load(2000, 0.2, 0, Surroundings::default());
    let again = second[0].0 - began - 60;
    assert!(waited < 320 && again > 500, "{waited} s, then {again} s");
}

#[test]
fn workers_without_statistics_count_by_processor_and_requests() {
    let rule = Scaling::default();
    let carried = crate::fleet::Carried { active: 10, ..Default::default() };
    assert!((busy(&Load { elu: Some(0.4), cpu: Some(2.0), ..Load::default() }, &rule) - 0.4).abs() < 1e-9);
    assert!((busy(&Load { cpu: Some(0.4), ..Load::default() }, &rule) - 0.4).abs() < 1e-9);
    assert!((busy(&Load { cpu: Some(0.1), carried, ..Load::default() }, &rule) - 0.7).abs() < 1e-9);
}
