//! What the connections of one worker say together. Pure.
//!
//! One worker may dial in more than once: a redial that overtakes the loss of the old connection, a
//! program that uses node:cluster within, a child process that inherited the environment, a thread. Of
//! the servers that claim to be the main one the strongest claim is heard; among equals, the oldest
//! connection's.

use super::Report;
use super::message::{PortState, Stats, Why};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Numbers a connection of the proxy's life.
pub(super) type LinkId = u64;

#[derive(Debug, Default)]
pub(super) struct Links {
    /// Oldest first.
    links: Vec<Link>,
    /// Where traffic goes now. Kept while nobody is connected: the worker goes on serving.
    main: Option<Arc<str>>,
    /// Who served there when its connection ended: its server is gone, or it dials in again.
    left: Option<Who>,
    /// What was said last of where Engine.IO serves.
    engine: Option<BTreeSet<String>>,
    /// What was said last of ports that are not the main server's.
    ports: BTreeMap<u16, PortState>,
    /// How often that was news.
    port_news: u32,
}

/// A process, or a thread of it; 0 is its main thread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Who {
    pub(super) pid: u32,
    pub(super) thread: u32,
}

#[derive(Clone, Debug)]
struct Claim {
    path: Arc<str>,
    why: Why,
    port: Option<u16>,
}

#[derive(Debug)]
struct Link {
    id: LinkId,
    who: Who,
    /// Its process as the kernel numbers it.
    peer: Option<u32>,
    /// Its newest main server.
    main: Option<Claim>,
    /// Where its Engine.IO servers serve; `None` until it says.
    engine: Option<BTreeSet<String>>,
    /// Of Engine.IO.
    sessions: u64,
}

impl Links {
    /// Connections of one worker at a time.
    pub(super) const MOST: usize = 16;
    /// Paths of Engine.IO that one process may name, and bytes of each.
    const MOST_PATHS: usize = 64;
    const LONGEST_PATH: usize = 1024;
    /// How often it is news what becomes of a port: each time is a line in the log.
    const MOST_PORT_NEWS: u32 = 100;

    /// Returns the connections that this one supersedes: those of the same thread of a process. `peer` is the process as
    /// the kernel numbers it.
    pub(super) fn open(&mut self, id: LinkId, who: Who, peer: Option<u32>) -> Result<Vec<LinkId>, String> {
        let same = |link: &Link| link.who == who;
        let superseded: Vec<LinkId> = self.links.iter().filter(|l| same(l)).map(|l| l.id).collect();
        if self.links.len() - superseded.len() >= Self::MOST {
            return Err(format!("this worker has {} connections already", Self::MOST));
        }
        // The redial keeps its process's place.
        let at = self.links.iter().position(same).unwrap_or(self.links.len());
        // It goes on serving its sessions, whatever it has said anew by now.
        let old = self.links.get(at);
        let (engine, sessions) = old.map_or((None, 0), |old| (old.engine.clone(), old.sessions));
        self.links.retain(|link| !same(link));
        self.links.insert(at.min(self.links.len()), Link { id, who, peer, main: None, engine, sessions });
        Ok(superseded)
    }

    /// Of a worker that is known from before: it was not heard of yet, and serves there.
    pub(super) fn serving_at(main: Option<Arc<str>>) -> Links {
        Links { main, ..Links::default() }
    }

