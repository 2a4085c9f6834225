//! The files behind all listeners: read at the start and at a reload, and looked at while the proxy runs.
//!
//! Files are looked at by `stat`, which follows the links that certbot and Kubernetes turn (a watch of inotify does not). A
//! certificate and its key are one thing: both are read, they belong together and have not changed meanwhile, or what was there
//! before stays.

use super::certificates::{Certificate, now};
use super::client_certificates::{ClientCertificates, ClientPolicy};
use super::pem::{Fault, Stamp};
use super::rules::{SharedTlsRules, TlsRules, provider};
use super::self_signed;
use super::settings::{CertificateFiles, Settings, Source};
use super::tickets::TicketKeys;
use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// How often something must have been found wrong in a row before it is told: whoever writes two files writes one of them first.
const BAD_LOOKS: u32 = 2;

/// All certificates of this process.
#[derive(Debug)]
pub(crate) struct TlsStore {
    provider: Arc<CryptoProvider>,
    tickets: Arc<TicketKeys>,
    state: Mutex<State>,
    /// Of the last look: whoever asks does not wait for files.
    report: ArcSwap<Report>,
}

#[derive(Debug, Default)]
struct State {
    files: Files,
    listeners: Vec<(Settings, SharedTlsRules)>,
}

/// What was loaded, by where it comes from: two listeners with one certificate have it once.
#[derive(Debug, Default)]
struct Files {
    certificates: BTreeMap<Source, Followed<Certificate>>,
    clients: BTreeMap<ClientCertificates, Followed<ClientPolicy>>,
}

/// The rules of all listeners, loaded and not in force yet.
#[derive(Debug)]
pub(crate) struct Loaded {
    files: Files,
    /// In the order in which they were asked for.
    pub(crate) rules: Vec<Arc<TlsRules>>,
}

/// A certificate that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) algorithm: &'static str,
    pub(crate) not_after: i64,
}

/// What is served, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) served: Vec<Served>,
    /// Files whose newest text cannot be used; what they held before is.
    pub(crate) faults: Vec<Fault>,
}

impl TlsStore {
    pub(crate) fn new() -> TlsStore {
        let tickets = Arc::new(TicketKeys::new(now()));
        TlsStore { provider: provider(), tickets, state: Mutex::default(), report: ArcSwap::default() }
    }

    pub(crate) fn tickets(&self) -> &Arc<TicketKeys> {
        &self.tickets
    }

