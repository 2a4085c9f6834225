//! `server`: Pingora's own settings by their own names, those that make sense here.

use super::fields::{Decoder, Fields};
use super::machine::Seen;
use super::schema::SERVER;
use crate::gateway::Carrier;
use crate::process::PID_FILE;
use pingora_core::server::configuration::ServerConf;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// Fills Pingora's configuration. `upgrade_sock` and, unless it is given, `pid_file` go to `runtime_dir`:
/// Pingora's own defaults are in /tmp, where others could put something in their place.
pub(super) fn decode(d: &mut Decoder<'_>, top: &Fields<'_>, runtime_dir: &Path) -> (ServerConf, Carrier) {
    let mut conf = ServerConf {
        version: 1,
        threads: usize::from(d.machine.cpus()),
        pid_file: text(runtime_dir.join(PID_FILE)),
        upgrade_sock: text(runtime_dir.join("upgrade.sock")),
        // For connections to workers, which have no TLS. Without it Pingora reads the certificates of the system's
        // authorities at the start, and panics when one of them is damaged.
        ca_file: Some("/dev/null".to_owned()),
        // Clients are served by single-threaded runtimes unless it is asked for.
        work_stealing: false,
        ..ServerConf::default()
    };
    let Some(field) = top.filled("server") else { return (conf, Carrier::default()) };
    let Some(fields) = d.fields(&field, &SERVER) else { return (conf, Carrier::default()) };
    d.integer(&fields, "version");
    threads(d, &fields, &mut conf);
    conf.listener_tasks_per_fd = count(d, &fields, "listener_tasks_per_fd").unwrap_or(conf.listener_tasks_per_fd);
    conf.work_stealing = d.flag(&fields, "work_stealing").unwrap_or(conf.work_stealing);
    conf.max_blocking_threads = count(d, &fields, "max_blocking_threads");
    conf.blocking_threads_ttl_seconds = d.integer(&fields, "blocking_threads_ttl_seconds");
    let pool = count(d, &fields, "upstream_keepalive_pool_size");
    conf.upstream_keepalive_pool_size = pool.unwrap_or(conf.upstream_keepalive_pool_size);
    conf.max_retries = count(d, &fields, "max_retries").unwrap_or(conf.max_retries);
    fast_timeout(d, &fields, &mut conf);
    daemon(d, &fields, &mut conf);
    let carrier = carrier(d, &fields);
    (conf, carrier)
}

/// Who carries plain requests.
fn carrier(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Carrier {
    let Some(field) = fields.get("http") else { return Carrier::default() };
    match d.choice(&field, &["own", "pingora"], &[]) {
        Some("pingora") => Carrier::Pingora,
        _ => Carrier::Own,
    }
}

fn threads(d: &mut Decoder<'_>, fields: &Fields<'_>, conf: &mut ServerConf) {
    let auto = fields.get("threads").and_then(|field| field.text()).is_some_and(|text| text == "auto");
    if !auto {
        conf.threads = count(d, fields, "threads").unwrap_or(conf.threads);
    }
}

fn fast_timeout(d: &mut Decoder<'_>, fields: &Fields<'_>, conf: &mut ServerConf) {
    const NAME: &str = "fast_timeout_to_tokio_threshold_seconds";
    match fields.get(NAME).and_then(|field| field.text()) {
        Some("none") => conf.fast_timeout_to_tokio_threshold_seconds = None,
        _ => {
            let seconds = d.integer(fields, NAME);
            conf.fast_timeout_to_tokio_threshold_seconds = seconds.or(conf.fast_timeout_to_tokio_threshold_seconds);
        }
    }
}

fn daemon(d: &mut Decoder<'_>, fields: &Fields<'_>, conf: &mut ServerConf) {
    conf.daemon = d.flag(fields, "daemon").unwrap_or(conf.daemon);
    if let Some(file) = parented(d, fields, "pid_file") {
        conf.pid_file = text(file);
    }
    conf.error_log = parented(d, fields, "error_log").map(text);
    conf.working_directory = fields.get("working_directory").and_then(|field| {
        let dir = d.file(&field)?;
        if d.machine.look(&dir, Seen::Directory) != Seen::Directory {
            let message = format!("{}: there is no directory {} that may be entered", field.path, dir.display());
            d.found.error(field.at(), message, "a relative path begins at the directory of the configuration file");
        }
        Some(dir)
    });
    conf.daemon_wait_for_ready = d.flag(fields, "daemon_wait_for_ready").unwrap_or(conf.daemon_wait_for_ready);
    conf.daemon_ready_timeout_seconds = d.integer(fields, "daemon_ready_timeout_seconds").and_then(NonZeroU64::new);
}

/// A file that will be written: its directory must be there.
fn parented(d: &mut Decoder<'_>, fields: &Fields<'_>, name: &'static str) -> Option<PathBuf> {
    let field = fields.get(name)?;
    let file = d.file(&field)?;
    let parent = file.parent().unwrap_or(Path::new("/"));
    if d.machine.look(&file, Seen::Missing) == Seen::Directory {
        d.found.error(
            field.at(),
            format!("{}: {} is a directory", field.path, file.display()),
            "write the name of a file",
        );
    } else if d.machine.look(parent, Seen::Directory) != Seen::Directory {
        let message = format!("{}: there is no directory {} that may be entered", field.path, parent.display());
        d.found.error(field.at(), message, "create it, or write another path");
    }
    Some(file)
}

fn count(d: &mut Decoder<'_>, fields: &Fields<'_>, name: &'static str) -> Option<usize> {
    d.integer(fields, name).and_then(|value| usize::try_from(value).ok())
}

/// The file is UTF-8 and so is every path in it; only the directory it lies in may be anything.
fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}
