//! What stands below an app.

use super::key::Instead::{Later, Useless, Write};
use super::key::Kind::{Duration, Flag, Integer, Map, Other, Size};
use super::key::Preset::{Required, Words, Yaml};
use super::key::{Section, key};

pub(in crate::config) const APP: Section = Section {
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
        key("maintenance", Other("true, false or map"), Yaml("false")),
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

pub(in crate::config) const EXTERNAL: Section = Section {
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

pub(in crate::config) const INSTANCES: Section = Section {
    name: "apps.NAME.instances",
    keys: &[key("min", Integer(1, 1024, ""), Required), key("max", Integer(1, 1024, ""), Words("min"))],
    elsewhere: &[],
};

pub(in crate::config) const BACKOFF: Section = Section {
    name: "apps.NAME.backoff",
    keys: &[key("min", Duration(1, 3_600_000), Yaml("100ms")), key("max", Duration(1, 3_600_000), Yaml("30s"))],
    elsewhere: &[("initial", Write("write min")), ("delay", Write("write min"))],
};

pub(in crate::config) const QUEUE: Section = Section {
    name: "apps.NAME.queue",
    keys: &[key("max", Integer(0, 1_000_000, ""), Yaml("1000")), key("timeout", Duration(0, 3_600_000), Yaml("10s"))],
    elsewhere: &[("size", Write("write max")), ("length", Write("write max")), ("max_wait", Write("write timeout"))],
};

pub(in crate::config) const CRASH_LOOP: Section = Section {
    name: "apps.NAME.crash_loop",
    keys: &[
        key("max", Integer(1, 10_000, ""), Yaml("5")),
        key("window", Duration(1000, 86_400_000), Yaml("60s")),
        key("retry", Duration(100, 86_400_000), Yaml("60s")),
    ],
    elsewhere: &[("crashes", Write("write max")), ("within", Write("write window"))],
};

pub(in crate::config) const HEALTH_CHECK: Section = Section {
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

pub(in crate::config) const SCALING: Section = Section {
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

pub(in crate::config) const RLIMITS: Section = Section {
    name: "apps.NAME.rlimits",
    keys: &[
        key("nofile", Integer(64, 1 << 30, ""), Words("what the proxy was started with")),
        key("core", Size(0, 1 << 50, "unlimited"), Words("the proxy's")),
    ],
    elsewhere: &[("files", Write("write nofile")), ("open_files", Write("write nofile"))],
};
