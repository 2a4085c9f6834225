//! `shutdown` and `upgrade`: how the proxy ends, and whether what it waits for fits into the time it has.

use super::fields::{Decoder, Fields};
use super::scalars::duration_text;
use super::schema::{SHUTDOWN, UPGRADE};
use super::{App, Shutdown};
use std::time::Duration;

/// What Kubernetes gives a pod that does not say otherwise (terminationGracePeriodSeconds).
const KUBERNETES: Duration = Duration::from_secs(30);
/// Before the limit everything is ended, so that the end is still ours.
pub(crate) const MARGIN: Duration = Duration::from_secs(1);

pub(super) fn decode(d: &mut Decoder<'_>, top: &Fields<'_>, apps: &[App]) -> Shutdown {
    let mut shutdown = Shutdown { max_drain: max_drain(d, top), ..Shutdown::default() };
    let mut at = None;
    if let Some(field) = top.filled("shutdown")
        && let Some(fields) = d.fields(&field, &SHUTDOWN)
    {
        at = fields.get("limit").or(fields.get("pre_stop_delay")).map_or(field.at(), |field| field.at());
        shutdown.pre_stop_delay = d.duration(&fields, "pre_stop_delay").unwrap_or_default();
        shutdown.limit = d.duration_or_none(&fields, "limit").flatten();
    }
    let in_kubernetes = d.machine.var("KUBERNETES_SERVICE_HOST").is_some();
    let assumed = Some(KUBERNETES).filter(|_| in_kubernetes);
    let Some(limit) = shutdown.limit.or(assumed) else { return shutdown };
    let longest = apps.iter().max_by_key(|app| ends_within(app));
    let sum = shutdown.pre_stop_delay + longest.map_or(Duration::ZERO, ends_within);
    if sum + MARGIN <= limit {
        return shutdown;
    }
    let delay = shutdown.pre_stop_delay;
    let mut parts = Vec::new();
    if !delay.is_zero() {
        parts.push(format!("shutdown.pre_stop_delay {}", duration_text(delay)));
    }
    if let Some(app) = longest {
        let (drain, stop) = (duration_text(app.policy.drain_timeout), duration_text(app.policy.stop_timeout));
        parts.push(format!("apps.{0}.drain_timeout {drain} and stop_timeout {stop}", app.name));
    }
    let (parts, sum, needed) = (parts.join(" and "), duration_text(sum), duration_text(sum + MARGIN));
    let (what, hint) = match shutdown.limit {
        Some(limit) => (
            format!("shutdown.limit is {}", duration_text(limit)),
            format!("lower them, or give the proxy at least {needed} and write that as limit"),
        ),
        None => (
            format!("Kubernetes gives {} unless told otherwise", duration_text(limit)),
            format!("lower them, or set terminationGracePeriodSeconds and shutdown.limit to at least {needed}"),
        ),
    };
    let message = format!("a stop may take {sum} ({parts}), but {what}: what is left by then is cut off");
    d.found.warn(at, message, hint);
    shutdown
}

/// How long what cannot move to a successor may take to end.
fn max_drain(d: &mut Decoder<'_>, top: &Fields<'_>) -> Duration {
    let fields = top.filled("upgrade").and_then(|field| d.fields(&field, &UPGRADE));
    fields.and_then(|fields| d.duration(&fields, "max_drain")).unwrap_or(Duration::from_secs(3600))
}

/// The longest that an app's workers may take to end.
fn ends_within(app: &App) -> Duration {
    app.policy.drain_timeout + app.policy.stop_timeout
}
