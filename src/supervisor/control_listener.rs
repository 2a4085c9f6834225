//! The control socket, where workers dial in.

use crate::process::control::{Registry, bind_over, serve};
use crate::process::{Error, RuntimeDir};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::task::JoinHandle;

/// Listens while it is open. Dropping it ends that.
#[derive(Default)]
pub(super) struct ControlListener(Option<Listening>);

struct Listening {
    task: JoinHandle<()>,
    path: PathBuf,
    /// Device and inode: while the socket is served no other file has the same.
    file: Option<(u64, u64)>,
    /// Serves connections that came by a socket whose path is gone.
    #[allow(dead_code)] // held: dropping it ends them
    earlier: Option<Box<Listening>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ControlListener {
    /// Binds over what is there.
    pub(super) fn open(&mut self, dir: &RuntimeDir, registry: &Registry) -> Result<(), Error> {
        self.0 = Some(listen(dir, registry)?);
        Ok(())
    }

    /// The same where somebody has removed the socket: connections that have come by it stay.
    pub(super) fn open_again(&mut self, dir: &RuntimeDir, registry: &Registry) -> Result<(), Error> {
        let anew = listen(dir, registry)?;
        let earlier = self.0.take().map(Box::new);
        self.0 = Some(anew);
        if let Some(listening) = &mut self.0 {
            listening.earlier = earlier;
        }
        Ok(())
    }

    /// Whether it is open, and its path is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.0.is_some() && !self.is_in_place()
    }

    /// Returns once nobody is accepted any more.
    pub(super) async fn close(&mut self) {
        if let Some(mut listening) = self.0.take() {
            listening.task.abort();
            let _ = (&mut listening.task).await;
        }
    }

    /// Whether workers that dial in reach us, and not another process that has bound over our socket.
    pub(super) fn is_in_place(&self) -> bool {
        self.0.as_ref().is_some_and(|listening| listening.file.is_some() && file_of(&listening.path) == listening.file)
    }
}

fn listen(dir: &RuntimeDir, registry: &Registry) -> Result<Listening, Error> {
    let path = dir.control_socket();
    let listener = bind_over(&path, dir.is_shared())?;
    let task = tokio::spawn(serve(listener, registry.clone()));
    Ok(Listening { task, file: file_of(&path), path, earlier: None })
}

fn file_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}
