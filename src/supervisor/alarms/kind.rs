//! What alarms there are, and what one is known by.

use crate::fleet::Alarm;
use crate::worker::Slot;
use std::fmt;
use std::sync::Arc;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A worker holds much memory.
    Memory,
    /// A worker's event loop is busy nearly all the time.
    Elu,
    /// A worker's event loop is late.
    Lag,
    /// A slot's workers end again and again.
    CrashLoop,
    RolloutFailed,
    /// A worker does not answer any more.
    Hung,
    CannotScale,
    /// One worker is busy while the others are not.
    Skew,
    /// Requests found the queue full, or waited in it too long.
    QueueOverflow,
    /// Lines of output were dropped.
    LogDrops,
    /// A disk is nearly full.
    Disk,
    /// Something was removed from the runtime directory.
    RuntimeDirectory,
    /// Workers of one generation have different servers.
    ServersDiffer,
    /// The newest text of a certificate's files cannot be used.
    CertificateUnreadable,
    /// A certificate ends soon, or has ended.
    CertificateExpires,
}

impl Kind {
    pub(crate) const ALL: [Kind; 15] = [
        Kind::Memory,
        Kind::Elu,
        Kind::Lag,
        Kind::CrashLoop,
        Kind::RolloutFailed,
        Kind::Hung,
        Kind::CannotScale,
        Kind::Skew,
        Kind::QueueOverflow,
        Kind::LogDrops,
        Kind::Disk,
        Kind::RuntimeDirectory,
        Kind::ServersDiffer,
        Kind::CertificateUnreadable,
        Kind::CertificateExpires,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Memory => "memory",
            Kind::Elu => "elu",
            Kind::Lag => "lag",
            Kind::CrashLoop => "crash-loop",
            Kind::RolloutFailed => "rollout-failed",
            Kind::Hung => "hung",
            Kind::CannotScale => "cannot-scale",
            Kind::Skew => "skew",
            Kind::QueueOverflow => "queue-overflow",
            Kind::LogDrops => "log-drops",
            Kind::Disk => "disk",
            Kind::RuntimeDirectory => "runtime-directory",
            Kind::ServersDiffer => "servers-differ",
            Kind::CertificateUnreadable => "certificate-unreadable",
            Kind::CertificateExpires => "certificate-expires",
        }
    }
}

/// An alarm that begins, or goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raised {
    pub(crate) kind: Kind,
    /// Empty when it is about the proxy itself.
    pub(crate) app: Arc<str>,
    /// `None` when it is about the app as a whole.
    pub(crate) slot: Option<Slot>,
    /// For people; may have several lines.
    pub(crate) detail: String,
}

impl From<Alarm> for Kind {
    fn from(alarm: Alarm) -> Kind {
        match alarm {
            Alarm::CrashLoop => Kind::CrashLoop,
            Alarm::FailedRollout => Kind::RolloutFailed,
            Alarm::Hung => Kind::Hung,
            Alarm::Memory => Kind::Memory,
            Alarm::CannotScale => Kind::CannotScale,
            Alarm::Skew => Kind::Skew,
        }
    }
}

/// What an alarm is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) app: Arc<str>,
    pub(super) slot: Option<Slot>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        match (&*self.app, self.slot) {
            ("", _) => Ok(()),
            (app, None) => write!(f, " {app}"),
            (app, Some(slot)) => write!(f, " {app}[{slot}]"),
        }
    }
}
