//! A worker's process as the supervisor uses it. Tests put one in its place that no operating system knows.

use crate::process::{Error, Exit, Process};
use async_trait::async_trait;
use std::sync::Arc;

/// See [`Process`], whose methods these are.
#[async_trait]
pub(super) trait Child: Send + Sync {
    fn pid(&self) -> u32;
    /// When it was started: together with its id it names the process.
    fn start_time(&self) -> Option<u64>;
    fn is_alive(&self) -> bool;
    fn signal_group(&self, signal: i32) -> Result<(), Error>;
    fn kill_group(&self) -> Result<(), Error>;
    /// Must be called before the stop signal is sent.
    fn ask_to_end(&self);
    /// Another proxy has it from now on.
    fn release(&self);
    async fn wait(&self) -> Result<Exit, Error>;
}

pub(super) type ChildHandle = Arc<dyn Child>;

/// Finds a process again that another proxy started: by its id, its start time and its user.
pub(super) type Adopt<'a> = &'a dyn Fn(u32, u64, u32) -> Result<ChildHandle, Error>;

pub(super) fn adopt(pid: u32, started: u64, uid: u32) -> Result<ChildHandle, Error> {
    Ok(Arc::new(Process::adopt(pid, started, uid)?))
}

#[async_trait]
impl Child for Process {
    fn pid(&self) -> u32 {
        Process::pid(self)
    }

    fn start_time(&self) -> Option<u64> {
        Process::start_time(self)
    }

    fn is_alive(&self) -> bool {
        Process::is_alive(self)
    }

    fn signal_group(&self, signal: i32) -> Result<(), Error> {
        Process::signal_group(self, signal)
    }

    fn kill_group(&self) -> Result<(), Error> {
        Process::kill_group(self)
    }

    fn ask_to_end(&self) {
        Process::ask_to_end(self);
    }

    fn release(&self) {
        self.hand_over();
    }

    async fn wait(&self) -> Result<Exit, Error> {
        Process::wait(self).await
    }
}
