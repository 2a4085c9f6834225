//! Reload: the configuration is read and checked again, and takes the place of the running one as a
//! whole or not at all.

use super::source::{self, InForce};
use super::{AppWiring, wire};
use super::{certificates, listeners};
use crate::config::cli::{Cli, Source};
use crate::config::{self, Config};
use crate::gateway::{SharedListener, SharedRules};
use crate::pool::{Pool, Settings};
use crate::supervisor::{Control, ReloadScope, Sent};
use crate::tls::store::{Loaded, TlsStore};
use arc_swap::ArcSwap;
use pingora_core::server::configuration::ServerConf;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What a reload cannot change, because connections or processes hang on it: keys with what they say. Most of it is
/// changed by an upgrade.
#[derive(Clone)]
pub(super) struct Fixed(Vec<(&'static str, String)>);

impl Fixed {
    /// Before anything is taken out of the configuration.
    pub(super) fn of(config: &Config) -> Fixed {
        Fixed(vec![
            ("listeners", format!("{:?}", addresses(config))),
            ("runtime_dir", format!("{:?}", config.runtime_dir)),
            ("orphan_timeout", format!("{:?}", config.orphan_timeout)),
            ("admin", format!("{:?}", config.admin)),
            ("metrics", format!("{:?}", config.metrics)),
            ("health", format!("{:?}", config.health)),
            ("logs", format!("{:?}", config.logs)),
            ("alarms", format!("{:?}", config.alarms)),
            ("server", server(&config.server)),
        ])
    }

    /// The keys in which `next` differs.
    fn changed(&self, next: &Fixed) -> Vec<&'static str> {
        let pairs = self.0.iter().zip(&next.0);
        pairs.filter(|(own, next)| own != next).map(|((key, _), _)| *key).collect()
    }
}

/// Of a listener, all else can change.
fn addresses(config: &Config) -> Vec<SocketAddr> {
    config.listeners.iter().map(|listener| listener.address).collect()
}

/// `threads: auto` follows the processors, which may become more or fewer while the proxy runs.
fn server(conf: &ServerConf) -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut values = serde_json::to_value(conf).unwrap_or_default();
    // It says how the process was begun, and is settled then.
    values.as_object_mut().map(|values| values.remove("daemon"));
    if let Some(threads) = values.get_mut("threads").filter(|_| conf.threads == cpus) {
        *threads = "auto".into();
    }
    values.to_string()
}

/// Why a reload with other values of these keys is refused, and what changes them.
fn refusal(changed: &[&'static str], source: &Source) -> String {
    let mut lines = vec![format!("nothing was changed: a reload does not change {}", listed(changed))];
    let by_upgrade: Vec<&str> = changed.iter().copied().filter(|key| *key != "runtime_dir").collect();
    if let (false, Source::File(file)) = (by_upgrade.is_empty(), source) {
        let socket = if by_upgrade.contains(&"admin") { " --socket PATH (where commands are taken now)" } else { "" };
        let command = format!("pingora-unix-proxy upgrade -c {}{socket}", file.display());
        lines.push(format!("`{command}` changes {} without a loss", listed(&by_upgrade)));
    }
    if changed.contains(&"runtime_dir") {
        lines.push("runtime_dir changes by a stop and a start only".to_owned());
    }
    lines.join("; ")
}

fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    /// The file that is to be in force from here on; `None`: the one that is.
    pub(super) conf: Option<PathBuf>,
    /// The app that is to roll in any case; `None`: all that changed.
    pub(super) app: Option<String>,
    /// Variables for its workers.
    pub(super) sent: Option<Sent>,
}

/// Carries out reloads.
pub(super) struct Reloader {
    cli: Cli,
    in_force: InForce,
    fixed: Fixed,
    rules: SharedRules,
    listeners: Arc<[SharedListener]>,
    tls: Arc<TlsStore>,
    shutdown: Arc<ArcSwap<config::Shutdown>>,
    control: Control,
    /// Of the running apps. A newer reload supersedes one under way, so none waits for another here
    /// but to change this.
    pools: Arc<Mutex<HashMap<Arc<str>, Arc<Pool>>>>,
}

impl Reloader {
    pub(super) fn new(
        cli: Cli,
        in_force: InForce,
        fixed: Fixed,
        rules: SharedRules,
        (listeners, tls): (Arc<[SharedListener]>, Arc<TlsStore>),
        shutdown: Arc<ArcSwap<config::Shutdown>>,
        control: Control,
    ) -> Reloader {
        let pools = rules.load().pools().map(|pool| (pool.app.clone(), pool.clone())).collect();
        let pools = Arc::new(Mutex::new(pools));
        Reloader { cli, in_force, fixed, rules, listeners, tls, shutdown, control, pools }
    }

