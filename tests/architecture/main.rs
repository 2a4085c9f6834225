//! Holds the structure of `docs/architecture.md`:
//!
//! - [`layers`]: a module imports from lower layers only, and no circle joins modules;
//! - [`files`]: no circle joins the files of a module;
//! - [`forbid`]: a module that needs no `unsafe` forbids it;
//! - [`page`]: what the page names is there, and its maps have every file.
//!
//! A module is one right below the crate's root. A new one fails the test until it has a layer.

mod files;
mod forbid;
mod layers;
mod page;
mod source;

use files::{CIRCLES_ALLOWED, Crate, PARENTS_ALLOWED};
use source::Source;
use std::sync::LazyLock;

static SOURCES: LazyLock<Result<Vec<Source>, String>> = LazyLock::new(source::all);

#[test]
fn modules_import_from_lower_layers_only() {
    let sources = SOURCES.as_ref().unwrap();
    assert!(sources.len() >= 10, "only {} files read", sources.len());
    let mut all = Vec::new();
    for source in sources {
        let file = &source.file;
        let module = file.split(['/', '.']).next().unwrap();
        assert!(layers::layer(module).is_some(), "src/{file}: give the module {module} a layer in LAYERS");
        all.extend(layers::imports(source).unwrap());
    }
    let across = all.iter().filter(|import| import.from != import.to).count();
    assert!(across >= 5, "only {across} imports between modules read: does this test still see them?");
    let faults = layers::faults(&all);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// A test for each module that has several files.
macro_rules! no_circle_of_files_in {
    ($($module:ident)*) => {
        const CHECKED: &[&str] = &[$(stringify!($module)),*];

        mod no_circle_of_files_in {
            $(#[test]
            fn $module() {
                super::assert_no_circle_of_files(stringify!($module));
            })*
        }
    };
}

no_circle_of_files_in! { admin config fleet gateway handoff pool process server supervisor tls }

fn assert_no_circle_of_files(module: &str) {
    let sources = SOURCES.as_ref().unwrap_or_else(|e| panic!("{e}"));
    let graph = Crate::of(sources).graph(module);
    assert!(graph.values().any(|imports| !imports.is_empty()), "no import read: does this test still see them?");
    let inside = |file: &str| source::module_of(file)[0] == module;
    let parents: Vec<_> = PARENTS_ALLOWED.iter().map(|(file, _)| *file).filter(|file| inside(file)).collect();
    let allowed: Vec<_> = CIRCLES_ALLOWED.iter().map(|(files, _)| *files).filter(|files| inside(files[0])).collect();
    let faults = files::faults(&graph, &parents, &allowed);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n\n"));
}

#[test]
fn every_module_of_several_files_is_looked_into_for_circles() {
    for Source { file, .. } in SOURCES.as_ref().unwrap() {
        if let Some((module, _)) = file.split_once('/') {
            assert!(CHECKED.contains(&module), "src/{file}: name {module} in no_circle_of_files_in!");
        }
    }
}

#[test]
fn modules_without_unsafe_forbid_it() {
    let faults = forbid::faults(SOURCES.as_ref().unwrap());
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn what_the_page_names_is_there() {
    let (names, dead) = page::Page::read().unwrap().dead_names();
    assert!(names >= 100, "only {names} names read: does this test still see them?");
    assert!(dead.is_empty(), "\n{}\n", dead.join("\n"));
}

#[test]
fn the_maps_of_the_page_have_every_file() {
    let unnamed = page::Page::read().unwrap().unnamed();
    assert!(unnamed.is_empty(), "\n{}\n", unnamed.join("\n"));
}

/// Prints who imports whom in a module, and its circles:
/// `MODULE=pool cargo test --test architecture -- --nocapture --ignored print_imports`
#[test]
#[ignore = "prints, and asserts nothing"]
fn print_imports() {
    let module = std::env::var("MODULE").unwrap_or_else(|_| "gateway".to_owned());
    let graph = Crate::of(SOURCES.as_ref().unwrap()).graph(&module);
    println!("{}", files::print(&graph, None));
    for circle in files::circles(&graph) {
        println!("\na circle of {} files: {}", circle.len(), circle.join(", "));
        println!("{}", files::print(&graph, Some(&circle)));
    }
}
