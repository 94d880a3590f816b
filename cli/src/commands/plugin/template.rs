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
            "Cargo.toml" => renamed(text, name),
            "Cargo.lock" => sorted(&renamed(text, name)),
            "README.md" => text.replacen(&format!("# {NAME}\n"), &format!("# {name}\n"), 1),
            _ => (*text).to_owned(),
        };
        (*path, text)
    })
}

fn renamed(manifest: &str, name: &str) -> String {
    let before = format!("name = \"{NAME}\"\n");
    manifest.replacen(&before, &format!("name = \"{name}\"\n"), 1)
}

/// Packages in the order of their names, as cargo has them: it would take anything else for a lock file that must change.
fn sorted(lock: &str) -> String {
    const HEAD: &str = "\n[[package]]\n";
    let mut parts = lock.trim_end().split(HEAD);
    let head = parts.next().unwrap_or_default().to_owned();
    let mut packages: Vec<&str> = parts.map(str::trim_end).collect();
    packages.sort_by_key(|package| package.lines().next());
    let packages = packages.iter().map(|package| format!("{HEAD}{package}\n"));
    packages.fold(head, |lock, package| lock + &package)
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
                "Cargo.toml" => &[("name = \"my-filter\"", "name = \"template\"")],
                "README.md" => &[("# my-filter", "# template")],
                // Its packages stand in another order; below.
                "Cargo.lock" => continue,
                _ => &[],
            };
            assert_eq!(changed, expected, "{path}");
        }
    }

    #[test]
    fn r93_the_lock_file_is_the_template_s_with_its_name_in_place() {
        let (_, before) = FILES
            .iter()
            .find(|(path, _)| *path == "Cargo.lock")
            .unwrap();
        assert_eq!(sorted(before), **before);
        let lock = sorted(&renamed(before, "a-filter"));
        assert!(lock.find("\"a-filter\"") < lock.find("\"allocator-api2\""));
        let lines = |lock: &str| {
            let mut lines: Vec<String> = lock.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&lock), lines(&renamed(before, "a-filter")));
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
