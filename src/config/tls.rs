//! `tls` of a listener.

use super::fields::{Decoder, Field};
use super::schema::{CERTIFICATE, TLS};
use crate::tls::rules::{CertificateFiles, Settings};
use std::time::Duration;

/// Most certificates of a listener.
const MOST: usize = 1024;

pub(super) fn decode(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<Settings> {
    let fields = d.fields(field, &TLS)?;
    let default = Settings::default();
    let certificates = match fields.get("certificates") {
        Some(list) => certificates(d, &list),
        None => {
            if !fields.misspelt("certificates") {
                let message = format!("{} has no certificates", field.path);
                d.found.error(field.at(), message, "write certificates: [{cert: chain.pem, key: key.pem}]");
            }
            Vec::new()
        }
    };
    Some(Settings {
        certificates,
        http2: d.flag(&fields, "http2").unwrap_or(default.http2),
        handshake_timeout: d.duration(&fields, "handshake_timeout").unwrap_or(default.handshake_timeout),
        hsts: d.duration_or_none(&fields, "hsts").unwrap_or(None).map(|hsts| Duration::from_secs(hsts.as_secs())),
    })
}

fn certificates(d: &mut Decoder<'_>, list: &Field<'_>) -> Vec<CertificateFiles> {
    let Some(items) = list.items().filter(|items| !items.is_empty()) else {
        d.wrong(list, "a list of certificates", "write [{cert: chain.pem, key: key.pem}]");
        return Vec::new();
    };
    items.into_iter().take(MOST).filter_map(|item| certificate(d, &item)).collect()
}

fn certificate(d: &mut Decoder<'_>, item: &Field<'_>) -> Option<CertificateFiles> {
    let fields = d.fields(item, &CERTIFICATE)?;
    let mut file = |name| match fields.get(name) {
        Some(field) => d.file(&field),
        None => {
            if !fields.misspelt(name) {
                d.found.error(item.at(), format!("{} has no {name}", item.path), format!("write {name}: FILE.pem"));
            }
            None
        }
    };
    let (cert, key) = (file("cert"), file("key"));
    Some(CertificateFiles { cert: cert?, key: key? })
}
