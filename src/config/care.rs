//! How an app's workers are looked after: health, crash loops, scaling, limits.

use super::error::shown;
use super::fields::{Decoder, Fields};
use super::schema::{CRASH_LOOP, HEALTH_CHECK, RLIMITS, SCALING};
use crate::fleet::policy::{Crashes, Health, Limits, Scaling};
use crate::process::spec::{PortUse, Ports, Rlimits};

pub(super) fn narrow<N: TryFrom<u64>>(number: Option<u64>) -> Option<N> {
    number.and_then(|number| N::try_from(number).ok())
}

/// A number, or `none`, which is what the absent key says, too.
fn unless_none(d: &mut Decoder<'_>, fields: &Fields<'_>, name: &'static str) -> Option<u64> {
    let none = fields.get(name).is_some_and(|field| field.text() == Some("none"));
    if none { None } else { d.integer(fields, name) }
}

pub(super) fn crashes(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Crashes {
    let default = Crashes::default();
    let Some(field) = fields.filled("crash_loop") else { return default };
    let Some(rule) = d.fields(&field, &CRASH_LOOP) else { return default };
    Crashes {
        max: narrow(d.integer(&rule, "max")).unwrap_or(default.max),
        window: d.duration(&rule, "window").unwrap_or(default.window),
        retry: d.duration(&rule, "retry").unwrap_or(default.retry),
    }
}

pub(super) fn health(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Health {
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

pub(super) fn scaling(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Scaling {
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

pub(super) fn limits(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Limits {
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
