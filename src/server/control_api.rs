//! Joins the room of commands with the supervisor, and the page of metrics with everyone who measures.

use super::console::{self, Output};
use super::health::ProxyHealth;
use super::listeners::Listeners;
use super::peers::Peers;
use super::reload::{Reloader, Wish};
use super::runtimes::{self, Homes};
use super::signals::STOPPING;
use super::sockets::Purpose;
use super::upgrade::Upgrader;
use crate::admin::commands::{Command, Verb};
use crate::admin::health::{self, Health};
use crate::admin::{self, Api, Hands, Outcome, Refusal, Scrape, Target, view};
use crate::config::Config;
use crate::config::verbs::{self, Asked};
use crate::fleet::State;
use crate::gateway;
use crate::process::control::PortState;
use crate::process::{Renewal, cause};
use crate::supervisor::{self, AppStatus, Control, ScaleTo, Sent, SlotStatus, WorkerStatus};
use async_trait::async_trait;
use pingora_core::server::Server;
use prometheus_client::registry::Registry;
use std::io::stderr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Prefix of every metric but `process_*`.
pub(super) const PREFIX: &str = "pingora_unix_proxy";

/// Asks a running proxy.
pub(super) fn command(asked: Asked) -> ExitCode {
    let verb = match asked.verb {
        verbs::Verb::Status { json } => Verb::Status { json },
        verbs::Verb::Reload { app, update_env } => {
            Verb::Reload { app, conf: asked.proxy.conf(), env: update_env.then(admin::sent::own) }
        }
        verbs::Verb::Scale { app, to } => Verb::Scale { app, to },
        verbs::Verb::Restart { app, update_env } => Verb::Restart { app, env: update_env.then(admin::sent::own) },
        verbs::Verb::Upgrade => Verb::Upgrade { program: std::env::current_exe().ok(), conf: asked.proxy.conf() },
        verbs::Verb::Health { check } => {
            let check = match check {
                verbs::Check::Live => health::Check::Live,
                verbs::Check::Ready => health::Check::Ready,
                verbs::Check::Startup => health::Check::Startup,
            };
            Verb::Health { check, address: asked.proxy.health().filter(|_| asked.socket.is_none()) }
        }
    };
    // Whoever has an address for health need not have a socket for commands.
    let address = matches!(verb, Verb::Health { address: Some(_), .. });
    let socket = asked.socket.map_or_else(|| asked.proxy.socket(), Ok);
    match socket.or_else(|why| if address { Ok(PathBuf::new()) } else { Err(why) }) {
        Ok(socket) => {
            let command = Command { socket, verb, timeout: asked.timeout };
            let mut output = Output::default();
            let code = command.run(&mut output, &mut stderr().lock());
            ExitCode::from(output.finish(code))
        }
        Err(why) => {
            console::print_error(&format!("{why}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Everyone's metrics. Each room registers its own families in what it is given.
pub(super) fn registry(control: &Control, service: &gateway::ProxyService, homes: &Homes) -> Registry {
    let mut registry = Registry::default();
    admin::register_process(&mut registry);
    let own = registry.sub_registry_with_prefix(PREFIX);
    admin::register_build(own);
    supervisor::register(own, control.clone());
    service.register_metrics(own);
    runtimes::register(own, homes);
    registry
}

/// The services that the configuration asks for beside traffic.
pub(super) fn serve(
    server: &mut Server,
    listeners: &Listeners,
    config: &Config,
    backend: ControlBackend,
    registry: Registry,
) -> Result<(), String> {
    let backend: Arc<dyn Hands> = Arc::new(backend);
    if let Some(address) = config.health {
        server.add_service(listeners.tcp("health", Health::new(backend.clone()), address));
        log::info!("health on http://{address}/readyz");
    }
    if let Some(path) = &config.admin {
        let address = listeners.sockets.unix(Purpose::Admin, path)?;
        let api = Api::new(backend);
        let service = listeners.own.service("admin", api, vec![address], &listeners.sockets).threads(1);
        let renewing = renew(listeners.clone(), Renewal::new(&config.runtime_dir, path.clone()));
        server.add_service(service.beside(renewing));
    }
    if let Some(address) = config.metrics {
        server.add_service(listeners.tcp("metrics", Scrape::new(registry), address));
        log::info!("metrics on http://{address}/metrics");
    }
    Ok(())
}

/// Takes commands again where somebody has removed the socket. Does not end.
async fn renew(listeners: Listeners, mut renewal: Renewal) {
    const LOOK_INTERVAL: Duration = Duration::from_secs(1);
    let mut failing = false;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        if !listeners.own.is_open() {
            continue;
        }
        let path = renewal.path().to_owned();
        match renewal.renew(|| listeners.sockets.renew(&path)) {
            Some(Ok(())) => log::warn!("{} was removed; commands are taken there again", path.display()),
            None => failing = false,
            Some(Err(why)) if !std::mem::replace(&mut failing, true) => {
                log::error!("cannot take commands on {} again: {why}", path.display());
            }
            Some(Err(_)) => {}
        }
    }
}

/// The outcome for one app, whose name the caller says itself.
fn of(app: &str, outcome: Result<String, String>) -> Outcome {
    let plain = |text: String| text.strip_prefix(&format!("{app}: ")).map(str::to_owned).unwrap_or(text);
    outcome.map(plain).map_err(|why| Refusal::Failed(plain(why)))
}

/// What commands can do. Each operation is one method of [`Control`] or [`Reloader`].
pub(super) struct ControlBackend {
    pub(super) control: Control,
    pub(super) health: ProxyHealth,
    pub(super) reloader: Arc<Reloader>,
    pub(super) upgrader: Upgrader,
    pub(super) peers: Peers,
}

#[async_trait]
impl Hands for ControlBackend {
    fn status(&self) -> view::Status {
        let status = self.control.status();
        let now = status.epoch.map(|epoch| epoch.elapsed()).unwrap_or_default();
        view::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: seconds(now),
            file: self.reloader.in_force().file().map(|file| file.display().to_string()),
            apps: status.apps.iter().map(|app| view_of(app, now)).collect(),
        }
    }

    fn condition(&self) -> health::Condition {
        self.health.condition()
    }

    fn objection(&self, pid: Option<u32>) -> Option<String> {
        self.peers.objection(pid, "admin.sock")
    }

    async fn reload(&self, app: Option<String>, conf: Option<PathBuf>, env: Option<Sent>) -> Outcome {
        self.reloader.reload(Wish { conf, app, sent: env }).await.map_err(Refusal::Failed)
    }

    /// In a task of its own: that who asked has left does not end it.
    async fn upgrade(&self, program: Option<PathBuf>, conf: Option<PathBuf>) -> Outcome {
        if self.health.is_stopping() {
            return Err(Refusal::Failed(STOPPING.into()));
        }
        let upgrader = self.upgrader.clone();
        let task = tokio::spawn(async move { upgrader.upgrade(program, conf).await });
        task.await.map_err(|e| Refusal::Failed(e.to_string()))?.map_err(Refusal::Failed)
    }

    async fn scale(&self, app: &str, to: Target) -> Outcome {
        let to = match to {
            Target::Count(count) => ScaleTo::Count(count),
            Target::By(step) => ScaleTo::By(step.into()),
            Target::Auto => ScaleTo::Auto,
        };
        of(app, self.control.scale(app, to).await)
    }

    async fn restart(&self, app: &str, env: Option<Sent>) -> Outcome {
        of(app, self.control.restart(Some(app.to_owned()), env).await)
    }
}

fn view_of(app: &AppStatus, now: Duration) -> view::App {
    let origin = if app.is_external { "external" } else { "spawned" };
    let slot = |worker: &WorkerStatus| app.slots.iter().find(|slot| slot.slot == worker.slot);
    let mut workers: Vec<view::Worker> = app
        .workers
        .iter()
        .map(|worker| view::Worker { origin: origin.to_owned(), ..process(worker, slot(worker), now) })
        .collect();
    let waiting = app.slots.iter().filter_map(|slot| slot.retry_at.map(|at| waiting(slot, at, now)));
    workers.extend(waiting);
    workers.sort_by_key(|worker| (worker.slot, worker.incarnation.is_none(), worker.incarnation));
    view::App { name: app.name.to_string(), ready: app.ready(), workers }
}

fn process(worker: &WorkerStatus, slot: Option<&SlotStatus>, now: Duration) -> view::Worker {
    let usage = worker.used();
    let stats = worker.stats;
    let well = worker.state == State::Ready && slot.is_none_or(|slot| slot.failures == 0);
    let slot = slot.cloned();
    view::Worker {
        slot: worker.slot.0,
        pid: worker.shown_pid(),
        launcher_pid: worker.pid.filter(|pid| worker.shown_pid() != Some(*pid)),
        port: worker.ports.main,
        further_ports: worker.ports.further.iter().map(further_port).collect(),
        // The app knows.
        origin: String::new(),
        incarnation: Some(worker.incarnation.0),
        generation: Some(worker.generation.0),
        state: worker.state.to_string(),
        since_seconds: Some(seconds(now.saturating_sub(worker.since))),
        reason: worker.reason.clone(),
        active: worker.carried.active(),
        parked: worker.carried.parked(),
        sessions: stats.map(|stats| stats.sessions),
        sockets: stats.map(|stats| stats.sockets),
        elu: stats.map(|stats| stats.elu),
        lag_seconds: stats.map(|stats| stats.lag_ms / 1000.0),
        heap_used_bytes: stats.map(|stats| stats.heap_used),
        rss_bytes: usage.map(|usage| usage.rss).or(stats.map(|stats| stats.rss)),
        cpu_seconds: usage.map(|usage| seconds(usage.cpu)),
        restarts: slot.as_ref().map_or(0, |slot| slot.restarts),
        failures: slot.as_ref().map_or(0, |slot| slot.failures),
        retry_seconds: None,
        last_exit: slot.as_ref().and_then(|slot| slot.last_exit.clone()),
        ..last_words(slot.as_ref().filter(|_| !well))
    }
}

/// A slot that has no process now and will start one.
fn waiting(slot: &SlotStatus, retry_at: Duration, now: Duration) -> view::Worker {
    view::Worker {
        slot: slot.slot.0,
        state: if slot.is_failed { "failed" } else { "backing off" }.to_owned(),
        reason: slot.last_exit.clone().unwrap_or_default(),
        restarts: slot.restarts,
        failures: slot.failures,
        retry_seconds: Some(seconds(retry_at.saturating_sub(now))),
        last_exit: slot.last_exit.clone(),
        ..last_words(Some(slot))
    }
}

fn further_port((port, state): (&u16, &PortState)) -> view::Port {
    let (state, at) = match state {
        PortState::Tcp { at } => ("listens".to_owned(), Some(*at)),
        PortState::Taken => ("taken".to_owned(), None),
        PortState::Off => ("off".to_owned(), None),
        PortState::Refused(code) => (format!("refused: {code}"), None),
    };
    view::Port { port: *port, state, at }
}

/// What the last process of a slot said, and died of.
fn last_words(slot: Option<&SlotStatus>) -> view::Worker {
    let Some(slot) = slot else { return view::Worker::default() };
    let cause = cause::of(&slot.last_words);
    view::Worker {
        last_error: cause.as_ref().map(|cause| cause.headline.clone()),
        last_error_lines: cause.map(|cause| cause.lines).unwrap_or_default(),
        last_stderr: slot.last_words.to_vec(),
        ..view::Worker::default()
    }
}

/// To the millisecond: more digits say nothing.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
