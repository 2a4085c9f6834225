//! Composition root: from a configuration to a running Pingora server.

#![forbid(unsafe_code)]

mod accept;
mod accept_gate;
mod adoption;
mod background;
mod certificates;
mod console;
mod control_api;
mod guard;
mod handover;
mod health;
mod listeners;
mod notify;
mod peers;
mod reload;
mod runtimes;
mod shutdown;
mod signals;
mod sockets;
mod source;
mod systemd;
mod upgrade;

use crate::config::cli::{Cli, Stop};
use crate::config::verbs::Asked;
use crate::config::{self, Config};
use crate::gateway::{self, Listener, LoopName, ProxyService, Routes, Rules, SharedListener, SharedRules};
use crate::handoff::{self, Takeover};
use crate::pool::{Pool, Settings};
use crate::process::RuntimeDir;
use crate::process::init::Role;
use crate::process::{self, socket_activation};
use crate::supervisor::{AppSpec, Control, Setup, Snapshot, Supervisor, TakeoverHandle, alarms};
use crate::tls;
use crate::tls::store::TlsStore;
use arc_swap::ArcSwap;
use background::{Background, Entered, Waiting};
use certificates::CertificateWatch;
use control_api::ControlBackend;
use handover::{HandoffContext, HandoffRole, Handover, TakeoverParts};
use health::ProxyHealth;
use listeners::Listeners;
use peers::Peers;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::background::background_service;
use reload::{FixedKeys, Reloader};
use runtimes::{Homes, Runtimes};
use shutdown::GracefulShutdown;
use signals::{Listening, Signals};
use source::InForce;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use systemd::SystemdNotifier;
use tokio::sync::watch;
use upgrade::Upgrader;

/// How long an idle connection to a worker with the preload script is kept. The script keeps its
/// server's end longer (`WORKER_KEEP_ALIVE_TIMEOUT`), so a request never meets a connection that just closed.
const KEPT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const WORKER_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);
/// The same for any other worker; uvicorn closes after 5 s, gunicorn after 2.
const UNKNOWN_IDLE_TIMEOUT: Duration = Duration::from_millis(1500);

/// For a thread that serves connections to end, once everything else has.
const RUNTIME_END_TIMEOUT: Duration = Duration::from_secs(1);

/// For the last lines of the access log to be written.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);

/// What a start with a wrong configuration ends with (EX_CONFIG of sysexits.h): no restart mends that.
const WRONG_CONFIGURATION: u8 = 78;

/// The whole program.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let held = process::init::hold_signals();
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(code) = guard::main(&args) {
        return code;
    }
    if let Some(asked) = Asked::parse(&args) {
        return asked.map_or_else(stopped, control_api::command);
    }
    let mut cli = match Cli::parse(args) {
        Ok(cli) => cli,
        Err(stop) => return stopped(stop),
    };
    if cli.test {
        let (text, good) = config::report(&cli);
        return console::say(&format!("{text}\n"), u8::from(!good));
    }
    // A successor joins the proxies under the init that is there.
    if cli.upgrade {
        drop(held);
    } else {
        match process::init::enter(held) {
            Ok(Role::Main) => {}
            Ok(Role::Init(code)) => return ExitCode::from(code),
            Err(why) => return fail(&why.to_string()),
        }
    }
    let (mut config, warnings) = match config::from_cli(&cli) {
        Ok(loaded) => loaded,
        Err(errors) => {
            errors.iter().for_each(|error| console::print_error(&format!("{error}\n")));
            return ExitCode::from(WRONG_CONFIGURATION);
        }
    };
    start_log(config.server.daemon);
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let background = match background::enter(&mut cli, &mut config) {
        Ok(Entered::Proxy(background)) => background,
        Ok(Entered::Command(code)) => return code,
        Err(why) => return fail(&why),
    };
    process::files::raise_limit();
    match run(cli, config, background) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why),
    }
}

fn start_log(in_background: bool) {
    let mut log = env_logger::Builder::from_env(
        env_logger::Env::default().default_filter_or("warn,rustls=error,pingora_unix_proxy=info"),
    );
    if in_background {
        // What begins on a terminal goes on in a file.
        log.write_style(env_logger::WriteStyle::Never);
    }
    log.init();
}

fn stopped(stop: Stop) -> ExitCode {
    if stop.code == 0 {
        return console::say(&stop.text, 0);
    }
    console::print_error(&stop.text);
    ExitCode::from(stop.code)
}

fn fail(why: &str) -> ExitCode {
    console::complain(why);
    ExitCode::FAILURE
}

