//! No circle joins the files of a module, but for those listed here.
//!
//! A file imports the file that *defines* what it names, whatever re-exports lie between. Neither `mod x;` nor a
//! re-export is an import: a `mod.rs` that defines nothing is in no circle. What only tests compile is left out.
//! Calls of methods are not seen.

use crate::source::{self, Contents, Role, Source, Written};
use std::collections::{BTreeMap, BTreeSet};

/// Circles that stand for now, each with the reason. One that has gone must leave the list.
pub(crate) const CIRCLES_ALLOWED: &[(&[&str], &str)] = &[];

/// Files that define what their children use, and use their children, each with what they define. They are left out,
/// so that circles among the others show. One that is in no circle any more must leave the list.
pub(crate) const PARENTS_ALLOWED: &[(&str, &str)] = &[
    ("admin/mod.rs", "the trait that stands for the rest of the proxy"),
    ("config/mod.rs", "the types of the configuration; a child decodes each part"),
    ("config/yaml/mod.rs", "the type of a problem"),
    ("fleet/mod.rs", "the type Fleet; its rules are methods in a file for each topic"),
    ("pool/mod.rs", "the types Pool and Member"),
    ("process/output/mod.rs", "the streams of a worker"),
    ("process/runtime_dir.rs", "the type of an app's directory"),
    ("server.rs", "how an app is wired, for the start and for a reload"),
];

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Item {
        file: String,
        name: String,
    },
    Module(Vec<String>),
    /// Another crate, or what the compiler brings along.
    Outside,
}

/// The modules of the crate and what is in them.
#[derive(Default)]
pub(crate) struct Crate<'a> {
    modules: BTreeMap<Vec<String>, Module>,
    /// Of all files but those for tests only.
    contents: Vec<(&'a str, &'a Contents)>,
}

#[derive(Default)]
struct Module {
    file: String,
    items: BTreeSet<String>,
    /// Names that `use` brings, those in functions last, each with its path.
    uses: Vec<(String, Vec<String>)>,
}

/// Who imports whom, by files: the items, with the line of the first path.
pub(crate) type Graph = BTreeMap<String, BTreeMap<String, BTreeMap<String, usize>>>;

