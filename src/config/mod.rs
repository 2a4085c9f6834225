//! From command line and YAML to the domain's own types. The only place that knows YAML.
//!
//! A file goes through four steps: [`yaml`] reads it into a tree in which every key and value knows its place,
//! [`interpolate`] fills in `${NAME}`, [`fields`] and its neighbours decode the tree and note every mistake
//! instead of stopping at the first, and what is left without a mistake becomes a [`Config`]. The keys and their
//! defaults stand in one table, [`schema`]; docs/configuration.md is tested against it.

#![forbid(unsafe_code)]

mod access_log;
mod admin;
mod affinity;
mod alarms;
mod apps;
pub mod cli;
mod clients;
mod command;
mod error;
mod error_pages;
mod external;
mod fields;
mod interpolate;
mod limits;
mod listeners;
mod logs;
mod lookup;
mod machine;
mod pingora;
mod policy;
mod route_actions;
mod route_match;
mod routes;
mod scalars;
mod schema;
mod shutdown;
mod startable;
#[cfg(test)]
mod tests;
mod tls;
mod usage;
mod variables;
pub mod verbs;
mod yaml;

pub use error::{Error, Place, Warning};
pub(crate) use shutdown::MARGIN as SHUTDOWN_MARGIN;

use crate::fleet::policy::Policy;
use crate::gateway::{AccessPolicy, Carrier, Clients, ErrorPages, Limits, Networks, Protocol, Route};
use crate::pool::QueuePolicy;
use crate::pool::affinity::{Affinity, Balance};
use crate::process::output;
use crate::process::spec::Spec;
use crate::tls::rules as tls_rules;
use cli::{Cli, Source};
use error::Findings;
use fields::{Decoder, Field};
use machine::{Here, Machine, Paper};
use pingora_core::server::configuration::ServerConf;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use yaml::{Entry, Kind, Node, Scalar, Value};

/// Long enough for a restart of the proxy by whoever watches it.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest configuration file, in bytes.
const LARGEST_FILE: u64 = 1024 * 1024;

/// A whole configuration: checked, every default filled in.
#[derive(Debug)]
pub(crate) struct Config {
    /// Pingora's own settings (threads, daemon, pid_file ...).
    pub(crate) server: ServerConf,
    /// Who carries plain HTTP requests.
    pub(crate) carrier: Carrier,
    /// At least one.
    pub(crate) listeners: Vec<Listener>,
    /// Absolute; short enough for the socket paths in it.
    pub(crate) runtime_dir: PathBuf,
    /// How long a worker lives when there is no proxy.
    pub(crate) orphan_timeout: Duration,
    /// At least one; names are unique.
    pub(crate) apps: Vec<App>,
    /// Never empty: a single app without routes gets the one that matches everything.
    pub(crate) routes: Vec<Route>,
    /// A path that can be read in several ways is refused where that decides.
    pub(crate) strict_paths: bool,
    /// Read, with what is in them.
    pub(crate) error_pages: ErrorPages,
    pub(crate) limits: Limits,
    /// Who clients are, and what each may have.
    pub(crate) clients: Clients,
    /// Absolute path of the socket for commands, unless there is none.
    pub(crate) admin: Option<PathBuf>,
    /// Where metrics are served, if at all.
    pub(crate) metrics: Option<SocketAddr>,
    /// Where health is told, if at all.
    pub(crate) health: Option<SocketAddr>,
    pub(crate) shutdown: Shutdown,
    pub(crate) logs: output::Policy,
    /// `None`: off.
    pub(crate) access_log: Option<AccessPolicy>,
    pub(crate) alarms: Alarms,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    /// HTTP/2 without TLS is spoken here, too.
    pub(crate) h2c: bool,
    /// Connections come from load balancers in these networks, and begin with a PROXY header.
    pub(crate) proxy_protocol: Option<Networks>,
    /// What is spoken here is HTTP over TLS.
    pub(crate) tls: Option<tls_rules::Settings>,
    /// Each request is sent to the same address with https.
    pub(crate) redirect: bool,
}

