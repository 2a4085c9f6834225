//! How many workers the load asks for.
//!
//! The event loop's utilization says how busy a Node.js worker is; processor time and counts of
//! requests mislead, and idle WebSockets cost nothing. Workers come fast, in steps of at most half of
//! those there are, and go slowly, one by one, when nothing needed them for a whole window.

use super::policy::Scaling;
use super::{Load, Surroundings, Time};
use crate::worker::counted;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Part of the free memory that new workers may take.
const HEAD_ROOM: f64 = 0.9;
/// What a worker is taken to need while none has said what it uses.
const LEAST_WORKER: u64 = 64 << 20;
/// How often the down window is doubled at most.
const LONGEST: u32 = 8;
/// Samples kept: at one a second more than any window.
const SAMPLES: usize = 100_000;

/// A worker that is up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) busy: f64,
    pub(super) sessions: u64,
    pub(super) rss: Option<u64>,
    /// Has been ready for long enough to say something.
    pub(super) adult: bool,
    /// Takes new sessions.
    pub(super) open: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decision {
    Hold,
    /// So many from now on, and why.
    To(u16, String),
    /// More are needed and cannot be had.
    Blocked(String),
    Unblocked,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Sample {
    at: Time,
    busy: f64,
    sessions: u64,
    queued: bool,
}

/// What was seen of one app's load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Scaler {
    samples: VecDeque<Sample>,
    last_up: Option<Time>,
    last_down: Option<Time>,
    /// How often the down window counts: doubled when workers went and came back.
    stretch: u32,
    blocked: bool,
}

/// How busy a worker is; 1 is all it can do.
pub(super) fn busy(load: &Load, rule: &Scaling) -> f64 {
    match (load.elu, load.cpu) {
        (Some(elu), _) => elu.clamp(0.0, 1.0),
        (None, cpu) => {
            let active = f64::from(load.carried.active) / f64::from(rule.max_active.max(1));
            cpu.unwrap_or(0.0).max(active * rule.aim()).max(0.0)
        }
    }
}

impl Scaler {
    /// Every moment it remembers.
    pub(super) fn times(&self) -> impl Iterator<Item = Time> + '_ {
        self.samples.iter().map(|sample| sample.at).chain(self.last_up).chain(self.last_down)
    }

    /// Others decide now; what was seen until then is no reason for anything.
    pub(super) fn forget(&mut self, now: Time) {
        self.samples.clear();
        self.last_up = Some(now);
    }

    pub(super) fn decide(
        &mut self,
        rule: &Scaling,
        (least, most): (u16, u16),
        desired: u16,
        workers: &[Seen],
        around: Surroundings,
        now: Time,
    ) -> Decision {
        let adults = workers.iter().filter(|w| w.open && w.adult).count();
        let settled = adults >= usize::from(desired);
        self.samples.push_back(Sample {
            at: now,
            busy: workers.iter().filter(|w| w.adult).map(|w| w.busy).sum(),
            sessions: workers.iter().map(|w| w.sessions).sum(),
            // While workers come up, waiting says nothing of those that serve.
            queued: settled && around.queue_wait > rule.queue_wait,
        });
        let window = rule.down_window.saturating_mul(self.stretch.max(1));
        while self.samples.len() > SAMPLES || self.samples.front().is_some_and(|s| s.at.saturating_add(window) < now) {
            self.samples.pop_front();
        }
        let need = self.need_up(rule, least, now);
        if need > desired {
            return self.grow(rule, most, desired, need, settled, workers, around, now);
        }
        if std::mem::take(&mut self.blocked) {
            return Decision::Unblocked;
        }
        self.shrink(rule, least, desired, window, now)
    }

    /// The mean since the last step, within the window.
    fn need_up(&self, rule: &Scaling, least: u16, now: Time) -> u16 {
        let from = now.saturating_sub(rule.up_window).max(self.last_up.unwrap_or(Time::ZERO));
        let recent = || self.samples.iter().rev().take_while(move |s| s.at >= from);
        let count = recent().count().max(1);
        let busy = recent().map(|s| s.busy).sum::<f64>() / count as f64;
        let sessions = recent().map(|s| s.sessions).sum::<u64>() / count as u64;
        // One slow moment is none.
        let queued = recent().filter(|s| s.queued).count() >= 2;
        needed(rule, busy, sessions, queued).max(least)
    }

    #[allow(clippy::too_many_arguments)]
    fn grow(
        &mut self,
        rule: &Scaling,
        most: u16,
        desired: u16,
        need: u16,
        settled: bool,
        workers: &[Seen],
        around: Surroundings,
        now: Time,
    ) -> Decision {
        // The last step must be seen to work before the next one; half a window shows it.
        let pause = rule.up_window / 2;
        let first = self.samples.front().map_or(now, |s| s.at).max(self.last_up.unwrap_or(Time::ZERO));
        if !settled || now.saturating_sub(first) < pause {
            return Decision::Hold;
        }
        let step = (need - desired).min((desired / 2).max(1)).min(most.saturating_sub(desired));
        let each = workers.iter().filter_map(|w| w.rss).max().unwrap_or(0).max(LEAST_WORKER);
        let fit = around
            .head_room
            .map_or(u16::MAX, |free| u16::try_from((free as f64 * HEAD_ROOM / each as f64) as u64).unwrap_or(u16::MAX));
        let step = step.min(fit);
        if step == 0 {
            if std::mem::replace(&mut self.blocked, true) {
                return Decision::Hold;
            }
            let why = match desired >= most {
                true => format!("the load asks for {}, {most} is the most (instances.max)", counted(need, "worker")),
                false => format!(
                    "the load asks for {}, but there is no memory for more than {desired}",
                    counted(need, "worker")
                ),
            };
            return Decision::Blocked(why);
        }
        let flapped = self
            .last_down
            .is_some_and(|at| now.saturating_sub(at) < rule.down_window.saturating_mul(self.stretch.max(1)));
        if flapped {
            self.stretch = (self.stretch.max(1) * 2).min(LONGEST);
        }
        self.last_up = Some(now);
        Decision::To(desired + step, format!("the load asks for {need}"))
    }

    fn shrink(&mut self, rule: &Scaling, least: u16, desired: u16, window: Duration, now: Time) -> Decision {
        let seen = self.samples.front().is_some_and(|s| s.at.saturating_add(window) <= now + Duration::from_secs(1));
        let last = self.last_up.max(self.last_down);
        let calm = last.is_none_or(|at| now.saturating_sub(at) >= rule.up_window);
        if desired <= least || !seen || !calm {
            return Decision::Hold;
        }
        let most = self.samples.iter().map(|s| needed(rule, s.busy, s.sessions, s.queued)).max().unwrap_or(desired);
        if most.max(least) >= desired {
            return Decision::Hold;
        }
        if last.is_none_or(|at| now.saturating_sub(at) >= window.saturating_mul(2)) {
            self.stretch = 1;
        }
        self.last_down = Some(now);
        Decision::To(
            desired - 1,
            format!("no more than {} were needed for {}", most.max(least), super::rules::brief(window)),
        )
    }
}

fn needed(rule: &Scaling, busy: f64, sessions: u64, queued: bool) -> u16 {
    let narrow = |n: f64| n.clamp(0.0, 1024.0) as u16;
    // A hair over a whole number is noise.
    let by_load = narrow((busy / rule.aim() - 0.01).ceil());
    let by_sessions = rule.max_sessions.map_or(0, |max| narrow((sessions as f64 / f64::from(max.max(1))).ceil()));
    by_load.max(by_sessions).saturating_add(u16::from(queued))
}

#[cfg(test)]
mod tests;
