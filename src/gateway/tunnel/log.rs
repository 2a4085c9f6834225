//! A tunnel's line in the access log: written by the process in which it ends.

use crate::gateway::access::Entry;
use crate::gateway::rules::SharedRules;

/// What is known of a tunnel since its beginning.
pub(in crate::gateway) struct TunnelLog {
    entry: Box<Entry>,
    /// The log in force at its end, which may be long after, is written to.
    rules: SharedRules,
}

/// Why a tunnel has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The client's direction ended first.
    Client,
    /// The worker's did.
    Worker,
    /// The proxy has closed it: its worker was to end, or the proxy itself.
    Closed,
    /// Silent for too long.
    Idle,
    /// A connection broke.
    Broken,
    /// The process ended before the tunnel did.
    Stopped,
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Reason::Client => "client",
            Reason::Worker => "worker",
            Reason::Closed => "closed_by_proxy",
            Reason::Idle => "idle",
            Reason::Broken => "broken",
            Reason::Stopped => "proxy_ended",
        }
    }
}

impl TunnelLog {
    pub(in crate::gateway) fn new(entry: Box<Entry>, rules: SharedRules) -> Box<TunnelLog> {
        Box::new(TunnelLog { entry, rules })
    }

    /// What another process needs to write this tunnel's line; so many bytes have passed in this one.
    pub(super) fn entry(&self, received: u64, sent: u64) -> Entry {
        self.entry.with(received, sent)
    }

    /// Writes the line.
    pub(super) fn end(&self, received: u64, sent: u64, reason: Reason) {
        if let Some(access) = &self.rules.load().access {
            self.entry(received, sent).end(access, reason.word());
        }
    }
}