    /// Where the configuration in force comes from.
    pub(super) fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// Reads the configuration anew and puts it into force. Tells what came of it, for people.
    ///
    /// # Errors
    /// Every mistake of the file, or why an app's new generation failed; the old one serves on, and the file in force
    /// stays the one that it was.
    pub(super) async fn reload(&self, wish: Wish) -> Result<String, String> {
        let before = self.in_force.get();
        let other = wish.conf.clone().filter(|file| !source::is_same(&before, file));
        let source = other.map_or_else(|| before.clone(), Source::File);
        let outcome = self.reload_from(&source, wish).await;
        if source == before {
            return outcome;
        }
        let name = source::name;
        match outcome {
            Ok(text) => {
                let text =
                    format!("{} is the configuration from now on, instead of {}\n{text}", name(&source), name(&before));
                Ok(text)
            }
            Err(why) => Err(format!("{why}\n{} stays the configuration", name(&before))),
        }
    }

    async fn reload_from(&self, source: &Source, wish: Wish) -> Result<String, String> {
        let (mut config, warnings) = self.read(source).await?;
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        let changed = self.fixed.changed(&Fixed::of(&config));
        if !changed.is_empty() {
            return Err(refusal(&changed, source));
        }
        if let Some(app) = wish.app.as_ref().filter(|app| config.apps.iter().all(|known| known.name != **app)) {
            return Err(format!("nothing was changed: there is no app {app} in {}", source::name(source)));
        }
        for (configured, listener) in config.listeners.iter_mut().zip(self.listeners.iter()) {
            configured.address = listener.load().address;
        }
        let loaded = self.load_certificates(&config).await?;
        let next = listeners::in_force(&config, &loaded.rules);
        let (AppWiring { specs, apps }, settings) = self.wiring(&mut config);
        let scope = wish.app.map_or(ReloadScope::Changed, ReloadScope::App);
        let (in_force, source) = (self.in_force.clone(), source.clone());
        let (pools, rules, shutdown) = (self.pools.clone(), self.rules.clone(), self.shutdown.clone());
        let (listeners, tls) = (self.listeners.clone(), self.tls.clone());
        let logs = self.control.logs().clone();
        let enforce = move || {
            let counters = rules.load().access_counters();
            let new = super::rules(&config, apps).with_access(config.access_log.take(), &logs, counters);
            let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
            *pools = new.pools().map(|pool| (pool.app.clone(), pool.clone())).collect();
            for (name, settings) in settings {
                if let Some(pool) = pools.get(&name) {
                    pool.reconfigure(settings);
                }
            }
            let new = new.succeeding(&rules.load());
            rules.store(Arc::new(new));
            certificates::follow(&tls, loaded, &config.listeners, next.iter());
            // What is accepted from now on meets these. The sockets stay.
            listeners.iter().zip(next).for_each(|(listener, next)| listener.store(Arc::new(next)));
            shutdown.store(Arc::new(config.shutdown));
            in_force.set(source);
        };
        self.control.reload(specs, scope, wish.sent, Box::new(enforce)).await
    }

    async fn load_certificates(&self, config: &Config) -> Result<Loaded, String> {
        let (tls, listeners) = (self.tls.clone(), config.listeners.clone());
        let loaded = tokio::task::spawn_blocking(move || certificates::load(&tls, &listeners)).await;
        let loaded = loaded.map_err(|error| error.to_string()).and_then(|loaded| loaded);
        loaded.map_err(|why| format!("nothing was changed: {why}"))
    }

    async fn read(&self, source: &Source) -> Result<(Config, Vec<config::Warning>), String> {
        let cli = Cli { source: source.clone(), ..self.cli.clone() };
        let loaded = tokio::task::spawn_blocking(move || config::from_cli(&cli)).await;
        loaded.map_err(|error| error.to_string())?.map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            format!("nothing was changed:\n{}", lines.join("\n"))
        })
    }

    /// What the supervisor and traffic need of the new apps. A running app keeps its pool; what
    /// changes in it waits for the outcome.
    fn wiring(&self, config: &mut Config) -> (AppWiring, Vec<(Arc<str>, Settings)>) {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let mut settings = Vec::new();
        let wiring = wire(config, |name, wanted| match pools.get(name) {
            Some(pool) => {
                settings.push((name.clone(), wanted));
                pool.clone()
            }
            None => Arc::new(Pool::new(name.clone(), wanted.affinity, wanted.balance, wanted.queue)),
        });
        (wiring, settings)
    }
}
