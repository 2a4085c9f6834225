//! A tunnel's line in the access log: written by the process in which it ends.

use super::relay::Relay;
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
}

impl Relay {
    /// What another process needs to write this tunnel's line.
    pub(super) fn log_entry(&self) -> Option<Entry> {
        let log = self.ends.log.as_ref()?;
        Some(log.entry.with(self.to_worker.read, self.to_client.read))
    }

    /// Writes the line, once.
    pub(super) fn log_end(&mut self, reason: Reason) {
        if let Some(log) = self.ends.log.take()
            && let Some(access) = &log.rules.load().access
        {
            log.entry.with(self.to_worker.read, self.to_client.read).end(access, reason.word());
        }
    }
}
