//! How the proxy is watched, stopped, replaced, and what it writes.

use super::key::Instead::{Later, Useless, Write};
use super::key::Kind::{Duration, DurationOrNone, Flag, Integer, List, Map, Other, Size};
use super::key::Preset::{Required, Words, Yaml};
use super::key::{Section, key};

pub(in crate::config) const ADMIN: Section = Section {
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

pub(in crate::config) const METRICS: Section = Section {
    name: "metrics",
    keys: &[key("address", Other("IP:PORT"), Required)],
    elsewhere: &[
        ("port", Write("write address: \"127.0.0.1:9901\"")),
        ("listen", Write("write address: \"127.0.0.1:9901\"")),
        ("path", Useless("it is /metrics")),
        ("enabled", Write("leave metrics out to serve none")),
    ],
};

pub(in crate::config) const HEALTH: Section = Section {
    name: "health",
    keys: &[key("address", Other("IP:PORT"), Required)],
    elsewhere: &[
        ("port", Write("write address: \"127.0.0.1:9902\"")),
        ("listen", Write("write address: \"127.0.0.1:9902\"")),
        ("path", Useless("it is /livez, /readyz and /startupz")),
        ("enabled", Write("leave health out to serve none")),
    ],
};

pub(in crate::config) const SHUTDOWN: Section = Section {
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

pub(in crate::config) const UPGRADE: Section = Section {
    name: "upgrade",
    keys: &[key("max_drain", Duration(1000, 86_400_000), Yaml("1h"))],
    elsewhere: &[
        ("drain", Write("write max_drain: 1h")),
        ("timeout", Write("write max_drain: 1h")),
        ("drain_timeout", Write("write max_drain: 1h")),
    ],
};

pub(in crate::config) const LOGS: Section = Section {
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

pub(in crate::config) const ROTATE: Section = Section {
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

pub(in crate::config) const ACCESS_LOG: Section = Section {
    name: "access_log",
    keys: &[
        key("file", Other("file, stdout, stderr or off"), Required),
        key("format", Other("combined, json or a template"), Yaml("combined")),
        key("redact", List, Words("see below")),
        key("sample", Other("number, 0 to 1"), Yaml("1")),
        key("tunnel_begin", Flag, Yaml("false")),
        key("rotate", Map, Yaml("{size: 100mb, age: none, keep: 5}")),
    ],
    elsewhere: &[
        ("path", Write("write file: access.log")),
        ("output", Write("write file: access.log, or file: stdout")),
        ("enabled", Write("write file: off, or leave access_log out")),
        ("template", Write("write format: \"$remote_addr $request $status\"")),
        ("log_format", Write("write format")),
        ("mask", Write("write redact: [token, sid]")),
        ("filter", Write("write redact: [token, sid]")),
        ("sampling", Write("write sample: 0.1 for one request of ten")),
        ("buffer", Useless("lines are written about 100 ms after they are made, many at once")),
        ("flush", Useless("lines are written about 100 ms after they are made")),
        ("compress", Later),
    ],
};

pub(in crate::config) const ACCESS_LOG_ROTATE: Section =
    Section { name: "access_log.rotate", keys: ROTATE.keys, elsewhere: ROTATE.elsewhere };

pub(in crate::config) const ALARMS: Section = Section {
    name: "alarms",
    keys: &[
        key("repeat", Duration(1000, 30 * 86_400_000), Yaml("1h")),
        key("for", Duration(0, 86_400_000), Yaml("30s")),
        key("memory", Size(1024 * 1024, 1 << 50, "none"), Yaml("none")),
        key("elu", Other("number, 0.1 to 1, or none"), Yaml("0.95")),
        key("lag", DurationOrNone(10, 3_600_000), Yaml("500ms")),
        key("disk_free", Size(4096, 1 << 50, "none"), Yaml("100mb")),
        key("certificate_expires", DurationOrNone(3_600_000, 30 * 86_400_000), Yaml("14d")),
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
        ("certificate", Write("write certificate_expires")),
        ("expiry", Write("write certificate_expires: 14d")),
        ("email", Write("write exec, with a program that sends mail")),
        ("smtp", Write("write exec, with a program that sends mail")),
    ],
};

pub(in crate::config) const WEBHOOK: Section = Section {
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