/// Runs until a signal or a failure ends it.
fn run(cli: Cli, config: Config, background: Option<Background>) -> Result<(), String> {
    let upgrade = cli.upgrade;
    match prepare_alone_or_after(cli, config) {
        Ok(ready) => {
            // A predecessor's is in the file until we have taken over.
            let pid_file = (!upgrade).then_some(ready.pid_file.as_path());
            let waiting = background.map(|background| background.detach(pid_file)).transpose()?;
            ready.run(waiting.flatten())
        }
        Err(why) => {
            if let Some(background) = background {
                background.fail();
            }
            Err(why)
        }
    }
}

fn prepare_alone_or_after(cli: Cli, config: Config) -> Result<Ready, String> {
    if !cli.upgrade {
        // Before signals are listened to: one that comes now finds nothing made.
        RuntimeDir::await_guard(&config.runtime_dir);
        return prepare(cli, config, None);
    }
    let takeover = handoff::take_over(&config.runtime_dir).map_err(|why| format!("-u: {why}"))?;
    let refusal = takeover.client.refusal();
    let prepared = prepare(cli, config, Some(takeover));
    match &prepared {
        Ok(_) => drop(refusal),
        Err(why) => refusal.say(why),
    }
    prepared
}

/// A server with everything in it, not started yet.
struct Ready {
    server: Server,
    signals: Signals,
    listeners: Listeners,
    homes: Homes,
    failed: Arc<AtomicBool>,
    role: Arc<watch::Sender<HandoffRole>>,
    rules: SharedRules,
    admin: Option<PathBuf>,
    pid_file: PathBuf,
}

/// What is known of the workers, the lock of their directory, and the sockets of those whose paths are gone.
type Inherited = (Snapshot, OwnedFd, handover::Pins);

/// Takes the sockets that a predecessor or systemd has passed, and what else the predecessor has given.
fn inherit(
    listeners: &Listeners,
    takeover: Option<Takeover>,
) -> Result<(Option<Inherited>, Option<handoff::HandoffClient>), String> {
    let Some(Takeover { snapshot, lock, mut sockets, client }) = takeover else {
        listeners.sockets.inherit(socket_activation::take());
        return Ok((None, None));
    };
    let pins = handover::pins(&mut sockets);
    listeners.sockets.inherit(sockets);
    let snapshot = handover::snapshot(snapshot).map_err(|why| why.to_string())?;
    Ok((Some((snapshot, lock, pins)), Some(client)))
}

