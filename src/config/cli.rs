//! The command line.

pub use super::usage::Stop;
use super::usage::mistake;
use super::verbs;
use std::ffi::OsString;
use std::path::PathBuf;
use structopt::StructOpt;
use structopt::clap::{AppSettings, ErrorKind};

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cli {
    pub source: Source,
    /// Check the configuration and do nothing else.
    pub test: bool,
    /// Take over from the running proxy.
    pub upgrade: bool,
    /// Run in the background.
    pub daemon: bool,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    /// Program and arguments after `--`, never empty.
    Command(Vec<String>),
}

/// Runs an app's workers on Unix sockets and serves them to the world from one port
///
/// Every Socket.IO session stays on the worker that owns it.
#[derive(Debug, StructOpt)]
#[structopt(
    name = "pingora-unix-proxy",
    setting = AppSettings::UnifiedHelpMessage,
    setting = AppSettings::DeriveDisplayOrder,
    setting = AppSettings::DisableVersion,
    usage = "pingora-unix-proxy [OPTIONS] -c FILE\n    pingora-unix-proxy [OPTIONS] -- COMMAND [ARGS]...\n    \
        pingora-unix-proxy status|reload|scale|restart|upgrade|health [-c FILE | --runtime-dir DIR]",
    after_help = "FOR A RUNNING PROXY (--help after the command shows more):\n    \
        status [--json]                        show the apps and their workers\n    \
        reload [APP]                           read the file again, replace workers of changed apps, or of APP\n    \
        scale APP N|+1|-1|auto                 set how many workers an app has\n    \
        restart [APP]                          replace all workers one by one\n    \
        upgrade                                replace the proxy by this program, losing nothing\n    \
        health [--ready|--live|--startup]      say by the exit code whether it is well\n\nEXAMPLES:\n    \
        pingora-unix-proxy -c conf.yaml        run what the file says\n    \
        pingora-unix-proxy -t -c conf.yaml     print every mistake in the file\n    \
        pingora-unix-proxy -- node app.js      one worker per processor on http://127.0.0.1:8000"
)]
struct Options {
    /// Configuration file (YAML)
    #[structopt(short, long, value_name = "FILE", parse(from_os_str))]
    conf: Option<PathBuf>,

    /// Checks the configuration, prints every mistake, and exits: 0 when there is none, else 1
    #[structopt(short, long)]
    test: bool,

    /// Takes over from the running proxy: waits until that one gets SIGQUIT
    #[structopt(short, long)]
    upgrade: bool,

    /// Runs in the background
    #[structopt(short, long)]
    daemon: bool,

    /// Prints the version
    // clap would print it by itself, before anyone could say where to.
    #[structopt(short = "V", long)]
    version: bool,

    /// Runs this command without a file: one worker per processor, served on 127.0.0.1:8000
    #[structopt(last = true, value_name = "COMMAND", parse(from_os_str))]
    command: Vec<OsString>,
}

impl Cli {
    /// Reads the arguments; the first is the program's own name.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Stop> {
        let args: Vec<OsString> = args.into_iter().collect();
        let options = Options::from_iter_safe(&args).map_err(|error| stop(&error, &args))?;
        if options.version {
            return Err(Stop {
                text: concat!("pingora-unix-proxy ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
                code: 0,
            });
        }
        let source = match (options.conf, options.command.is_empty()) {
            (Some(file), true) => Source::File(file),
            (None, false) => Source::Command(words(options.command)?),
            (Some(_), false) => {
                return Err(mistake("both -c FILE and a command after --", "leave one of them out"));
            }
            (None, true) => {
                let hint = "write -c conf.yaml, or -- and a command: pingora-unix-proxy -- node app.js";
                return Err(mistake("neither -c FILE nor a command after --", hint));
            }
        };
        Ok(Cli { source, test: options.test, upgrade: options.upgrade, daemon: options.daemon })
    }
}

fn words(command: Vec<OsString>) -> Result<Vec<String>, Stop> {
    let word = |word: OsString| {
        word.into_string().map_err(|word| {
            mistake(&format!("{word:?} is not UTF-8"), "rename the file, or put the command into a file")
        })
    };
    command.into_iter().map(word).collect()
}

fn stop(error: &structopt::clap::Error, args: &[OsString]) -> Stop {
    match error.kind {
        ErrorKind::HelpDisplayed => Stop { text: format!("{}\n", error.message.trim_end()), code: 0 },
        ErrorKind::UnknownArgument => match error.info.as_ref().and_then(|info| info.first()) {
            Some(word) if !word.starts_with('-') => stray(word, args),
            _ => Stop { text: format!("{}\n", error.message.trim_end()), code: 2 },
        },
        _ => Stop { text: format!("{}\n", error.message.trim_end()), code: 2 },
    }
}

/// A word where none is expected: a forgotten `-c` or `--`.
fn stray(word: &str, args: &[OsString]) -> Stop {
    let hint = if word.ends_with(".yaml") || word.ends_with(".yml") {
        format!("write -c {word}")
    } else if let Some(verb) = verbs::near(word) {
        format!("did you mean {verb}?")
    } else {
        let from = args.iter().position(|arg| arg == word).unwrap_or(args.len());
        let rest: Vec<_> = args.iter().skip(from).take(8).map(|arg| arg.to_string_lossy()).collect();
        format!("write -- in front of a command: pingora-unix-proxy -- {}", rest.join(" "))
    };
    mistake(&format!("unexpected {word:?}"), &hint)
}