impl Listener {
    /// For plain HTTP, and nothing else.
    fn plain(address: SocketAddr) -> Listener {
        Listener { address, h2c: false, tls: None, redirect: false, proxy_protocol: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) spec: Spec,
    pub(crate) policy: Policy,
    pub(crate) affinity: Affinity,
    pub(crate) balance: Balance,
    pub(crate) queue: QueuePolicy,
    /// How long a worker may stay silent before it has begun its answer (504 then).
    pub(crate) response_timeout: Duration,
    pub(crate) protocol: Protocol,
}

/// How the proxy ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shutdown {
    /// How long new connections are still served after the signal.
    pub(crate) pre_stop_delay: Duration,
    /// What whoever runs us gives until it kills us, from the signal on.
    pub(crate) limit: Option<Duration>,
    /// After an upgrade: how long what cannot move to the successor may take to end.
    pub(crate) max_drain: Duration,
}

/// When somebody is to be told, and who.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alarms {
    /// Between two notices of an alarm that lasts.
    pub(crate) repeat: Duration,
    /// How long a threshold must be crossed before the alarm, and not be crossed before it is over.
    pub(crate) hold: Duration,
    /// Resident memory of a worker, in bytes.
    pub(crate) memory: Option<u64>,
    /// Event-loop utilization of a worker, 0 to 1.
    pub(crate) elu: Option<f64>,
    /// Event-loop lag of a worker.
    pub(crate) lag: Option<Duration>,
    /// Least free bytes on the disk of the log files.
    pub(crate) disk_free: Option<u64>,
    /// How long before a certificate ends.
    pub(crate) certificate_expires: Option<Duration>,
    pub(crate) queue_overflow: bool,
    pub(crate) log_drops: bool,
    pub(crate) webhook: Option<Webhook>,
    /// Program and arguments, run for each notice; empty for none.
    pub(crate) exec: Vec<String>,
}

impl Default for Alarms {
    fn default() -> Self {
        Alarms {
            repeat: Duration::from_secs(3600),
            hold: Duration::from_secs(30),
            memory: None,
            elu: Some(0.95),
            lag: Some(Duration::from_millis(500)),
            disk_free: Some(100_000_000),
            certificate_expires: Some(Duration::from_secs(14 * 86_400)),
            queue_overflow: true,
            log_drops: true,
            webhook: None,
            exec: Vec::new(),
        }
    }
}

/// Where notices are posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Webhook {
    /// `http` or `https`, with a host.
    pub(crate) url: http::Uri,
    pub(crate) headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// For one try.
    pub(crate) timeout: Duration,
    /// Tries after the first one.
    pub(crate) retries: u32,
}

impl Default for Webhook {
    fn default() -> Self {
        Webhook { url: http::Uri::default(), headers: Vec::new(), timeout: Duration::from_secs(5), retries: 5 }
    }
}

/// A usable configuration with what is odd about it, or every mistake in it, sorted by place.
type Loaded = Result<(Config, Vec<Warning>), Vec<Error>>;

/// What the command line asks for: a file or a command, with `-d` applied.
pub(crate) fn from_cli(cli: &Cli) -> Loaded {
    let (mut config, warnings) = match &cli.source {
        Source::File(file) => load(file)?,
        Source::Command(command) => from_command(command)?,
    };
    config.server.daemon |= cli.daemon;
    Ok((config, warnings))
}

/// Reads a file. Relative paths in it begin at its directory.
pub(crate) fn load(file: &Path) -> Loaded {
    let whole = |message: String, hint: &str| {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        vec![Error { file: file.to_owned(), place: None, message, hint }]
    };
    let text = read(file).map_err(|(message, hint)| whole(message, hint))?;
    let path = std::path::absolute(file).map_err(|error| whole(machine::reason(&error), ""))?;
    decode_text(file, path.parent().unwrap_or(Path::new("/")), &text, &Here)
}

/// `-- COMMAND ARGS...`: one worker per processor, named after the script or program, on 127.0.0.1:8000.
fn from_command(command: &[String]) -> Loaded {
    let file = Path::new("command line");
    match std::env::current_dir() {
        Ok(dir) => decode(Findings::new(file), &dir, &command_tree(command), &Here),
        Err(error) => {
            let message = format!("the current directory cannot be used: {}", machine::reason(&error));
            Err(vec![Error { file: file.to_owned(), place: None, message, hint: None }])
        }
    }
}

/// Checks a file as `-t` does.
pub fn check(file: &Path) -> Result<Vec<Warning>, Vec<Error>> {
    load(file).map(|(_, warnings)| warnings)
}

