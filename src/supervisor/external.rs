//! Apps whose workers somebody else starts: the directory that they share with us.

use crate::process::control::{Door, Join, Registry, serve_external};
use crate::process::spec::External;
use crate::process::{Error, PRELOAD, SharedDir};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// An app's shared directory, open. Dropping it closes and clears it.
pub(super) struct ExternalListener {
    door: Arc<Door>,
    dir: Arc<SharedDir>,
    /// `None` once closed.
    serving: Option<JoinHandle<()>>,
    /// The same of a socket whose path is gone.
    earlier: Vec<JoinHandle<()>>,
}

impl Drop for ExternalListener {
    fn drop(&mut self) {
        self.serving.iter().chain(&self.earlier).for_each(JoinHandle::abort);
    }
}

impl ExternalListener {
    /// With `take_over`, in the place of a proxy that still lives.
    pub(super) fn open(
        app: Arc<str>,
        external: &External,
        registry: Registry,
        joins: mpsc::Sender<Join>,
        take_over: bool,
    ) -> Result<ExternalListener, Error> {
        let dir = SharedDir::open(&external.directory, &external.users)?;
        let listener = dir.prepare(PRELOAD, take_over)?;
        let doing = || format!("listening in {}", external.directory.display());
        let listener = UnixListener::from_std(listener).map_err(|source| Error::Io { doing: doing(), source })?;
        let door = Arc::new(Door::new(app, external.directory.clone(), external.users.clone(), joins));
        let serving = tokio::spawn(serve_external(listener, registry, door.clone()));
        let opened = ExternalListener { door, dir: Arc::new(dir), serving: Some(serving), earlier: Vec::new() };
        opened.sweep();
        log::info!("external workers join in {}", external.directory.display());
        Ok(opened)
    }

    /// Removes what dead workers left. Nobody waits for it.
    pub(super) fn sweep(&self) {
        let dir = self.dir.clone();
        tokio::task::spawn_blocking(move || dir.sweep());
    }

    /// Whether it is open, and something of ours was removed.
    pub(super) fn is_lost(&self) -> bool {
        self.serving.is_some() && !self.dir.is_whole()
    }

    /// Connections that have come by one before it stay.
    pub(super) fn follow(&mut self, mut before: ExternalListener) {
        self.earlier.extend(before.earlier.drain(..).chain(before.serving.take()));
    }

    /// Workers of other users may join from now on.
    pub(super) fn admit_users(&self, users: &[u32]) -> Result<(), Error> {
        let admitted = self.dir.admit_users(users);
        self.door.admit_users(users.to_vec());
        admitted
    }

    /// Workers that are hung up on reach whoever took our place. Returns once nobody is accepted any more.
    pub(super) async fn close(&mut self) {
        self.earlier.drain(..).for_each(|earlier| earlier.abort());
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }
}
