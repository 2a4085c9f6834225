//! A module imports from lower layers only, never sideways, and no circle joins modules. Test modules are held
//! to it, too.

use crate::source::{self, Role, Source};
use std::collections::{BTreeMap, BTreeSet};

/// The layer of each module right below the crate's root.
const LAYERS: &[(&str, u8)] = &[
    ("worker", 1),
    ("fleet", 2),
    ("pool", 2),
    ("process", 2),
    ("tls", 2),
    ("config", 4),
    ("gateway", 3),
    ("supervisor", 3),
    ("handoff", 3),
    ("admin", 3),
    ("server", 5),
    ("lib", ROOT),
    ("main", ROOT),
];

/// The layer of the crate's root.
const ROOT: u8 = 6;

pub(crate) fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

fn is_module(name: &str) -> bool {
    layer(name).is_some_and(|layer| layer < ROOT)
}

/// One path in the source that leads somewhere in this crate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// `src/...` with its line.
    place: String,
    pub(crate) from: String,
    /// From the crate's root.
    path: String,
    /// The module it leads to; `lib` for what stands in the crate's root.
    pub(crate) to: String,
}

/// The paths of a file that begin with `crate`, `super` or `self`.
///
/// # Errors
/// A path climbs out of the crate.
pub(crate) fn imports(Source { file, contents }: &Source) -> Result<Vec<Import>, String> {
    let home = source::module_of(file);
    let from = home.first().cloned().unwrap_or_else(|| file.trim_end_matches(".rs").to_owned());
    let mut found = Vec::new();
    for written in &contents.paths {
        let leads_inside = matches!(written.parts[0].as_str(), "crate" | "super" | "self");
        if !leads_inside || (written.parts.len() == 1 && written.role == Role::Code) {
            continue;
        }
        let place = format!("src/{file}:{}", written.line);
        let path = from_root(&written.module, &written.parts)
            .ok_or_else(|| format!("{place}: `{}` leaves the crate", written.parts.join("::")))?;
        let to = path.first().filter(|name| is_module(name)).cloned().unwrap_or_else(|| "lib".to_owned());
        found.push(Import { place, from: from.clone(), path: path.join("::"), to });
    }
    Ok(found)
}

/// The path from the crate's root; `None` if it climbs above it.
fn from_root(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut at: Vec<String> = module.to_vec();
    for (i, part) in path.iter().enumerate() {
        match part.as_str() {
            "crate" if i == 0 => at.clear(),
            "super" => drop(at.pop()?),
            "self" => {}
            _ => at.push(part.clone()),
        }
    }
    Some(at)
}

/// What breaks the rules, one sentence each.
pub(crate) fn faults(imports: &[Import]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Import { place, from, path, to } in imports.iter().filter(|import| import.from != import.to) {
        graph.entry(from).or_default().insert(to);
        let (Some(own), Some(other)) = (layer(from), layer(to)) else { continue };
        if other > own {
            faults.push(format!("{place}: {from} (layer {own}) imports `{path}` from {to}, up on layer {other}"));
        } else if other == own && own < ROOT {
            faults.push(format!("{place}: {from} imports `{path}` from {to}, sideways on layer {own}"));
        }
    }
    let mut done = BTreeSet::new();
    for module in graph.keys() {
        if let Some(circle) = circle(&graph, module, &mut Vec::new(), &mut done) {
            faults.push(format!("a circle: {}", circle.join(" -> ")));
        }
    }
    faults
}

/// The first circle found from a module; `done` are the modules from which there is none.
fn circle<'a>(
    graph: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    module: &'a str,
    way: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<&'a str>> {
    if let Some(first) = way.iter().position(|seen| *seen == module) {
        return Some(way[first..].iter().copied().chain([module]).collect());
    }
    if done.contains(module) {
        return None;
    }
    way.push(module);
    let found = graph.get(module).into_iter().flatten().find_map(|next| circle(graph, next, way, done));
    way.pop();
    done.insert(module);
    found
}

#[cfg(test)]
mod planted {
    use super::*;

    fn imports(file: &str, text: &str) -> Result<Vec<Import>, String> {
        super::imports(&Source::read(file, text)?)
    }

    /// The modules and paths that a source leads to, other than its own module.
    fn led_to(file: &str, source: &str) -> Vec<String> {
        let all = imports(file, source).unwrap();
        all.into_iter().filter(|i| i.from != i.to).map(|i| format!("{} {}", i.to, i.path)).collect()
    }

    fn faults_of(files: &[(&str, &str)]) -> Vec<String> {
        let all: Vec<Import> = files.iter().flat_map(|(file, source)| imports(file, source).unwrap()).collect();
        faults(&all)
    }

