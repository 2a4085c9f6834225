//! `listeners`: the addresses on which clients are served.

use super::Listener;
use super::clients;
use super::error::shown;
use super::fields::{Decoder, Field, Fields};
use super::schema::LISTENER;
use super::tls;
use super::yaml::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where the proxy listens when nothing is said: this machine only.
pub(super) const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);

/// Most listeners of a configuration.
const MOST: usize = 64;

pub(super) fn decode(d: &mut Decoder<'_>, top: &Fields<'_>) -> Vec<Listener> {
    let Some(field) = top.filled("listeners") else { return vec![Listener::plain(DEFAULT)] };
    let Some(items) = field.items() else {
        let hint = match (&field.node.value, field.scalar()) {
            (Value::Map(_), _) => "write it as a list: listeners: [{address: \"127.0.0.1:8000\"}]".to_owned(),
            (_, Some(scalar)) => format!("write listeners: [{{address: \"{}\"}}]", guess(&scalar.text)),
            _ => String::new(),
        };
        d.wrong(&field, "a list", &hint);
        return Vec::new();
    };
    if items.is_empty() {
        d.found.error(
            field.at(),
            "listeners is empty",
            "leave it out for 127.0.0.1:8000, or write [{address: \"0.0.0.0:8000\"}]",
        );
    }
    let mut found: Vec<(SocketAddr, Field<'_>)> = Vec::new();
    let mut listeners = Vec::new();
    if items.len() > MOST {
        d.found.error(
            field.key_at,
            format!("{} listeners, and at most {MOST} are allowed", items.len()),
            "0.0.0.0 stands for every interface",
        );
    }
    for item in items.into_iter().take(MOST) {
        if let Some((listener, field)) = listener(d, &item) {
            compare(d, &found, listener.address, &field);
            found.push((listener.address, field));
            listeners.push(listener);
        }
    }
    listeners
}

fn listener<'n>(d: &mut Decoder<'_>, item: &Field<'n>) -> Option<(Listener, Field<'n>)> {
    if let Some(scalar) = item.scalar() {
        d.wrong(item, "a map", &format!("write {{address: \"{}\"}}", guess(&scalar.text)));
        return None;
    }
    let fields = d.fields(item, &LISTENER)?;
    let h2c = d.flag(&fields, "h2c").unwrap_or(false);
    let proxy_protocol = clients::proxy_protocol(d, &fields);
    let tls = fields.get("tls").and_then(|field| tls::decode(d, &field));
    let redirect = redirect(d, &fields);
    if h2c
        && redirect
        && tls.is_none()
        && let Some(field) = fields.get("redirect")
    {
        let message = format!("{}: what is sent to https needs no HTTP/2", field.path);
        d.found.error(field.at(), message, "remove h2c");
    }
    if tls.is_some() {
        exclude(d, &fields, h2c, redirect);
    }
    let Some(field) = fields.get("address") else {
        if fields.misspelt("address") {
            return None;
        }
        d.found.error(item.at(), format!("{} has no address", item.path), "write {address: \"0.0.0.0:8000\"}");
        return None;
    };
    let Some(scalar) = field.scalar() else {
        d.wrong(&field, "IP:PORT", "write \"127.0.0.1:8000\"");
        return None;
    };
    match scalar.text.parse::<SocketAddr>() {
        Ok(address) => Some((Listener { address, h2c, tls, redirect, proxy_protocol }, field)),
        Err(_) => {
            let hint = advice(&scalar.text);
            d.wrong(&field, "IP:PORT", &hint);
            None
        }
    }
}

/// Whether `redirect` says https.
fn redirect(d: &mut Decoder<'_>, fields: &Fields<'_>) -> bool {
    let Some(field) = fields.get("redirect") else { return false };
    match field.scalar().map(|scalar| scalar.text.as_str()) {
        Some("https") => return true,
        Some("none") => {}
        _ => d.wrong(&field, "https or none", "write redirect: https"),
    }
    false
}

/// What a listener with TLS has no use for.
fn exclude(d: &mut Decoder<'_>, fields: &Fields<'_>, h2c: bool, redirect: bool) {
    if h2c && let Some(field) = fields.get("h2c") {
        d.found.error(field.at(), format!("{}: h2c is HTTP/2 without TLS", field.path), "remove it or tls");
    }
    if redirect && let Some(field) = fields.get("redirect") {
        let message = format!("{}: what comes in by TLS is https already", field.path);
        d.found.error(field.at(), message, "write it for the listener without TLS");
    }
}

fn compare(d: &mut Decoder<'_>, found: &[(SocketAddr, Field<'_>)], address: SocketAddr, field: &Field<'_>) {
    if address.port() == 0 {
        return;
    }
    for (other, first) in found.iter().filter(|(other, _)| other.port() == address.port()) {
        let line = first.at().map_or(0, |at| at.line);
        if *other == address {
            let message = format!("{}: {address} is already listened on", field.path);
            return d.found.error(field.at(), message, format!("remove one; the first is on line {line}"));
        }
        let any = other.ip().is_unspecified() || address.ip().is_unspecified();
        if any && other.is_ipv4() == address.is_ipv4() {
            let message = format!("{}: {address} and {other} overlap", field.path);
            return d.found.error(
                field.at(),
                message,
                format!("the address of all interfaces is enough; the other is on line {line}"),
            );
        }
        let six = if other.is_ipv6() { other } else { &address };
        if any && six.ip().is_unspecified() {
            let message = format!("{}: {six} may take IPv4 connections of {address} and {other} too", field.path);
            d.found.warn(field.at(), message, "if the start fails with \"address in use\", keep only [::]");
        }
    }
}

/// The address that was probably meant.
fn guess(text: &str) -> String {
    let port = text.rsplit(':').next().and_then(|port| port.trim().parse::<u16>().ok()).unwrap_or(8000);
    match text.rsplit_once(':').map(|(host, _)| host) {
        Some("localhost") => format!("127.0.0.1:{port}"),
        Some(host) if host.parse::<IpAddr>().is_ok() => match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        },
        _ => format!("0.0.0.0:{port}"),
    }
}

pub(super) fn advice(text: &str) -> String {
    let text = text.trim();
    if let Some((scheme, _)) = text.split_once("://") {
        return format!("leave out {}: write \"0.0.0.0:8000\"", shown(&format!("{scheme}://")));
    }
    if text.starts_with("unix:") || text.starts_with('/') {
        return "listening on a Unix socket is not supported yet; write \"127.0.0.1:8000\"".into();
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && let (Ok(ip), Ok(port)) = (host.parse::<std::net::Ipv6Addr>(), port.parse::<u16>())
    {
        return format!("put an IPv6 address in brackets: write \"[{ip}]:{port}\"");
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return format!("add a port: write \"{}\"", SocketAddr::new(ip, DEFAULT.port()));
    }
    let port = text.rsplit(':').next().unwrap_or_default();
    match (text.rsplit_once(':').map(|(host, _)| host), port.parse::<u16>()) {
        (_, Err(_)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            "the greatest port is 65535".into()
        }
        (None | Some("" | "*"), Ok(port)) => {
            format!("write \"0.0.0.0:{port}\" for every interface, or \"127.0.0.1:{port}\" for this machine only")
        }
        (Some("localhost"), Ok(port)) => format!("write \"127.0.0.1:{port}\""),
        (Some(_), Ok(port)) => format!("write an IP address, not a name, as in \"0.0.0.0:{port}\""),
        _ => "write \"0.0.0.0:8000\" for every interface, or \"127.0.0.1:8000\" for this machine only".into(),
    }
}
