//! The access log: one value per request, made at its end by whoever carried it, and one line of it.
//!
//! Nothing here waits: lines are put together in a buffer of the thread, which a task gives to the writer's thread
//! (`process::output`) a moment later. Without an access log a request costs one branch.

mod encode;
pub(super) mod facts;
mod line;
mod log;
mod policy;
pub(super) mod record;
mod redact;
mod template;
#[cfg(test)]
mod tests;

pub(super) use line::{Entry, Line, OwnedLine};
pub(super) use log::AccessLog;
pub(crate) use log::Counters;
pub(crate) use policy::Policy;
pub(crate) use redact::Redact;
pub(crate) use template::{Format, Unknown};
