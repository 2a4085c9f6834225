//! The commands for a running proxy: `pingora-unix-proxy status` and its like.

use super::error::{Error, nearest, shown};
use super::usage::{Stop, mistake};
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use structopt::StructOpt;
use structopt::clap::{AppSettings, ErrorKind};

/// A command and the proxy that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub verb: Verb,
    pub proxy: Proxy,
    /// Where that one takes commands, if it is said so.
    pub socket: Option<PathBuf>,
    /// How long to wait for the outcome; `None` leaves it to the command.
    pub timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    Status {
        json: bool,
    },
    /// Every app that changed; one in any case, if it is named.
    Reload {
        app: Option<String>,
        update_env: bool,
    },
    /// `to` is a count from 1, `+N`, `-N` or `auto`.
    Scale {
        app: String,
        to: String,
    },
    /// All apps, if none is named.
    Restart {
        app: Option<String>,
        update_env: bool,
    },
    /// By this very program.
    Upgrade,
    Health {
        check: Check,
    },
}

/// What `health` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Live,
    Ready,
    Startup,
}

/// Which proxy is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// The one in the default runtime directory.
    Default,
    /// The one that runs with this file.
    Conf(PathBuf),
    RuntimeDir(PathBuf),
}

impl Proxy {
    /// Its file, absolute, if one is named.
    pub(crate) fn conf(&self) -> Option<PathBuf> {
        match self {
            Proxy::Conf(file) => std::path::absolute(file).ok(),
            _ => None,
        }
    }

    /// Where it takes commands, as it is configured. Of a file only that is read: the rest may be wrong, as in a deploy
    /// that failed.
    pub(crate) fn socket(&self) -> Result<PathBuf, String> {
        let lines = |errors: Vec<Error>| errors.iter().map(Error::to_string).collect::<Vec<_>>().join("\n");
        match self {
            Proxy::RuntimeDir(dir) => Ok(dir.join(crate::process::ADMIN_SOCKET)),
            Proxy::Default => Ok(super::default_runtime_dir().join(crate::process::ADMIN_SOCKET)),
            Proxy::Conf(file) => match super::reached(file).map_err(lines)?.admin {
                Some(socket) => Ok(socket),
                None => Err(format!("{}: admin has socket: off, so this proxy takes no commands", file.display())),
            },
        }
    }
}

impl Proxy {
    /// Where it tells its health, if it has an address for that; else commands ask its socket.
    pub(crate) fn health(&self) -> Option<SocketAddr> {
        match self {
            // What is wrong in the file is told by `socket`.
            Proxy::Conf(file) => super::reached(file).ok()?.health.filter(|address| address.port() != 0),
            _ => None,
        }
    }
}

const NAME: &str = "pingora-unix-proxy";
/// The verbs of [`Options`], as they are written.
pub(super) const VERBS: [&str; 6] = ["status", "reload", "scale", "restart", "upgrade", "health"];

/// Steers a running proxy
#[derive(Debug, StructOpt)]
#[structopt(
    name = NAME,
    setting = AppSettings::DisableVersion,
    setting = AppSettings::VersionlessSubcommands,
    setting = AppSettings::DisableHelpSubcommand,
    global_settings = &[AppSettings::UnifiedHelpMessage, AppSettings::DeriveDisplayOrder],
)]
enum Options {
    /// Shows the apps and their workers
    Status {
        /// Prints all that is known as JSON
        #[structopt(long)]
        json: bool,
        #[structopt(flatten)]
        common: Common,
    },
    /// Reads the configuration file again and replaces the workers of apps whose configuration or code changed
    Reload {
        /// Name of an app that is replaced in any case; others are then, if they are configured otherwise
        app: Option<String>,
        /// Gives the app's new workers the environment of this command
        #[structopt(long, requires = "app")]
        update_env: bool,
        #[structopt(flatten)]
        common: Common,
    },
    /// Sets how many workers an app has
    #[structopt(setting = AppSettings::AllowNegativeNumbers)]
    Scale {
        /// Name of the app
        app: String,
        /// A number of workers, +1 or -1 for one more or fewer, or auto
        #[structopt(parse(try_from_str = count))]
        to: String,
        #[structopt(flatten)]
        common: Common,
    },
    /// Replaces all workers of an app one by one
    Restart {
        /// Name of the app; every app, if there is none
        app: Option<String>,
        /// Gives the new workers the environment of this command
        #[structopt(long)]
        update_env: bool,
        #[structopt(flatten)]
        common: Common,
    },
    /// Replaces the running proxy by this program; workers, sessions and open WebSockets go on
    Upgrade {
        #[structopt(flatten)]
        common: Common,
    },
    /// Says whether the proxy is ready, for health checks of containers: exit code 0 if it is, else 1
    Health {
        /// Every app has a worker that takes requests, and the proxy does not stop (the default)
        #[structopt(long, conflicts_with_all = &["live", "startup"])]
        #[allow(dead_code)] // the default, said aloud
        ready: bool,
        /// The proxy itself lives, whatever its workers do
        #[structopt(long, conflicts_with = "startup")]
        live: bool,
        /// Every app has been ready once
        #[structopt(long)]
        startup: bool,
        #[structopt(flatten)]
        common: Common,
    },
}

