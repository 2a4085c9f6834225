//! Files in PEM: read whole, within a bound, and taken apart into what they hold.
//!
//! What people put where a certificate or a key belongs is told in words that say what to do: DER, PKCS#12, an encrypted key, a
//! request, the two files swapped.

use rustls::pki_types::pem::{Error, PemObject, SectionKind};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer,
    PrivateSec1KeyDer,
};
use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Largest file of certificates, in bytes: a bundle of every public authority has a quarter of that.
const LARGEST_FILE: u64 = 1024 * 1024;
/// Readable by everybody.
const OTHERS_READ: u32 = 0o004;

/// Why a file cannot be used, or what is odd about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) file: PathBuf,
    /// What is wrong, as the rest of a sentence that begins with the file.
    pub(crate) what: String,
    /// What to do; may be empty.
    pub(crate) hint: String,
}

impl Fault {
    pub(crate) fn new(file: &Path, what: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault { file: file.to_owned(), what: what.into(), hint: hint.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.file.display(), self.what)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "; {}", self.hint) }
    }
}

/// What a file held when it was looked at: another one, or another text in it, has another stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Through links; `None` when there is no such file.
    pub(super) fn of(path: &Path) -> Option<Stamp> {
        let meta = std::fs::metadata(path).ok()?;
        let (device, inode, size) = (meta.dev(), meta.ino(), meta.size());
        Some(Stamp { device, inode, size, modified: (meta.mtime(), meta.mtime_nsec()) })
    }
}

/// What a PEM file holds.
#[derive(Default)]
pub(super) struct Sections {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) keys: Vec<PrivateKeyDer<'static>>,
    pub(super) revocations: Vec<CertificateRevocationListDer<'static>>,
    pub(super) has_request: bool,
    pub(super) has_encrypted_key: bool,
}

/// The bytes of a regular file that is not too large; never waits.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let failed = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "is the path right? relative ones begin at the configuration's directory",
            std::io::ErrorKind::PermissionDenied => "let the user of the proxy read it, and enter its directories",
            _ => "",
        };
        Fault::new(path, format!("cannot be read: {}", reason(&error)), hint)
    };
    let meta = std::fs::metadata(path).map_err(failed)?;
    if meta.is_dir() {
        return Err(Fault::new(path, "is a directory", "write the file in it, as in fullchain.pem or privkey.pem"));
    }
    if !meta.is_file() {
        return Err(Fault::new(path, "is not a regular file", ""));
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path).map_err(failed)?;
    opened.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(Fault::new(path, format!("is larger than {LARGEST_FILE} bytes"), "is this the right file?"));
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Fault::new(path, "is empty", "is it still being written?"));
    }
    Ok(bytes)
}

/// An error of the operating system without its number.
pub(super) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let plain = text.split(" (os error").next().unwrap_or_default();
    let mut chars = plain.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Takes a text apart. `path` is for messages.
pub(super) fn sections(path: &Path, bytes: &[u8]) -> Result<Sections, Fault> {
    let mut found = Sections { has_encrypted_key: has_encrypted_key(bytes), ..Sections::default() };
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        let (kind, der) =
            section.map_err(|error| Fault::new(path, format!("is broken PEM: {}", words(&error)), REWRITE))?;
        match kind {
            SectionKind::Certificate => found.certificates.push(der.into()),
            SectionKind::PrivateKey => found.keys.push(PrivatePkcs8KeyDer::from(der).into()),
            SectionKind::RsaPrivateKey => found.keys.push(PrivatePkcs1KeyDer::from(der).into()),
            SectionKind::EcPrivateKey => found.keys.push(PrivateSec1KeyDer::from(der).into()),
            SectionKind::Crl => found.revocations.push(der.into()),
            SectionKind::Csr => found.has_request = true,
            _ => {}
        }
    }
    let is_empty = found.certificates.is_empty() && found.keys.is_empty() && found.revocations.is_empty();
    if is_empty && !found.has_request && !found.has_encrypted_key {
        return Err(not_pem(path, bytes));
    }
    Ok(found)
}

const REWRITE: &str = "was it cut, or copied wrongly? write it anew";

fn words(error: &Error) -> String {
    let line = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().chars().take(60).collect::<String>();
    match error {
        Error::MissingSectionEnd { end_marker } => format!("the line -----END {}----- is missing", line(end_marker)),
        Error::IllegalSectionStart { line: start } => format!("the line {:?} begins nothing", line(start)),
        Error::Base64Decode(_) => "a section is not base64".to_owned(),
        other => other.to_string(),
    }
}

