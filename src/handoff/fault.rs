//! Faults on purpose, so that tests see a handoff fail at each of its steps. A release build has none.

use super::roles::Capabilities;
use std::time::Duration;

/// What the successor does wrong just before a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Die,
    Stall,
    Refuse,
    /// Goes on after this.
    Pause(Duration),
}

/// `PINGORA_UNIX_PROXY_FAULT=STEP_TIMEOUT:ACTION` for this step.
fn planned(step: &str) -> Option<Fault> {
    let plan = std::env::var("PINGORA_UNIX_PROXY_FAULT").ok().filter(|_| cfg!(debug_assertions))?;
    let (at, action) = plan.split_once(':')?;
    match action {
        _ if at != step => None,
        "die" => Some(Fault::Die),
        "stall" => Some(Fault::Stall),
        "refuse" => Some(Fault::Refuse),
        // `pause=MILLISECONDS`
        _ => Some(Fault::Pause(Duration::from_millis(action.strip_prefix("pause=")?.parse().ok()?))),
    }
}

/// `Err` asks the caller to refuse; the other faults do not return.
pub(super) async fn before(step: &str) -> Result<(), String> {
    match planned(step) {
        None => Ok(()),
        Some(Fault::Refuse) => Err(format!("refuses at {step}, as planned")),
        Some(Fault::Die) => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            std::future::pending().await
        }
        Some(Fault::Pause(time)) => {
            log::warn!("pauses at {step}, as planned");
            tokio::time::sleep(time).await;
            Ok(())
        }
        Some(Fault::Stall) => {
            log::warn!("stalls at {step}, as planned");
            // A test ends it long before.
            tokio::time::sleep(Duration::from_secs(600)).await;
            Ok(())
        }
    }
}

/// What is said to be possible: `plain` says what a version before TLS tunnels can do.
pub(super) fn capabilities(own: Capabilities) -> Capabilities {
    let plan = std::env::var("PINGORA_UNIX_PROXY_FAULT").ok().filter(|_| cfg!(debug_assertions));
    if plan.as_deref() == Some("plain") { Capabilities::default() } else { own }
}

/// The protocol that is said to be spoken: `version:N` says another.
pub(super) fn protocol() -> u32 {
    let plan = std::env::var("PINGORA_UNIX_PROXY_FAULT").ok().filter(|_| cfg!(debug_assertions));
    let other = plan.as_deref().and_then(|plan| plan.strip_prefix("version:")?.parse().ok());
    other.unwrap_or(super::PROTOCOL)
}