#[derive(Debug, StructOpt)]
struct Common {
    /// The configuration file of the proxy
    #[structopt(short, long, value_name = "FILE", parse(from_os_str), conflicts_with = "runtime-dir")]
    conf: Option<PathBuf>,

    /// The runtime directory of the proxy
    #[structopt(long, value_name = "DIR", parse(from_os_str))]
    runtime_dir: Option<PathBuf>,

    /// Where the proxy takes commands, if it is elsewhere than the file says: `admin` has changed
    #[structopt(long, value_name = "PATH", parse(from_os_str), conflicts_with = "runtime-dir")]
    socket: Option<PathBuf>,

    /// How long to wait for the outcome, as in 30s [default: 5s for health, 10s for status, else 1h]
    #[structopt(long, value_name = "TIME", parse(try_from_str = time))]
    timeout: Option<Duration>,
}

impl Asked {
    /// `None` when the arguments, of which the first is the program's own name, have no command.
    pub fn parse(args: &[OsString]) -> Option<Result<Asked, Stop>> {
        let at = verb_at(args)?;
        // The verb comes first, so that its own options may stand on both sides of it.
        let mut ordered = vec![OsString::from(NAME), args.get(at)?.clone()];
        ordered.extend(args.iter().enumerate().filter(|(n, _)| *n != 0 && *n != at).map(|(_, arg)| arg.clone()));
        Some(Options::from_iter_safe(ordered).map(Asked::from).map_err(|error| stop(&error)))
    }
}

impl From<Options> for Asked {
    fn from(options: Options) -> Asked {
        let (verb, common) = match options {
            Options::Status { json, common } => (Verb::Status { json }, common),
            Options::Reload { app, update_env, common } => (Verb::Reload { app, update_env }, common),
            Options::Scale { app, to, common } => (Verb::Scale { app, to }, common),
            Options::Restart { app, update_env, common } => (Verb::Restart { app, update_env }, common),
            Options::Upgrade { common } => (Verb::Upgrade, common),
            Options::Health { live, startup, common, .. } => {
                let check = match (live, startup) {
                    (true, _) => Check::Live,
                    (_, true) => Check::Startup,
                    _ => Check::Ready,
                };
                (Verb::Health { check }, common)
            }
        };
        let proxy = match (common.conf, common.runtime_dir) {
            (Some(file), _) => Proxy::Conf(file),
            (None, Some(dir)) => Proxy::RuntimeDir(dir),
            (None, None) => Proxy::Default,
        };
        Asked { verb, proxy, socket: common.socket, timeout: common.timeout }
    }
}

/// Where the verb stands: the first word that is neither an option nor an option's value, and before a `--`.
fn verb_at(args: &[OsString]) -> Option<usize> {
    let takes_value = ["-c", "--conf", "--runtime-dir", "--socket", "--timeout"].map(OsStr::new);
    let mut n = 1;
    loop {
        let word = args.get(n)?.to_str().unwrap_or("x");
        match word {
            "--" => return None,
            _ if takes_value.contains(&OsStr::new(word)) => n += 2,
            _ if word.starts_with('-') => n += 1,
            _ => return VERBS.contains(&word).then_some(n),
        }
    }
}

/// The verb that was probably meant.
pub(super) fn near(word: &str) -> Option<&'static str> {
    nearest(word, VERBS)
}

