//! `tls: self-signed`: a certificate of our own, for a first try and for machines that nobody else reaches.
//!
//! It is kept, so that whoever has accepted it once need not do so after each start, and made anew before it ends or when a name
//! is missing.

use super::certificates::Certificate;
use super::pem::{Fault, reason};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::CryptoProvider;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const DAY: i64 = 86_400;
/// A browser takes 398 days at most.
const LIFETIME: i64 = 365 * DAY;
/// So long before its end it is made anew.
const RENEWAL: i64 = 30 * DAY;
/// A certificate of more names would be a large one; the others are then not in it.
const MOST_NAMES: usize = 100;
/// What it is for whoever asks for no name of ours.
const ALWAYS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The names of a listener's certificate: `hosts`, and those of this machine.
pub(crate) fn names<'a>(hosts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = ALWAYS.iter().map(|name| (*name).to_owned()).collect();
    for host in hosts {
        if names.len() < MOST_NAMES && !names.iter().any(|name| name == host) {
            names.push(host.to_owned());
        }
    }
    names
}

/// The one that is kept in `dir` for these names, made when there is none that is good for a while. Where it cannot be kept it is
/// this process's own.
///
/// # Errors
/// It cannot be made: a name is none.
pub(super) fn obtain(dir: &Path, names: &[String], now: i64, provider: &CryptoProvider) -> Result<Certificate, Fault> {
    let file = dir.join(format!("self-signed-{:08x}.pem", number(names)));
    let kept = super::pem::read(&file).and_then(|text| Certificate::from_pem(&file, &text, provider));
    if let Ok(kept) = kept
        && !is_due(&kept, now)
        && kept.not_before <= now
    {
        return Ok(kept);
    }
    let text = make(names, now).map_err(|why| Fault::new(&file, format!("cannot be made: {why}"), ""))?;
    match keep(dir, &file, &text) {
        Ok(()) => log::info!("made a self-signed certificate, {}", file.display()),
        Err(error) => {
            let why = reason(&error);
            log::warn!(
                "a self-signed certificate cannot be kept and goes with this process: {}: {why}",
                file.display()
            );
        }
    }
    Certificate::from_pem(&file, text.as_bytes(), provider)
}

/// Whether it is to be made anew.
pub(super) fn is_due(certificate: &Certificate, now: i64) -> bool {
    certificate.not_after - now <= RENEWAL
}

/// The same names are the same file, whoever's configuration has them (FNV-1a).
fn number(names: &[String]) -> u32 {
    let bytes = names.iter().flat_map(|name| name.bytes().chain([b'\n']));
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn make(names: &[String], now: i64) -> Result<String, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "pingora-unix-proxy self-signed");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let at = |seconds: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    // The clock of another machine may be behind.
    params.not_before = at(now - DAY);
    params.not_after = at(now + LIFETIME);
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

/// Whole or not at all, and for our own user alone.
fn keep(dir: &Path, file: &Path, text: &str) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut temporary = PathBuf::from(file);
    temporary.set_extension(format!("pem.{}", std::process::id()));
    let written = (|| {
        let mut opened =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        opened.write_all(text.as_bytes())?;
        opened.sync_all()?;
        std::fs::rename(&temporary, file)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::certificates::now;
    use crate::tls::rules::provider;
    use std::os::unix::fs::MetadataExt;

    fn leaf(certificate: &Certificate) -> Vec<u8> {
        certificate.leaf().unwrap().to_vec()
    }

    #[test]
    fn it_is_kept_and_made_anew_before_it_ends() {
        let dir = std::env::temp_dir().join(format!("self-signed-{}", std::process::id()));
        let names = names(["chat.example.com", "*.example.org", "localhost"]);
        let at = |now| obtain(&dir.join("tls"), &names, now, &provider()).unwrap();
        let (now, first) = (now(), at(now()));
        assert_eq!(first.names, ["localhost", "chat.example.com", "*.example.org"]);
        assert!(first.warnings.is_empty(), "{:?}", first.warnings);
        assert_eq!(leaf(&first), leaf(&at(now + LIFETIME - RENEWAL - DAY)));
        let second = at(now + LIFETIME - RENEWAL + DAY);
        assert_ne!(leaf(&first), leaf(&second));
        let files: Vec<_> = std::fs::read_dir(dir.join("tls")).unwrap().map(|file| file.unwrap()).collect();
        assert_eq!(files.len(), 1, "no temporary file is left");
        assert_eq!(files[0].metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(dir.join("tls")).unwrap().mode() & 0o777, 0o700);
        std::fs::write(files[0].path(), "broken").unwrap();
        assert_eq!(at(now).names, first.names);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn where_it_cannot_be_kept_it_is_used_all_the_same() {
        let made = obtain(Path::new("/proc/nothing"), &names([]), now(), &provider()).unwrap();
        assert_eq!(made.names, ["localhost"]);
    }
}
