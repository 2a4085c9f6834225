//! What needs the Tokio runtime or threads, so that it can be started only with the event loop.

use super::alarms;
use super::apps::Apps;
use super::status::Status;
use crate::process::{Error, PRELOAD};
use std::io::Write;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Ends when it is dropped.
pub(super) struct Running {
    watch: AbortHandle,
    _alarms: alarms::Running,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Running {
    /// From now on workers can be started and their output is written. `output` stands for standard output.
    pub(super) fn start(
        apps: &mut Apps,
        status: watch::Receiver<Arc<Status>>,
        output: Option<Box<dyn Write + Send>>,
    ) -> Result<Running, Error> {
        // The process may have become a daemon since, or is another one.
        apps.dir.write_pid()?;
        let preload = apps.dir.write_preload(PRELOAD)?;
        let logs = apps.output.logs.clone();
        let started = logs.start(output);
        started.map_err(|source| Error::Io { doing: "starting the threads for output".into(), source })?;
        let running = apps.alarms.start();
        let watch = alarms::watch(apps.alarms.clone(), status, logs, apps.dir.control_socket());
        apps.settings.preload = Some(preload);
        Ok(Running { watch: tokio::spawn(watch).abort_handle(), _alarms: running })
    }
}
