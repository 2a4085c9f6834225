//! Upgrades on demand: starts a successor, and hands over to it.

use super::source::{self, InForce};
use crate::config::cli::Source;
use crate::handoff::{self, HandoffTrigger};
use crate::process::program::{trusted, trusted_configuration};
use crate::process::{self, Other, spawn_apart};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// For the new program to check its configuration.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// What an inherited environment must not say twice: it was meant for this process.
const NOT_PASSED_ON: [&str; 5] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "MAINPID"];

/// Hands over. Cheap to clone.
#[derive(Clone)]
pub(super) struct Upgrader {
    trigger: HandoffTrigger,
    source: InForce,
    /// This program, as it was called: another may stand there now.
    program: PathBuf,
    /// One at a time.
    busy: Arc<Mutex<()>>,
}

impl Upgrader {
    pub(super) fn new(source: InForce, trigger: HandoffTrigger) -> Upgrader {
        Upgrader { trigger, source, program: program(), busy: Arc::default() }
    }

    /// Hands over to the successor that waits. Tells what came of it, for people.
    pub(super) async fn hand_over(&self) -> Result<String, String> {
        let outcome = self.trigger.hand_over().await;
        outcome.map(|pid| self.told(pid)).map_err(|why| why.to_string())
    }

    /// Starts a successor from `program`, with the configuration of `conf`, and hands over to it. Without them the
    /// program of this process, as it stands there now, and the same configuration.
    pub(super) async fn upgrade(&self, program: Option<PathBuf>, conf: Option<PathBuf>) -> Result<String, String> {
        let Ok(_busy) = self.busy.try_lock() else { return Err("an upgrade is under way".into()) };
        self.vacant()?;
        let called = program.unwrap_or_else(|| self.program.clone());
        let program = Program { real: trusted(&called)?, called };
        // That of this process was good enough for whoever started it.
        let before = self.source.get();
        let other = conf.as_deref().filter(|file| !source::is_same(&before, file));
        other.map_or(Ok(()), trusted_configuration)?;
        let source = conf.map_or(before, Source::File);
        check(&program, &source).await?;
        let pid = start(&program, &source).await?;
        let watched = Other::open(pid).map_err(|e| format!("the successor, process {pid}, cannot be watched: {e}"));
        // It may have ended already.
        let successor = watched?.ok_or_else(|| ended(pid))?;
        log::info!("started process {pid} ({}) to take over", program.real.display());
        let limit = handoff::step_limit();
        let waits = tokio::select! {
            () = self.trigger.waits(pid) => Ok(()),
            gone = successor.ended(limit) => Err(match gone {
                true => ended(pid),
                false => format!("the successor, process {pid}, does not come within {limit:?}"),
            }),
        };
        let outcome = match waits {
            Ok(()) => self.trigger.hand_over().await.map_err(|why| why.to_string()),
            Err(why) => Err(why),
        };
        match outcome {
            Ok(pid) => Ok(self.told(pid)),
            Err(why) => {
                end(&successor).await;
                Err(format!("{why}; process {} goes on", std::process::id()))
            }
        }
    }

    /// Only one successor may wait.
    fn vacant(&self) -> Result<(), String> {
        let Some(pid) = self.trigger.waiting() else { return Ok(()) };
        let own = std::process::id();
        Err(format!(
            "process {pid} waits as successor already, started with -u; send SIGQUIT to {own}, which hands over to it, or end it first"
        ))
    }

    fn told(&self, pid: u32) -> String {
        format!("upgraded: process {pid} took over from {}", std::process::id())
    }
}

/// What a successor is started from.
struct Program {
    /// As it is called, for the next upgrade.
    called: PathBuf,
    /// Where that led when it was looked at.
    real: PathBuf,
}

fn cannot_start(program: &Path, error: &std::io::Error) -> String {
    format!("cannot start {}: {error}", program.display())
}

fn ended(pid: u32) -> String {
    format!("the successor, process {pid}, ended; the log says why")
}

/// Starts the successor, which is not our child: systemd waits for the end of its own children only, and kills at once what it
/// cannot wait for. We may live on for long when it has taken over.
async fn start(program: &Program, source: &Source) -> Result<u32, String> {
    let mut command = command(program, source, "-u").into_std();
    let started = tokio::task::spawn_blocking(move || spawn_apart(&mut command)).await.map_err(|e| e.to_string())?;
    started.map_err(|e| cannot_start(&program.called, &e))
}

/// A configuration with mistakes is told before anything is begun.
async fn check(program: &Program, source: &Source) -> Result<(), String> {
    let mut command = command(program, source, "-t");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match timeout(CHECK_TIMEOUT, command.output()).await {
        Ok(output) => output.map_err(|e| cannot_start(&program.called, &e))?,
        Err(_) => return Err(format!("{} -t does not end within {CHECK_TIMEOUT:?}", program.called.display())),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("nothing was begun:\n{}", String::from_utf8_lossy(&said).trim_end()))
}

fn command(program: &Program, source: &Source, mode: &str) -> Command {
    let mut command = Command::new(&program.real);
    command.as_std_mut().arg0(&program.called);
    command.arg(mode).stdin(Stdio::null()).env(process::daemon::DETACHED, "1");
    match source {
        Source::File(file) => command.arg("-c").arg(file),
        Source::Command(words) => command.arg("--").args(words),
    };
    for name in NOT_PASSED_ON {
        command.env_remove(name);
    }
    process::files::limit_as_at_start(command.as_std_mut());
    command
}

async fn end(successor: &Other) {
    // It has ended, mostly: the handoff sees to that.
    let _ = successor.kill();
    successor.ended(handoff::step_limit()).await;
}

/// The path by which this program was called, made absolute: a link in it may lead elsewhere by now, which is what an
/// upgrade is for.
fn program() -> PathBuf {
    let called: OsString = std::env::args_os().next().unwrap_or_default();
    let called = PathBuf::from(called);
    let found = if called.components().count() > 1 {
        std::path::absolute(&called).ok()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|dir| dir.join(&called)).find(|file| file.is_file())
    };
    found.or_else(|| std::env::current_exe().ok()).unwrap_or(called)
}
