//! An edge proxy that runs an application's worker processes on Unix-domain sockets.
//!
//! The house has floors; a room imports from lower floors only, never sideways
//! (`tests/architecture.rs` holds it). See `docs/architecture.md`.

#![allow(dead_code)] // while the floors are laid

mod admin;
pub mod config;
mod fleet;
mod gateway;
mod pool;
mod process;
pub mod server;
mod supervisor;
mod worker;
