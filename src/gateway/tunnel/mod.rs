//! WebSockets after their 101: bytes both ways until both ends have finished.
//!
//! - [`relay`]: the open tunnel
//! - [`frame`]: where the WebSocket frames of a direction begin and end, so that a Close frame can be put in between
//! - [`migrate`]: a tunnel that stops where it stands, and its way to another process

// `fuzz/` and `benches/` include this file from elsewhere.
pub(crate) mod frame;
pub(super) mod log;
mod migrate;
pub(super) mod relay;
