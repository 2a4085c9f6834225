//! Which route serves a request: a map from the host to the paths of that host, so that a table of thousands costs what
//! one of a few does.
//!
//! The most specific route wins, whatever its place in the file:
//!
//! | | first | then | last |
//! |---|---|---|---|
//! | host | the name itself | `*.` and a name, the longest first | any |
//! | path | the whole path | patterns, in the order of the file | prefixes, the longest first |
//! | else | with a method | with more headers | in the order of the file |
//!
//! A route whose method or headers do not fit leaves the request to the next one, as a host without a fitting path does.

use super::path;
use super::plan::HeaderSource;
use super::route::{HeaderRule, HeaderValue, PathRule, Route};
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use std::collections::HashMap;

/// Longest name of a host, in bytes; no route has a longer one.
const LONGEST_HOST: usize = 253;
/// Bytes that the patterns of one host may need when they are compiled.
const PATTERN_BYTES: usize = 4 << 20;

/// What is asked about a request.
#[derive(Clone, Copy)]
pub(in crate::gateway) struct Asked<'a, H> {
    /// With or without a port.
    pub(in crate::gateway) host: &'a [u8],
    /// Of any form.
    pub(in crate::gateway) target: &'a [u8],
    pub(in crate::gateway) method: &'a [u8],
    pub(in crate::gateway) headers: H,
}

/// A path that leads to one route as it stands, and to another as some servers read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Ambiguous;

/// The routing table.
#[derive(Debug)]
pub(crate) struct Routes {
    all: Vec<Route>,
    /// The first takes everything: nothing has to be looked at.
    is_single: bool,
    exact: HashMap<Box<[u8]>, Host>,
    /// By what follows the `*`, with its dot.
    wildcards: HashMap<Box<[u8]>, Host>,
    /// Most labels in one of these.
    most_labels: usize,
    any: Host,
    is_strict: bool,
}

/// The routes of one host, by their place in `Routes::all`.
#[derive(Debug, Default)]
struct Host {
    exact: HashMap<Box<[u8]>, Vec<usize>>,
    patterns: Option<RegexSet>,
    /// One for each of the patterns.
    by_pattern: Vec<usize>,
    /// Without a slash at the end.
    prefixes: HashMap<Box<[u8]>, Vec<usize>>,
    /// Most segments of a prefix.
    depth: usize,
}

/// Checks a pattern as the table compiles it.
///
/// # Errors
/// What is wrong with it, in one line.
pub(crate) fn check_pattern(pattern: &str) -> Result<(), String> {
    let compiled: Result<Regex, _> = RegexBuilder::new(pattern).unicode(false).size_limit(PATTERN_BYTES).build();
    match compiled {
        Ok(_) => Ok(()),
        // The last line says why, those before it show where.
        Err(error) => {
            Err(error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned())
        }
    }
}

impl Routes {
    /// `is_strict`: a path that can be read in several ways is refused where that decides.
    pub(crate) fn new(mut routes: Vec<Route>, is_strict: bool) -> Routes {
        routes.iter_mut().for_each(|route| route.name = route.described());
        let is_single = matches!(routes.as_slice(), [only] if takes_everything(only));
        let mut table = Routes {
            all: routes,
            is_single,
            exact: HashMap::new(),
            wildcards: HashMap::new(),
            most_labels: 0,
            any: Host::default(),
            is_strict,
        };
        let mut order: Vec<usize> = (0..table.all.len()).collect();
        let rank = |at: &usize| (table.all[*at].methods.is_empty(), usize::MAX - table.all[*at].headers.len());
        order.sort_by_key(rank);
        for at in order {
            let host = match table.all[at].host.as_deref() {
                None => &mut table.any,
                Some(name) => match name.strip_prefix('*') {
                    Some(suffix) => {
                        table.most_labels = table.most_labels.max(suffix.matches('.').count());
                        table.wildcards.entry(suffix.as_bytes().into()).or_default()
                    }
                    None => table.exact.entry(name.as_bytes().into()).or_default(),
                },
            };
            host.add(at, &table.all[at].path);
        }
        let all = &table.all;
        let hosts = table.exact.values_mut().chain(table.wildcards.values_mut()).chain([&mut table.any]);
        hosts.for_each(|host| host.compile(all));
        table
    }

    pub(in crate::gateway) fn get(&self, at: usize) -> &Route {
        &self.all[at]
    }

    /// The place of the route for a request.
    ///
    /// # Errors
    /// Another server may read the path so that another route is meant.
    pub(in crate::gateway) fn find<'a, H: HeaderSource<'a> + Copy>(
        &self,
        asked: &Asked<'a, H>,
    ) -> Result<Option<usize>, Ambiguous> {
        if self.is_single {
            return Ok(Some(0));
        }
        let mut folded = [0; LONGEST_HOST];
        let host = folded_host(asked.host, &mut folded);
        let path = path::path_of(asked.target);
        let mut looks = 0;
        let found = self.look(host, &path::normal(path), asked, &mut looks);
        if self.is_strict {
            for reading in path::readings(path) {
                let other = self.look(host, &reading, asked, &mut looks);
                let is_same = match (found, other) {
                    (Some(found), Some(other)) => found == other || self.all[found].does_the_same(&self.all[other]),
                    (found, other) => found == other,
                };
                if !is_same {
                    return Err(Ambiguous);
                }
            }
        }
        Ok(found)
    }

