//! What a generation of an app is started from.

use super::probe::HttpCheck;
use crate::fleet::policy::Policy;
use crate::process::Tenant;
use crate::process::spec::Spec;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// A definition with its directory pinned: where `cwd` is a link, as deploys make them, every
/// process of the generation starts where the link led when the generation began.
#[derive(Clone)]
pub(super) struct Definition {
    /// As configured.
    pub(super) spec: Spec,
    pub(super) policy: Policy,
    /// With the real path.
    pub(super) pinned: Arc<Spec>,
    check: Arc<OnceLock<Option<Arc<HttpCheck>>>>,
}

impl Definition {
    /// Reads the file system.
    pub(super) fn pin(spec: Spec, policy: Policy) -> Result<Definition, String> {
        let cwd = std::fs::canonicalize(&spec.cwd)
            .map_err(|e| format!("cannot use working directory {}: {e}", spec.cwd.display()))?;
        let pinned = Arc::new(Spec { cwd, ..spec.clone() });
        Ok(Definition { spec, policy, pinned, check: Arc::default() })
    }

    /// The same where the directory may not be there yet: the start of a worker says what is wrong.
    pub(super) fn pin_or_keep(spec: Spec, policy: Policy) -> Definition {
        match Definition::pin(spec.clone(), policy.clone()) {
            Ok(definition) => definition,
            Err(_) => Definition { pinned: Arc::new(spec.clone()), spec, policy, check: Arc::default() },
        }
    }

    /// As it was pinned by an earlier proxy.
    pub(super) fn pinned_at(spec: Spec, policy: Policy, cwd: PathBuf) -> Definition {
        let pinned = Arc::new(Spec { cwd, ..spec.clone() });
        Definition { spec, policy, pinned, check: Arc::default() }
    }

    /// Whether processes of both are alike: then a change needs no new ones.
    pub(super) fn runs_the_same(&self, other: &Definition) -> bool {
        self.spec == other.spec
            && self.pinned.cwd == other.pinned.cwd
            && self.policy.wait_ready == other.policy.wait_ready
    }

    pub(super) fn tenant(&self, app: &str) -> Tenant {
        Tenant { app: app.to_owned(), user: self.spec.user.clone() }
    }

    /// The app's own health check, if it has one.
    pub(super) fn http_check(&self) -> Option<Arc<HttpCheck>> {
        self.check.get_or_init(|| HttpCheck::new(&self.policy.health).map(Arc::new)).clone()
    }
}
