//! Connections on their way to another process, and from one.
//!
//! - [`format`](mod@format): a connection or tunnel as bytes and descriptors
//! - [`give`]: sends it
//! - [`adopt`]: makes it ready to go on in the process that took it

pub(super) mod adopt;
pub(super) mod format;
pub(super) mod give;
