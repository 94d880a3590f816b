//! Rules about source files: sizes, file names, the one place for TLS and SQL.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::layers::metadata::Metadata;

/// Lines of a file before its tests.
const FILE_CEILING: usize = 600;
/// Lines of a `main.rs`.
const MAIN_CEILING: usize = 60;
/// Text that makes a TLS configuration; only `crates/tls`, and the strangers and attackers in folders called `tests`, may
/// hold it.
const TLS_BUILDERS: &[&str] = &["ServerConfig::builder", "ClientConfig::builder"];

/// Every violation in the members' sources.
pub(super) fn check(root: &Path, metadata: &Metadata) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    for package in &metadata.packages {
        let mut files = Vec::new();
        collect(&root.join(&package.folder), &mut files)?;
        files.sort();
        for file in files {
            let text =
                fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            let shown = file
                .strip_prefix(root)
                .unwrap_or(&file)
                .to_string_lossy()
                .into_owned();
            violations.extend(judge(&shown, &text));
        }
    }
    Ok(violations)
}

/// Rust files below a folder; nested packages and build output are not entered.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("listing {}", folder.display()))?
            .path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if path.is_dir() {
            let skipped = matches!(name.as_deref(), Some("target" | "node_modules" | "dist"));
            if !skipped && !path.join("Cargo.toml").exists() {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The violations of one file.
fn judge(path: &str, text: &str) -> Vec<String> {
    let mut violations = Vec::new();
    let code: Vec<&str> = before_tests(text).collect();
    let name = path.rsplit('/').next().unwrap_or(path);
    if code.len() > FILE_CEILING {
        let lines = code.len();
        violations.push(format!(
            "{path}: {lines} lines before tests, the ceiling is {FILE_CEILING}"
        ));
    }
    if name == "main.rs" && code.len() > MAIN_CEILING {
        let lines = code.len();
        violations.push(format!(
            "{path}: {lines} lines, main.rs has at most {MAIN_CEILING}"
        ));
    }
    if name == "mod.rs" {
        violations.push(format!(
            "{path}: write `foo.rs` beside `foo/`, never mod.rs"
        ));
    }
    let is_test = path.split('/').any(|part| part == "tests");
    if !is_test
        && !["crates/tls/", "xtask/"]
            .iter()
            .any(|owner| path.starts_with(owner))
    {
        for (number, line) in code.iter().enumerate() {
            if TLS_BUILDERS.iter().any(|builder| line.contains(builder)) {
                let number = number + 1;
                violations.push(format!(
                    "{path}:{number}: TLS is configured in crates/tls only"
                ));
            }
        }
    }
    violations.extend(sql_outside_store(path, &code));
    violations
}

/// SQL stands in `crates/store` or in one `store` module (`store.rs`, `store/`) per deployable; the
/// operator's for PostgreSQL itself in `cli/src/postgres`. Modules that are only for tests are free.
fn sql_outside_store(path: &str, code: &[&str]) -> Vec<String> {
    let owner = path.starts_with("crates/store/")
        || path.starts_with("tests/")
        || path.starts_with("xtask/")
        || path.starts_with("cli/src/postgres/")
        || path.split('/').any(|part| {
            let name = part.trim_end_matches(".rs");
            matches!(name, "store" | "testing" | "tests") || name.ends_with("_tests")
        });
    if owner {
        return Vec::new();
    }
    let statements = [
        "\"SELECT ",
        "\"INSERT INTO ",
        "\"DELETE FROM ",
        "\"CREATE TABLE ",
    ];
    let hits = code
        .iter()
        .enumerate()
        .filter(|(_, line)| statements.iter().any(|statement| line.contains(statement)));
    hits.map(|(number, _)| {
        format!(
            "{path}:{}: SQL stands in crates/store or in the store module only",
            number + 1
        )
    })
    .collect()
}

fn before_tests(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_refused_but_its_tests_do_not_count() {
        let long = "x\n".repeat(FILE_CEILING + 1);
        assert_eq!(judge("gateway/src/route.rs", &long).len(), 1);
        let tested = format!("fn a() {{}}\n#[cfg(test)]\n{long}");
        assert_eq!(judge("gateway/src/route.rs", &tested), Vec::<String>::new());
    }

    #[test]
    fn a_long_main_is_refused() {
        let long = "x\n".repeat(MAIN_CEILING + 1);
        assert_eq!(judge("gateway/src/main.rs", &long).len(), 1);
    }

    #[test]
    fn mod_rs_is_refused() {
        assert_eq!(judge("gateway/src/pipeline/mod.rs", "").len(), 1);
    }

    #[test]
    fn tls_is_configured_in_one_crate() {
        let text = "let config = ServerConfig::builder();\n";
        assert_eq!(
            judge("crates/tls/src/server.rs", text),
            Vec::<String>::new()
        );
        for strangers in [
            "tests/harness/edge.rs",
            "mesh/proxy/tests/node/outside.rs",
            "mesh/proxy/src/egress/tests/world.rs",
        ] {
            assert_eq!(judge(strangers, text), Vec::<String>::new());
        }
        let seen = judge("gateway/src/app.rs", text);
        assert_eq!(
            seen,
            ["gateway/src/app.rs:1: TLS is configured in crates/tls only"]
        );
    }

    #[test]
    fn sql_stands_in_the_store_module() {
        let text = "let rows = run(\"SELECT 1\");\n";
        assert_eq!(judge("tokenizer/src/store.rs", text), Vec::<String>::new());
        assert_eq!(
            judge("tokenizer/src/store/consume.rs", text),
            Vec::<String>::new()
        );
        assert_eq!(judge("tokenizer/src/routes.rs", text).len(), 1);
    }
}