    #[test]
    fn an_upward_import_fails() {
        let up = [("fleet/backoff.rs", "use std::fmt;\nuse crate::gateway::proxy::Proxy;\n")];
        let told =
            "src/fleet/backoff.rs:2: fleet (layer 2) imports `gateway::proxy::Proxy` from gateway, up on layer 3";
        assert_eq!(faults_of(&up), [told]);
        // From the layer below the composition root, from a root item, and out of a test module.
        assert_eq!(faults_of(&[("gateway/mod.rs", "fn f() { crate::server::run() }")]).len(), 1);
        assert_eq!(faults_of(&[("pool/mod.rs", "use crate::VERSION;")]).len(), 1);
        assert_eq!(faults_of(&[("pool/mod.rs", "use crate::*;")]).len(), 1);
        assert_eq!(faults_of(&[("pool/mod.rs", "#[cfg(test)] mod tests { use crate::config::Config; }")]).len(), 1);
    }

    #[test]
    fn a_sideways_import_fails() {
        let sideways = [("gateway/tunnel/mod.rs", "use crate::{worker::Slot, supervisor::{self, Probe}};")];
        let told = |path| {
            format!("src/gateway/tunnel/mod.rs:1: gateway imports `{path}` from supervisor, sideways on layer 3")
        };
        assert_eq!(faults_of(&sideways), [told("supervisor"), told("supervisor::Probe")]);
        assert_eq!(faults_of(&[("pool/lease.rs", "use super::super::fleet::policy::Policy;")]).len(), 1);
        assert_eq!(faults_of(&[("pool/mod.rs", "use super::process as p;")]).len(), 1);
    }

    #[test]
    fn a_circle_fails() {
        let files = [("pool/mod.rs", "use crate::fleet::A;"), ("fleet/mod.rs", "use crate::pool::B;")];
        let told = faults_of(&files);
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(told[2], "a circle: fleet -> pool -> fleet");
    }

    #[test]
    fn downward_and_own_imports_pass() {
        let files = [
            ("config/mod.rs", "use crate::{fleet::policy::Policy, pool::affinity::{Affinity, Balance}, worker::Slot};"),
            ("config/file.rs", "use super::{Config, super::pool::Pool};\npub(in crate::config) struct X;"),
            ("server.rs", "use crate::{config, gateway, supervisor};\nmod tests { use super::*; }"),
            ("main.rs", "fn main() { pingora_unix_proxy::server::main() }"),
            ("lib.rs", "pub use self::server::run;"),
        ];
        assert_eq!(faults_of(&files), [""; 0]);
    }

    #[test]
    fn every_form_of_path_is_read() {
        let forms = "use crate::{a, fleet::{self, policy::{Policy as P, *}}, r#pool::x,};";
        let read = ["lib a", "fleet fleet", "fleet fleet::policy::Policy", "fleet fleet::policy::*", "pool pool::x"];
        assert_eq!(led_to("worker.rs", forms), read);
        assert_eq!(led_to("worker.rs", "fn f<'a>(x: &'a crate::pool::Pool<'a>) -> u8 { b'{' }"), ["pool pool::Pool"]);
        assert_eq!(led_to("worker.rs", "fn f() { crate::fleet::f::<u8>(crate::pool::P { x: '\\'' }) }").len(), 2);
        assert_eq!(
            led_to("worker.rs", "mod a { mod b { use super::super::super::pool; } use super::super::fleet; }").len(),
            2
        );
        assert_eq!(led_to("worker.rs", "macro_rules! m { () => { $crate::pool::x() } }"), ["pool pool::x"]);
        assert_eq!(led_to("worker.rs", "use crate as c;"), ["lib "]);
        assert_eq!(led_to("worker.rs", "impl crate::pool::P for <u8 as crate::fleet::F>::G {}").len(), 2);
    }

    #[test]
    fn paths_among_the_tokens_of_a_macro_are_read() {
        let of = |tokens| led_to("worker.rs", &format!("fn f() {{ m!({tokens}) }}"));
        assert_eq!(
            of("\"{}\", crate::pool::x(self.a.b, 0..crate::fleet::LAST)"),
            ["pool pool::x", "fleet fleet::LAST"]
        );
        assert_eq!(of("use crate::{a, pool::{self, b::*}};"), ["lib a", "pool pool", "pool pool::b::*"]);
        assert_eq!(of("a::crate_::pool, ::crates::pool, 'super: x.self_::pool"), [""; 0]);
        assert_eq!(led_to("worker.rs", "#[derive(crate::pool::P)] struct A;"), ["pool pool::P"]);
    }

    #[test]
    fn comments_and_texts_are_not_read() {
        let quiet = r####"
            // crate::pool
            /* crate::pool /* nested */ crate::pool */
            //! [`crate::pool`]
            const A: &str = "crate::pool \" crate::pool";
            const B: &str = r#"crate::pool " crate::pool"#;
            const C: &[u8] = b"crate::pool\\";
            const D: char = '"';
            pub(crate) fn f() { some::crate_::pool() }
        "####;
        assert_eq!(led_to("worker.rs", quiet), [""; 0]);
        // And reading goes on behind them.
        assert_eq!(led_to("worker.rs", &format!("{quiet} use crate::pool::Pool;")), ["pool pool::Pool"]);
    }

    #[test]
    fn a_path_out_of_the_crate_is_told() {
        assert!(imports("pool/mod.rs", "use super::super::x;").is_err());
    }
}