fn count(text: &str) -> Result<String, String> {
    let number = text.parse::<i32>().ok().filter(|number| (1..=1024).contains(&number.abs()));
    if text == "auto" || number.is_some() {
        Ok(text.to_owned())
    } else {
        Err("write a number from 1 to 1024, +1, -1 or auto".to_owned())
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok().filter(|time| !time.is_zero());
    time.ok_or_else(|| "write a number and a unit, as in 500ms, 30s or 5m".to_owned())
}

fn stop(error: &structopt::clap::Error) -> Stop {
    let word = error.info.as_ref().and_then(|info| info.first());
    match (error.kind, word) {
        (ErrorKind::HelpDisplayed, _) => Stop { text: format!("{}\n", error.message.trim_end()), code: 0 },
        (ErrorKind::UnknownArgument, Some(word)) if !word.starts_with('-') => {
            mistake(&format!("unexpected {}", shown(word)), "--help after the command shows what it takes")
        }
        _ => Stop { text: format!("{}\n", error.message.trim_end()), code: 2 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Asked, Stop> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        Asked::parse(&args).expect("a command")
    }

    fn is_command(line: &str) -> bool {
        Asked::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).is_some()
    }

    #[test]
    fn commands_are_told_from_the_old_forms() {
        for line in ["p -c status", "p -c c.yaml -t", "p -- status", "p -t -- node status", "p", "p stauts", "p -d"] {
            assert!(!is_command(line), "{line}");
        }
        for line in ["p status", "p -c c.yaml status", "p --timeout 1s reload", "p -c=c.yaml restart"] {
            assert!(is_command(line), "{line}");
        }
        assert_eq!(near("stauts"), Some("status"));
        assert_eq!(near("app.js"), None);
    }

    #[test]
    fn commands_and_their_options() {
        let status = |json, proxy| Asked { verb: Verb::Status { json }, proxy, socket: None, timeout: None };
        assert_eq!(asked("p status").unwrap(), status(false, Proxy::Default));
        assert_eq!(asked("p -c c.yaml status --json").unwrap(), status(true, Proxy::Conf("c.yaml".into())));
        assert_eq!(asked("p status --runtime-dir /run/x").unwrap(), status(false, Proxy::RuntimeDir("/run/x".into())));
        for to in ["4", "+1", "-1", "-12", "auto"] {
            let verb = Verb::Scale { app: "chat".into(), to: to.into() };
            assert_eq!(asked(&format!("p scale chat {to}")).unwrap().verb, verb);
        }
        assert_eq!(asked("p restart").unwrap().verb, Verb::Restart { app: None, update_env: false });
        for (line, check) in [
            ("p health", Check::Ready),
            ("p health --ready", Check::Ready),
            ("p -c c.yaml health --live", Check::Live),
            ("p health --startup", Check::Startup),
        ] {
            assert_eq!(asked(line).unwrap().verb, Verb::Health { check }, "{line}");
        }
        let chat = || Some("chat".to_owned());
        for (line, verb) in [
            ("p restart chat", Verb::Restart { app: chat(), update_env: false }),
            ("p restart --update-env", Verb::Restart { app: None, update_env: true }),
            ("p reload chat --update-env", Verb::Reload { app: chat(), update_env: true }),
            ("p reload", Verb::Reload { app: None, update_env: false }),
        ] {
            assert_eq!(asked(line).unwrap().verb, verb, "{line}");
        }
        let upgrade = asked("p --socket /run/a.sock upgrade -c c.yaml").unwrap();
        assert_eq!((upgrade.proxy, upgrade.socket), (Proxy::Conf("c.yaml".into()), Some("/run/a.sock".into())));
        let reload = asked("p reload -c c.yaml --timeout 1m30s").unwrap();
        assert_eq!(
            (reload.verb, reload.timeout),
            (Verb::Reload { app: None, update_env: false }, Some(Duration::from_secs(90)))
        );
    }

    #[test]
    fn mistakes_end_with_code_2_and_say_what_to_write() {
        let cases = [
            ("p scale chat", "TO|<to>"),
            ("p scale chat 0", "from 1 to 1024"),
            ("p scale chat many", "+1, -1 or auto"),
            ("p status --timeout 5", "30s"),
            ("p status --jsn", "--json"),
            ("p status chat", "unexpected \"chat\""),
            ("p status -c a --runtime-dir b", "cannot be used with"),
            ("p status --socket a --runtime-dir b", "cannot be used with"),
            ("p health --live --ready", "cannot be used with"),
            ("p reload --update-env", "<app>"),
        ];
        for (line, told) in cases {
            let stop = asked(line).expect_err(line);
            assert_eq!(stop.code, 2, "{line}");
            assert!(told.split('|').any(|told| stop.text.contains(told)), "{line}: {}", stop.text);
            assert!(stop.text.ends_with('\n') && !stop.text.ends_with("\n\n"), "{line}: {:?}", stop.text);
        }
        let help = asked("p scale --help").expect_err("help");
        assert!(help.code == 0 && help.text.contains("--timeout"), "{}", help.text);
    }
}
