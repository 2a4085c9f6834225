//! `clients`, `trusted_proxies`, `request_headers` and a listener's `proxy_protocol`: who clients are, and what each may have.

use super::fields::{Decoder, Field, Fields};
use super::schema::{CLIENTS, PROXY_PROTOCOL, REQUEST_HEADERS};
use crate::gateway::{ClientLimits, Clients, Forwarding, Networks, Rate, RequestIds};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;

/// Most networks of one list. The longest that a content network publishes has some hundred.
const MOST_NETWORKS: usize = 4096;
/// Most requests that a rate names.
const MOST_REQUESTS: u64 = 1_000_000;

/// What `private` stands for: networks that are routed nowhere (RFC 1918, RFC 4193), link-local ones, and this machine.
const PRIVATE: [&str; 8] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
    "::1/128",
];

pub(super) fn decode(d: &mut Decoder<'_>, top: &Fields<'_>) -> Clients {
    let trusted = top.filled("trusted_proxies").map(|field| networks(d, &field)).unwrap_or_default();
    let forwarding = Forwarding { trusted, ..forwarding(d, top) };
    Clients { forwarding, limits: limits(d, top) }
}

fn forwarding(d: &mut Decoder<'_>, top: &Fields<'_>) -> Forwarding {
    let default = Forwarding::default();
    let Some(field) = top.filled("request_headers") else { return default };
    let Some(fields) = d.fields(&field, &REQUEST_HEADERS) else { return default };
    let request_id = fields.get("request_id").and_then(|field| {
        let others = [("true", "write trusted or any"), ("false", "write none"), ("off", "write none")];
        match d.choice(&field, &["trusted", "any", "none"], &others)? {
            "any" => Some(RequestIds::Any),
            "none" => Some(RequestIds::Off),
            _ => Some(RequestIds::Trusted),
        }
    });
    let others = [("true", "write begin"), ("false", "write pass"), ("keep", "write pass")];
    let trace = fields.get("traceparent").and_then(|field| d.choice(&field, &["pass", "begin"], &others));
    Forwarding {
        forwarded: d.flag(&fields, "forwarded").unwrap_or(default.forwarded),
        underscores: d.flag(&fields, "underscores").unwrap_or(default.underscores),
        request_id: request_id.unwrap_or_default(),
        begins_traces: trace == Some("begin"),
        trusted: default.trusted,
    }
}

fn limits(d: &mut Decoder<'_>, top: &Fields<'_>) -> ClientLimits {
    let Some(field) = top.filled("clients") else { return ClientLimits::default() };
    let Some(fields) = d.fields(&field, &CLIENTS) else { return ClientLimits::default() };
    let connections = fields.get("connections").filter(|field| field.text() != Some("none"));
    let connections = connections.and_then(|field| d.number(&field, CLIENTS.kind("connections")));
    let rate = fields.get("requests").filter(|field| field.text() != Some("none"));
    let burst = d.integer(&fields, "burst");
    if let (Some(field), None) = (fields.get("burst"), &rate) {
        let message = format!("{} has no rate to go with", field.path);
        d.found.error(field.key_at, message, "write requests: 100/s beside it, or remove it");
    }
    let rate = rate.and_then(|field| requests(d, &field));
    ClientLimits {
        connections: connections.and_then(|count| usize::try_from(count).ok()),
        requests: rate.map(|(count, period)| Rate::new(count, period, burst.unwrap_or(count))),
    }
}

