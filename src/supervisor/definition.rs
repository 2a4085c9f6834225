//! What a generation of an app is started from.

use super::probe::HttpCheck;
use crate::fleet::policy::Policy;
use crate::process::Tenant;
use crate::process::release::{self, Release};
use crate::process::spec::Spec;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A definition with all of its paths pinned: where one is a link, as deploys make them, every process of the
/// generation starts where the link led when the generation began.
#[derive(Clone)]
pub(super) struct Definition {
    /// As configured.
    pub(super) spec: Spec,
    pub(super) policy: Policy,
    /// As it runs: real paths, and the variables that its files held.
    pub(super) pinned: Arc<Spec>,
    /// What was there when it was pinned. `None`: it could not be pinned, or an older proxy has done it.
    pub(super) release: Option<Arc<Release>>,
    /// Why it cannot be started as it is to be.
    pub(super) obstacle: Option<String>,
    in_place: Arc<InPlace>,
    check: Arc<OnceLock<Option<Arc<HttpCheck>>>>,
}

/// Whether files of a generation changed where they are. That is told once: its next worker runs the new ones.
pub(super) struct InPlace {
    told: AtomicBool,
    pinned_at: Instant,
}

/// What starts in a generation that was begun well before is looked at.
const SETTLED: Duration = Duration::from_secs(5);

impl Definition {
    /// Reads the file system. `sent`: variables of who asked for it.
    pub(super) fn pin(spec: Spec, policy: Policy, sent: Vec<(String, String)>) -> Result<Definition, String> {
        if spec.external.is_some() {
            return Ok(Definition::with(spec.clone(), policy, spec, None));
        }
        let (pinned, release) = release::take(&spec, sent)?;
        if let Some(bound) = release.bound() {
            log::info!("{bound}");
        }
        Ok(Definition::with(spec, policy, pinned, Some(release)))
    }

    /// The same where the directory may not be there yet: the start of a worker says what is wrong.
    pub(super) fn pin_or_keep(spec: Spec, policy: Policy) -> Definition {
        match Definition::pin(spec.clone(), policy.clone(), Vec::new()) {
            Ok(definition) => definition,
            Err(why) => {
                // A directory that comes later is found then. Variables that are not known must not be left out.
                let obstacle = (!spec.env_file.is_empty()).then_some(why);
                Definition { obstacle, ..Definition::with(spec.clone(), policy, spec, None) }
            }
        }
    }

    /// As it was pinned by an earlier proxy.
    pub(super) fn with(spec: Spec, policy: Policy, pinned: Spec, release: Option<Release>) -> Definition {
        let in_place = Arc::new(InPlace { told: AtomicBool::new(false), pinned_at: Instant::now() });
        let (pinned, release) = (Arc::new(pinned), release.map(Arc::new));
        Definition { spec, policy, pinned, release, obstacle: None, in_place, check: Arc::default() }
    }

    /// The same processes with other rules.
    pub(super) fn ruled(&self, policy: Policy) -> Definition {
        Definition { policy, check: Arc::default(), ..self.clone() }
    }

    /// What was sent for the one before goes on, unless something else was sent.
    pub(super) fn keep_sent(&mut self, before: &Definition) {
        if self.pinned.given.sent != before.pinned.given.sent && self.pinned.given.sent.is_empty() {
            Arc::make_mut(&mut self.pinned).given.sent = before.pinned.given.sent.clone();
        }
    }

    /// What an older proxy has not looked at counts as it is now.
    pub(super) fn adopt_release(&mut self, now: &Definition) {
        if self.release.is_none() && self.pinned.cwd == now.pinned.cwd {
            self.release = now.release.clone();
        }
    }

    /// Whether both say the same in the file.
    pub(super) fn is_configured_as(&self, other: &Definition) -> bool {
        self.policy == other.policy && self.spec == other.spec
    }

    /// What makes processes of `other` different from those of this: nothing, if no new ones are needed.
    pub(super) fn differences(&self, other: &Definition, compare: Compare) -> Vec<String> {
        let keys = self.spec.differences(&other.spec);
        let mut found: Vec<String> = keys.into_iter().map(|key| format!("{key} is configured otherwise")).collect();
        if self.policy.wait_ready != other.policy.wait_ready {
            found.push("wait_ready is configured otherwise".to_owned());
        }
        if compare == Compare::Files && found.is_empty() {
            match (&self.release, &other.release) {
                (Some(before), Some(now)) => found.extend(before.changes(now)),
                // Nothing is known of its files.
                _ if self.pinned.cwd != other.pinned.cwd => {
                    found.push(format!("cwd now leads to {}", other.pinned.cwd.display()));
                }
                _ => {}
            }
        }
        found
    }

    /// Watches for files that changed since it was pinned; `None` when nothing can have or all was told.
    pub(super) fn watch(&self) -> Option<FileCheck> {
        let release = self.release.clone()?;
        let due = self.in_place.pinned_at.elapsed() > SETTLED && !self.in_place.told.load(Ordering::Relaxed);
        due.then(|| FileCheck { release, pinned: self.pinned.clone(), in_place: self.in_place.clone() })
    }

    pub(super) fn tenant(&self, app: &str) -> Tenant {
        Tenant { app: app.to_owned(), user: self.spec.user.clone() }
    }

    /// The app's own health check, if it has one.
    pub(super) fn http_check(&self) -> Option<Arc<HttpCheck>> {
        self.check.get_or_init(|| HttpCheck::new(&self.policy.health).map(Arc::new)).clone()
    }
}

/// What of two definitions is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    /// What is configured.
    Configured,
    /// Also where paths lead, and the files there.
    Files,
}

/// A look at the files of a generation when one of its processes is started again.
pub(super) struct FileCheck {
    release: Arc<Release>,
    pinned: Arc<Spec>,
    in_place: Arc<InPlace>,
}

impl FileCheck {
    /// Tells the log, once for a generation. Reads the file system.
    pub(super) fn run(self, app: &str) {
        // What cannot be looked at cannot be started, either.
        let Ok((_, now)) = release::take(&self.pinned, Vec::new()) else { return };
        let changes = self.release.in_place(&now);
        if !changes.is_empty() && !self.in_place.told.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{app}: files were changed where they are since its workers were started ({}): a worker that starts \
                 again runs the new ones beside the old ones; `reload {app}` makes all run the same",
                changes.join(", ")
            );
        }
    }
}
