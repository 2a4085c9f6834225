//! The script that takes over `listen` in Node.js workers: plain modules here, one file where Node.js loads it.
//!
//! Each source stands in the file as a function of its own, beside the `require` that finds it there. So the
//! modules run the same from this directory, as some tests run them, and no step before the build is needed.

macro_rules! bundle {
    ($($file:literal),+ $(,)?) => {
        concat!(
            "'use strict';\n// Made from src/process/preload of pingora-unix-proxy.\n(function (node) {\nconst modules = {\n",
            $("'./", $file, "': function (module, require) {\n", include_str!($file), "},\n",)+
            "};\n",
            include_str!("require.js"),
            "load('./index.cjs');\n})(require);\n"
        )
    };
}

/// The whole script, as it is written to runtime directories.
pub(crate) const PRELOAD: &str = bundle![
    "address.cjs",
    "arguments.cjs",
    "channel.cjs",
    "codec.cjs",
    "connect.cjs",
    "engineio.cjs",
    "index.cjs",
    "listen.cjs",
    "plain.cjs",
    "ports.cjs",
    "replace.cjs",
    "send.cjs",
    "settings.cjs",
    "shutdown.cjs",
    "sockets.cjs",
    "stats.cjs",
    "stream.cjs",
    "timeouts.cjs",
];

#[cfg(test)]
mod tests {
    use super::PRELOAD;
    use std::fs;
    use std::path::Path;

    const ROOT: &str = env!("CARGO_MANIFEST_DIR");

    #[test]
    fn every_module_is_in_the_script() {
        let sources = fs::read_dir(Path::new(ROOT).join("src/process/preload")).unwrap();
        let mut seen = 0;
        for source in sources.map(|entry| entry.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "cjs")) {
            let text = fs::read_to_string(&source).unwrap();
            let name = source.file_name().unwrap().to_str().unwrap();
            let module = format!("'./{name}': function (module, require) {{\n{text}}},\n");
            assert!(PRELOAD.contains(&module), "{name} is not in bundle!");
            seen += 1;
        }
        assert!(seen > 10, "only {seen} modules read");
    }

    /// Where `PRELOAD=... node --test tests/preload` finds it.
    #[test]
    fn the_script_is_written_for_the_tests_in_node() {
        let directory = Path::new(ROOT).join("target");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("preload.cjs"), PRELOAD).unwrap();
    }
}
