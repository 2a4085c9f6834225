//! `tls` of a listener. Its files are read here already: what could not be served is a mistake of the configuration.

use super::error::shown;
use super::fields::{Decoder, Field, Fields};
use super::schema::{CERTIFICATE, CLIENT_CERTIFICATES, TLS};
use super::yaml::Value;
use super::{Listener, Route, route_match};
use crate::tls::Fault;
use crate::tls::client_certificates::{ClientCertificates, Mode};
use crate::tls::rules::{CertificateFiles, Settings, Source, Version};
use crate::tls::self_signed_names;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most certificates of a listener.
const MOST: usize = 1024;
/// Most entries of `client_certificates`, and hosts of one.
const MOST_CLIENTS: usize = 64;
const SELF_SIGNED: &str = "self-signed";
const HOW: &str = "write certificates: [{cert: chain.pem, key: key.pem}], or tls: self-signed";

pub(super) fn decode(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<Settings> {
    let default = Settings::default();
    match field.scalar() {
        Some(scalar) if scalar.text == SELF_SIGNED => {
            return Some(Settings { certificates: vec![self_signed()], ..default });
        }
        Some(_) => {
            d.wrong(field, "a map, or self-signed", HOW);
            return None;
        }
        None => {}
    }
    let fields = d.fields(field, &TLS)?;
    let certificates = match fields.get("certificates") {
        Some(list) => certificates(d, &list),
        None => {
            if !fields.misspelt("certificates") {
                d.found.error(field.at(), format!("{} has no certificates", field.path), HOW);
            }
            Vec::new()
        }
    };
    Some(Settings {
        certificates,
        min_version: min_version(d, &fields).unwrap_or(default.min_version),
        client_certificates: fields.filled("client_certificates").map_or_else(Vec::new, |field| clients(d, &field)),
        http2: d.flag(&fields, "http2").unwrap_or(default.http2),
        handshake_timeout: d.duration(&fields, "handshake_timeout").unwrap_or(default.handshake_timeout),
        hsts: d.duration_or_none(&fields, "hsts").unwrap_or(None).map(|hsts| Duration::from_secs(hsts.as_secs())),
    })
}

/// Its names and its directory are not known yet: see [`finish`].
fn self_signed() -> Source {
    Source::SelfSigned { names: Vec::new(), dir: PathBuf::new() }
}

fn min_version(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Version> {
    let field = fields.get("min_version")?;
    match field.scalar().map(|scalar| scalar.text.as_str()) {
        Some("1.2") => return Some(Version::Tls12),
        Some("1.3") => return Some(Version::Tls13),
        Some("1.0" | "1.1") => {
            let message = format!("{}: TLS 1.0 and 1.1 are broken and not spoken", field.path);
            d.found.error(field.at(), message, "write \"1.2\"");
        }
        _ => d.wrong(&field, "1.2 or 1.3", "write min_version: \"1.2\""),
    }
    None
}

fn certificates(d: &mut Decoder<'_>, list: &Field<'_>) -> Vec<Source> {
    if list.scalar().is_some_and(|scalar| scalar.text == SELF_SIGNED) {
        return vec![self_signed()];
    }
    let Some(items) = list.items() else {
        d.wrong(list, "a list of certificates, or self-signed", "write [{cert: chain.pem, key: key.pem}]");
        return Vec::new();
    };
    if items.is_empty() {
        d.found.error(list.at(), format!("{} is empty", list.path), HOW);
    }
    if items.len() > MOST {
        let message = format!("{} certificates, and at most {MOST} are allowed", items.len());
        d.found.error(list.key_at, message, "a certificate may have many names");
    }
    let mut found: HashMap<CertificateFiles, usize> = HashMap::new();
    let mut sources = Vec::new();
    for item in items.into_iter().take(MOST) {
        let Some(files) = certificate(d, &item) else { continue };
        let line = item.at().map_or(0, |at| at.line);
        if let Some(first) = found.insert(files.clone(), line) {
            let message = format!("{} is written twice", item.path);
            d.found.error(item.at(), message, format!("remove one; the first is on line {first}"));
            continue;
        }
        sources.push(Source::Files(files));
    }
    sources
}

fn certificate(d: &mut Decoder<'_>, item: &Field<'_>) -> Option<CertificateFiles> {
    let fields = d.fields(item, &CERTIFICATE)?;
    let (cert, key) = (required(d, item, &fields, "cert"), required(d, item, &fields, "key"));
    let files = CertificateFiles { cert: cert?, key: key? };
    let loaded = d.machine.certificate(&files);
    // A fault of a file that both keys name is told at the first.
    let place = |fault: &Fault| fields.get(if fault.file == files.cert { "cert" } else { "key" });
    match loaded {
        Some(Err(fault)) => error(d, place(&fault), &fault),
        Some(Ok(certificate)) => certificate.warnings.iter().for_each(|fault| warn(d, place(fault), fault)),
        None => {}
    }
    Some(files)
}

fn required(d: &mut Decoder<'_>, item: &Field<'_>, fields: &Fields<'_>, name: &'static str) -> Option<PathBuf> {
    if let Some(field) = fields.get(name) {
        return d.file(&field);
    }
    if !fields.misspelt(name) {
        d.found.error(item.at(), format!("{} has no {name}", item.path), format!("write {name}: FILE.pem"));
    }
    None
}

/// One entry, or a list of them for several hosts.
fn clients(d: &mut Decoder<'_>, field: &Field<'_>) -> Vec<ClientCertificates> {
    let items = match field.items() {
        Some(items) => items,
        None if matches!(field.node.value, Value::Map(_)) => vec![field.clone()],
        None => {
            d.wrong(field, "a map, or a list of maps", "write {ca: ca.pem, mode: required}");
            return Vec::new();
        }
    };
    if items.len() > MOST_CLIENTS {
        let message = format!("{}: at most {MOST_CLIENTS} entries are allowed", field.path);
        d.found.error(field.key_at, message, "one entry may name many hosts");
    }
    // Which entry a host has, and `None` for the one of all others.
    let mut seen: HashMap<Option<String>, usize> = HashMap::new();
    let mut found = Vec::new();
    for item in items.into_iter().take(MOST_CLIENTS) {
        let Some(wanted) = client(d, &item) else { continue };
        let line = item.at().map_or(0, |at| at.line);
        let all = wanted.hosts.is_empty().then_some(None);
        for host in wanted.hosts.iter().cloned().map(Some).chain(all) {
            let of = host.clone().unwrap_or_else(|| "every host".to_owned());
            if let Some(first) = seen.insert(host, line) {
                let message = format!("{}: there is already an entry for {of}", item.path);
                d.found.error(item.at(), message, format!("remove one; the first is on line {first}"));
            }
        }
        found.push(wanted);
    }
    found
}

fn client(d: &mut Decoder<'_>, item: &Field<'_>) -> Option<ClientCertificates> {
    let fields = d.fields(item, &CLIENT_CERTIFICATES)?;
    let ca = required(d, item, &fields, "ca");
    let crl = fields.filled("crl").map(|field| d.file(&field));
    let mode = match fields.get("mode").map(|field| (field.scalar().map(|scalar| scalar.text.as_str()), field)) {
        None | Some((Some("required"), _)) => Mode::Required,
        Some((Some("optional"), _)) => Mode::Optional,
        Some((_, field)) => {
            d.wrong(&field, "required or optional", "write mode: required");
            return None;
        }
    };
    let hosts = fields.filled("hosts").map_or(Some(Vec::new()), |field| hosts(d, &field));
    let crl = match crl {
        Some(None) => return None,
        crl => crl.flatten(),
    };
    let wanted = ClientCertificates { ca: ca?, crl, mode, hosts: hosts? };
    if let Some(Err(fault)) = d.machine.client_certificates(&wanted) {
        error(d, fields.get(if fault.file == wanted.ca { "ca" } else { "crl" }), &fault);
    }
    Some(wanted)
}

fn hosts(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<Vec<String>> {
    let Some(items) = field.items() else {
        d.wrong(field, "a list of host names", "write [admin.example.com]");
        return None;
    };
    if !(1..=MOST_CLIENTS).contains(&items.len()) {
        let message = format!("{} has {} names, and 1 to {MOST_CLIENTS} are allowed", field.path, items.len());
        d.found.error(field.at(), message, "leave the key out for every host");
        return None;
    }
    items.iter().map(|item| host_name(d, item)).collect()
}

/// A client that asks for an address sends no name, so that nobody could be let in for it.
fn host_name(d: &mut Decoder<'_>, item: &Field<'_>) -> Option<String> {
    let host = route_match::host(d, item)?;
    if host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok() {
        d.wrong(item, "a host name", "handshakes name no addresses; leave hosts out to ask everybody");
        return None;
    }
    Some(host)
}

fn error(d: &mut Decoder<'_>, field: Option<Field<'_>>, fault: &Fault) {
    let Some(field) = field else { return };
    d.found.error(field.at(), format!("{}: {}", field.path, described(fault)), fault.hint.clone());
}

fn warn(d: &mut Decoder<'_>, field: Option<Field<'_>>, fault: &Fault) {
    let Some(field) = field else { return };
    d.found.warn(field.at(), format!("{}: {}", field.path, described(fault)), fault.hint.clone());
}

fn described(fault: &Fault) -> String {
    format!("{} {}", shown(&fault.file.to_string_lossy()), fault.what)
}

/// With the routes known: the names of self-signed certificates, and routes that no certificate is for.
pub(super) fn finish(
    d: &mut Decoder<'_>,
    top: &Fields<'_>,
    listeners: &mut [Listener],
    routes: &[Route],
    state_dir: &Path,
) {
    let mut hosts: Vec<&str> = routes.iter().filter_map(|route| route.host.as_deref()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let places = top.filled("listeners").and_then(|field| field.items()).unwrap_or_default();
    for (at, listener) in listeners.iter_mut().enumerate() {
        let Some(settings) = &mut listener.tls else { continue };
        for source in &mut settings.certificates {
            if let Source::SelfSigned { names, dir } = source {
                // An address in brackets is no name of a certificate.
                *names = self_signed_names(hosts.iter().copied().filter(|host| !host.starts_with('[')));
                *dir = state_dir.to_owned();
            }
        }
        if let Some(uncovered) = uncovered(d, settings, &hosts) {
            let message = format!("listeners[{at}]: no certificate covers {uncovered}");
            let place = places.get(at).and_then(|item| item.at());
            d.found.warn(place, message, "browsers will warn: add a certificate for it, or remove the route");
        }
    }
}

/// Hosts of routes that browsers would refuse here.
fn uncovered(d: &mut Decoder<'_>, settings: &Settings, hosts: &[&str]) -> Option<String> {
    const TOLD: usize = 5;
    let mut certificates = Vec::new();
    for source in &settings.certificates {
        match source {
            Source::Files(files) => certificates.push(d.machine.certificate(files)?.ok()?),
            Source::SelfSigned { .. } => return None,
        }
    }
    // An address needs a certificate for an address.
    let is_name = |host: &&&str| host.parse::<std::net::IpAddr>().is_err() && !host.starts_with('[');
    let missing: Vec<&str> =
        hosts.iter().filter(is_name).filter(|host| !certificates.iter().any(|c| c.covers(host))).copied().collect();
    let rest = missing.len().saturating_sub(TOLD);
    let named = missing.get(..TOLD).unwrap_or(&missing).join(", ");
    match (missing.is_empty(), rest) {
        (true, _) => None,
        (_, 0) => Some(named),
        (_, rest) => Some(format!("{named} and {rest} more")),
    }
}