/// PKCS#8 and the old form of OpenSSL.
fn has_encrypted_key(bytes: &[u8]) -> bool {
    let holds = |needle: &[u8]| memchr::memmem::find(bytes, needle).is_some();
    holds(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || holds(b"Proc-Type: 4,ENCRYPTED")
}

fn not_pem(path: &Path, bytes: &[u8]) -> Fault {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // ASN.1 SEQUENCE with a long length: a certificate, a key or a PKCS#12 container.
    if bytes.starts_with(&[0x30, 0x82]) || bytes.starts_with(&[0x30, 0x81]) {
        let hint = format!(
            "convert a certificate: openssl x509 -inform der -in {name} -out cert.pem; a key: openssl pkey -inform der -in {name} -out key.pem; PKCS#12: openssl pkcs12 -in {name} -nodes -out all.pem"
        );
        return Fault::new(path, "is DER, not PEM", hint);
    }
    if memchr::memmem::find(bytes, b"-----BEGIN OPENSSH PRIVATE KEY-----").is_some() {
        return Fault::new(path, "is a key for SSH", "write the key that the certificate was asked for with");
    }
    Fault::new(path, "holds no PEM", "a certificate begins with -----BEGIN CERTIFICATE-----")
}

/// The certificates of a file, the first one the server's own.
pub(super) fn chain(path: &Path, found: &mut Sections) -> Result<Vec<CertificateDer<'static>>, Fault> {
    if !found.certificates.is_empty() {
        return Ok(std::mem::take(&mut found.certificates));
    }
    let (what, hint) = if found.has_request {
        ("is a request for a certificate", "write the certificate that the authority has answered with")
    } else if !found.keys.is_empty() || found.has_encrypted_key {
        ("holds a private key and no certificate", "are cert and key swapped?")
    } else {
        ("holds no certificate", "")
    };
    Err(Fault::new(path, what, hint))
}

/// The only private key of a file.
pub(super) fn key(path: &Path, found: &mut Sections) -> Result<PrivateKeyDer<'static>, Fault> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if found.has_encrypted_key {
        let hint = format!("nobody is there to type its pass phrase: openssl pkey -in {name} -out plain.key");
        return Err(Fault::new(path, "is encrypted", hint));
    }
    match found.keys.len() {
        1 => {}
        0 if !found.certificates.is_empty() => {
            return Err(Fault::new(path, "holds a certificate and no private key", "are cert and key swapped?"));
        }
        0 => return Err(Fault::new(path, "holds no private key", "it begins with -----BEGIN PRIVATE KEY-----")),
        n => return Err(Fault::new(path, format!("holds {n} private keys"), "leave the one of the certificate")),
    }
    found.keys.pop().ok_or_else(|| Fault::new(path, "holds no private key", ""))
}

/// What is odd about who may read a key.
pub(super) fn key_mode(path: &Path) -> Option<Fault> {
    let mode = std::fs::metadata(path).ok()?.mode();
    (mode & OTHERS_READ != 0).then(|| {
        Fault::new(
            path,
            format!("holds a private key and is readable by everybody (mode {:04o})", mode & 0o7777),
            "chmod 600 it",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_told_with_a_remedy() {
        let fault = |bytes: &[u8]| sections(Path::new("/x/a.der"), bytes).err().unwrap().to_string();
        assert!(fault(&[0x30, 0x82, 1, 2]).contains("is DER, not PEM; convert a certificate: openssl x509"));
        assert!(fault(b"hello").contains("holds no PEM"));
        let cut = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
        assert!(fault(cut).contains("the line -----END CERTIFICATE----- is missing"), "{}", fault(cut));
        let odd = b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
        assert!(fault(odd).contains("is not base64"), "{}", fault(odd));
    }

    #[test]
    fn an_encrypted_key_and_swapped_files_are_told() {
        let path = Path::new("/x/a.key");
        let text = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let mut found = sections(path, text).unwrap_or_default();
        assert!(key(path, &mut found).unwrap_err().to_string().contains("a.key is encrypted; nobody is there"));
        assert!(chain(path, &mut found).unwrap_err().to_string().contains("are cert and key swapped?"));
        let text = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let mut found = sections(path, text).unwrap_or_default();
        assert!(key(path, &mut found).unwrap_err().to_string().contains("are cert and key swapped?"));
    }

    #[test]
    fn files_that_cannot_be_read_are_told() {
        assert!(read(Path::new("/")).unwrap_err().to_string().contains("/ is a directory; write the file in it"));
        let missing = read(Path::new("/nothing/there.pem")).unwrap_err().to_string();
        assert!(missing.contains("cannot be read: no such file or directory; is the path right?"), "{missing}");
        assert!(read(Path::new("/dev/null")).unwrap_err().to_string().contains("is not a regular file"));
    }
}
