//! Upgraded connections.

pub(crate) mod frame;