/// Checks a text without looking at this machine: every file, program and directory in it counts as there, the
/// proxy as started by root, and of the environment only `HOME` is set. For examples in documentation.
pub fn check_on_paper(name: &Path, text: &str) -> Result<Vec<Warning>, Vec<Error>> {
    decode_text(name, Path::new("/srv"), text, &Paper { root: true }).map(|(_, warnings)| warnings)
}

/// Where the proxy that runs with a file can be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// The socket for commands, unless there is none.
    pub(crate) admin: Option<PathBuf>,
    pub(crate) health: Option<SocketAddr>,
}

/// Where the proxy that runs with this file can be asked. What else is wrong in the file does not matter here.
pub(crate) fn reached(file: &Path) -> Result<Reached, Vec<Error>> {
    let whole = |message, hint: &str| {
        vec![Error {
            file: file.to_owned(),
            place: None,
            message,
            hint: Some(hint.to_owned()).filter(|h| !h.is_empty()),
        }]
    };
    let text = read(file).map_err(|(message, hint)| whole(message, hint))?;
    let path = std::path::absolute(file).map_err(|error| whole(machine::reason(&error), ""))?;
    let mut found = Findings::new(file);
    let mut root = match yaml::read(&text) {
        Ok(root) => root,
        Err(problem) => {
            found.error(problem.at, problem.message, problem.hint);
            return found.finish(None).map(|(reached, _)| reached);
        }
    };
    interpolate::expand(&mut root, &Here, &mut found);
    let base = fields::tidy(path.parent().unwrap_or(Path::new("/")));
    let mut d = Decoder { found, machine: &Here, base };
    let field = Field { path: String::new(), key_at: root.at, node: &root };
    let Some(top) = d.fields(&field, &schema::TOP) else { return d.found.finish(None).map(|(reached, _)| reached) };
    d.found = Findings::new(file);
    let runtime_dir = limits::runtime_dir(&mut d, &top);
    let admin = admin::socket(&mut d, &top, &runtime_dir);
    let health = admin::address(&mut d, &top, &schema::HEALTH, "127.0.0.1:9902", &[]);
    d.found.finish(Some(Reached { admin, health })).map(|(reached, _)| reached)
}

/// Of a proxy that was started without a file, or whose file does not say.
fn default_runtime_dir() -> PathBuf {
    Here.runtime_dir()
}

/// What `-t` prints, without a newline at the end, and whether the configuration is good.
pub(crate) fn report(cli: &Cli) -> (String, bool) {
    let lines = |all: &mut dyn Iterator<Item = String>| all.collect::<Vec<_>>().join("\n");
    match from_cli(cli) {
        Err(errors) => (lines(&mut errors.iter().map(Error::to_string)), false),
        Ok((config, warnings)) => {
            let name = match &cli.source {
                Source::File(file) => file.display().to_string(),
                Source::Command(_) => "command line".to_owned(),
            };
            let warned = warnings.iter().map(|warning| format!("{warning} (warning)"));
            (lines(&mut warned.chain([format!("{name}: ok: {}", summary(&config))])), true)
        }
    }
}

fn summary(config: &Config) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let workers = config.apps.iter().map(|app| usize::from(app.policy.instances)).sum();
    let addresses: Vec<String> = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    let (apps, workers) = (count(config.apps.len(), "app"), count(workers, "worker"));
    format!("{apps}, {workers}, {}, on {}", count(config.routes.len(), "route"), addresses.join(", "))
}

