//! The service that keeps every app's workers running: it feeds the fleets with what happens and
//! performs what they ask for.
//!
//! # For the composition root
//!
//! ```ignore
//! let (supervisor, control) = Supervisor::new(Setup {
//!     apps: vec![AppSpec { name, spec, policy, pool }],   // one Arc<Pool> each, shared with traffic
//!     runtime_dir, port, keep_alive, orphan_timeout,
//! })?;                                     // locks and furnishes the runtime directory; starts nothing
//! server.add_service(background_service("supervisor", supervisor));   // starts the workers in `run()`
//!
//! control.stop();                          // SIGTERM, SIGINT: drain, stop; the second call: kill now
//! control.kill();                          // the same as a second stop
//! control.finished().await;                // Ok: no process, socket, FIFO or directory of ours is left.
//!                                          // Err: the supervisor failed; also without a stop: exit non-zero
//! control.reload(apps, scope, None, enforce).await; // what changed rolls out; Ok or Err says in words what came of it
//! control.restart(Some(app), None).await;  // the same configuration as a new generation
//! control.scale("chat", ScaleTo::By(1)).await;
//! control.status();                        // Arc<Status>, newest; `changed().await` waits for the next
//! ```
//!
//! Handing over (the predecessor): `control.pause().await?` gives the [`Snapshot`]; then `disconnect_workers`,
//! `pause_output`, and either `release`, after which `finished()` is Ok and all is left as it is, or `resume`. The
//! successor is made by [`Supervisor::successor`]. A supervisor that finds the state file of one that was killed
//! takes its workers over by itself.
//!
//! `Control` is cheap to clone. When Pingora's own shutdown signal comes first, it counts as a stop;
//! whoever lets Pingora end its runtime should wait for `finished()` before, or workers are orphaned.
//!
//! # Theory of operation
//!
//! One task owns all state ([`event_loop`]); each part of it has one owner ([`apps`], [`commands`], [`snapshot`],
//! [`guard`], [`handoff`]), which gets the apps as an argument and knows nothing of the loop. Whatever takes time
//! (spawn, probe, waiting for an exit, cleaning up) is a task that ends with a [report](messages::EffectReport). A
//! panic in the loop is caught and logged, and it goes on with the state it has; when that happens again and again
//! all workers are killed and `finished()` says so.

#![forbid(unsafe_code)]

mod actions;
pub(crate) mod alarms;
mod app;
mod apps;
mod child;
mod commands;
mod control_listener;
mod definition;
mod effects;
mod event_loop;
mod events;
mod external;
mod guard;
mod handle;
mod handoff;
mod healing;
mod heartbeat;
mod joins;
mod messages;
mod metrics;
mod output_readers;
mod panics;
mod pending;
mod probe;
mod reload;
mod renounced;
mod restarts;
mod running;
mod setup;
mod snapshot;
mod status;
mod tags;
#[cfg(test)]
mod tests;
mod unreached;
mod worker_record;

pub(crate) use handle::{Control, Supervisor};
pub(crate) use handoff::TakeoverHandle;
pub(crate) use messages::{ReloadScope, ScaleTo, Sent};
pub(crate) use metrics::register;
pub(crate) use setup::{AppSpec, Setup};
pub(crate) use snapshot::{PartialLine, Snapshot, terminate_orphans};
pub(crate) use status::{AppStatus, SlotStatus, Status, WorkerStatus};
