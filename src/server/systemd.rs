//! Tells systemd how the proxy is, for as long as it runs, and feeds its watchdog while it is alive.

use super::health::ProxyHealth;
use super::listeners::Listeners;
use super::notify;
use super::sockets::Purpose;
use crate::admin::health::{Check, HUNG};
use crate::supervisor::Control;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How far ahead more time is asked for while something takes long.
const EXTEND_TIMEOUT: Duration = Duration::from_secs(15);
/// Beyond the longest `start_timeout` of an app.
const START_MARGIN: Duration = Duration::from_secs(10);
/// Between two looks at the listeners, where no watchdog wants more.
const VISIT_INTERVAL: Duration = Duration::from_secs(5);
/// For a listener to take a connection and to end it.
const VISIT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct SystemdNotifier {
    pub(super) control: Control,
    pub(super) health: ProxyHealth,
    pub(super) listeners: Listeners,
    /// How long an app may take to have its first ready worker.
    pub(super) longest_start: Duration,
    /// Takes the place of another process.
    pub(super) succeeds: bool,
    /// The configuration has an address for health.
    pub(super) asked: bool,
}

impl SystemdNotifier {
    /// Until the supervisor has ended.
    pub(super) async fn run(self) {
        let watchdog = notify::watchdog_limit(self.succeeds).filter(|_| notify::is_wanted());
        if self.asked || watchdog.is_some() {
            tokio::spawn(watch(self.control.clone(), self.health.clone(), self.listeners.clone(), watchdog));
        }
        // Also without systemd: who was ready once is noted here.
        let mut changes = self.control.clone();
        let (began, mut ready, mut told) = (Instant::now(), false, String::new());
        let mut look = interval(CHECK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = self.control.finished() => return,
                _ = changes.changed() => {}
                _ = look.tick() => {}
            }
            let line = self.line();
            let stopping = self.health.is_stopping();
            if !ready && !stopping && (self.health.is_settled() || began.elapsed() > self.longest_start + START_MARGIN)
            {
                ready = true;
                notify::ready(&line);
            } else if line != told {
                notify::status(&line);
            }
            if stopping || !ready {
                notify::extend(EXTEND_TIMEOUT);
            }
            told = line;
        }
    }

    fn line(&self) -> String {
        let condition = self.health.condition();
        if condition.stopping {
            return "stopping".to_owned();
        }
        let against = condition.against(Check::Ready, None);
        if against.is_empty() {
            let apps = condition.apps.iter().map(|app| format!("{} {}/{}", app.name, app.ready, app.workers));
            return format!("ready: {}", apps.collect::<Vec<_>>().join(", "));
        }
        format!("not ready: {}", against.join("; "))
    }
}

/// Notes whether clients are served, and feeds the watchdog at half of its limit, until the supervisor has ended: in another
/// process it goes on, maybe.
async fn watch(control: Control, health: ProxyHealth, listeners: Listeners, watchdog: Option<Duration>) {
    let mut look = interval(watchdog.map_or(VISIT_INTERVAL, |limit| limit / 2));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut well = true;
    loop {
        tokio::select! {
            biased;
            _ = control.finished() => return,
            _ = look.tick() => {}
        }
        let served = served(&listeners, watchdog.map_or(VISIT_TIMEOUT, |limit| VISIT_TIMEOUT.min(limit / 3))).await;
        health.note_unserved(served.clone().err());
        match decides(&control).and(served) {
            Ok(()) => {
                if watchdog.is_some() {
                    notify::watchdog();
                }
                well = true;
            }
            Err(why) if well => {
                let what = if watchdog.is_some() { "systemd's watchdog is not fed" } else { "not alive" };
                log::error!("{what}: {why}");
                well = false;
            }
            Err(_) => {}
        }
    }
}

/// Whether the supervisor does.
fn decides(control: &Control) -> Result<(), String> {
    let beat = control.since_beat();
    if beat >= HUNG { Err(format!("the supervisor has stood still for {} s", beat.as_secs())) } else { Ok(()) }
}

/// Whether the front takes connections.
async fn served(listeners: &Listeners, limit: Duration) -> Result<(), String> {
    if !listeners.traffic.is_open() {
        return Ok(());
    }
    let addresses = listeners.sockets.addresses(Purpose::Listeners);
    let Some(address) = addresses.first().and_then(|address| address.parse::<SocketAddr>().ok()) else { return Ok(()) };
    let outcome = timeout(limit, visit(address)).await;
    // It may have closed meanwhile.
    match outcome {
        _ if !listeners.traffic.is_open() => Ok(()),
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{address} takes no connection: {error}")),
        Err(_) => Err(format!("a connection to {address} was not served within {limit:?}")),
    }
}

/// Connects, says nothing, and waits until the front has ended the connection: the kernel alone cannot.
async fn visit(mut address: SocketAddr) -> std::io::Result<()> {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let mut stream = TcpStream::connect(address).await?;
    stream.shutdown().await?;
    match stream.read(&mut [0; 64]).await {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_that_nobody_serves_is_noticed() {
        let listeners = Listeners::new(true);
        let limit = Duration::from_millis(200);
        assert_eq!(served(&listeners, limit).await, Ok(()), "there is none");
        let address = listeners.sockets.tcp(Purpose::Listeners, "127.0.0.1:0".parse().unwrap()).unwrap();
        // The kernel takes the connection, and nobody else.
        let why = served(&listeners, limit).await.unwrap_err();
        assert_eq!(why, format!("a connection to {address} was not served within 200ms"));
        listeners.traffic.close();
        assert_eq!(served(&listeners, limit).await, Ok(()), "it is not to be served now");
    }
}
