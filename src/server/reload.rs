//! Reload: the configuration is read and checked again, and takes the place of the running one as a
//! whole or not at all.

use super::{AppWiring, wire};
use crate::config::cli::Cli;
use crate::config::{self, Config};
use crate::gateway::SharedRules;
use crate::pool::{Pool, Settings};
use crate::process::output;
use crate::supervisor::Control;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Mutex;

/// What a reload cannot change, because connections or processes hang on it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fixed {
    listeners: Vec<SocketAddr>,
    runtime_dir: PathBuf,
    orphan_timeout: std::time::Duration,
    admin: Option<PathBuf>,
    metrics: Option<SocketAddr>,
    health: Option<SocketAddr>,
    logs: output::Policy,
    alarms: config::Alarms,
}

impl Fixed {
    pub(super) fn of(config: &Config) -> Fixed {
        Fixed {
            listeners: config.listeners.iter().map(|listener| listener.address).collect(),
            runtime_dir: config.runtime_dir.clone(),
            orphan_timeout: config.orphan_timeout,
            admin: config.admin.clone(),
            metrics: config.metrics,
            health: config.health,
            logs: config.logs.clone(),
            alarms: config.alarms.clone(),
        }
    }

    /// The keys in which `next` differs.
    fn changed(&self, next: &Fixed) -> Vec<&'static str> {
        let keys = [
            ("listeners", self.listeners != next.listeners),
            ("runtime_dir", self.runtime_dir != next.runtime_dir),
            ("orphan_timeout", self.orphan_timeout != next.orphan_timeout),
            ("admin", self.admin != next.admin),
            ("metrics", self.metrics != next.metrics),
            ("health", self.health != next.health),
            ("logs", self.logs != next.logs),
            ("alarms", self.alarms != next.alarms),
        ];
        keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

/// Carries out reloads.
pub(super) struct Reloader {
    cli: Cli,
    fixed: Fixed,
    rules: SharedRules,
    shutdown: Arc<ArcSwap<config::Shutdown>>,
    control: Control,
    /// Of the running apps. A newer reload supersedes one under way, so none waits for another here
    /// but to change this.
    pools: Mutex<HashMap<Arc<str>, Arc<Pool>>>,
}

impl Reloader {
    pub(super) fn new(
        cli: Cli,
        fixed: Fixed,
        rules: SharedRules,
        shutdown: Arc<ArcSwap<config::Shutdown>>,
        control: Control,
    ) -> Reloader {
        let pools = rules.load().pools().map(|pool| (pool.app.clone(), pool.clone())).collect();
        Reloader { cli, fixed, rules, shutdown, control, pools: Mutex::new(pools) }
    }

    /// Reads the configuration anew and puts it into force. Tells what came of it, for people.
    ///
    /// # Errors
    /// Every mistake of the file, or why an app's new generation failed; the old one serves on.
    pub(super) async fn reload(&self) -> Result<String, String> {
        let (mut config, warnings) = self.read().await?;
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        let changed = self.fixed.changed(&Fixed::of(&config));
        if !changed.is_empty() {
            let keys = changed.join(", ");
            return Err(format!("nothing was changed: {keys} cannot change without a restart of the proxy"));
        }
        let (wiring, settings) = self.wiring(&mut config).await;
        let AppWiring { specs, apps } = wiring;
        let outcome = self.control.reload(specs).await?;
        let new = super::rules(&config, apps);
        let mut pools = self.pools.lock().await;
        *pools = new.pools().map(|pool| (pool.app.clone(), pool.clone())).collect();
        for (name, settings) in settings {
            if let Some(pool) = pools.get(&name) {
                pool.reconfigure(settings);
            }
        }
        let new = new.succeeding(&self.rules.load());
        self.rules.store(Arc::new(new));
        self.shutdown.store(Arc::new(config.shutdown));
        Ok(outcome)
    }

    async fn read(&self) -> Result<(Config, Vec<config::Warning>), String> {
        let cli = self.cli.clone();
        let loaded = tokio::task::spawn_blocking(move || config::from_cli(&cli)).await;
        loaded.map_err(|error| error.to_string())?.map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            format!("nothing was changed:\n{}", lines.join("\n"))
        })
    }

    /// What the supervisor and traffic need of the new apps. A running app keeps its pool; what
    /// changes in it waits for the outcome.
    async fn wiring(&self, config: &mut Config) -> (AppWiring, Vec<(Arc<str>, Settings)>) {
        let pools = self.pools.lock().await;
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