/// Reads a regular file that is not too large; never waits.
fn read(file: &Path) -> Result<String, (String, &'static str)> {
    let because = |error: std::io::Error| (format!("cannot be read: {}", machine::reason(&error)), "");
    let meta = std::fs::metadata(file).map_err(because)?;
    if meta.is_dir() {
        return Err(("is a directory".into(), "write the file in it"));
    }
    if !meta.is_file() {
        return Err(("is not a regular file".into(), "save the configuration in a file"));
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(because)?;
    opened.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(because)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err((format!("is larger than {LARGEST_FILE} bytes"), "is this the right file?"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        (format!("is not UTF-8 on line {line}"), "save it as UTF-8 text")
    })
}

fn decode_text(file: &Path, base: &Path, text: &str, machine: &dyn Machine) -> Loaded {
    let mut found = Findings::new(file);
    let mut root = match yaml::read(text) {
        Ok(root) => root,
        Err(problem) => {
            found.error(problem.at, problem.message, problem.hint);
            return found.finish(None);
        }
    };
    if root.value == Value::Null {
        found.error(None, "is empty", "write at least apps: {chat: {script: app.js}}");
        return found.finish(None);
    }
    interpolate::expand(&mut root, machine, &mut found);
    decode(found, base, &root, machine)
}

fn decode(found: Findings, base: &Path, root: &Node, machine: &dyn Machine) -> Loaded {
    let mut d = Decoder { found, machine, base: fields::tidy(base) };
    let field = Field { path: String::new(), key_at: root.at, node: root };
    if !matches!(root.value, Value::Map(_)) {
        d.found.error(root.at, "a configuration is a map of keys", "write at least apps: {chat: {script: app.js}}");
        return d.found.finish(None);
    }
    let Some(top) = d.fields(&field, &schema::TOP) else { return d.found.finish(None) };
    let runtime_dir = limits::runtime_dir(&mut d, &top);
    let orphan_timeout = d.duration(&top, "orphan_timeout").unwrap_or(ORPHAN_TIMEOUT);
    let (server, carrier) = pingora::decode(&mut d, &top, &runtime_dir);
    let mut listeners = listeners::decode(&mut d, &top);
    let apps = apps::decode(&mut d, &top);
    let routes = routes::decode(&mut d, &top, &apps);
    let strict_paths = routes::strict(&mut d, &top);
    let error_pages = error_pages::decode(&mut d, &top);
    let state_dir = limits::state_dir(&mut d, &top, &runtime_dir);
    tls::finish(&mut d, &top, &mut listeners, &routes, &state_dir);
    let limits = limits::decode(&mut d, &top);
    let clients = clients::decode(&mut d, &top);
    let admin = admin::socket(&mut d, &top, &runtime_dir);
    let mut taken: Vec<(&str, SocketAddr)> = listeners.iter().map(|l| ("listeners", l.address)).collect();
    let metrics = admin::address(&mut d, &top, &schema::METRICS, "127.0.0.1:9901", &taken);
    taken.extend(metrics.map(|address| ("metrics", address)));
    let health = admin::address(&mut d, &top, &schema::HEALTH, "127.0.0.1:9902", &taken);
    let shutdown = shutdown::decode(&mut d, &top, &apps.apps);
    let logs = logs::decode(&mut d, &top);
    let access_log = access_log::decode(&mut d, &top);
    let alarms = alarms::decode(&mut d, &top);
    limits::check_socket_paths(&mut d, &top, &runtime_dir, &apps.apps);
    external::check(&mut d, &apps.apps, &apps.names, &runtime_dir);
    let apps = apps.apps;
    let config = Config {
        server,
        carrier,
        listeners,
        runtime_dir,
        orphan_timeout,
        apps,
        routes,
        strict_paths,
        error_pages,
        limits,
        clients,
        admin,
        metrics,
        health,
        shutdown,
        logs,
        access_log,
        alarms,
    };
    d.found.finish(Some(config))
}

/// The tree that a file would give for `-- COMMAND ARGS...`.
fn command_tree(command: &[String]) -> Node {
    let node = |value| Node { at: None, value };
    let word = |text: &str| node(Value::Scalar(Scalar { text: text.to_owned(), kind: Kind::Text, plain: false }));
    let map = |entries: Vec<(&str, Node)>| {
        let entry = |(key, node): (&str, Node)| Entry { key: key.to_owned(), key_at: None, node };
        node(Value::Map(entries.into_iter().map(entry).collect()))
    };
    let words = node(Value::List(command.iter().map(|text| word(text)).collect()));
    let app = map(vec![("command", words), ("instances", word("auto"))]);
    map(vec![("apps", map(vec![(&app_name(command), app)]))])
}

/// The name of the script for Node.js, else of the program.
fn app_name(command: &[String]) -> String {
    /// Short enough for the sockets in any default runtime directory.
    const LONGEST: usize = 24;
    let stem = |word: &String| Path::new(word).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let script = |program: &String| {
        let node = matches!(stem(program).as_deref(), Some("node" | "nodejs" | "tsx" | "ts-node"));
        node.then(|| command.iter().skip(1).find(|word| !word.starts_with('-')))?
    };
    let name = command.first().and_then(|program| stem(script(program).unwrap_or(program))).unwrap_or_default();
    let good = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    let name: String = name.chars().map(good).take(LONGEST).collect();
    let name = name.trim_matches('-');
    if apps::good_name(name) { name.to_owned() } else { "app".to_owned() }
}