    /// Reads every file that these settings name. What is in force stays.
    ///
    /// # Errors
    /// Everything that cannot be used.
    pub(crate) fn load<'s>(&self, settings: impl Iterator<Item = &'s Settings>) -> Result<Loaded, Vec<Fault>> {
        let (mut files, mut faults, mut rules) = (Files::default(), Vec::new(), Vec::new());
        for settings in settings {
            files.add(settings, &self.provider, &mut faults);
            match files.rules(settings, &self.tickets) {
                Ok(made) => rules.push(Arc::new(made)),
                Err(fault) if faults.is_empty() => faults.push(fault),
                Err(_) => {}
            }
        }
        if faults.is_empty() { Ok(Loaded { files, rules }) } else { Err(faults) }
    }

    /// From here on these listeners get what their files hold.
    pub(crate) fn follow(&self, loaded: Loaded, listeners: Vec<(Settings, SharedTlsRules)>) {
        self.report.store(Arc::new(loaded.files.report()));
        *self.state() = State { files: loaded.files, listeners };
    }

    /// Looks at all files, and puts into force what is new and good. Blocks.
    pub(crate) fn look(&self) -> Arc<Report> {
        self.tickets.rotate(now());
        let mut state = self.state();
        let State { files, listeners } = &mut *state;
        if files.look(&self.provider) {
            for (settings, shared) in listeners.iter() {
                match files.rules(settings, &self.tickets) {
                    Ok(rules) => shared.store(Arc::new(rules)),
                    Err(fault) => log::error!("the old certificates stay: {fault}"),
                }
            }
        }
        let report = Arc::new(files.report());
        self.report.store(report.clone());
        report
    }

    /// As at the last look.
    pub(crate) fn report(&self) -> Arc<Report> {
        self.report.load_full()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Files {
    fn add(&mut self, settings: &Settings, provider: &Arc<CryptoProvider>, faults: &mut Vec<Fault>) {
        for source in &settings.certificates {
            if !self.certificates.contains_key(source) {
                match Followed::new(paths_of(source), || load(source, provider)) {
                    Ok(followed) => drop(self.certificates.insert(source.clone(), followed)),
                    Err(fault) => faults.push(fault),
                }
            }
        }
        for wanted in &settings.client_certificates {
            if !self.clients.contains_key(wanted) {
                let paths = std::iter::once(&wanted.ca).chain(&wanted.crl).cloned().collect();
                match Followed::new(paths, || ClientPolicy::load(wanted, provider)) {
                    Ok(followed) => drop(self.clients.insert(wanted.clone(), followed)),
                    Err(fault) => faults.push(fault),
                }
            }
        }
    }

    fn rules(&self, settings: &Settings, tickets: &Arc<TicketKeys>) -> Result<TlsRules, Fault> {
        let certificates =
            settings.certificates.iter().map(|source| Some(self.certificates.get(source)?.value.clone()));
        let clients = settings.client_certificates.iter().map(|wanted| Some(self.clients.get(wanted)?.value.clone()));
        let missing = || Fault::new(Path::new("tls"), "has a file that was not loaded", "");
        let certificates: Vec<_> = certificates.collect::<Option<_>>().ok_or_else(missing)?;
        let clients: Vec<_> = clients.collect::<Option<_>>().ok_or_else(missing)?;
        let failed = |error: rustls::Error| Fault::new(Path::new("tls"), format!("cannot be used: {error}"), "");
        TlsRules::new(settings, &certificates, &clients, tickets).map_err(failed)
    }

    /// Whether something is new.
    fn look(&mut self, provider: &Arc<CryptoProvider>) -> bool {
        let mut changed = false;
        for (source, followed) in &mut self.certificates {
            let is_due = match source {
                Source::Files(_) => false,
                Source::SelfSigned { .. } => self_signed::is_due(&followed.value, now()),
            };
            if followed.look(is_due, || load(source, provider)) {
                changed = true;
                let certificate = &followed.value;
                log::info!(
                    "serving a new certificate for {}, which ends on {}",
                    certificate.label(),
                    super::certificates::date(certificate.not_after)
                );
                certificate.warnings.iter().for_each(|warning| log::warn!("{warning}"));
            }
        }
        for (wanted, followed) in &mut self.clients {
            if followed.look(false, || ClientPolicy::load(wanted, provider)) {
                changed = true;
                log::info!("clients are checked by the new {}", wanted.ca.display());
            }
        }
        changed
    }

    fn report(&self) -> Report {
        let served = |certificate: &Certificate| Served {
            name: certificate.label().to_owned(),
            algorithm: certificate.algorithm.as_str(),
            not_after: certificate.not_after,
        };
        let certificates = self.certificates.values();
        let faults = certificates.clone().filter_map(Followed::fault);
        Report {
            faults: faults.chain(self.clients.values().filter_map(Followed::fault)).cloned().collect(),
            served: certificates.map(|followed| served(&followed.value)).collect(),
        }
    }
}

fn paths_of(source: &Source) -> Vec<PathBuf> {
    match source {
        Source::Files(CertificateFiles { cert, key }) => vec![cert.clone(), key.clone()],
        // Ours: nobody else changes it.
        Source::SelfSigned { .. } => Vec::new(),
    }
}

fn load(source: &Source, provider: &Arc<CryptoProvider>) -> Result<Certificate, Fault> {
    match source {
        Source::Files(CertificateFiles { cert, key }) => Certificate::load(cert, key, provider),
        Source::SelfSigned { names, dir } => self_signed::obtain(dir, names, now(), provider),
    }
}

/// Something that files hold together.
#[derive(Debug)]
struct Followed<T> {
    paths: Vec<PathBuf>,
    /// Of what is in use.
    stamps: Vec<Option<Stamp>>,
    value: Arc<T>,
    /// What is wrong with the newest text of the files, and for how many looks now.
    fault: Option<(Fault, u32)>,
}

impl<T> Followed<T> {
    fn new(paths: Vec<PathBuf>, load: impl FnOnce() -> Result<T, Fault>) -> Result<Followed<T>, Fault> {
        let stamps = stamps(&paths);
        let value = Arc::new(load()?);
        Ok(Followed { paths, stamps, value, fault: None })
    }

    /// Whether there is a new value.
    fn look(&mut self, is_due: bool, load: impl FnOnce() -> Result<T, Fault>) -> bool {
        let stamps_before = stamps(&self.paths);
        // Permissions may have been mended, which no stamp shows.
        if stamps_before == self.stamps && self.fault.is_none() && !is_due {
            return false;
        }
        let loaded = load();
        if stamps(&self.paths) != stamps_before {
            // Somebody writes at this moment: the next look decides.
            return false;
        }
        match loaded {
            Ok(value) => {
                let is_new = stamps_before != self.stamps || is_due;
                (self.stamps, self.fault) = (stamps_before, None);
                if is_new {
                    self.value = Arc::new(value);
                }
                is_new
            }
            Err(fault) => {
                let looks = self.fault.as_ref().map_or(0, |(_, looks)| *looks);
                self.fault = Some((fault, looks.saturating_add(1)));
                false
            }
        }
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref().filter(|(_, looks)| *looks >= BAD_LOOKS).map(|(fault, _)| fault)
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    paths.iter().map(|path| Stamp::of(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::certificates::tests::made;
    use super::*;
    use std::os::unix::fs::symlink;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir = std::env::temp_dir().join(format!("store-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Dir(dir)
        }

        fn settings(&self) -> Settings {
            let files = CertificateFiles { cert: self.0.join("a.pem"), key: self.0.join("a.key") };
            Settings { certificates: vec![Source::Files(files)], ..Settings::default() }
        }

        fn write(&self, file: &str, text: &str) {
            std::fs::write(self.0.join(file), text).unwrap();
        }

        /// A store that serves what is there, and the rules of its only listener.
        fn store(&self) -> (TlsStore, SharedTlsRules) {
            let (store, settings) = (TlsStore::new(), self.settings());
            let loaded = store.load([&settings].into_iter()).unwrap();
            let shared = Arc::new(ArcSwap::new(loaded.rules[0].clone()));
            store.follow(loaded, vec![(settings, shared.clone())]);
            (store, shared)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn names(report: &Report) -> Vec<&str> {
        report.served.iter().map(|served| served.name.as_str()).collect()
    }

    #[test]
    fn a_renewed_pair_is_served_once_both_files_are_there() {
        let dir = Dir::new("renewed");
        let ((first, first_key), (second, second_key)) = (made(&["a.example"], false), made(&["b.example"], false));
        dir.write("a.pem", &first);
        dir.write("a.key", &first_key);
        let (store, shared) = dir.store();
        let before = shared.load_full();
        assert_eq!(names(&store.look()), ["a.example"]);
        assert!(Arc::ptr_eq(&before, &shared.load_full()), "nothing has changed");
        dir.write("a.pem", &second);
        let report = store.look();
        assert_eq!((names(&report), report.faults.len()), (vec!["a.example"], 0), "a half is not told at once");
        dir.write("a.key", &second_key);
        assert_eq!(names(&store.look()), ["b.example"]);
        assert!(!Arc::ptr_eq(&before, &shared.load_full()));
    }

    #[test]
    fn a_bad_file_keeps_the_old_and_is_told_until_it_is_mended() {
        let dir = Dir::new("bad");
        let (cert, key) = made(&["a.example"], false);
        dir.write("a.pem", &cert);
        dir.write("a.key", &key);
        let (store, shared) = dir.store();
        let before = shared.load_full();
        dir.write("a.pem", "no certificate");
        assert_eq!(store.look().faults, []);
        let report = store.look();
        assert_eq!(names(&report), ["a.example"]);
        assert!(report.faults[0].to_string().contains("holds no PEM"), "{report:?}");
        std::fs::remove_file(dir.0.join("a.pem")).unwrap();
        assert!(store.look().faults[0].to_string().contains("cannot be read"));
        assert!(Arc::ptr_eq(&before, &shared.load_full()));
        dir.write("a.pem", &cert);
        assert_eq!(store.look().faults, []);
        assert_eq!(store.report(), store.look());
    }

    #[test]
    fn the_link_that_kubernetes_turns_is_followed() {
        let dir = Dir::new("kubernetes");
        for (version, name) in [("..1", "a.example"), ("..2", "b.example")] {
            let (cert, key) = made(&[name], false);
            std::fs::create_dir(dir.0.join(version)).unwrap();
            dir.write(&format!("{version}/a.pem"), &cert);
            dir.write(&format!("{version}/a.key"), &key);
        }
        symlink("..1", dir.0.join("..data")).unwrap();
        symlink("..data/a.pem", dir.0.join("a.pem")).unwrap();
        symlink("..data/a.key", dir.0.join("a.key")).unwrap();
        let (store, _shared) = dir.store();
        symlink("..2", dir.0.join("..data_tmp")).unwrap();
        std::fs::rename(dir.0.join("..data_tmp"), dir.0.join("..data")).unwrap();
        assert_eq!(names(&store.look()), ["b.example"]);
    }

    #[test]
    fn a_load_tells_every_fault_and_changes_nothing() {
        let dir = Dir::new("load");
        let store = TlsStore::new();
        let mut settings = dir.settings();
        let other = CertificateFiles { cert: dir.0.join("b.pem"), key: dir.0.join("b.key") };
        settings.certificates.push(Source::Files(other));
        let faults = store.load([&settings].into_iter()).unwrap_err();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert_eq!(*store.report(), Report::default());
    }
}
