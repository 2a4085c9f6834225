//! Every key of a configuration file, with its default: the one table that the decoder, its messages and the
//! documentation's test share.

/// The keys of one map of the file.
#[derive(Debug)]
pub(super) struct Section {
    /// How messages call it; empty for the file itself.
    pub(super) name: &'static str,
    pub(super) keys: &'static [Key],
    /// Words that people know from elsewhere, and what to do instead.
    pub(super) elsewhere: &'static [(&'static str, Instead)],
}

/// A key and the value it has when it is left out, as docs/configuration.md shows it.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    #[cfg_attr(not(test), allow(dead_code))] // tests hold the documentation to it
    pub(super) default: Preset,
}

/// What a key takes, with its bounds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Flag,
    /// Least, most, and words that may stand instead.
    Integer(u64, u64, &'static str),
    /// Least and most, in milliseconds.
    Duration(u64, u64),
    /// The same, or `none`.
    DurationOrNone(u64, u64),
    /// Least and most, in bytes, and words that may stand instead.
    Size(u64, u64, &'static str),
    List,
    Map,
    /// In words; its rules stand with its decoder.
    #[cfg_attr(not(test), allow(dead_code))]
    Other(&'static str),
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), allow(dead_code))]
pub(super) enum Preset {
    /// This YAML value, written out, changes nothing.
    Yaml(&'static str),
    /// Words: the default is not one fixed value.
    Words(&'static str),
    /// The key must be there.
    Required,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Instead {
    /// Another key (or value) does this; the sentence says how.
    Write(&'static str),
    /// Planned.
    Later,
    /// Has no use here; the sentence says why.
    Useless(&'static str),
}

use Instead::{Later, Useless, Write};
use Kind::{Duration, DurationOrNone, Flag, Integer, List, Map, Other, Size};
use Preset::{Required, Words, Yaml};

const fn key(name: &'static str, kind: Kind, default: Preset) -> Key {
    Key { name, kind, default }
}

pub(super) const ALL: &[&Section] = &[
    &TOP,
    &SERVER,
    &LISTENER,
    &APP,
    &EXTERNAL,
    &INSTANCES,
    &BACKOFF,
    &QUEUE,
    &CRASH_LOOP,
    &HEALTH_CHECK,
    &SCALING,
    &RLIMITS,
    &ROUTE,
    &LIMITS,
    &ADMIN,
    &METRICS,
    &HEALTH,
    &SHUTDOWN,
    &UPGRADE,
    &LOGS,
    &ROTATE,
    &ALARMS,
    &WEBHOOK,
];

pub(super) const TOP: Section = Section {
    name: "",
    keys: &[
        key("server", Map, Words("see below")),
        key("listeners", List, Yaml("[{address: \"127.0.0.1:8000\"}]")),
        key("runtime_dir", Other("absolute directory"), Words("see below")),
        key("orphan_timeout", Duration(1000, 86_400_000), Yaml("30s")),
        key("apps", Map, Required),
        key("routes", List, Words("everything to the only app")),
        key("limits", Map, Words("see below")),
        key("admin", Map, Yaml("{socket: default}")),
        key("metrics", Map, Words("not served")),
        key("health", Map, Words("not served")),
        key("shutdown", Map, Yaml("{pre_stop_delay: 0s, limit: none}")),
        key("upgrade", Map, Yaml("{max_drain: 1h}")),
        key("logs", Map, Words("see below")),
        key("alarms", Map, Words("see below")),
    ],
    elsewhere: &[
        ("stop", Write("write shutdown")),
        ("grace_period", Write("write shutdown: {limit: 30s}")),
        ("healthz", Write("write health: {address: \"127.0.0.1:9902\"}")),
        ("health_check", Write("write health: {address: \"127.0.0.1:9902\"}, or health_check below an app")),
        ("prometheus", Write("write metrics: {address: \"127.0.0.1:9901\"}")),
        ("log", Write("write logs")),
        ("logging", Write("write logs")),
        ("tls", Later),
        ("app", Write("write apps: with the app's name as a key below it")),
        ("services", Write("write apps: with each app's name as a key below it")),
        ("listen", Write("write listeners: [{address: \"127.0.0.1:8000\"}]")),
        ("port", Write("write listeners: [{address: \"127.0.0.1:8000\"}]")),
        ("upstreams", Write("write apps: the proxy starts the workers itself")),
        ("version", Write("write server: {version: 1}")),
        ("threads", Write("write server: {threads: 2}")),
        ("daemon", Write("write server: {daemon: true}, or start with -d")),
        ("pid_file", Write("write it under server:")),
        ("error_log", Write("write it under server:")),
        ("upgrade_sock", Write("leave it out: it stands in runtime_dir")),
    ],
};

pub(super) const SERVER: Section = Section {
    name: "server",
    keys: &[
        key("version", Integer(1, 1, ""), Yaml("1")),
        key("threads", Integer(1, 1024, "auto"), Yaml("auto")),
        key("listener_tasks_per_fd", Integer(1, 64, ""), Yaml("1")),
        key("work_stealing", Flag, Yaml("false")),
        key("http", Other("own or pingora"), Yaml("own")),
        key("max_blocking_threads", Integer(1, 65_536, ""), Words("512")),
        key("blocking_threads_ttl_seconds", Integer(1, 86_400, ""), Words("10")),
        key("upstream_keepalive_pool_size", Integer(1, 1_000_000, ""), Yaml("128")),
        key("max_retries", Integer(0, 16, ""), Yaml("16")),
        key("fast_timeout_to_tokio_threshold_seconds", Integer(1, 31_536_000, "none"), Yaml("900")),
        key("daemon", Flag, Yaml("false")),
        key("pid_file", Other("file"), Words("pingora-unix-proxy.pid in runtime_dir")),
        key("error_log", Other("file"), Words("none")),
        key("working_directory", Other("directory"), Words("unchanged")),
        key("daemon_wait_for_ready", Flag, Yaml("false")),
        key("daemon_ready_timeout_seconds", Integer(1, 86_400, ""), Words("600")),
    ],
    elsewhere: &[
        (
            "daemon_notify_timeout_seconds",
            Useless("the process in the background says that it is ready through a pipe, and waits for nobody"),
        ),
        ("upgrade_sock", Useless("an upgrade goes by handoff.sock in runtime_dir")),
        (
            "upgrade_sock_connect_accept_max_retries",
            Useless("an upgrade goes by handoff.sock in runtime_dir, and has limits of its own"),
        ),
        (
            "grace_period_seconds",
            Useless(
                "the proxy ends as soon as nothing is left; drain_timeout and stop_timeout of the app bound that, and shutdown: {limit: 30s}",
            ),
        ),
        (
            "graceful_shutdown_timeout_seconds",
            Useless(
                "the proxy ends as soon as nothing is left; drain_timeout and stop_timeout of the app bound that, and shutdown: {limit: 30s}",
            ),
        ),
        ("user", Useless("the proxy keeps the user that starts it; set user for an app to change the workers' user")),
        (
            "group",
            Useless("the proxy keeps the group that starts it; set group for an app to change the workers' group"),
        ),
        ("client_bind_to_ipv4", Useless("workers are reached over Unix sockets")),
        ("client_bind_to_ipv6", Useless("workers are reached over Unix sockets")),
        ("ca_file", Useless("workers are reached over Unix sockets, without TLS")),
        ("upstream_debug_ssl_keylog", Useless("workers are reached over Unix sockets, without TLS")),
        ("upstream_connect_offload_threadpools", Useless("connecting to a Unix socket does not block")),
        ("upstream_connect_offload_thread_per_pool", Useless("connecting to a Unix socket does not block")),
        ("downstream_tls_offload_threadpools", Later),
        ("downstream_tls_offload_thread_per_pool", Later),
        ("s2n_config_cache_size", Useless("this build uses rustls")),
        ("runtime_enable_alt_timer", Useless("it needs a build with --cfg tokio_unstable")),
        ("runtime_metrics_poll_time_histogram", Useless("it needs a build with --cfg tokio_unstable")),
        ("runtime_metrics_poll_time_histogram_scale", Useless("it needs a build with --cfg tokio_unstable")),
        (
            "runtime_metrics_poll_time_histogram_resolution_micros",
            Useless("it needs a build with --cfg tokio_unstable"),
        ),
        ("runtime_metrics_poll_time_histogram_buckets", Useless("it needs a build with --cfg tokio_unstable")),
        ("worker_processes", Write("write threads; workers are counted by instances of an app")),
        ("nbthread", Write("write threads")),
        ("pid", Write("write pid_file")),
        ("pidfile", Write("write pid_file")),
    ],
};

pub(super) const LISTENER: Section = Section {
    name: "listeners",
    keys: &[key("address", Other("IP:PORT"), Required), key("h2c", Flag, Yaml("false"))],
    elsewhere: &[
        ("tls", Later),
        ("http2", Write("write h2c: true for HTTP/2 without TLS")),
        ("proxy_protocol", Later),
        ("port", Write("write the port into address: \"0.0.0.0:8000\"")),
        ("host", Write("write address: \"127.0.0.1:8000\"")),
        ("listen", Write("write address: \"0.0.0.0:8000\"")),
        ("bind", Write("write address: \"0.0.0.0:8000\"")),
        ("addr", Write("write address: \"0.0.0.0:8000\"")),
    ],
};

pub(super) const APP: Section = Section {
    name: "apps.NAME",
    keys: &[
        key("script", Other("file"), Words("none; this or command")),
        key("args", Other("list, or words in one text"), Yaml("[]")),
        key("interpreter", Other("program"), Words("node")),
        key("node_args", Other("list, or words in one text"), Yaml("[]")),
        key("command", Other("list, or words in one text"), Words("none; this or script")),
        key("external", Map, Words("the proxy starts the workers")),
        key("cwd", Other("directory"), Yaml(".")),
        key("env", Map, Yaml("{}")),
        key("env_file", Other("file, or list of files"), Yaml("[]")),
        key("user", Other("name or number"), Words("the proxy's user")),
        key("group", Other("name or number"), Words("the user's group")),
        key("umask", Other("octal digits, 000 to 777"), Words("the proxy's umask")),
        key("preload", Flag, Words("true for Node.js programs")),
        key(
            "port",
            Integer(1, 65535, ""),
            Words("the one in PORT, else the first that the app's first worker listens on"),
        ),
        key("ports", Map, Yaml("{}")),
        key("instances", Integer(1, 1024, "auto, max, {min, max}"), Yaml("1")),
        key(
            "affinity",
            Other("socket.io, none, client-address, {cookie: NAME}, {header: NAME}, {query: NAME} or {path: N}"),
            Yaml("socket.io"),
        ),
        key("balance", Other("least-loaded or round-robin"), Yaml("least-loaded")),
        key("protocol", Other("http1 or http2"), Yaml("http1")),
        key("wait_ready", Flag, Yaml("false")),
        key("start_timeout", Duration(100, 3_600_000), Yaml("60s")),
        key("stop_timeout", Duration(0, 3_600_000), Yaml("10s")),
        key("drain_timeout", Duration(0, 86_400_000), Yaml("30s")),
        key("drain_window", Duration(0, 86_400_000), Yaml("10s")),
        key("stop_signal", Other("signal name"), Yaml("SIGTERM")),
        key("min_ready", Duration(0, 3_600_000), Yaml("1s")),
        key("surge", Integer(0, 1024, ""), Yaml("1")),
        key("backoff", Map, Yaml("{min: 100ms, max: 30s}")),
        key("min_uptime", Duration(0, 86_400_000), Yaml("10s")),
        key("crash_loop", Map, Yaml("{max: 5, window: 60s, retry: 60s}")),
        key("heartbeat_timeout", Duration(2000, 3_600_000), Yaml("3s")),
        key("unhealthy_timeout", Duration(0, 3_600_000), Yaml("15s")),
        key("health_check", Map, Words("whether the socket takes connections")),
        key("scaling", Map, Words("see below")),
        key("max_memory_restart", Size(1 << 20, 1 << 50, "none"), Yaml("none")),
        key("max_requests", Integer(1, 1_000_000_000_000, "none"), Yaml("none")),
        key("max_lifetime", Duration(1000, 30 * 86_400_000), Words("no limit")),
        key("rlimits", Map, Words("those of the proxy")),
        key("response_timeout", Duration(10, 86_400_000), Yaml("60s")),
        key("max_concurrency", Integer(1, 1_000_000, ""), Words("no limit")),
        key("queue", Map, Yaml("{max: 1000, timeout: 10s}")),
    ],
    elsewhere: &[
        ("name", Write("the name is the key above: apps: {NAME: {script: app.js}}")),
        ("exec_mode", Write("leave it out: every worker is a process of its own, as many as instances says")),
        ("exec", Write("write command: [program, argument]")),
        ("exec_interpreter", Write("write interpreter")),
        ("interpreter_args", Write("write node_args")),
        ("node_options", Write("write node_args, or NODE_OPTIONS under env")),
        ("path", Write("write cwd for the directory, script for the file")),
        ("directory", Write("write cwd")),
        ("working_directory", Write("write cwd")),
        ("uid", Write("write user")),
        ("gid", Write("write group")),
        ("workers", Write("write instances")),
        ("processes", Write("write instances")),
        ("replicas", Write("write instances")),
        ("threads", Write("write instances: workers are processes; the proxy's threads are server: {threads: 2}")),
        ("listen_timeout", Write("write start_timeout: 3s (with the unit)")),
        ("kill_timeout", Write("write stop_timeout: 1600ms (with the unit)")),
        ("kill_signal", Write("write stop_signal: SIGINT")),
        (
            "shutdown_with_message",
            Write("leave it out: workers always get the 'shutdown' message before the stop signal"),
        ),
        ("treekill", Write("leave it out: the whole process group is always ended")),
        ("restart_delay", Write("write backoff: {min: 1s, max: 30s}")),
        ("exp_backoff_restart_delay", Write("write backoff: {min: 100ms, max: 30s}")),
        (
            "max_restarts",
            Write("leave it out: a crashing worker is restarted for ever, more and more rarely; crash_loop says how"),
        ),
        ("autorestart", Write("leave it out: workers are always restarted")),
        ("stop_exit_codes", Write("leave it out: workers are always restarted")),
        ("increment_var", Write("leave it out: NODE_APP_INSTANCE is the number of the worker")),
        ("instance_var", Write("leave it out: NODE_APP_INSTANCE is the number of the worker")),
        ("env_production", Write("write env; ${NAME} takes values from the proxy's environment")),
        ("env_development", Write("write env; ${NAME} takes values from the proxy's environment")),
        ("environment", Write("write env")),
        ("dotenv", Write("write env_file: .env")),
        ("environment_file", Write("write env_file: .env")),
        ("filter_env", Write("write env")),
        ("socket", Write("leave it out: the proxy names the sockets")),
        ("sticky", Write("write affinity: socket.io")),
        ("timeout", Write("write response_timeout: 60s")),
        ("proxy_read_timeout", Write("write response_timeout: 60s")),
        ("max_memory", Write("write max_memory_restart")),
        ("memory_limit", Write("write max_memory_restart")),
        ("max_restart_time", Write("write crash_loop: {max: 5, window: 60s}")),
        ("healthcheck", Write("write health_check")),
        ("ulimits", Write("write rlimits")),
        ("max_instances", Write("write instances: {min: 2, max: 8}")),
        ("min_instances", Write("write instances: {min: 2, max: 8}")),
        ("cron_restart", Later),
        ("watch", Useless("the proxy does not watch files; use node --watch while you develop")),
        ("ignore_watch", Useless("the proxy does not watch files")),
        ("watch_delay", Useless("the proxy does not watch files")),
        ("out_file", Write("write logs: {output: file, path: \"/var/log/pingora-unix-proxy/{app}.log\"}, beside apps")),
        (
            "error_file",
            Write("write logs: {output: file, path: \"/var/log/pingora-unix-proxy/{app}.log\"}, beside apps"),
        ),
        ("log_file", Write("write logs: {output: file, path: \"/var/log/pingora-unix-proxy/{app}.log\"}, beside apps")),
        (
            "merge_logs",
            Useless("each line says which worker wrote it; logs.path without {slot} puts all of an app into one file"),
        ),
        (
            "combine_logs",
            Useless("each line says which worker wrote it; logs.path without {slot} puts all of an app into one file"),
        ),
        ("log_date_format", Useless("each line has its time, in UTC")),
        ("time", Useless("each line has its time, in UTC")),
        ("pid_file", Useless("the proxy has one: server: {pid_file: FILE}")),
        ("pm_id_file", Useless("the proxy has one: server: {pid_file: FILE}")),
        ("source_map_support", Useless("write node_args: [--enable-source-maps]")),
        ("disable_source_map_support", Useless("source maps are off unless node_args has --enable-source-maps")),
        ("vizion", Useless("the proxy does not look at version control")),
        ("namespace", Useless("the name of the app is enough")),
        ("force", Useless("an app runs once, in as many workers as instances says")),
        ("shell", Useless("no shell is ever used; write command: [sh, -c, \"exec ...\"]")),
    ],
};

pub(super) const EXTERNAL: Section = Section {
    name: "apps.NAME.external",
    keys: &[
        key("directory", Other("absolute directory"), Required),
        key("users", Other("list of names or numbers"), Words("the proxy's user")),
        key("workers", Integer(1, 1024, ""), Yaml("16")),
    ],
    elsewhere: &[
        ("dir", Write("write directory")),
        ("path", Write("write directory")),
        ("user", Write("write users: [1001]")),
        ("uid", Write("write users: [1001]")),
        ("max", Write("write workers")),
        ("instances", Write("write workers: the most that may dial in")),
    ],
};

pub(super) const INSTANCES: Section = Section {
    name: "apps.NAME.instances",
    keys: &[key("min", Integer(1, 1024, ""), Required), key("max", Integer(1, 1024, ""), Words("min"))],
    elsewhere: &[],
};

pub(super) const BACKOFF: Section = Section {
    name: "apps.NAME.backoff",
    keys: &[key("min", Duration(1, 3_600_000), Yaml("100ms")), key("max", Duration(1, 3_600_000), Yaml("30s"))],
    elsewhere: &[("initial", Write("write min")), ("delay", Write("write min"))],
};

pub(super) const QUEUE: Section = Section {
    name: "apps.NAME.queue",
    keys: &[key("max", Integer(0, 1_000_000, ""), Yaml("1000")), key("timeout", Duration(0, 3_600_000), Yaml("10s"))],
    elsewhere: &[("size", Write("write max")), ("length", Write("write max")), ("max_wait", Write("write timeout"))],
};

pub(super) const CRASH_LOOP: Section = Section {
    name: "apps.NAME.crash_loop",
    keys: &[
        key("max", Integer(1, 10_000, ""), Yaml("5")),
        key("window", Duration(1000, 86_400_000), Yaml("60s")),
        key("retry", Duration(100, 86_400_000), Yaml("60s")),
    ],
    elsewhere: &[("crashes", Write("write max")), ("within", Write("write window"))],
};

pub(super) const HEALTH_CHECK: Section = Section {
    name: "apps.NAME.health_check",
    keys: &[
        key("path", Other("path"), Words("none")),
        key("interval", Duration(100, 3_600_000), Yaml("5s")),
        key("timeout", Duration(10, 3_600_000), Yaml("2s")),
        key("unhealthy_threshold", Integer(1, 1000, ""), Yaml("3")),
        key("healthy_threshold", Integer(1, 1000, ""), Yaml("2")),
        key("expect", Other("status, or first-last"), Yaml("200-399")),
    ],
    elsewhere: &[
        ("uri", Write("write path")),
        ("url", Write("write path")),
        ("fails", Write("write unhealthy_threshold")),
        ("fall", Write("write unhealthy_threshold")),
        ("passes", Write("write healthy_threshold")),
        ("rise", Write("write healthy_threshold")),
        ("status", Write("write expect")),
    ],
};

pub(super) const SCALING: Section = Section {
    name: "apps.NAME.scaling",
    keys: &[
        key("target", Integer(1, 100, ""), Yaml("70")),
        key("max_sessions", Integer(1, 10_000_000, "none"), Yaml("none")),
        key("max_active", Integer(1, 1_000_000, ""), Yaml("10")),
        key("queue_wait", Duration(1, 3_600_000), Yaml("200ms")),
        key("up_window", Duration(1000, 3_600_000), Yaml("10s")),
        key("down_window", Duration(1000, 86_400_000), Yaml("5m")),
        key("young", Duration(0, 3_600_000), Yaml("5s")),
        key("cordon_timeout", Duration(0, 30 * 86_400_000), Yaml("10m")),
    ],
    elsewhere: &[
        ("min", Write("write instances: {min: 2, max: 8}")),
        ("max", Write("write instances: {min: 2, max: 8}")),
    ],
};

pub(super) const RLIMITS: Section = Section {
    name: "apps.NAME.rlimits",
    keys: &[
        key("nofile", Integer(64, 1 << 30, ""), Words("what the proxy was started with")),
        key("core", Size(0, 1 << 50, "unlimited"), Words("the proxy's")),
    ],
    elsewhere: &[("files", Write("write nofile")), ("open_files", Write("write nofile"))],
};

pub(super) const ROUTE: Section = Section {
    name: "routes",
    keys: &[
        key("host", Other("host name or *.DOMAIN"), Words("any host")),
        key("path", Other("path"), Yaml("/")),
        key("app", Other("name of an app"), Words("the only app")),
    ],
    elsewhere: &[
        ("server_name", Write("write host")),
        ("domain", Write("write host")),
        ("hosts", Write("write one route for each host")),
        ("location", Write("write path")),
        ("prefix", Write("write path: it matches whole segments and everything below")),
        ("paths", Write("write one route for each path")),
        ("upstream", Write("write app")),
        ("backend", Write("write app")),
        ("proxy_pass", Write("write app")),
        ("service", Write("write app")),
        ("regex", Later),
        ("exact", Later),
        ("headers", Later),
        ("header", Later),
        ("methods", Later),
    ],
};

pub(super) const LIMITS: Section = Section {
    name: "limits",
    keys: &[
        key("head_size", Size(1024, 1024 * 1024, ""), Yaml("16kib")),
        key("head_timeout", Duration(10, 600_000), Yaml("10s")),
        key("keepalive_timeout", Duration(10, 86_400_000), Yaml("60s")),
        key("body_size", Size(0, 1 << 50, "none"), Yaml("none")),
        key("body_timeout", Duration(10, 86_400_000), Yaml("60s")),
        key("body_rate", Integer(0, 1 << 30, ""), Yaml("240")),
        key("tunnel_idle_timeout", Duration(10, 30 * 86_400_000), Yaml("1h")),
        key("connections", Integer(1, 10_000_000, ""), Yaml("100000")),
    ],
    elsewhere: &[
        ("client_header_timeout", Write("write head_timeout")),
        ("client_header_buffer_size", Write("write head_size")),
        ("large_client_header_buffers", Write("write head_size")),
        ("header_size", Write("write head_size")),
        ("header_timeout", Write("write head_timeout")),
        ("http-request", Write("write head_timeout")),
        ("client_max_body_size", Write("write body_size")),
        ("max_body_size", Write("write body_size")),
        ("client_body_timeout", Write("write body_timeout")),
        ("keep_alive_timeout", Write("write keepalive_timeout")),
        ("http-keep-alive", Write("write keepalive_timeout")),
        ("tunnel", Write("write tunnel_idle_timeout")),
        ("tunnel_timeout", Write("write tunnel_idle_timeout")),
        ("websocket_timeout", Write("write tunnel_idle_timeout")),
        ("websocket_idle_timeout", Write("write tunnel_idle_timeout")),
        ("maxconn", Write("write connections")),
        ("max_connections", Write("write connections")),
        ("worker_connections", Write("write connections")),
        ("proxy_read_timeout", Write("write response_timeout for the app")),
        ("response_timeout", Write("write it for the app, under apps")),
        ("rate", Later),
        ("rate_limit", Later),
        ("limit_req", Later),
        ("limit_conn", Later),
        ("connections_per_client", Later),
    ],
};

pub(super) const ADMIN: Section = Section {
    name: "admin",
    keys: &[key("socket", Other("default, off or a path"), Yaml("default"))],
    elsewhere: &[
        ("path", Write("write socket")),
        ("address", Write("write socket: commands are taken on a Unix socket only")),
        ("port", Write("write socket: commands are taken on a Unix socket only")),
        ("listen", Write("write socket: commands are taken on a Unix socket only")),
        ("mode", Useless("the socket is for the proxy's user and root only")),
        ("enabled", Write("write socket: off, or leave admin out")),
    ],
};

pub(super) const METRICS: Section = Section {
    name: "metrics",
    keys: &[key("address", Other("IP:PORT"), Required)],
    elsewhere: &[
        ("port", Write("write address: \"127.0.0.1:9901\"")),
        ("listen", Write("write address: \"127.0.0.1:9901\"")),
        ("path", Useless("it is /metrics")),
        ("enabled", Write("leave metrics out to serve none")),
    ],
};

pub(super) const HEALTH: Section = Section {
    name: "health",
    keys: &[key("address", Other("IP:PORT"), Required)],
    elsewhere: &[
        ("port", Write("write address: \"127.0.0.1:9902\"")),
        ("listen", Write("write address: \"127.0.0.1:9902\"")),
        ("path", Useless("it is /livez, /readyz and /startupz")),
        ("enabled", Write("leave health out to serve none")),
    ],
};

pub(super) const SHUTDOWN: Section = Section {
    name: "shutdown",
    keys: &[
        key("pre_stop_delay", Duration(0, 3_600_000), Yaml("0s")),
        key("limit", DurationOrNone(2000, 86_400_000), Yaml("none")),
    ],
    elsewhere: &[
        ("delay", Write("write pre_stop_delay")),
        ("pre_stop", Write("write pre_stop_delay")),
        ("timeout", Write("write limit: what the container or systemd gives before it kills")),
        ("grace_period", Write("write limit")),
        ("grace_period_seconds", Write("write limit: 30s (with the unit)")),
        ("termination_grace_period_seconds", Write("write limit: 30s (with the unit)")),
        ("timeout_stop_sec", Write("write limit: 90s (with the unit)")),
        ("drain_timeout", Write("write it for the app, under apps")),
        ("stop_timeout", Write("write it for the app, under apps")),
    ],
};

pub(super) const UPGRADE: Section = Section {
    name: "upgrade",
    keys: &[key("max_drain", Duration(1000, 86_400_000), Yaml("1h"))],
    elsewhere: &[
        ("drain", Write("write max_drain: 1h")),
        ("timeout", Write("write max_drain: 1h")),
        ("drain_timeout", Write("write max_drain: 1h")),
    ],
};

pub(super) const LOGS: Section = Section {
    name: "logs",
    keys: &[
        key("format", Other("text or json"), Yaml("text")),
        key("output", Other("stdout, file, both or off"), Yaml("stdout")),
        key("path", Other("file"), Words("none; needed for file and both")),
        key("rotate", Map, Yaml("{size: 100mb, age: none, keep: 5}")),
    ],
    elsewhere: &[
        ("file", Write("write output: file, and path")),
        ("dir", Write("write path: \"/var/log/pingora-unix-proxy/{app}.log\"")),
        ("directory", Write("write path: \"/var/log/pingora-unix-proxy/{app}.log\"")),
        ("out_file", Write("write path; {stream} in it becomes out or err")),
        ("error_file", Write("write path; {stream} in it becomes out or err")),
        (
            "level",
            Useless(
                "every line of the workers is written; the environment variable RUST_LOG sets the proxy's own level",
            ),
        ),
        ("max_size", Write("write rotate: {size: 100mb}")),
        ("compress", Later),
    ],
};

pub(super) const ROTATE: Section = Section {
    name: "logs.rotate",
    keys: &[
        key("size", Size(4096, 1 << 50, "none"), Yaml("100mb")),
        key("age", DurationOrNone(60_000, 30 * 86_400_000), Yaml("none")),
        key("keep", Integer(0, 1000, ""), Yaml("5")),
    ],
    elsewhere: &[
        ("max_size", Write("write size")),
        ("retain", Write("write keep")),
        ("rotate", Write("write keep")),
        ("interval", Write("write age")),
        ("daily", Write("write age: 1day")),
        ("compress", Later),
    ],
};

pub(super) const ALARMS: Section = Section {
    name: "alarms",
    keys: &[
        key("repeat", Duration(1000, 30 * 86_400_000), Yaml("1h")),
        key("for", Duration(0, 86_400_000), Yaml("30s")),
        key("memory", Size(1024 * 1024, 1 << 50, "none"), Yaml("none")),
        key("elu", Other("number, 0.1 to 1, or none"), Yaml("0.95")),
        key("lag", DurationOrNone(10, 3_600_000), Yaml("500ms")),
        key("disk_free", Size(4096, 1 << 50, "none"), Yaml("100mb")),
        key("queue_overflow", Flag, Yaml("true")),
        key("log_drops", Flag, Yaml("true")),
        key("webhook", Map, Words("none")),
        key("exec", Other("list, or words in one text"), Words("none")),
    ],
    elsewhere: &[
        ("interval", Write("write repeat")),
        ("url", Write("write webhook: {url: \"https://alarms.example.com/\"}")),
        ("command", Write("write exec")),
        ("cpu", Write("write elu: the share of time in which a worker's event loop is busy")),
        ("disk", Write("write disk_free")),
        ("email", Write("write exec, with a program that sends mail")),
        ("smtp", Write("write exec, with a program that sends mail")),
    ],
};

pub(super) const WEBHOOK: Section = Section {
    name: "alarms.webhook",
    keys: &[
        key("url", Other("URL"), Required),
        key("headers", Map, Yaml("{}")),
        key("timeout", Duration(100, 60_000), Yaml("5s")),
        key("retries", Integer(0, 20, ""), Yaml("5")),
    ],
    elsewhere: &[
        ("address", Write("write url")),
        ("method", Useless("it is always POST")),
        ("body", Useless("it is always the same JSON")),
    ],
};

impl Section {
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }

    /// The kind of a key; only called with names that are in the table.
    pub(super) fn kind(&self, name: &str) -> Kind {
        let key = self.keys.iter().find(|key| key.name == name);
        debug_assert!(key.is_some(), "{name} is not in the table of {}", self.name);
        key.map_or(Other("value"), |key| key.kind)
    }

    pub(super) fn instead(&self, word: &str) -> Option<Instead> {
        self.elsewhere.iter().find(|(name, _)| *name == word).map(|(_, instead)| *instead)
    }
}

/// The beginning of a key's row in docs/configuration.md: key, type and default.
#[cfg(test)]
pub(super) fn row(key: &Key) -> String {
    use super::scalars::{duration_text, size_text};
    let or = |words: &str| if words.is_empty() { String::new() } else { format!(", or {words}") };
    let millis = |ms| duration_text(std::time::Duration::from_millis(ms));
    let kind = match key.kind {
        Flag => "true or false".to_owned(),
        Integer(least, most, words) if least == most => format!("{least}{}", or(words)),
        Integer(least, most, words) => format!("number, {least} to {most}{}", or(words)),
        Duration(least, most) => format!("duration, {} to {}", millis(least), millis(most)),
        DurationOrNone(least, most) => format!("duration, {} to {}, or none", millis(least), millis(most)),
        Size(least, most, words) => format!("size, {} to {}{}", size_text(least), size_text(most), or(words)),
        List => "list".to_owned(),
        Map => "map".to_owned(),
        Other(words) => words.to_owned(),
    };
    let default = match key.default {
        Yaml(text) => format!("`{text}`"),
        Words(text) => text.to_owned(),
        Required => "required".to_owned(),
    };
    format!("| `{}` | {kind} | {default}", key.name)
}
