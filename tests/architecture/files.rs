//! No circle joins the files of a module, but for those listed here.
//!
//! A file imports the file that *defines* what it names, whatever re-exports lie between. Neither `mod x;` nor a
//! re-export is an import: a `mod.rs` that defines nothing is in no circle. What only tests compile is left out.
//! Calls of methods are not seen.

use crate::source::{self, Contents, Role, Source, Written};
use std::collections::{BTreeMap, BTreeSet};

/// Circles that stand for now, each with the reason. One that has gone must leave the list.
pub(crate) const CIRCLES_ALLOWED: &[(&[&str], &str)] = &[];

/// Files that define what their children use, and use their children: they are left out, so that circles among the
/// others show. One that is in no circle any more must leave the list.
pub(crate) const PARENTS_ALLOWED: &[(&str, &str)] = &[];

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
pub(crate) struct Crate {
    modules: BTreeMap<Vec<String>, Module>,
    contents: Vec<(String, Contents)>,
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

impl Crate {
    /// # Errors
    /// A file is not Rust.
    pub(crate) fn read(sources: &[Source]) -> Result<Crate, String> {
        let mut all = Crate::default();
        for Source { file, text } in sources.iter().filter(|source| source.file != "main.rs") {
            all.contents.push((file.clone(), source::read(file, text)?));
        }
        let declared = all.contents.iter().flat_map(|(_, contents)| &contents.modules);
        let tests: Vec<_> = declared.filter(|declared| declared.test).map(|declared| declared.module.clone()).collect();
        all.contents.retain(|(file, _)| !tests.iter().any(|test| source::module_of(file).starts_with(test)));
        for (file, contents) in &all.contents {
            let own = [source::module_of(file)];
            let inline = contents.modules.iter().filter(|declared| declared.inline).map(|declared| &declared.module);
            for module in own.iter().chain(inline) {
                all.modules.entry(module.clone()).or_default().file.clone_from(file);
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
        Ok(all)
    }

    /// The imports between the files of a module right below the root.
    pub(crate) fn graph(&self, module: &str) -> Graph {
        let inside = |file: &str| source::module_of(file).first().is_some_and(|first| first == module);
        let mut graph = Graph::new();
        for (file, contents) in self.contents.iter().filter(|(file, _)| inside(file)) {
            let imports = graph.entry(file.clone()).or_default();
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
                    // A macro has made it, or it is there for tests only.
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
