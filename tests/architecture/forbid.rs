//! A module that needs no `unsafe` forbids it: one right below the root, and one that has modules below it.

use crate::source::{self, Contents, Source};
use std::collections::BTreeMap;

/// What breaks the rule, one sentence each.
pub(crate) fn faults(sources: &[Source]) -> Vec<String> {
    let mut all: BTreeMap<Vec<String>, (&str, &Contents)> = BTreeMap::new();
    for Source { file, contents } in sources {
        let module = if file == "main.rs" { vec!["main".to_owned()] } else { source::module_of(file) };
        all.insert(module, (file, contents));
    }
    let below = |module: &[String]| all.iter().filter(move |(other, _)| other.starts_with(module)).collect::<Vec<_>>();
    let needs = |module: &[String]| below(module).iter().any(|(_, (_, contents))| contents.has_unsafe);
    let forbids = |module: &[String]| all.get(module).is_some_and(|(_, contents)| contents.forbids_unsafe);
    let mut faults = Vec::new();
    for (module, (file, _)) in &all {
        let is_large = module.len() <= 1 || below(module).len() > 1;
        // The outermost module that needs none speaks for those in it.
        let outermost = (0..module.len()).all(|outer| needs(&module[..outer]));
        if is_large && outermost && !needs(module) && !forbids(module) {
            faults.push(format!("src/{file}: no `unsafe` in it or below: put `#![forbid(unsafe_code)]` at its top"));
        }
    }
    faults
}

#[cfg(test)]
mod planted {
    use super::*;

    /// The files that should forbid it.
    fn faults_of(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = files.iter().map(|(file, text)| Source::read(file, text).unwrap()).collect();
        let told = faults(&sources);
        told.iter().map(|told| told.split(':').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_module_without_unsafe_must_forbid_it() {
        let root = ("lib.rs", "mod pool; mod process;");
        let process = ("process/mod.rs", "mod a; fn f() { unsafe { g() } }");
        let safe = "#![deny(missing_docs)]\n#![forbid(unsafe_code)]";
        assert_eq!(faults_of(&[root, process, ("pool/mod.rs", "// unsafe")]), ["src/pool/mod.rs"]);
        assert_eq!(faults_of(&[root, process, ("pool/mod.rs", safe), ("pool/a.rs", "")]), [""; 0]);
        assert_eq!(faults_of(&[root, process, ("worker.rs", ""), ("main.rs", "")]), ["src/main.rs", "src/worker.rs"]);
        // Under a module that needs it, those with modules of their own.
        let (output, control) = (("process/output/mod.rs", ""), ("process/control/mod.rs", safe));
        let files = [root, process, ("process/a.rs", ""), output, ("process/output/b.rs", ""), control];
        assert_eq!(faults_of(&files), ["src/process/output/mod.rs"]);
        // The whole crate.
        assert_eq!(faults_of(&[root, ("pool/mod.rs", "")]), ["src/lib.rs"]);
    }

    #[test]
    fn unsafe_is_seen_in_every_form() {
        let root = ("lib.rs", "fn f() { unsafe {} }");
        for form in [
            "unsafe fn f() {}",
            "unsafe impl A for B {}",
            "m! { a, { unsafe { b() } } }",
            "mod x { fn f() { unsafe {} } }",
        ] {
            assert_eq!(faults_of(&[root, ("pool/mod.rs", form)]), [""; 0], "{form}");
        }
        for form in ["const A: &str = \"unsafe\";", "/// unsafe\nfn unsafe_() {}", "#![warn(unsafe_code)]"] {
            assert_eq!(faults_of(&[root, ("pool/mod.rs", form)]), ["src/pool/mod.rs"], "{form}");
        }
    }
}