/// How many per how long.
fn requests(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<(u64, Duration)> {
    let expected = "a number per time, as 100/s";
    let Some(scalar) = field.scalar() else {
        d.wrong(field, expected, "write 100/s, 600/m or 1000/h");
        return None;
    };
    let (count, unit) = scalar.text.split_once('/').unwrap_or((&scalar.text, ""));
    // nginx writes 100r/s.
    let count = count.trim();
    let count = count.strip_suffix('r').unwrap_or(count).parse::<u64>().ok();
    let seconds = match unit.trim() {
        "s" | "sec" | "second" => Some(1),
        "m" | "min" | "minute" => Some(60),
        "h" | "hour" => Some(3600),
        _ => None,
    };
    match (count, seconds) {
        (Some(count @ 1..=MOST_REQUESTS), Some(seconds)) => Some((count, Duration::from_secs(seconds))),
        (Some(count @ 1..), None) if unit.is_empty() => {
            d.wrong(field, expected, &format!("write {count}/s, {count}/m or {count}/h"));
            None
        }
        (Some(0), _) => {
            d.wrong(field, expected, "write none for no limit; the least is 1/h");
            None
        }
        (Some(_), Some(_)) => {
            d.wrong(field, expected, &format!("the most is {MOST_REQUESTS}/s"));
            None
        }
        _ => {
            d.wrong(field, expected, "write 100/s, 600/m or 1000/h");
            None
        }
    }
}

/// From which networks PROXY headers come on a listener.
pub(super) fn proxy_protocol(d: &mut Decoder<'_>, listener: &Fields<'_>) -> Option<Networks> {
    let field = listener.get("proxy_protocol")?;
    if field.scalar().is_some() {
        d.wrong(&field, "a map", "write {from: [10.0.0.0/8]}, with the networks of your load balancers");
        return None;
    }
    let fields = d.fields(&field, &PROXY_PROTOCOL)?;
    let Some(from) = fields.get("from") else {
        if !fields.misspelt("from") {
            let message = format!("{} does not say from whom", field.path);
            d.found.error(field.at(), message, "write from: [10.0.0.0/8], with the networks of your load balancers");
        }
        return None;
    };
    let networks = networks(d, &from);
    if networks.is_empty() && from.items().is_some_and(|items| items.is_empty()) {
        let message = format!("{} is empty: every connection would be refused", from.path);
        d.found.error(from.at(), message, "write the networks of your load balancers, or remove proxy_protocol");
    }
    Some(networks)
}

fn networks(d: &mut Decoder<'_>, field: &Field<'_>) -> Networks {
    let Some(items) = field.items() else {
        let hint = field.scalar().map(|scalar| format!("write [{}]", scalar.text));
        d.wrong(field, "a list of networks", hint.as_deref().unwrap_or("write [10.0.0.0/8]"));
        return Networks::default();
    };
    if items.len() > MOST_NETWORKS {
        let message = format!("{} has {} networks, and at most {MOST_NETWORKS} are allowed", field.path, items.len());
        d.found.error(field.key_at, message, "write larger networks");
        return Networks::default();
    }
    Networks::of(items.iter().flat_map(|item| network(d, item)))
}

fn network(d: &mut Decoder<'_>, item: &Field<'_>) -> Vec<IpNet> {
    const EXPECTED: &str = "a network, an address or private";
    let Some(text) = item.text() else {
        d.wrong(item, EXPECTED, "write 10.0.0.0/8");
        return Vec::new();
    };
    if text == "private" {
        return PRIVATE.iter().filter_map(|net| net.parse().ok()).collect();
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return vec![IpNet::from(ip)];
    }
    let Ok(net) = text.parse::<IpNet>() else {
        let hint = match text {
            "private_ranges" | "uniquelocal" => "write private".to_owned(),
            "loopback" | "localhost" => "write 127.0.0.0/8".to_owned(),
            "*" | "all" | "any" => {
                "write the networks of your proxies: whoever is trusted can be any client".to_owned()
            }
            _ => "write 10.0.0.0/8, 192.0.2.1 or 2001:db8::/32".to_owned(),
        };
        d.wrong(item, EXPECTED, &hint);
        return Vec::new();
    };
    if net.trunc() != net {
        d.found.warn(item.at(), format!("{}: {text} is {}", item.path, net.trunc()), format!("write {}", net.trunc()));
    }
    if net.prefix_len() == 0 {
        let message = format!("{}: {text} is everybody, who can then give any address for its own", item.path);
        d.found.warn(item.at(), message, "write the networks of your proxies");
    }
    vec![net.trunc()]
}