    /// All connections are gone; returns whether there was one.
    pub(super) fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.links).is_empty()
    }

    /// A server listens at `path`; with a claim, as the main one.
    pub(super) fn path(&mut self, id: LinkId, path: &str, port: Option<u16>, main: Option<Why>) -> Option<Report> {
        let link = self.links.iter_mut().find(|link| link.id == id)?;
        match main {
            Some(why) => link.main = Some(Claim { path: path.into(), why, port }),
            // It was, and is not any more.
            None if link.serves(path) => link.main = None,
            None => {}
        }
        self.settle()
    }

    pub(super) fn closed(&mut self, id: LinkId, path: &str) -> Option<Report> {
        let link = self.links.iter_mut().find(|link| link.id == id)?;
        if link.serves(path) {
            link.main = None;
        }
        if let Some(report) = self.settle() {
            return Some(report);
        }
        // Nobody else listens in its place.
        if self.main.as_deref() == Some(path) && self.speaker().is_none() {
            self.main = None;
            return Some(Report::PathClosed);
        }
        None
    }

    /// Returns what follows for the worker; [`Report::HungUp`] with the last connection.
    pub(super) fn close(&mut self, id: LinkId) -> Option<Report> {
        let Some(at) = self.links.iter().position(|link| link.id == id) else { return self.settle() };
        let link = self.links.remove(at);
        let has_left = self.main.as_deref().is_some_and(|main| link.serves(main)) && self.speaker().is_none();
        if has_left {
            self.left = Some(link.who);
        }
        if self.links.is_empty() {
            return Some(Report::HungUp);
        }
        if has_left {
            // A launcher stays that has no server: `node --watch` whose app has ended.
            self.main = None;
            return Some(Report::PathClosed);
        }
        self.settle()
    }

    /// What a process measures, with the sessions of all processes.
    pub(super) fn stats(&mut self, id: LinkId, mut stats: Stats) -> Option<Report> {
        self.links.iter_mut().find(|link| link.id == id)?.sessions = stats.sessions;
        stats.sessions = self.sessions();
        Some(Report::Stats(stats))
    }

    /// A process says where its Engine.IO serves.
    ///
    /// # Errors
    /// It says too much, or what no request begins with.
    pub(super) fn engine(
        &mut self,
        id: LinkId,
        paths: Vec<String>,
        sessions: Option<u64>,
    ) -> Result<Option<Report>, String> {
        if paths.len() > Self::MOST_PATHS {
            return Err(format!("Engine.IO has {} paths, at most {} are taken", paths.len(), Self::MOST_PATHS));
        }
        if let Some(bad) = paths.iter().find(|path| !path.starts_with('/') || path.len() > Self::LONGEST_PATH) {
            let start: String = bad.chars().take(40).collect();
            return Err(format!("{start:?} ({} bytes) is no path of Engine.IO", bad.len()));
        }
        let Some(link) = self.links.iter_mut().find(|link| link.id == id) else { return Ok(None) };
        let sessions = sessions.unwrap_or(link.sessions);
        let is_news = link.sessions != sessions;
        (link.engine, link.sessions) = (Some(paths.into_iter().collect()), sessions);
        Ok(self.engine_news(is_news))
    }

    /// What all processes together serve, if it has changed. What was said stays while nobody is there to say more.
    pub(super) fn engine_news(&mut self, even_if_same: bool) -> Option<Report> {
        let said = self.links.iter().filter_map(|link| link.engine.as_ref());
        let all = said.cloned().reduce(|mut all, one| {
            all.extend(one);
            all
        })?;
        if !even_if_same && self.engine.as_ref() == Some(&all) {
            return None;
        }
        self.engine = Some(all.clone());
        Some(Report::Engine { paths: all.into_iter().collect(), sessions: self.sessions() })
    }

    /// What becomes of a further port, if that is news.
    pub(super) fn port(&mut self, id: LinkId, port: u16, state: PortState) -> Option<Report> {
        self.links.iter().find(|link| link.id == id)?;
        if self.ports.get(&port) == Some(&state) || self.port_news >= Self::MOST_PORT_NEWS {
            return None;
        }
        self.port_news += 1;
        self.ports.insert(port, state.clone());
        Some(Report::Port { port, state })
    }

    fn sessions(&self) -> u64 {
        self.links.iter().fold(0, |sum, link| sum.saturating_add(link.sessions))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.iter().map(|link| link.id)
    }

    #[cfg(test)]
    pub(super) fn is_first(&self, id: LinkId) -> bool {
        self.links.first().is_some_and(|link| link.id == id)
    }

    /// The strongest claim to be the main server, the oldest connection's among equals.
    fn speaker(&self) -> Option<(&Claim, &Link)> {
        // Of equal ones `max_by_key` takes the last.
        let claims = self.links.iter().rev().filter_map(|link| Some((link.main.as_ref()?, link)));
        claims.max_by_key(|(claim, _)| claim.why)
    }

    fn settle(&mut self) -> Option<Report> {
        let (claim, link) = self.speaker()?;
        let (path, port, pid, who) = (claim.path.clone(), claim.port, link.peer, link.who);
        // Another process's server is another one, also at the same place: who found the old one gone may come to it.
        let is_other = self.left.take().is_some_and(|left| left != who);
        if self.main.as_ref() == Some(&path) && !is_other {
            return None;
        }
        self.main = Some(path.clone());
        Some(Report::Path { socket: path, port, pid })
    }
}

