//! What the connections of one worker say together. Pure.
//!
//! One worker may dial in more than once: a redial that overtakes the loss of the old connection, a
//! program that uses node:cluster within, a child process that inherited the environment. The
//! oldest connection that lives speaks for the worker.

use super::Report;
use std::sync::Arc;

/// Numbers a connection of the proxy's life.
pub(super) type LinkId = u64;

#[derive(Debug, Default)]
pub(super) struct Links {
    /// Oldest first.
    links: Vec<Link>,
    /// Where traffic goes now. Kept while nobody is connected: the worker goes on serving.
    main: Option<Arc<str>>,
}

#[derive(Debug)]
struct Link {
    id: LinkId,
    pid: u32,
    /// Its newest main path.
    main: Option<Arc<str>>,
}

impl Links {
    /// Connections of one worker at a time.
    pub(super) const MOST: usize = 16;

    /// Returns the connections that this one supersedes: those of the same process.
    pub(super) fn open(&mut self, id: LinkId, pid: u32) -> Result<Vec<LinkId>, String> {
        let same = |link: &Link| link.pid == pid;
        let superseded: Vec<LinkId> = self.links.iter().filter(|l| same(l)).map(|l| l.id).collect();
        if self.links.len() - superseded.len() >= Self::MOST {
            return Err(format!("this worker has {} connections already", Self::MOST));
        }
        // The redial keeps its process's place.
        let at = self.links.iter().position(same).unwrap_or(self.links.len());
        self.links.retain(|link| !same(link));
        self.links.insert(at.min(self.links.len()), Link { id, pid, main: None });
        Ok(superseded)
    }

    /// Of a worker that is known from before: it was not heard of yet, and serves there.
    pub(super) fn serving_at(main: Option<Arc<str>>) -> Links {
        Links { links: Vec::new(), main }
    }

    /// All connections are gone; returns whether there was one.
    pub(super) fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.links).is_empty()
    }

    pub(super) fn path(&mut self, id: LinkId, path: &str, main: bool) -> Option<Report> {
        let link = self.links.iter_mut().find(|link| link.id == id)?;
        if main {
            link.main = Some(path.into());
        }
        self.settle()
    }

    pub(super) fn closed(&mut self, id: LinkId, path: &str) -> Option<Report> {
        let link = self.links.iter_mut().find(|link| link.id == id)?;
        if link.main.as_deref() == Some(path) {
            link.main = None;
        }
        if let Some(report) = self.settle() {
            return Some(report);
        }
        // Nobody else listens in its place.
        let first = self.links.first().is_some_and(|link| link.id == id);
        if first && self.main.as_deref() == Some(path) && self.speaker().is_none() {
            self.main = None;
            return Some(Report::PathClosed);
        }
        None
    }

    /// Returns what follows for the worker; [`Report::HungUp`] with the last connection.
    pub(super) fn close(&mut self, id: LinkId) -> Option<Report> {
        let before = self.links.len();
        self.links.retain(|link| link.id != id);
        if self.links.is_empty() && before > 0 {
            return Some(Report::HungUp);
        }
        self.settle()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.iter().map(|link| link.id)
    }

    #[cfg(test)]
    pub(super) fn is_first(&self, id: LinkId) -> bool {
        self.links.first().is_some_and(|link| link.id == id)
    }

    /// The main path of the oldest connection. A later one speaks only when that is gone.
    fn speaker(&self) -> Option<&Arc<str>> {
        self.links.first()?.main.as_ref()
    }

    fn settle(&mut self) -> Option<Report> {
        let main = self.speaker()?.clone();
        if self.main.as_ref() == Some(&main) {
            return None;
        }
        self.main = Some(main.clone());
        Some(Report::Path(main))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Option<Report> {
        Some(Report::Path(text.into()))
    }

    #[test]
    fn the_main_server_may_move_and_close() {
        let mut links = Links::default();
        links.open(1, 100).unwrap();
        assert_eq!(links.path(1, "/second", false), None);
        assert_eq!(links.path(1, "/main", true), path("/main"));
        assert_eq!(links.path(1, "/main", true), None);
        assert_eq!(links.path(1, "/other", true), path("/other"));
        assert_eq!(links.closed(1, "/main"), None);
        assert_eq!(links.closed(1, "/other"), Some(Report::PathClosed));
        assert_eq!(links.path(1, "/main", true), path("/main"));
    }

    #[test]
    fn a_second_process_speaks_only_when_the_first_is_gone() {
        let mut links = Links::default();
        links.open(1, 100).unwrap();
        links.path(1, "/main", true);
        links.open(2, 200).unwrap();
        assert_eq!(links.path(2, "/child", true), None);
        assert_eq!(links.closed(2, "/child"), None);
        assert_eq!(links.path(2, "/child", true), None);
        assert_eq!(links.close(1), path("/child"));
        assert_eq!(links.close(2), Some(Report::HungUp));
    }

    #[test]
    fn a_redial_takes_its_own_place_and_traffic_goes_on() {
        let mut links = Links::default();
        links.open(1, 100).unwrap();
        links.path(1, "/main", true);
        links.open(2, 200).unwrap();
        assert_eq!(links.open(3, 100).unwrap(), [1]);
        assert_eq!(links.close(1), None);
        assert!(links.is_first(3));
        assert_eq!(links.path(3, "/main", true), None);
        links.close(2);
        assert_eq!(links.close(3), Some(Report::HungUp));
        links.open(4, 100).unwrap();
        assert_eq!(links.path(4, "/main", true), None);
    }

    #[test]
    fn connections_are_bounded() {
        let mut links = Links::default();
        for n in 0..Links::MOST as u64 {
            links.open(n, n as u32).unwrap();
        }
        assert!(links.open(99, 99).is_err());
        assert!(links.open(99, 3).is_ok());
    }
}