impl<'a> Crate<'a> {
    pub(crate) fn of(sources: &'a [Source]) -> Crate<'a> {
        let mut all = Crate::default();
        let library = sources.iter().filter(|source| source.file != "main.rs");
        all.contents = library.map(|source| (source.file.as_str(), &source.contents)).collect();
        let declared = all.contents.iter().flat_map(|(_, contents)| &contents.modules);
        let tests: Vec<_> = declared.filter(|declared| declared.test).map(|declared| declared.module.clone()).collect();
        all.contents.retain(|(file, _)| !tests.iter().any(|test| source::module_of(file).starts_with(test)));
        for (file, contents) in &all.contents {
            let own = [source::module_of(file)];
            let inline = contents.modules.iter().filter(|declared| declared.inline).map(|declared| &declared.module);
            for module in own.iter().chain(inline) {
                for outer in 0..module.len() {
                    all.modules.entry(module[..outer].to_vec()).or_default();
                }
                all.modules.entry(module.clone()).or_default().file = (*file).to_owned();
            }
            for (module, name) in &contents.items {
                all.modules.entry(module.clone()).or_default().items.insert(name.clone());
            }
            for function in [false, true] {
                for written in &contents.paths {
                    if let Role::Use { name, in_function, .. } = &written.role
                        && *in_function == function
                    {
                        let uses = &mut all.modules.entry(written.module.clone()).or_default().uses;
                        uses.push((name.clone(), written.parts.clone()));
                    }
                }
            }
        }
        all
    }

    /// The imports between the files of a module right below the root.
    pub(crate) fn graph(&self, module: &str) -> Graph {
        let inside = |file: &str| source::module_of(file).first().is_some_and(|first| first == module);
        let mut graph = Graph::new();
        for (file, contents) in self.contents.iter().filter(|(file, _)| inside(file)) {
            let imports = graph.entry((*file).to_owned()).or_default();
            for written in contents.paths.iter().filter(|written| !written.test) {
                if let Some((to, item)) = self.imported(written).filter(|(to, _)| inside(to) && to != file) {
                    imports.entry(to).or_default().entry(item).or_insert(written.line);
                }
            }
        }
        graph
    }

    /// The file that this path imports, and the item.
    fn imported(&self, written: &Written) -> Option<(String, String)> {
        if matches!(written.role, Role::Use { re_export: true, .. }) {
            return None;
        }
        match self.resolve(&written.module, &written.parts, &mut BTreeSet::new()) {
            Target::Item { file, name } => Some((file, name)),
            Target::Module(_) | Target::Outside => None,
        }
    }

    /// `seen` are the names that are being looked up: some lead to themselves, such as that of `use log;`.
    fn resolve(&self, from: &[String], path: &[String], seen: &mut BTreeSet<(Vec<String>, String)>) -> Target {
        let mut at = from.to_vec();
        let rooted = matches!(path.first().map(String::as_str), Some("crate" | "super" | "self"));
        for (i, part) in path.iter().enumerate() {
            match part.as_str() {
                "crate" => at.clear(),
                "super" => drop(at.pop()),
                "self" | "*" => {}
                name => match self.look_up(&at, name, i + 1 == path.len(), seen) {
                    Some(Target::Module(module)) => at = module,
                    Some(found) => return found,
                    // A macro has made it.
                    None if rooted => return self.item(&at, name).unwrap_or(Target::Outside),
                    None => return Target::Outside,
                },
            }
        }
        Target::Module(at)
    }

    fn item(&self, module: &[String], name: &str) -> Option<Target> {
        self.modules.get(module).map(|module| Target::Item { file: module.file.clone(), name: name.to_owned() })
    }

    /// What a name means in a module. An item and a module may share a name: the last part of a path is the item.
    fn look_up(
        &self,
        at: &[String],
        name: &str,
        last: bool,
        seen: &mut BTreeSet<(Vec<String>, String)>,
    ) -> Option<Target> {
        let module = self.modules.get(at)?;
        let child: Vec<String> = at.iter().cloned().chain([name.to_owned()]).collect();
        let child = self.modules.contains_key(&child).then_some(Target::Module(child));
        if child.is_some() && !last {
            return child;
        }
        if module.items.contains(name) {
            return self.item(at, name);
        }
        if !seen.insert((at.to_vec(), name.to_owned())) {
            return child;
        }
        let named = module.uses.iter().filter(|(used, _)| used == name);
        let mut named: Vec<Target> = named.map(|(_, path)| self.resolve(at, path, seen)).collect();
        if last {
            // The child's name re-exported, `pub use spawn::spawn`, before the child itself.
            named.sort_by_key(|target| !matches!(target, Target::Item { .. }));
        }
        let globs = module.uses.iter().filter(|(used, _)| used == "*");
        let found = named.into_iter().next().or(child).or_else(|| {
            globs.map(|(_, path)| self.resolve(at, path, seen)).collect::<Vec<_>>().into_iter().find_map(|target| {
                let Target::Module(module) = target else { return None };
                self.look_up(&module, name, last, seen).filter(|found| *found != Target::Outside)
            })
        });
        seen.remove(&(at.to_vec(), name.to_owned()));
        found
    }
}

/// What breaks the rule, one text each.
pub(crate) fn faults(graph: &Graph, parents: &[&str], allowed: &[&[&str]]) -> Vec<String> {
    let mut faults = Vec::new();
    let all = circles(graph);
    for parent in parents.iter().filter(|parent| !all.iter().flatten().any(|file| file == *parent)) {
        faults.push(format!("src/{parent} is in no circle any more: take it out of PARENTS_ALLOWED"));
    }
    let mut without = graph.clone();
    without.retain(|file, _| !parents.contains(&file.as_str()));
    let found = circles(&without);
    for circle in found.iter().filter(|circle| !allowed.iter().any(|allowed| *allowed == circle.as_slice())) {
        let imports = print(&without, Some(circle));
        faults.push(format!("a circle of {} files: {}\n{imports}", circle.len(), circle.join(", ")));
    }
    for allowed in allowed.iter().filter(|allowed| !found.iter().any(|circle| circle.as_slice() == **allowed)) {
        faults.push(format!("no such circle any more: take it out of CIRCLES_ALLOWED: {}", allowed.join(", ")));
    }
    faults
}

/// The circles: the files of each, in order.
pub(crate) fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> = graph.keys().map(|file| (file, reached(graph, file))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (file, there) in reach.iter().filter(|(file, there)| there.contains(**file)) {
        let circle = there.iter().filter(|other| reach.get(*other).is_some_and(|back| back.contains(file)));
        found.insert(circle.map(|file| (*file).clone()).collect());
    }
    found.into_iter().collect()
}

/// The files that this one imports, and those that they import, and so on.
fn reached<'a>(graph: &'a Graph, file: &'a String) -> BTreeSet<&'a String> {
    let mut found = BTreeSet::new();
    let mut open = vec![file];
    while let Some(file) = open.pop() {
        for next in graph.get(file).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(next) {
                open.push(next);
            }
        }
    }
    found
}

