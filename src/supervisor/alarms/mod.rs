//! What may call for a person: told once when it begins, again after each `repeat` while it lasts, and once when it
//! is over; as a line of the log, a metric, an HTTP request and a program.
//!
//! ```ignore
//! let alarms = Alarms::new(policy);            // a handle, cheap to clone
//! let _running = alarms.start();               // in a Tokio runtime; until it is dropped
//! alarms.raise(Raised { kind, app, slot, detail });   // again and again is the same alarm
//! alarms.clear(kind, &app, slot);              // also when it was never raised
//! alarms.observe(&measurements);                   // once a second: rules on values, and repeats
//! ```
//!
//! An alarm is known by kind, app and slot. What is active stands in a [`book`], pure like the [`rules`] that raise
//! alarms from values; both get the time handed in. Nothing here makes its caller wait: the tasks of [`delivery`] each
//! have a bounded queue, and a notice that finds it full is dropped and counted.

mod book;
mod delivery;
mod handle;
mod kind;
mod metrics;
mod rules;
mod saved;
mod servers;
mod state;
#[cfg(test)]
mod tests;
mod watch;
mod webhook;

pub(crate) use handle::Alarms;
pub(super) use handle::Running;
pub(crate) use kind::{Kind, Raised};
pub(super) use metrics::register;
pub(crate) use rules::Rules;
pub(super) use saved::Saved;
pub(crate) use state::Policy;
pub(super) use watch::watch;
pub(crate) use webhook::Webhook;
