//! Looks after the files of certificates while the proxy runs, and tells of those that are bad or end.

use super::handover::HandoffRole;
use crate::config::Listener;
use crate::gateway;
use crate::supervisor::Control;
use crate::supervisor::alarms::{Alarms, Kind, Raised};
use crate::tls::Fault;
use crate::tls::certificates::{end_in_words, now};
use crate::tls::store::{Loaded, Report, Served, TlsStore};
use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// What is renewed is served 10 s later at the latest.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Reads the files of all listeners.
///
/// # Errors
/// Everything that cannot be used, for people.
pub(super) fn load(store: &TlsStore, listeners: &[Listener]) -> Result<Loaded, String> {
    let loaded = store.load(listeners.iter().filter_map(|listener| listener.tls.as_ref()));
    loaded.map_err(|faults| listed(faults.iter().map(Fault::to_string)))
}

/// From here on these listeners, which are those of the configuration, get what their files hold.
pub(super) fn follow<'l>(
    store: &TlsStore,
    loaded: Loaded,
    configured: &[Listener],
    in_force: impl Iterator<Item = &'l gateway::Listener>,
) {
    let pair = |(listener, in_force): (&Listener, &gateway::Listener)| listener.tls.clone().zip(in_force.tls.clone());
    store.follow(loaded, configured.iter().zip(in_force).filter_map(pair).collect());
}

/// The service.
pub(super) struct CertificateWatch {
    pub(super) store: Arc<TlsStore>,
    pub(super) control: Control,
    pub(super) role: Arc<watch::Sender<HandoffRole>>,
    /// How long before a certificate ends somebody is told.
    pub(super) expires: Option<Duration>,
}

#[async_trait]
impl BackgroundService for CertificateWatch {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut tick = tokio::time::interval(LOOK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = shutdown.changed() => return,
            }
            let store = self.store.clone();
            let looked = tokio::task::spawn_blocking(move || store.look()).await;
            let (role, report) = (self.role.borrow().clone(), looked.unwrap_or_default());
            if role.is_gone() {
                return;
            }
            // Of what another process serves it tells itself. At the very start nobody would hear it.
            let alarms = self.control.alarms();
            if role == HandoffRole::Active && alarms.is_started() {
                tell(alarms, &report, self.expires, now());
            }
        }
    }
}

/// One alarm for all certificates: the text says which.
fn tell(alarms: &Alarms, report: &Report, expires: Option<Duration>, now: i64) {
    let ending = expires.map(|limit| ending(&report.served, limit, now)).unwrap_or_default();
    let unreadable = listed(report.faults.iter().map(|fault| format!("{fault}; the one before it is served")));
    for (kind, detail) in [(Kind::CertificateUnreadable, unreadable), (Kind::CertificateExpires, ending)] {
        let app: Arc<str> = "".into();
        match detail.is_empty() {
            true => alarms.clear(kind, &app, None),
            false => alarms.raise(Raised { kind, app, slot: None, detail }),
        }
    }
}

fn ending(served: &[Served], limit: Duration, now: i64) -> String {
    let limit = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    let mut ending: Vec<&Served> =
        served.iter().filter(|served| served.not_after.saturating_sub(now) <= limit).collect();
    ending.sort_by_key(|served| served.not_after);
    let words = |served: &&Served| {
        format!("the certificate of {} ({}) {}", served.name, served.algorithm, end_in_words(served.not_after, now))
    };
    listed(ending.iter().map(words))
}

/// One a line.
fn listed(lines: impl Iterator<Item = String>) -> String {
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_soon_is_told_the_soonest_first() {
        let day = 86_400;
        let served = |name: &str, not_after| Served { name: name.to_owned(), algorithm: "rsa", not_after };
        let all = [served("late", 30 * day), served("soon", 12 * day), served("over", -day)];
        let text = ending(&all, Duration::from_secs(14 * 86_400), 0);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("the certificate of over (rsa) ended on"), "{text}");
        assert!(lines[1].starts_with("the certificate of soon (rsa) ends in 12 days"), "{text}");
        assert_eq!(lines.len(), 2);
        assert_eq!(ending(&all, Duration::from_secs(14 * 86_400), -60 * day), "");
    }
}
