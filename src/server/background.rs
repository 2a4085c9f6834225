//! `-d` and `server: {daemon: true}`: the proxy in the background, and what the command that started it is told.

use super::console;
use super::health::ProxyHealth;
use super::shutdown::GracefulShutdown;
use crate::admin::health::Check;
use crate::config::Config;
use crate::config::cli::{Cli, Source};
use crate::process::daemon::{self, Caller, Role, Streams};
use crate::process::init;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// As Pingora's own.
const READY_TIMEOUT: Duration = Duration::from_secs(600);
/// Between two looks at whether the proxy is ready.
const READY_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Who goes on.
pub(super) enum Entered {
    Proxy(Option<Background>),
    /// The command, which has nothing to do any more.
    Command(ExitCode),
}

/// A proxy that is in the background, with its caller's streams still.
pub(super) struct Background {
    caller: Caller,
    streams: Streams,
    working_directory: Option<PathBuf>,
    /// What stdout would have to say.
    writes_lines: bool,
    error_log: Option<String>,
    /// How long to wait for every app to be ready, if at all.
    limit: Option<Duration>,
}

/// Goes into the background if the configuration says so. Before the process has a second thread.
pub(super) fn enter(cli: &mut Cli, config: &mut Config) -> Result<Entered, String> {
    // Pingora would do it at another time, and hold what the caller waits for.
    let is_wanted = std::mem::replace(&mut config.server.daemon, false);
    cli.daemon = false;
    if !is_wanted || (cli.upgrade && std::env::var_os(daemon::DETACHED).is_some()) {
        return Ok(Entered::Proxy(None));
    }
    if init::is_parent() {
        log::warn!("the first process of a container stays in the foreground: server.daemon and -d are not followed");
        return Ok(Entered::Proxy(None));
    }
    let conf = &config.server;
    let streams = Streams::open(conf.error_log.as_deref().map(Path::new)).map_err(|why| why.to_string())?;
    if let Source::File(file) = &mut cli.source {
        // It is read again later, maybe from another directory.
        *file = std::path::absolute(&*file).unwrap_or_else(|_| file.clone());
    }
    let limit = conf.daemon_ready_timeout_seconds.map_or(READY_TIMEOUT, |seconds| Duration::from_secs(seconds.get()));
    match daemon::enter().map_err(|why| why.to_string())? {
        Role::Command(code, why) => {
            why.iter().for_each(|why| console::complain(why));
            Ok(Entered::Command(code))
        }
        Role::Daemon(caller) => {
            cli.daemon = true;
            Ok(Entered::Proxy(Some(Background {
                caller,
                streams,
                working_directory: conf.working_directory.clone(),
                writes_lines: config.logs.stdout,
                error_log: conf.error_log.clone(),
                // A successor waits for a SIGQUIT to its predecessor, which may come after the command.
                limit: (conf.daemon_wait_for_ready && !cli.upgrade).then_some(limit),
            })))
        }
    }
}

impl Background {
    /// The start has failed, and why was said.
    pub(super) fn fail(self) {
        self.caller.refuse(1, "");
    }

    /// Lets go of the caller's streams. The command ends, unless it is to wait. `pid_file` is written if given.
    pub(super) fn detach(self, pid_file: Option<&Path>) -> Result<Option<Waiting>, String> {
        let Background { caller, streams, working_directory, .. } = self;
        console::complain(&told(streams.drops(), self.writes_lines, self.error_log.as_deref()));
        let let_go = || {
            if let Some(file) = pid_file {
                let text = format!("{}\n", std::process::id());
                std::fs::write(file, text).map_err(|error| format!("writing {}: {error}", file.display()))?;
            }
            if let Some(dir) = &working_directory {
                std::env::set_current_dir(dir).map_err(|error| format!("entering {}: {error}", dir.display()))?;
            }
            streams.replace().map_err(|error| format!("letting go of the standard streams: {error}"))
        };
        if let Err(why) = let_go() {
            caller.refuse(1, &why);
            return Err(why);
        }
        let Some(limit) = self.limit else {
            caller.release();
            return Ok(None);
        };
        Ok(Some(Waiting { caller, limit }))
    }
}

/// What goes where, for whoever reads the command's last line.
fn told((drops_out, drops_err): (bool, bool), writes_lines: bool, error_log: Option<&str>) -> String {
    let mut text = format!("process {} goes on in the background", std::process::id());
    match (error_log, drops_err) {
        (Some(file), _) => text.push_str(&format!("; its log goes to {file}")),
        (None, true) => text.push_str("; its log is dropped, unless server.error_log names a file"),
        (None, false) => {}
    }
    if drops_out && writes_lines {
        text.push_str("; the workers' lines are dropped, unless logs.path or server.error_log names a file");
    }
    text
}

/// A command that ends when the proxy is ready.
pub(super) struct Waiting {
    caller: Caller,
    limit: Duration,
}

impl Waiting {
    /// Until every app is ready, or it is clear that this will not be: then the proxy stops, and the command says why.
    pub(super) async fn run(self, health: ProxyHealth, stop: Arc<GracefulShutdown>) {
        let end = Instant::now() + self.limit;
        let why = loop {
            let against = health.condition().against(Check::Ready, None);
            if against.is_empty() {
                return self.caller.release();
            }
            let against = against.join("; ");
            if stop.has_begun() {
                break "it was stopped before it was ready".to_owned();
            } else if self.caller.is_gone() {
                break format!("the command that waited has ended ({against})");
            } else if health.has_failed() {
                break format!("not ready: {against}");
            } else if Instant::now() >= end {
                let limit = humantime::format_duration(self.limit);
                break format!("not ready within {limit} (daemon_ready_timeout_seconds): {against}");
            }
            sleep(READY_CHECK_INTERVAL).await;
        };
        log::error!("{why}; stopping");
        let said = std::iter::once(why).chain(health.last_words()).collect::<Vec<_>>();
        self.caller.refuse(1, &said.join("\n"));
        if !stop.has_begun() {
            stop.signalled("daemon_wait_for_ready");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_where_everything_goes() {
        let told = |drops, lines, log| told(drops, lines, log).split_once("; ").map(|(_, rest)| rest.to_owned());
        assert_eq!(told((false, false), true, None), None);
        assert_eq!(told((false, false), true, Some("/log")).as_deref(), Some("its log goes to /log"));
        let both = told((true, true), true, None).unwrap();
        assert!(both.contains("server.error_log") && both.contains("logs.path"), "{both}");
        assert!(!told((true, true), false, None).unwrap().contains("logs.path"));
    }
}