    /// `looks` counts what was looked up or compared.
    fn look<'a, H: HeaderSource<'a> + Copy>(
        &self,
        host: &[u8],
        path: &[u8],
        asked: &Asked<'a, H>,
        looks: &mut usize,
    ) -> Option<usize> {
        let in_host = |host: &Host, looks: &mut usize| host.look(&self.all, path, asked, looks);
        if !self.exact.is_empty() {
            *looks += 1;
            if let Some(found) = self.exact.get(host).and_then(|host| in_host(host, looks)) {
                return Some(found);
            }
        }
        if self.most_labels > 0 {
            // At least one character stands for the `*`.
            let dots = memchr::memchr_iter(b'.', host).count();
            let suffixes = memchr::memchr_iter(b'.', host).enumerate().filter(|(_, at)| *at > 0);
            for (nth, at) in suffixes {
                if dots - nth > self.most_labels {
                    continue;
                }
                *looks += 1;
                if let Some(found) = self.wildcards.get(&host[at..]).and_then(|host| in_host(host, looks)) {
                    return Some(found);
                }
            }
        }
        in_host(&self.any, looks)
    }
}

impl Host {
    fn add(&mut self, at: usize, rule: &PathRule) {
        match rule {
            PathRule::Exact(path) => self.exact.entry(key(path)).or_default().push(at),
            PathRule::Pattern(_) => self.by_pattern.push(at),
            PathRule::Prefix(path) => {
                let path = key(path.trim_end_matches('/'));
                self.depth = self.depth.max(path.iter().filter(|b| **b == b'/').count());
                self.prefixes.entry(path).or_default().push(at);
            }
        }
    }

    fn compile(&mut self, all: &[Route]) {
        // These keep the order of the file, whatever else they ask for.
        self.by_pattern.sort_unstable();
        let patterns = self.by_pattern.iter().filter_map(|at| match &all[*at].path {
            PathRule::Pattern(pattern) => Some(pattern.as_str()),
            _ => None,
        });
        if self.by_pattern.is_empty() {
            return;
        }
        match RegexSetBuilder::new(patterns).unicode(false).size_limit(PATTERN_BYTES).build() {
            Ok(set) => self.patterns = Some(set),
            // Each was checked, but not all of them together.
            Err(error) => log::error!("the patterns of a host's routes cannot be used: {error}"),
        }
    }

    fn look<'a, H: HeaderSource<'a> + Copy>(
        &self,
        all: &[Route],
        path: &[u8],
        asked: &Asked<'a, H>,
        looks: &mut usize,
    ) -> Option<usize> {
        let first_that_fits = |candidates: &[usize], looks: &mut usize| {
            candidates.iter().copied().find(|at| {
                *looks += 1;
                fits(&all[*at], asked)
            })
        };
        if !self.exact.is_empty() {
            *looks += 1;
            if let Some(found) = self.exact.get(path).and_then(|candidates| first_that_fits(candidates, looks)) {
                return Some(found);
            }
        }
        if let Some(patterns) = &self.patterns {
            *looks += 1;
            let matched = patterns.matches(path);
            if let Some(found) =
                matched.iter().filter_map(|nth| first_that_fits(&[*self.by_pattern.get(nth)?], looks)).next()
            {
                return Some(found);
            }
        }
        if self.prefixes.is_empty() {
            return None;
        }
        // A prefix ends before a slash or with the path; those deeper than the deepest route need no look.
        let ends = memchr::memchr_iter(b'/', path).skip(1).nth(self.depth).unwrap_or(path.len());
        let mut prefix = path[..ends].strip_suffix(b"/").unwrap_or(&path[..ends]);
        loop {
            *looks += 1;
            if let Some(found) = self.prefixes.get(prefix).and_then(|candidates| first_that_fits(candidates, looks)) {
                return Some(found);
            }
            prefix = &prefix[..memchr::memrchr(b'/', prefix)?];
        }
    }
}

/// A route's path as requests' paths are looked up.
fn key(path: &str) -> Box<[u8]> {
    if path.is_empty() { Box::default() } else { path::normal(path.as_bytes()).into() }
}

fn takes_everything(route: &Route) -> bool {
    let everywhere = matches!(&route.path, PathRule::Prefix(path) if path == "/");
    route.host.is_none() && everywhere && route.methods.is_empty() && route.headers.is_empty()
}

fn fits<'a, H: HeaderSource<'a> + Copy>(route: &Route, asked: &Asked<'a, H>) -> bool {
    let method = |wanted: &String| wanted.as_bytes() == asked.method || (wanted == "GET" && asked.method == b"HEAD");
    (route.methods.is_empty() || route.methods.iter().any(method))
        && route.headers.iter().all(|rule| header_fits(rule, asked.headers))
}

fn header_fits<'a>(rule: &HeaderRule, headers: impl HeaderSource<'a>) -> bool {
    match (&rule.value, headers.first(&rule.name)) {
        (HeaderValue::Is(wanted), Some(value)) => wanted.as_bytes() == value,
        (HeaderValue::Present, Some(_)) | (HeaderValue::Absent, None) => true,
        _ => false,
    }
}

/// In small letters and without its port; nothing where it is longer than any name.
fn folded_host<'b>(host: &[u8], buffer: &'b mut [u8; LONGEST_HOST]) -> &'b [u8] {
    let host = without_port(host);
    match buffer.get_mut(..host.len()) {
        Some(folded) => {
            folded.copy_from_slice(host);
            folded.make_ascii_lowercase();
            folded
        }
        None => b"",
    }
}

pub(in crate::gateway) fn without_port(host: &[u8]) -> &[u8] {
    // An IPv6 literal keeps its colons inside the brackets.
    let from = memchr::memrchr(b']', host).unwrap_or(0);
    let end = memchr::memchr(b':', &host[from..]).map_or(host.len(), |at| from + at);
    // A fully qualified name may end in a dot.
    host[..end].strip_suffix(b".").unwrap_or(&host[..end])
}

#[cfg(test)]
mod tests;
