//! The operating system: spawn, control channel, output, exits.

pub(crate) mod spec;
