//! WebSockets after their 101: bytes both ways until both ends have finished.

// `fuzz/` and `benches/` include this file from elsewhere.
pub(crate) mod frame;
mod migrate;
pub(super) mod relay;
