//! How an app's workers are looked after: their number, starts and stops, health, crash loops, scaling, limits.

use super::error::shown;
use super::fields::{Decoder, Fields};
use super::schema::{BACKOFF, CRASH_LOOP, HEALTH_CHECK, INSTANCES, RLIMITS, SCALING};
use super::yaml::{Kind, Value};
use crate::fleet::policy::{Crashes, Health, Limits, Policy, Scaling};
use crate::process::spec::{PortUse, Ports, Rlimits};
use nix::sys::signal::Signal;
use std::time::Duration;

fn narrow<N: TryFrom<u64>>(number: Option<u64>) -> Option<N> {
    number.and_then(|number| N::try_from(number).ok())
}

/// A number, or `none`, which is what the absent key says, too.
fn unless_none(d: &mut Decoder<'_>, fields: &Fields<'_>, name: &'static str) -> Option<u64> {
    let none = fields.get(name).is_some_and(|field| field.text() == Some("none"));
    if none { None } else { d.integer(fields, name) }
}

fn crashes(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Crashes {
    let default = Crashes::default();
    let Some(field) = fields.filled("crash_loop") else { return default };
    let Some(rule) = d.fields(&field, &CRASH_LOOP) else { return default };
    Crashes {
        max: narrow(d.integer(&rule, "max")).unwrap_or(default.max),
        window: d.duration(&rule, "window").unwrap_or(default.window),
        retry: d.duration(&rule, "retry").unwrap_or(default.retry),
    }
}

fn health(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Health {
    let default = Health::default();
    let default = Health {
        heartbeat_timeout: d.duration(fields, "heartbeat_timeout").unwrap_or(default.heartbeat_timeout),
        unhealthy_timeout: d.duration(fields, "unhealthy_timeout").unwrap_or(default.unhealthy_timeout),
        ..default
    };
    let Some(field) = fields.filled("health_check") else { return default };
    if let Some(text) = field.text() {
        d.wrong(&field, "a map", &format!("write health_check: {{path: {text}}}"));
        return default;
    }
    let Some(rule) = d.fields(&field, &HEALTH_CHECK) else { return default };
    Health {
        path: path(d, &rule),
        interval: d.duration(&rule, "interval").unwrap_or(default.interval),
        timeout: d.duration(&rule, "timeout").unwrap_or(default.timeout),
        unhealthy_threshold: narrow(d.integer(&rule, "unhealthy_threshold")).unwrap_or(default.unhealthy_threshold),
        healthy_threshold: narrow(d.integer(&rule, "healthy_threshold")).unwrap_or(default.healthy_threshold),
        expect: expect(d, &rule).unwrap_or(default.expect),
        ..default
    }
}

fn path(d: &mut Decoder<'_>, rule: &Fields<'_>) -> Option<String> {
    let field = rule.get("path")?;
    let path = d.word(&field)?;
    if path.starts_with('/') && path.parse::<http::Uri>().is_ok() {
        return Some(path);
    }
    d.wrong(&field, "a path", "write path: /healthz");
    None
}

/// `200`, or `200-399`.
fn expect(d: &mut Decoder<'_>, rule: &Fields<'_>) -> Option<(u16, u16)> {
    let field = rule.get("expect")?;
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    let range = field.scalar().and_then(|scalar| match scalar.text.split_once('-') {
        Some((first, last)) => status(first).zip(status(last)),
        None => status(&scalar.text).map(|only| (only, only)),
    });
    match range.filter(|(first, last)| first <= last) {
        Some(range) => Some(range),
        None => {
            d.wrong(&field, "a status from 100 to 599, or two with - between", "write 200-399");
            None
        }
    }
}

fn scaling(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Scaling {
    let default = Scaling::default();
    let Some(field) = fields.filled("scaling") else { return default };
    let Some(rule) = d.fields(&field, &SCALING) else { return default };
    Scaling {
        target: narrow(d.integer(&rule, "target")).unwrap_or(default.target),
        max_sessions: narrow(unless_none(d, &rule, "max_sessions")),
        max_active: narrow(d.integer(&rule, "max_active")).unwrap_or(default.max_active),
        queue_wait: d.duration(&rule, "queue_wait").unwrap_or(default.queue_wait),
        up_window: d.duration(&rule, "up_window").unwrap_or(default.up_window),
        down_window: d.duration(&rule, "down_window").unwrap_or(default.down_window),
        young: d.duration(&rule, "young").unwrap_or(default.young),
        cordon_timeout: d.duration(&rule, "cordon_timeout").unwrap_or(default.cordon_timeout),
    }
}

fn limits(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Limits {
    Limits {
        memory: d.size(fields, "max_memory_restart").flatten(),
        requests: unless_none(d, fields, "max_requests"),
        lifetime: d.duration(fields, "max_lifetime"),
    }
}

pub(super) fn rlimits(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Rlimits {
    let Some(field) = fields.filled("rlimits") else { return Rlimits::default() };
    let Some(rule) = d.fields(&field, &RLIMITS) else { return Rlimits::default() };
    // `unlimited` is the largest number there is, as for the kernel.
    Rlimits { nofile: d.integer(&rule, "nofile"), core: d.size(&rule, "core").map(|size| size.unwrap_or(u64::MAX)) }
}

/// The main server's port, and what becomes of the others.
pub(super) fn ports(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Ports {
    const USES: &[(&str, PortUse)] = &[("one", PortUse::One), ("each", PortUse::Each), ("off", PortUse::Off)];
    let narrow = |port: u64| u16::try_from(port).ok();
    let mut ports = Ports { main: d.integer(fields, "port").and_then(narrow), ..Ports::default() };
    let Some(field) = fields.filled("ports") else { return ports };
    let Some(entries) = d.named(&field) else {
        d.wrong(&field, "a map of ports", "write ports: {9090: each}");
        return ports;
    };
    for (entry, field) in entries {
        let Some(port) = entry.key.parse().ok().filter(|port| *port > 0) else {
            let message = format!("{} is no port", shown(&entry.key));
            d.found.error(field.key_at, message, "write the number that the app listens on, as in ports: {9090: each}");
            continue;
        };
        if ports.main == Some(port) {
            d.found.error(
                field.key_at,
                format!("{} is the app's public port", field.path),
                "remove it, or the key port",
            );
        }
        let used = d.choice(&field, &["one", "each", "off"], &[]);
        if let Some((_, used)) = USES.iter().find(|(name, _)| Some(*name) == used) {
            ports.further.insert(port, *used);
        }
    }
    ports
}

pub(super) fn policy(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Policy {
    let default = Policy::default();
    let (backoff_min, backoff_max) = backoff(d, fields).unwrap_or((default.backoff_min, default.backoff_max));
    let (least, most) = instances(d, fields).unwrap_or((default.instances, default.max_instances));
    Policy {
        instances: least,
        max_instances: most,
        min_ready: d.duration(fields, "min_ready").unwrap_or(default.min_ready),
        surge: narrow(d.integer(fields, "surge")).unwrap_or(default.surge),
        drain_window: d.duration(fields, "drain_window").unwrap_or(default.drain_window),
        crashes: crashes(d, fields),
        health: health(d, fields),
        scaling: scaling(d, fields),
        limits: limits(d, fields),
        start_timeout: d.duration(fields, "start_timeout").unwrap_or(default.start_timeout),
        wait_ready: d.flag(fields, "wait_ready").unwrap_or(default.wait_ready),
        stop_timeout: d.duration(fields, "stop_timeout").unwrap_or(default.stop_timeout),
        drain_timeout: d.duration(fields, "drain_timeout").unwrap_or(default.drain_timeout),
        stop_signal: stop_signal(d, fields).unwrap_or(default.stop_signal),
        backoff_min,
        backoff_max,
        external: false,
        min_uptime: d.duration(fields, "min_uptime").unwrap_or(default.min_uptime),
    }
}

/// The least and the most.
fn instances(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<(u16, u16)> {
    let field = fields.get("instances")?;
    let narrow = |count: u64| u16::try_from(count).ok();
    match &field.node.value {
        Value::Map(_) => {
            let range = d.fields(&field, &INSTANCES)?;
            let (min, max) = (d.integer(&range, "min"), d.integer(&range, "max"));
            if range.get("min").is_none() {
                d.found.error(field.key_at, format!("{} says no min", field.path), "write {min: 2}");
                return None;
            }
            let min = min?;
            let max = max.unwrap_or(min);
            if max < min {
                let message = format!("{}.max ({max}) is less than min ({min})", field.path);
                d.found.error(range.get("max").and_then(|field| field.at()), message, "swap them");
            }
            narrow(min).zip(narrow(max))
        }
        Value::Scalar(scalar) if matches!(scalar.text.as_str(), "auto" | "max") => {
            let cpus = d.machine.cpus();
            Some((cpus, cpus))
        }
        Value::Scalar(scalar) if matches!(scalar.kind, Kind::Int(count) if count <= 0) => {
            let expected = "a whole number from 1 to 1024, or auto, max, {min, max}";
            d.wrong(&field, expected, "write auto for one worker per processor");
            None
        }
        _ => d.number(&field, fields.section.kind("instances")).and_then(narrow).map(|count| (count, count)),
    }
}

fn backoff(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<(Duration, Duration)> {
    let field = fields.filled("backoff")?;
    let default = Policy::default();
    if let Some(text) = field.text() {
        d.wrong(&field, "a map", &format!("write backoff: {{min: {text}, max: 30s}}"));
        return None;
    }
    let pauses = d.fields(&field, &BACKOFF)?;
    let (min, max) = (d.duration(&pauses, "min"), d.duration(&pauses, "max"));
    let (least, most) = (min.unwrap_or(default.backoff_min), max.unwrap_or(default.backoff_max));
    if most < least {
        let [shown_most, shown_least] = [most, least].map(super::scalars::duration_text);
        let message = format!("{}.max ({shown_most}) is less than min ({shown_least})", field.path);
        let hint = if min.is_some() && max.is_some() { "swap them" } else { "write both" };
        d.found.error(field.at(), message, hint);
        return None;
    }
    Some((least, most))
}

fn stop_signal(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<i32> {
    const NAMES: &[&str] =
        &["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGABRT", "SIGALRM"];
    let field = fields.get("stop_signal")?;
    let text = field.scalar().map(|scalar| scalar.text.to_ascii_uppercase()).unwrap_or_default();
    let name = NAMES.iter().find(|name| **name == text || name[3..] == text);
    if let Some(signal) = name.and_then(|name| name.parse::<Signal>().ok()) {
        return Some(signal as i32);
    }
    let hints = [
        ("SIGKILL", "a worker that does not stop is killed after stop_timeout; write stop_timeout: 0s for at once"),
        ("KILL", "a worker that does not stop is killed after stop_timeout; write stop_timeout: 0s for at once"),
        ("9", "a worker that does not stop is killed after stop_timeout; write stop_timeout: 0s for at once"),
        ("15", "write SIGTERM"),
        ("2", "write SIGINT"),
        ("3", "write SIGQUIT"),
        ("1", "write SIGHUP"),
    ];
    d.choice(&field, NAMES, &hints);
    None
}