fn prepare(cli: Cli, mut config: Config, takeover: Option<Takeover>) -> Result<Ready, String> {
    let fixed = FixedKeys::of(&config);
    let in_force = InForce::new(&cli.source);
    let listening = Listening::early()?;
    let longest_start = config.apps.iter().map(|app| app.policy.start_timeout).max().unwrap_or_default();
    let listeners = Listeners::new(takeover.is_none());
    let (inherited, client) = inherit(&listeners, takeover)?;
    // Whoever starts the same twice is told of the other proxy, not of the ports that it has.
    let bound = listeners.bind(&mut config);
    bound.map_err(|why| client.is_none().then(|| other_proxy(&config.runtime_dir)).flatten().unwrap_or(why))?;
    let mut conf = std::mem::take(&mut config.server);
    let homes = homes(&mut conf);
    let pid_file = PathBuf::from(&conf.pid_file);
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let new_pool = |name: &Arc<str>, s: Settings| Arc::new(Pool::new(name.clone(), s.affinity, s.balance, s.queue));
    let descriptors = process::files::for_traffic(most_workers(&config));
    let AppWiring { specs, apps } = wire(&mut config, new_pool);
    let beyond = beyond(&config, &pid_file);
    let (supervisor, control, takeover) = supervise(&config, specs, inherited, beyond)?;
    server.add_service(background_service("supervisor", supervisor));
    let tls = Arc::new(TlsStore::new());
    let loaded = certificates::load(&tls, &config.listeners)?;
    let rules = rules(&config, apps).with_access(config.access_log.take(), control.logs(), Arc::default());
    let rules = Arc::new(ArcSwap::from_pointee(rules));
    tell_of_files(config.limits.connections, descriptors);
    let in_force_listeners = listeners::in_force(&config, &loaded.rules);
    certificates::follow(&tls, loaded, &config.listeners, in_force_listeners.iter());
    let shared: Arc<[SharedListener]> = in_force_listeners.into_iter().map(Listener::shared).collect();
    let front = ProxyService::new(rules.clone(), &server.configuration, descriptors).with_listeners(shared.clone());

    let shutdown = Arc::new(ArcSwap::from_pointee(config.shutdown));
    let is_taking_over = takeover.is_some();
    let role = Arc::new(watch::Sender::new(if is_taking_over { HandoffRole::TakingOver } else { HandoffRole::Active }));
    let peers = Peers::new(control.clone(), config.runtime_dir.clone());
    let context = HandoffContext {
        peers: peers.clone(),
        control: control.clone(),
        front: front.clone(),
        listeners: listeners.clone(),
        role: role.clone(),
        pid_file: pid_file.clone(),
        writes_pid: cli.daemon,
        admin: config.admin.clone(),
        policy: shutdown.clone(),
        tickets: tls.tickets().clone(),
    };
    let takeover = client.zip(takeover).map(|(client, supervisor)| TakeoverParts { client, supervisor });
    let (handover, trigger, connections) = Handover::new(context, config.runtime_dir.clone(), takeover);
    server.add_service(background_service("handover", handover));
    let upgrader = Upgrader::new(in_force.clone(), trigger);
    let watch = CertificateWatch {
        store: tls.clone(),
        control: control.clone(),
        role: role.clone(),
        expires: config.alarms.certificate_expires,
    };
    server.add_service(background_service("certificates", watch));

    let health = ProxyHealth::new(control.clone(), rules.clone());
    let (logged, last_rules) = (front.clone(), rules.clone());
    let reloader = Arc::new(Reloader::new(
        cli,
        in_force,
        fixed,
        rules,
        (shared.clone(), tls.clone()),
        shutdown.clone(),
        control.clone(),
    ));
    let stop = GracefulShutdown::new(front.clone(), listeners.clone(), control.clone(), health.clone(), shutdown);
    // Each room that measures registers its families here.
    let mut registry = control_api::registry(&control, &front, &homes);
    tls::metrics::register(registry.sub_registry_with_prefix(control_api::PREFIX), tls);
    let adopt = adoption::adopt(front.clone(), control.clone(), homes.clone(), connections);
    let sweeper = front.clone();
    server.add_service(listeners.traffic(&shared, &front, &homes).beside(async move {
        tokio::join!(adopt, sweeper.sweep());
    }));
    let backend = ControlBackend {
        control: control.clone(),
        health: health.clone(),
        reloader: reloader.clone(),
        upgrader: upgrader.clone(),
        peers,
    };
    control_api::serve(&mut server, &listeners, &config, backend, registry)?;
    let failed = Arc::new(AtomicBool::new(false));
    let systemd = SystemdNotifier {
        control: control.clone(),
        health: health.clone(),
        listeners: listeners.clone(),
        longest_start,
        succeeds: is_taking_over,
        asked: config.health.is_some(),
    };
    let signals = Signals {
        control,
        front: logged,
        reloader,
        stop: Arc::new(stop),
        systemd: Mutex::new(Some(systemd)),
        listening: Mutex::new(Some(listening)),
        waiting: Mutex::default(),
        health: health.clone(),
        failed: failed.clone(),
        upgrader,
        role: role.clone(),
    };
    Ok(Ready { server, signals, listeners, homes, failed, role, rules: last_rules, admin: config.admin, pid_file })
}

impl Ready {
    fn run(self, waiting: Option<Waiting>) -> Result<(), String> {
        *self.signals.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = waiting;
        self.server.run(RunArgs { shutdown_signal: Box::new(self.signals) });
        self.homes.end(RUNTIME_END_TIMEOUT);
        self.rules.load().close_access_log(LAST_LINES_TIMEOUT);
        self.listeners.sockets.release();
        match &*self.role.borrow() {
            HandoffRole::Active => {
                self.admin.iter().for_each(|socket| sockets::remove_path(socket));
                sockets::remove_pid_file(&self.pid_file);
            }
            HandoffRole::Failed(why) => return Err(why.clone()),
            // What is there is another's.
            _ => {}
        }
        if self.failed.load(Ordering::Acquire) { Err("the supervisor failed, see the log".into()) } else { Ok(()) }
    }
}

/// The apps for the supervisor and, in the same order, for traffic.
struct AppWiring {
    specs: Vec<AppSpec>,
    apps: Vec<gateway::App>,
}

