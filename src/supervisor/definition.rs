//! What a generation of an app is started from.

use super::knock::without_tls;
use crate::fleet::policy::{Health, Policy};
use crate::process::Tenant;
use crate::process::spec::Spec;
use http::StatusCode;
use pingora_core::connectors::http::Connector;
use pingora_core::{Error, ErrorType};
use pingora_load_balancing::health_check::HttpHealthCheck;
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
    check: Arc<OnceLock<Option<Arc<HttpHealthCheck>>>>,
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

    /// Whether its processes belong to another user, or may.
    pub(super) fn is_foreign(&self) -> bool {
        self.spec.user.is_some() || self.spec.external.is_some()
    }

    pub(super) fn tenant(&self, app: &str) -> Tenant {
        Tenant { app: app.to_owned(), user: self.spec.user.clone() }
    }

    /// The app's own health check, if it has one. Needs a Tokio runtime.
    pub(super) fn http_check(&self) -> Option<Arc<HttpHealthCheck>> {
        self.check.get_or_init(|| http_check(&self.policy.health).map(Arc::new)).clone()
    }
}

fn http_check(health: &Health) -> Option<HttpHealthCheck> {
    let path = health.path.as_ref()?;
    let mut check = HttpHealthCheck::new_custom("localhost", false, Connector::new(Some(without_tls())));
    // What is no path was refused by the configuration.
    check.req.set_uri(path.parse().ok()?);
    let _ = check.req.insert_header("User-Agent", "pingora-unix-proxy (health check)");
    check.peer_template.options.connection_timeout = Some(health.timeout);
    check.peer_template.options.read_timeout = Some(health.timeout);
    let (first, last) = health.expect;
    check.validator = Some(Box::new(move |head| {
        let status: StatusCode = head.status;
        if (first..=last).contains(&status.as_u16()) {
            return Ok(());
        }
        Error::e_explain(ErrorType::HTTPStatus(status.as_u16()), format!("status {status}"))
    }));
    Some(check)
}