impl Link {
    fn serves(&self, path: &str) -> bool {
        self.main.as_ref().is_some_and(|claim| *claim.path == *path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Option<Report> {
        Some(Report::Path { socket: text.into(), port: Some(3000), pid: None })
    }

    impl Links {
        fn joins(&mut self, id: LinkId, pid: u32) -> Result<Vec<LinkId>, String> {
            self.open(id, Who { pid, thread: 0 }, None)
        }

        fn says(&mut self, id: LinkId, path: &str, main: bool) -> Option<Report> {
            self.path(id, path, Some(3000), main.then_some(Why::First))
        }

        fn claims(&mut self, id: LinkId, path: &str, why: Why) -> Option<Report> {
            self.path(id, path, Some(3000), Some(why))
        }
    }

    #[test]
    fn who_has_no_server_leaves_the_word_to_others() {
        let mut links = Links::default();
        // A launcher that passes on what the app says.
        links.joins(1, 100).unwrap();
        links.joins(2, 200).unwrap();
        assert_eq!(links.says(1, "/helper", false), None);
        assert_eq!(links.says(2, "/main", true), path("/main"));
        assert_eq!(links.closed(2, "/main"), Some(Report::PathClosed));
    }

    #[test]
    fn the_strongest_claim_is_heard_whoever_came_first() {
        let mut links = Links::default();
        links.joins(1, 100).unwrap();
        links.joins(2, 200).unwrap();
        links.joins(3, 300).unwrap();
        assert_eq!(links.claims(1, "/any-port", Why::Only), path("/any-port"));
        assert_eq!(links.claims(2, "/first", Why::First), path("/first"));
        assert_eq!(links.claims(1, "/any-port", Why::Only), None);
        assert_eq!(links.claims(3, "/named", Why::Port), path("/named"));
        assert_eq!(links.close(3), path("/first"));
        // It was not the first after all.
        assert_eq!(links.says(2, "/first", false), path("/any-port"));
    }

    #[test]
    fn threads_of_one_process_do_not_supersede_each_other() {
        let mut links = Links::default();
        let who = |thread| Who { pid: 100, thread };
        assert_eq!(links.open(1, who(0), None), Ok(vec![]));
        assert_eq!(links.open(2, who(1), None), Ok(vec![]));
        assert_eq!(links.open(3, who(1), None), Ok(vec![2]));
    }

    #[test]
    fn a_port_is_told_when_it_is_news_and_not_for_ever() {
        let mut links = Links::default();
        links.joins(1, 100).unwrap();
        let at = |at| PortState::Tcp { at };
        assert_eq!(links.port(1, 9090, PortState::Taken), Some(Report::Port { port: 9090, state: PortState::Taken }));
        assert_eq!(links.port(1, 9090, PortState::Taken), None);
        assert_eq!(links.port(1, 9090, at(9090)), Some(Report::Port { port: 9090, state: at(9090) }));
        assert_eq!(links.port(7, 9090, PortState::Taken), None);
        let news = (0..1000).filter(|n| links.port(1, 9090, at(*n)).is_some()).count();
        assert_eq!(news, 98);
    }

    #[test]
    fn the_main_server_may_move_and_close() {
        let mut links = Links::default();
        links.joins(1, 100).unwrap();
        assert_eq!(links.says(1, "/second", false), None);
        assert_eq!(links.says(1, "/main", true), path("/main"));
        assert_eq!(links.says(1, "/main", true), None);
        assert_eq!(links.says(1, "/other", true), path("/other"));
        assert_eq!(links.closed(1, "/main"), None);
        assert_eq!(links.closed(1, "/other"), Some(Report::PathClosed));
        assert_eq!(links.says(1, "/main", true), path("/main"));
    }

    #[test]
    fn a_second_process_speaks_only_when_the_first_is_gone() {
        let mut links = Links::default();
        links.joins(1, 100).unwrap();
        links.says(1, "/main", true);
        links.joins(2, 200).unwrap();
        assert_eq!(links.says(2, "/child", true), None);
        assert_eq!(links.closed(2, "/child"), None);
        assert_eq!(links.says(2, "/child", true), None);
        assert_eq!(links.close(1), path("/child"));
        assert_eq!(links.close(2), Some(Report::HungUp));
    }

    #[test]
    fn a_redial_takes_its_own_place_and_traffic_goes_on() {
        let mut links = Links::default();
        links.joins(1, 100).unwrap();
        links.says(1, "/main", true);
        links.joins(2, 200).unwrap();
        assert_eq!(links.joins(3, 100).unwrap(), [1]);
        assert_eq!(links.close(1), None);
        assert!(links.is_first(3));
        assert_eq!(links.says(3, "/main", true), None);
        links.close(2);
        assert_eq!(links.close(3), Some(Report::HungUp));
        links.joins(4, 100).unwrap();
        assert_eq!(links.says(4, "/main", true), None);
    }

    #[test]
    fn a_launcher_whose_app_has_ended_serves_nothing_until_the_next_one_listens_at_the_same_place() {
        let mut links = Links::default();
        links.joins(1, 100).unwrap();
        links.joins(2, 200).unwrap();
        assert_eq!(links.says(2, "/main", true), path("/main"));
        assert_eq!(links.close(2), Some(Report::PathClosed));
        assert_eq!(links.close(2), None);
        links.joins(3, 300).unwrap();
        assert_eq!(links.says(3, "/main", true), path("/main"));
        assert_eq!(links.says(3, "/main", true), None);
    }

    #[test]
    fn another_process_at_the_same_place_is_news_and_the_same_one_is_not() {
        let mut links = Links::default();
        links.joins(1, 100).unwrap();
        links.says(1, "/main", true);
        // A launcher that does not dial in: a shell.
        assert_eq!(links.close(1), Some(Report::HungUp));
        links.joins(2, 200).unwrap();
        assert_eq!(links.says(2, "/main", true), path("/main"));
        assert_eq!(links.close(2), Some(Report::HungUp));
        links.joins(3, 200).unwrap();
        assert_eq!(links.says(3, "/main", true), None);
        // Two that share a server, as those of node:cluster do.
        links.joins(4, 400).unwrap();
        assert_eq!(links.says(4, "/main", true), None);
        assert_eq!(links.close(3), None);
    }

    fn engine(paths: &[&str], sessions: u64) -> Option<Report> {
        Some(Report::Engine { paths: paths.iter().map(|path| (*path).to_owned()).collect(), sessions })
    }

    fn serves(links: &mut Links, id: LinkId, paths: &[&str], sessions: u64) -> Option<Report> {
        links.engine(id, paths.iter().map(|path| (*path).to_owned()).collect(), Some(sessions)).unwrap()
    }

    #[test]
    fn engine_io_serves_where_any_process_says_so() {
        let mut links = Links::default();
        links.joins(1, 100).unwrap();
        links.joins(2, 200).unwrap();
        assert_eq!(links.engine_news(false), None);
        assert_eq!(serves(&mut links, 1, &[], 0), engine(&[], 0));
        assert_eq!(serves(&mut links, 2, &["/ws/", "/socket.io/"], 3), engine(&["/socket.io/", "/ws/"], 3));
        assert_eq!(serves(&mut links, 2, &["/socket.io/", "/ws/"], 3), None);
        assert_eq!(serves(&mut links, 1, &["/ws/"], 2), engine(&["/socket.io/", "/ws/"], 5));
        // One that ends takes along what it alone had.
        links.close(2);
        assert_eq!(links.engine_news(false), engine(&["/ws/"], 2));
        assert_eq!(links.engine_news(false), None);
    }

    #[test]
    fn a_redial_leaves_engine_io_where_it_was() {
        let mut links = Links::default();
        links.joins(1, 100).unwrap();
        serves(&mut links, 1, &["/socket.io/"], 7);
        links.joins(2, 100).unwrap();
        links.close(1);
        assert_eq!(links.engine_news(false), None);
        // With nobody there, and with one who has not said yet.
        links.close(2);
        assert_eq!(links.engine_news(false), None);
        links.joins(3, 100).unwrap();
        assert_eq!(links.engine_news(false), None);
        assert_eq!(serves(&mut links, 3, &["/socket.io/"], 7), engine(&["/socket.io/"], 7));
    }

    #[test]
    fn sessions_of_all_processes_are_counted_together() {
        let mut links = Links::default();
        links.joins(1, 100).unwrap();
        links.joins(2, 200).unwrap();
        let of = |sessions| Stats { sessions, rss: 1, ..Stats::default() };
        assert_eq!(links.stats(1, of(5)), Some(Report::Stats(of(5))));
        assert_eq!(links.stats(2, of(7)), Some(Report::Stats(of(12))));
        assert_eq!(links.stats(1, of(4)), Some(Report::Stats(of(11))));
        assert_eq!(links.stats(1, of(u64::MAX)), Some(Report::Stats(of(u64::MAX))));
        assert_eq!(links.stats(9, of(1)), None);
        links.close(1);
        assert_eq!(links.stats(2, of(7)), Some(Report::Stats(of(7))));
    }

    #[test]
    fn paths_of_engine_io_are_bounded() {
        let mut links = Links::default();
        links.joins(1, 100).unwrap();
        let many = |count| (0..count).map(|n| format!("/{n}/")).collect::<Vec<_>>();
        assert!(links.engine(1, many(64), None).is_ok());
        let long = |bytes: usize| vec![format!("/{}", "x".repeat(bytes - 1))];
        assert!(links.engine(1, long(1024), None).is_ok());
        for bad in [many(65), long(1025), vec![String::new()], vec!["socket.io/".to_owned()]] {
            assert!(links.engine(1, bad, None).is_err());
        }
    }

    #[test]
    fn connections_are_bounded() {
        let mut links = Links::default();
        for n in 0..Links::MOST as u64 {
            links.joins(n, n as u32).unwrap();
        }
        assert!(links.joins(99, 99).is_err());
        assert!(links.joins(99, 3).is_ok());
    }
}
