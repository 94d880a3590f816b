//! The template, as it is in `plugins/template` when this binary is built, and the one change that a new plugin makes to it.

/// The name of the package in the template.
const NAME: &str = "template";

/// Path and text of every file.
macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../plugins/template/", $path)))),*]
    };
}

const FILES: &[(&str, &str)] = files![
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "README.md",
    "cases.yaml",
    "src/filter.rs",
    "src/lib.rs",
    "src/rules.rs",
];

/// What cannot be the name of a crate, or is one that the template needs.
const RESERVED: &str = "
    abstract alloc as async await become box break const continue core crate do dyn else enum
    extern false final fn for gen if impl in let loop macro match mod move mut override priv
    proc_macro proxy_wasm pub ref return self serde serde_json static std struct super test
    trait true try type typeof unsafe unsized use virtual where while yield
";

/// The longest name of a plugin, in bytes.
const LONGEST: usize = 64;

/// The files of a plugin of this name.
pub(super) fn files(name: &str) -> impl Iterator<Item = (&'static str, String)> {
    FILES.iter().map(move |(path, text)| {
        let text = match *path {
            "Cargo.toml" | "Cargo.lock" => {
                let before = format!("name = \"{NAME}\"\n");
                text.replacen(&before, &format!("name = \"{name}\"\n"), 1)
            }
            "README.md" => text.replacen(&format!("# {NAME}\n"), &format!("# {name}\n"), 1),
            _ => (*text).to_owned(),
        };
        (*path, text)
    })
}

/// Whether a package, a crate, a module and a plugin of the gateway can have this name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let is_word = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte));
    let begins = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase());
    if !is_word || !begins || name.len() > LONGEST {
        return Err(format!(
            "{name:?} has something else than a letter first and then letters in lower case, digits, `-` and `_`, {LONGEST} at most"
        ));
    }
    if RESERVED
        .split_whitespace()
        .any(|word| word == name.replace('-', "_"))
    {
        return Err(format!(
            "{name:?} is a word of Rust or a crate that plugins use"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn below(folder: &Path, root: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    below(&path, root, found);
                }
            } else {
                let path = path.strip_prefix(root).unwrap();
                found.insert(path.to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn r93_every_file_of_the_template_is_copied() {
        // Tests run in their package's folder.
        let root = Path::new("../plugins/template");
        let mut there = BTreeSet::new();
        below(root, root, &mut there);
        let copied: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(copied, there);
    }

    #[test]
    fn r93_only_the_name_differs() {
        for ((path, text), (_, before)) in files("my-filter").zip(FILES) {
            let changed: Vec<(&str, &str)> = text
                .lines()
                .zip(before.lines())
                .filter(|(after, before)| after != before)
                .collect();
            let expected: &[(&str, &str)] = match path {
                "Cargo.toml" | "Cargo.lock" => &[("name = \"my-filter\"", "name = \"template\"")],
                "README.md" => &[("# my-filter", "# template")],
                _ => &[],
            };
            assert_eq!(changed, expected, "{path}");
        }
    }

    #[test]
    fn names_that_would_not_build_are_refused() {
        for good in ["a", "my-filter", "f2_x"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "2f",
            "-a",
            "A",
            "a/b",
            "..",
            "a.b",
            "fn",
            "proxy-wasm",
            "std",
            "ä",
            &"a".repeat(65),
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