/// Takes the apps out of a configuration; `pool` finds or makes an app's pool.
fn wire(config: &mut Config, mut pool: impl FnMut(&Arc<str>, Settings) -> Arc<Pool>) -> AppWiring {
    let mut wiring = AppWiring { specs: Vec::new(), apps: Vec::new() };
    for app in std::mem::take(&mut config.apps) {
        let name: Arc<str> = app.name.into();
        let pool = pool(&name, Settings { affinity: app.affinity, balance: app.balance, queue: app.queue });
        let keep_alive = if app.spec.preload { KEPT_IDLE_TIMEOUT } else { UNKNOWN_IDLE_TIMEOUT };
        wiring.apps.push(gateway::App::new(pool.clone(), app.protocol, app.response_timeout, keep_alive));
        wiring.specs.push(AppSpec { name, spec: app.spec, policy: app.policy, pool });
    }
    wiring
}

/// What a proxy that is killed leaves outside of its runtime directory. Workers' output and other logs are to stay.
fn beyond(config: &Config, pid_file: &Path) -> Vec<PathBuf> {
    let paths = config.admin.iter().map(PathBuf::as_path).chain([pid_file]);
    let paths = paths.filter_map(|path| std::path::absolute(path).ok());
    paths.filter(|path| !path.starts_with(&config.runtime_dir)).collect()
}

/// Why we cannot start, if it is that one runs there.
fn other_proxy(runtime_dir: &Path) -> Option<String> {
    RuntimeDir::in_use(runtime_dir).map(|error| error.to_string())
}

/// The most worker processes at a time: during a rollout, some of two generations.
fn most_workers(config: &Config) -> usize {
    let of = |app: &config::App| app.policy.most_workers();
    config.apps.iter().map(of).sum()
}

/// Where clients are served. Pingora's own runtimes, for everything else, stay as they are.
fn homes(conf: &mut ServerConf) -> Homes {
    if std::mem::replace(&mut conf.work_stealing, true) {
        return Homes::Here;
    }
    Homes::Own(Runtimes::new(runtimes::Settings {
        threads: conf.threads,
        max_blocking_threads: conf.max_blocking_threads,
        blocking_thread_ttl: conf.blocking_threads_ttl_seconds.map(Duration::from_secs),
    }))
}

fn tell_of_files(wanted: usize, descriptors: usize) {
    let most = descriptors / 2;
    if most < wanted {
        log::info!("limits.connections is {most}, not {wanted}: the limit of open files (ulimit -Hn) allows no more");
    }
}

/// From nothing, or with what a predecessor has.
fn supervise(
    config: &Config,
    apps: Vec<AppSpec>,
    inherited: Option<Inherited>,
    beyond: Vec<PathBuf>,
) -> Result<(Supervisor, Control, Option<TakeoverHandle>), String> {
    let setup = Setup {
        apps,
        runtime_dir: config.runtime_dir.clone(),
        port: config.listeners.first().map_or(0, |listener| listener.address.port()),
        keep_alive: WORKER_KEEP_ALIVE_TIMEOUT,
        orphan_timeout: config.orphan_timeout,
        logs: config.logs.clone(),
        alarms: alarms(&config.alarms),
        guarded: Some(beyond),
        output: None,
    };
    let made = match inherited {
        None => Supervisor::new(setup).map(|(supervisor, control)| (supervisor, control, None)),
        Some((snapshot, lock, pins)) => RuntimeDir::inherit(&config.runtime_dir, lock)
            .and_then(|dir| Supervisor::successor(setup, dir, snapshot))
            .map(|(supervisor, control, handle)| {
                supervisor.pin(pins);
                (supervisor, control, Some(handle))
            }),
    };
    made.map_err(|error| error.to_string())
}

fn alarms(config: &config::Alarms) -> alarms::Policy {
    let webhook = |hook: &config::Webhook| alarms::Webhook {
        url: hook.url.clone(),
        headers: hook.headers.clone(),
        timeout: hook.timeout,
        retries: hook.retries,
    };
    alarms::Policy {
        repeat: config.repeat,
        rules: alarms::Rules {
            hold: config.hold,
            memory: config.memory,
            elu: config.elu,
            lag: config.lag,
            disk_free: config.disk_free,
            queue_overflow: config.queue_overflow,
            log_drops: config.log_drops,
        },
        webhook: config.webhook.as_ref().map(webhook),
        exec: config.exec.clone(),
    }
}

fn rules(config: &Config, apps: Vec<gateway::App>) -> Rules {
    // Without it, proxies of several machines have one name, and their passes count together.
    let host = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    let loop_name = LoopName::of(&[&host, config.runtime_dir.as_os_str().as_bytes()]);
    let routes = Routes::new(config.routes.clone(), config.strict_paths);
    Rules::new(apps, routes, config.limits.clone(), config.clients.clone(), config.carrier, loop_name)
        .with_error_pages(config.error_pages.clone())
}
