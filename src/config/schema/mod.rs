//! Every key of a configuration file, with its default: the one table that the decoder, its messages and the
//! documentation's test share.

mod app;
mod clients;
mod file;
mod key;
mod operation;

pub(super) use app::{APP, BACKOFF, CRASH_LOOP, EXTERNAL, HEALTH_CHECK, INSTANCES, QUEUE, RLIMITS, SCALING};
pub(super) use clients::{
    ANSWER, CERTIFICATE, CLIENT_CERTIFICATES, CLIENTS, FILES, LIMITS, LISTENER, MAINTENANCE, PROXY_PROTOCOL, REDIRECT,
    REQUEST_HEADERS, ROUTE, ROUTE_LIMITS, TLS,
};
pub(super) use file::{SERVER, TOP};
pub(super) use key::{Instead, Kind, Section};
#[cfg(test)]
pub(super) use key::{Key, Preset};
pub(super) use operation::{
    ACCESS_LOG, ACCESS_LOG_ROTATE, ADMIN, ALARMS, HEALTH, LOGS, METRICS, ROTATE, SHUTDOWN, UPGRADE, WEBHOOK,
};

pub(super) const ALL: &[&Section] = &[
    &TOP,
    &SERVER,
    &LISTENER,
    &PROXY_PROTOCOL,
    &TLS,
    &CERTIFICATE,
    &CLIENT_CERTIFICATES,
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
    &FILES,
    &REDIRECT,
    &ANSWER,
    &MAINTENANCE,
    &ROUTE_LIMITS,
    &LIMITS,
    &CLIENTS,
    &REQUEST_HEADERS,
    &ADMIN,
    &METRICS,
    &HEALTH,
    &SHUTDOWN,
    &UPGRADE,
    &LOGS,
    &ROTATE,
    &ACCESS_LOG,
    &ACCESS_LOG_ROTATE,
    &ALARMS,
    &WEBHOOK,
];

/// The beginning of a key's row in docs/configuration.md: key, type and default.
#[cfg(test)]
pub(super) fn row(key: &Key) -> String {
    use super::scalars::{duration_text, size_text};
    use Kind::{Duration, DurationOrNone, Flag, Integer, List, Map, Other, Size};
    use Preset::{Required, Words, Yaml};
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