/// The imports between these files, or all, a line for each pair.
pub(crate) fn print(graph: &Graph, only: Option<&[String]>) -> String {
    let listed = |file: &String| only.is_none_or(|only| only.contains(file));
    let mut lines = Vec::new();
    for (from, imports) in graph.iter().filter(|(from, _)| listed(from)) {
        if only.is_none() {
            lines.push(from.clone());
        }
        for (to, items) in imports.iter().filter(|(to, _)| listed(to)) {
            let mut items: Vec<_> = items.iter().map(|(item, line)| (line, item)).collect();
            items.sort();
            let items: Vec<String> = items.iter().map(|(line, item)| format!("{item} :{line}")).collect();
            let from = if only.is_none() { "" } else { from.as_str() };
            lines.push(format!("    {from} -> {to}    {}", items.join(", ")));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod planted {
    use super::*;

    fn graph_of(files: &[(&str, &str)]) -> Graph {
        let sources: Vec<_> = files.iter().map(|(file, text)| Source::read(file, text).unwrap()).collect();
        Crate::of(&sources).graph("pool")
    }

    fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
        let found = circles(&graph_of(files));
        found.iter().map(|circle| circle.join(" ")).collect()
    }

    /// Whom `pool/a.rs` imports, when these stand beside it.
    fn imports_of_a(text: &str) -> Vec<String> {
        let files = [
            (
                "pool/mod.rs",
                "mod a; mod b; pub(crate) mod c; pub(crate) use b::{B, b}; use std::time::Duration; fn own() {}",
            ),
            ("pool/a.rs", text),
            ("pool/b.rs", "pub(super) struct B; pub(super) fn b() {} pub(super) const LIMIT: u8 = 0;"),
            (
                "pool/c/mod.rs",
                "mod d; pub(super) use d::{D, E as Renamed}; pub(super) use super::b::LIMIT; pub(super) mod inner { pub(crate) struct I; }",
            ),
            ("pool/c/d.rs", "pub(crate) struct D; pub(crate) enum E { One }"),
        ];
        let graph = graph_of(&files);
        let imports = graph["pool/a.rs"].iter();
        imports.flat_map(|(to, items)| items.keys().map(move |item| format!("{to} {item}"))).collect()
    }

    #[test]
    fn a_circle_of_two_and_of_three_files_fails() {
        let two = [("pool/a.rs", "use super::b::B; struct A;"), ("pool/b.rs", "struct B(super::a::A);")];
        assert_eq!(circles_of(&two), ["pool/a.rs pool/b.rs"]);
        let told = faults(&graph_of(&two), &[], &[]);
        let lines = "    pool/a.rs -> pool/b.rs    B :1\n    pool/b.rs -> pool/a.rs    A :1";
        assert_eq!(told, [format!("a circle of 2 files: pool/a.rs, pool/b.rs\n{lines}")]);
        let three = [
            ("pool/mod.rs", "mod a; mod b; mod c;"),
            ("pool/a.rs", "struct A; impl A { fn f(&self) -> super::b::B { todo!() } }"),
            ("pool/b.rs", "struct B; fn f() { m!(crate::pool::c::C) }"),
            ("pool/c.rs", "struct C; impl From<C> for self::super::a::A {}"),
            ("pool/d.rs", "use super::a::A; struct D;"),
        ];
        assert_eq!(circles_of(&three), ["pool/a.rs pool/b.rs pool/c.rs"]);
    }

    #[test]
    fn a_parent_that_only_re_exports_is_in_no_circle() {
        let parent = ("pool/mod.rs", "mod a; mod b; pub(crate) use a::A; pub(crate) use b::*;");
        assert_eq!(
            circles_of(&[parent, ("pool/a.rs", "use super::B; struct A;"), ("pool/b.rs", "struct B;")]),
            [""; 0]
        );
        // A circle through its re-exports is one of its children.
        let files = [parent, ("pool/a.rs", "use super::B; struct A;"), ("pool/b.rs", "use crate::pool::A; struct B;")];
        assert_eq!(circles_of(&files), ["pool/a.rs pool/b.rs"]);
    }

    #[test]
    fn a_parent_that_defines_what_its_child_uses_and_uses_the_child_is_a_circle_unless_listed() {
        let files =
            [("pool/mod.rs", "mod a; use a::A; struct Pool(A);"), ("pool/a.rs", "struct A; impl super::Pool {}")];
        assert_eq!(circles_of(&files), ["pool/a.rs pool/mod.rs"]);
        assert_eq!(faults(&graph_of(&files), &["pool/mod.rs"], &[]), [""; 0]);
        let re_exported = [("pool/mod.rs", "mod a; pub(crate) use a::A; struct Pool(A);"), files[1]];
        assert_eq!(circles_of(&re_exported), ["pool/a.rs pool/mod.rs"]);
    }

    #[test]
    fn a_listed_circle_must_be_there_exactly() {
        let graph = graph_of(&[("pool/a.rs", "use super::b::B; struct A;"), ("pool/b.rs", "struct B(super::a::A);")]);
        assert_eq!(faults(&graph, &[], &[&["pool/a.rs", "pool/b.rs"]]), [""; 0]);
        let told = faults(&graph, &[], &[&["pool/a.rs", "pool/b.rs"], &["pool/b.rs", "pool/c.rs"]]);
        assert_eq!(told, ["no such circle any more: take it out of CIRCLES_ALLOWED: pool/b.rs, pool/c.rs"]);
        assert_eq!(faults(&graph, &[], &[&["pool/a.rs", "pool/b.rs", "pool/c.rs"]]).len(), 2);
        let straight = graph_of(&[("pool/mod.rs", "use a::A;"), ("pool/a.rs", "struct A;")]);
        let told = faults(&straight, &["pool/mod.rs"], &[]);
        assert_eq!(told, ["src/pool/mod.rs is in no circle any more: take it out of PARENTS_ALLOWED"]);
    }

    #[test]
    fn an_import_leads_to_the_file_that_defines_the_item() {
        assert_eq!(imports_of_a("use super::b; fn f() { b::b(); super::b::b() }"), ["pool/b.rs b"]);
        assert_eq!(imports_of_a("use super::B;"), ["pool/b.rs B"]);
        assert_eq!(
            imports_of_a("use super::c::{D as X, Renamed, LIMIT};"),
            ["pool/b.rs LIMIT", "pool/c/d.rs D", "pool/c/d.rs E"]
        );
        assert_eq!(imports_of_a("use super::c; fn f() { c::Renamed::One; }"), ["pool/c/d.rs E"]);
        assert_eq!(imports_of_a("use crate::pool::c::inner::I;"), ["pool/c/mod.rs I"]);
        assert_eq!(
            imports_of_a("mod x { use super::super::own; use super::super::c::D; }"),
            ["pool/c/d.rs D", "pool/mod.rs own"]
        );
        // A glob counts by the names that are used through it.
        assert_eq!(imports_of_a("use super::*; fn f(_: B, _: Duration) -> u8 { x.own }"), ["pool/b.rs B"]);
        assert_eq!(imports_of_a("fn f() { use super::c::*; m!(\"{}\", D) }"), ["pool/c/d.rs D"]);
        // What no file is seen to define, a macro may have made.
        assert_eq!(imports_of_a("use super::b::made_by_a_macro;"), ["pool/b.rs made_by_a_macro"]);
    }

    #[test]
    fn modules_other_crates_and_tests_are_no_imports() {
        assert_eq!(imports_of_a("use super::c; use super::c::inner; use super::*;"), [""; 0]);
        assert_eq!(
            imports_of_a("use log; use std::b::B; use ::pool::b::B; use super::Duration; fn f() { log::b!() }"),
            [""; 0]
        );
        assert_eq!(imports_of_a("pub(in crate::pool) struct A; impl A { fn b(&self) { self.b() } }"), [""; 0]);
        let tests = "#[cfg(test)] use super::B; #[cfg(test)] mod tests { use super::super::B; }
            struct A { #[cfg(test)] b: super::B }
            impl A { #[cfg(test)] fn f() { super::b::b() } fn g() { #[cfg(test)] if super::b::b() {} } }";
        assert_eq!(imports_of_a(tests), [""; 0]);
        assert_eq!(imports_of_a(&tests.replace("cfg(test)", "cfg(debug_assertions)")).len(), 2);
        let files = [
            ("pool/mod.rs", "mod a; #[cfg(test)] mod tests;"),
            ("pool/a.rs", "struct A;"),
            ("pool/tests/mod.rs", "mod more; use super::a::A; struct T;"),
            ("pool/tests/more.rs", "use super::T; struct M;"),
        ];
        assert_eq!(graph_of(&files).into_keys().collect::<Vec<_>>(), ["pool/a.rs", "pool/mod.rs"]);
    }
}
