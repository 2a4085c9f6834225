//! An edge proxy that runs an application's worker processes on Unix-domain sockets.
//!
//! Its modules stand in layers: each imports from lower layers only, never sideways
//! (`tests/architecture` holds it). See `docs/architecture.md`.

mod admin;
pub mod config;
mod fleet;
mod gateway;
mod handoff;
mod pool;
mod process;
pub mod server;
mod supervisor;
mod tls;
mod worker;
