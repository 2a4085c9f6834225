//! An edge proxy that runs an application's worker processes on Unix-domain sockets.
//!
//! The house has floors; a room imports from lower floors only, never sideways
//! (`tests/architecture.rs` holds it). See `docs/architecture.md`.

mod admin;
pub mod config;
mod fleet;
mod gateway;
mod handoff;
mod pool;
mod process;
pub mod server;
mod supervisor;
mod worker;
