//! An edge proxy that runs an application's worker processes on Unix-domain sockets.
//!
//! The house has floors; a room imports from lower floors only, never sideways
//! (`tests/architecture.rs` holds it). See `docs/architecture.md`.

// Parts of the handoff and of the messages between workers are there before they are called.
#![allow(dead_code)]

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
