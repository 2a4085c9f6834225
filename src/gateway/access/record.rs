//! The one value per request: what is known of it at its end.

use super::facts::Facts;
use crate::gateway::metrics::counters::Failure;
use crate::gateway::request::error_response::ErrorResponse;
use crate::pool::Member;
use crate::worker::Tag;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// The status of a request whose client left before it was answered, as nginx has it.
pub(in crate::gateway) const CLIENT_GONE: u16 = 499;

/// Who answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::gateway) enum By {
    #[default]
    Nobody,
    Worker,
    Proxy,
}

/// What is noted of a request on its way.
#[derive(Debug)]
pub(in crate::gateway) struct Trace {
    began: Instant,
    /// Since when a worker is waited for.
    waiting: Instant,
    queue: Duration,
    taken: Option<Instant>,
    connected: Option<Instant>,
    answered: Option<Instant>,
    pub(super) worker: Option<Arc<Member>>,
    pub(super) retries: u16,
    pub(super) status: u16,
    pub(super) by: By,
    pub(super) reason: Option<&'static str>,
    pub(super) detail: Option<&'static str>,
    pub(super) bytes: ByteCount,
}

/// ByteCount of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::gateway) struct ByteCount {
    /// Content of the request; of a tunnel all that the client sent.
    pub(in crate::gateway) received: u64,
    /// All that was sent of the answer.
    pub(in crate::gateway) sent: u64,
    /// The answer's head in that.
    pub(in crate::gateway) head: u64,
}

impl Trace {
    /// Of a request whose head is whole now.
    pub(in crate::gateway) fn new() -> Trace {
        let now = Instant::now();
        Trace {
            began: now,
            waiting: now,
            queue: Duration::ZERO,
            taken: None,
            connected: None,
            answered: None,
            worker: None,
            retries: 0,
            status: CLIENT_GONE,
            by: By::Nobody,
            reason: None,
            detail: None,
            bytes: ByteCount::default(),
        }
    }

    /// A worker takes it.
    pub(in crate::gateway) fn took(&mut self, worker: &Arc<Member>) {
        let now = Instant::now();
        self.queue += now.duration_since(self.waiting);
        (self.taken, self.connected, self.answered) = (Some(now), None, None);
        self.worker = Some(worker.clone());
    }

    /// There is a connection to the worker.
    pub(in crate::gateway) fn connected(&mut self) {
        self.connected = Some(Instant::now());
    }

    /// When the final answer began.
    pub(in crate::gateway) fn first_byte(&mut self, at: Option<Instant>) {
        self.answered = at;
    }

    /// It is tried again.
    pub(in crate::gateway) fn retried(&mut self) {
        self.retries = self.retries.saturating_add(1);
        self.waiting = Instant::now();
    }

    /// A worker's answer has begun.
    pub(in crate::gateway) fn by_worker(&mut self, status: u16) {
        (self.status, self.by) = (status, By::Worker);
    }

    /// The proxy answers itself.
    pub(in crate::gateway) fn by_proxy(&mut self, response: &ErrorResponse) {
        (self.status, self.by, self.detail) = (response.status, By::Proxy, Some(response.detail));
        let body = response.text().len() as u64;
        self.bytes = ByteCount { sent: body, head: 0, ..self.bytes };
    }

    /// The same for what no app got.
    pub(in crate::gateway) fn refused(&mut self, response: &ErrorResponse, reason: &'static str) {
        self.by_proxy(response);
        self.reason = Some(reason);
    }

    /// The same with another answer than that of an error.
    pub(in crate::gateway) fn by_proxy_with(&mut self, status: u16, detail: &'static str) {
        (self.status, self.by, self.detail) = (status, By::Proxy, Some(detail));
    }

    pub(in crate::gateway) fn is_by_proxy(&self) -> bool {
        self.by == By::Proxy
    }

    pub(in crate::gateway) fn failed(&mut self, failure: Failure) {
        self.reason = Some(failure.name());
    }

    pub(in crate::gateway) fn bytes(&self) -> ByteCount {
        self.bytes
    }

    pub(in crate::gateway) fn moved(&mut self, bytes: ByteCount) {
        self.bytes = bytes;
    }

    pub(super) fn times(&self) -> Times {
        let now = Instant::now();
        let between = |from: Option<Instant>, to: Option<Instant>| Some(to?.saturating_duration_since(from?));
        Times {
            queue: self.taken.map(|_| self.queue),
            connect: between(self.taken, self.connected),
            // Where no connection is told of, it is a part of this.
            first_byte: between(self.connected.or(self.taken), self.answered),
            worker: between(self.taken, Some(now)),
            total: now.duration_since(self.began),
        }
    }
}

/// How long each part took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// Until a worker took it: the body that is waited for before, and the queue.
    pub(super) queue: Option<Duration>,
    pub(super) connect: Option<Duration>,
    /// From the connection to the answer's first byte.
    pub(super) first_byte: Option<Duration>,
    /// From the worker to the end.
    pub(super) worker: Option<Duration>,
    pub(super) total: Duration,
}

/// The worker of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Worker<'a> {
    pub(super) slot: u16,
    pub(super) generation: u32,
    pub(super) socket: &'a str,
}

/// What a tunnel's line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TunnelLine<'a> {
    Begin,
    /// Since when it has been open, and why it is not any more.
    End(SystemTime, &'a str),
}

/// All that a line may say.
#[derive(Debug)]
pub(super) struct Record<'a> {
    /// When the line is made.
    pub(super) time: SystemTime,
    pub(super) facts: &'a Facts<'a>,
    pub(super) worker: Option<Worker<'a>>,
    pub(super) sid_tag: Option<Tag>,
    pub(super) status: u16,
    pub(super) by: By,
    pub(super) reason: Option<&'a str>,
    pub(super) detail: Option<&'a str>,
    pub(super) times: Times,
    pub(super) retries: u16,
    pub(super) bytes: ByteCount,
    pub(super) tunnel: Option<TunnelLine<'a>>,
}

impl Record<'_> {
    /// ByteCount of the answer without its head.
    pub(super) fn body_bytes(&self) -> u64 {
        self.bytes.sent.saturating_sub(self.bytes.head)
    }

    pub(super) fn answered_by(&self) -> &'static str {
        match self.by {
            By::Nobody => "nobody",
            By::Worker => "worker",
            By::Proxy => "proxy",
        }
    }

    /// Only these may be left out of a sample.
    pub(super) fn is_ordinary(&self) -> bool {
        self.status < 400 && self.reason.is_none() && self.tunnel.is_none()
    }
}
