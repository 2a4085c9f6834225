//! A client that does not take what is waiting for it, on any stream.

use super::shared::Shared;
use crate::gateway::downstream::deadline::Deadline;
use crate::gateway::request::limits::{BodyOf, RateMeter};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Holds the connection to the limits of a response's body: what its streams have given to it fits the client's
/// windows, so only the client is waited for.
#[derive(Default)]
pub(super) struct Stall {
    /// Bytes that the client had taken at the last look.
    seen: u64,
    deadline: Deadline,
    rate: RateMeter,
}

impl Stall {
    /// Ready when the client takes nothing for too long, or too slowly.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<()> {
        if shared.budget.is_unused() {
            self.deadline.clear();
            self.rate.pause();
            return Poll::Pending;
        }
        let written = shared.written.load(Ordering::Relaxed);
        if written != std::mem::replace(&mut self.seen, written) {
            self.deadline.clear();
        }
        let limits = shared.rules.load().body_limits();
        if self.rate.look(&limits, BodyOf::Response, written, Instant::now()).is_err() {
            return Poll::Ready(());
        }
        self.deadline.poll(cx, limits.body_timeout)
    }
}
