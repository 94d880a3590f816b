//! Every link into the documentation, from hints and from other pages, leads to a heading that is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::finding::Category;

/// Headings of each page as anchors, by the page's path from the checkout's root.
type Pages = BTreeMap<PathBuf, Vec<String>>;

/// Tests run in the folder of their package.
const ROOT: &str = "..";

/// Every Markdown page of the root and of `docs/`.
fn pages() -> Pages {
    let mut pages = Pages::new();
    for folder in [".", "docs", "docs/adr"] {
        for entry in std::fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = std::fs::read_to_string(&path).unwrap();
                pages.insert(plain(path.strip_prefix(ROOT).unwrap()), anchors(&text));
            }
        }
    }
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

/// Lines outside of code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// As GitHub makes them: lower case, no punctuation, hyphens for spaces, a number for the second of a name.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for line in prose(text).filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor = kept.collect::<String>().replace(' ', "-");
        let same = |known: &&String| {
            let rest = known.strip_prefix(anchor.as_str());
            rest.is_some_and(|rest| {
                rest.trim_start_matches('-').parse::<u8>().is_ok() || rest.is_empty()
            })
        };
        let before = anchors.iter().filter(same).count();
        anchors.push(match before {
            0 => anchor,
            number => format!("{anchor}-{number}"),
        });
    }
    anchors
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str().unwrap().split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    parts.join("/").into()
}

/// Why a link from the page `from` leads nowhere.
fn complaint(pages: &Pages, from: &Path, link: &str) -> Option<String> {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => from.to_path_buf(),
        file => plain(&from.parent().unwrap().join(file)),
    };
    let Some(anchors) = pages.get(&target) else {
        let is_there = Path::new(ROOT).join(&target).exists();
        return (!is_there).then(|| format!("{}: {link}: no such file", from.display()));
    };
    let leads = anchor.is_empty() || anchors.iter().any(|known| known == anchor);
    (!leads).then(|| format!("{}: {link}: no such heading", from.display()))
}

/// What stands between `](` and `)` and is no address elsewhere.
fn links(text: &str) -> Vec<&str> {
    let parts = prose(text).flat_map(|line| line.split("](").skip(1));
    parts
        .filter_map(|part| part.split([')', ' ']).next())
        .filter(|link| !link.contains("://") && !link.starts_with("mailto:"))
        .collect()
}

#[test]
fn every_hint_leads_to_a_heading_that_is_there() {
    let pages = pages();
    for category in Category::ALL {
        let link = category.link();
        assert_eq!(complaint(&pages, Path::new("cli"), &link), None);
    }
}

#[test]
fn every_link_of_every_page_leads_to_a_heading_that_is_there() {
    let pages = pages();
    let mut complaints = Vec::new();
    for page in pages.keys() {
        let text = std::fs::read_to_string(Path::new(ROOT).join(page)).unwrap();
        let found = links(&text);
        complaints.extend(
            found
                .iter()
                .filter_map(|link| complaint(&pages, page, link)),
        );
    }
    assert_eq!(complaints, Vec::<String>::new());
}

#[test]
fn a_link_that_leads_nowhere_is_told() {
    let page = "# One two\n## `a.b`: c\n# One two\n```\n# no heading [x](nowhere.md)\n```\n[x](#one-two-1) [y](b.md#x)";
    assert_eq!(anchors(page), ["one-two", "ab-c", "one-two-1"]);
    assert_eq!(links(page), ["#one-two-1", "b.md#x"]);
    let pages = Pages::from([("docs/a.md".into(), anchors(page))]);
    let from = Path::new("docs/a.md");
    for good in ["#ab-c", "../docs/a.md#one-two-1", "../Cargo.toml"] {
        assert_eq!(complaint(&pages, from, good), None);
    }
    for bad in ["#ab--c", "b.md#x", "a.md#three", "../nowhere"] {
        assert!(complaint(&pages, from, bad).is_some(), "{bad}");
    }
}
