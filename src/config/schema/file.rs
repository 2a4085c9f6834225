//! The file itself, and `server`.

use super::key::Instead::{Useless, Write};
use super::key::Kind::{Duration, Flag, Integer, List, Map, Other};
use super::key::Preset::{Required, Words, Yaml};
use super::key::{Section, key};

pub(in crate::config) const TOP: Section = Section {
    name: "",
    keys: &[
        key("server", Map, Words("see below")),
        key("listeners", List, Yaml("[{address: \"127.0.0.1:8000\"}]")),
        key("runtime_dir", Other("absolute directory"), Words("see below")),
        key("state_dir", Other("absolute directory"), Words("see below")),
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
        ("tls", Write("write it for a listener: listeners: [{address: \"0.0.0.0:443\", tls: {...}}]")),
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

pub(in crate::config) const SERVER: Section = Section {
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
        ("downstream_tls_offload_threadpools", Useless("a handshake is done by the thread that serves the connection")),
        (
            "downstream_tls_offload_thread_per_pool",
            Useless("a handshake is done by the thread that serves the connection"),
        ),
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
