//! One timer per connection for all its deadlines.
//!
//! Deadlines move with every request, nearly always later. Instead of moving the runtime's timer
//! each time, it is left where it is; when it fires early it is set again.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

#[derive(Default)]
pub(in crate::gateway) struct Deadline {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Ready once `limit` has passed since the first poll after the last [`Deadline::clear`].
    pub(in crate::gateway) fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + limit);
        self.poll_at(cx, deadline)
    }

    /// Ready once it is `deadline`.
    pub(in crate::gateway) fn poll_at(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// How long until it fires; `None` while nothing is waited for.
    pub(in crate::gateway) fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Fires after `left`, whatever limit it is polled with: a wait that began in another process goes on.
    pub(in crate::gateway) fn resume(&mut self, left: Duration) {
        self.deadline = Some(Instant::now() + left);
    }

    /// What was waited for has happened.
    pub(in crate::gateway) fn clear(&mut self) {
        self.deadline = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn fires_at_the_deadline_that_holds() {
        let mut deadline_timer = Deadline::default();
        let start = Instant::now();
        std::future::poll_fn(|cx| deadline_timer.poll(cx, Duration::from_secs(5))).await;
        assert_eq!(start.elapsed().as_secs(), 5);

        // A later deadline: the old timer fires early and is set again.
        deadline_timer.clear();
        let _ = tokio::time::timeout(
            Duration::from_secs(1),
            std::future::poll_fn(|cx| deadline_timer.poll(cx, Duration::from_secs(3))),
        )
        .await;
        deadline_timer.clear();
        let start = Instant::now();
        std::future::poll_fn(|cx| deadline_timer.poll(cx, Duration::from_secs(10))).await;
        assert_eq!(start.elapsed().as_secs(), 10);

        // An earlier one: the timer moves.
        deadline_timer.clear();
        let _ = tokio::time::timeout(
            Duration::from_secs(1),
            std::future::poll_fn(|cx| deadline_timer.poll(cx, Duration::from_secs(60))),
        )
        .await;
        deadline_timer.clear();
        let start = Instant::now();
        std::future::poll_fn(|cx| deadline_timer.poll(cx, Duration::from_secs(2))).await;
        assert_eq!(start.elapsed().as_secs(), 2);
    }
}
