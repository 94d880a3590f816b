//! Path matching: a tree over path segments, built once per configuration.
//!
//! Owns: which route a path and method belong to. The most specific pattern that declares the method wins:
//! a literal segment before `{name}`, a whole path before a prefix, a longer prefix before a shorter one.
//! Cost grows with the path's segments, not with the number of routes. Must not: decode or rewrite paths
//! (`pipeline/path.rs` has refused everything ambiguous).

use std::collections::HashMap;

use foldhash::fast::RandomState;
use http::Method;

/// Routes of one host by path; `R` is what a match yields.
#[derive(Debug)]
pub(crate) struct PathTree<R> {
    root: Node<R>,
    entries: usize,
}

/// Where a route sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern<'text> {
    /// A whole path; segments of the form `{name}` match any one non-empty segment.
    Path(&'text str),
    /// A path and everything below it, on segment borders.
    Prefix(&'text str),
}

/// The outcome of a search.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'tree, R> {
    Route(&'tree R),
    /// The path is declared, the method is not.
    OtherMethods,
    Nothing,
}

#[derive(Debug)]
struct Node<R> {
    literals: HashMap<Box<str>, Node<R>, RandomState>,
    parameter: Option<Box<Node<R>>>,
    exact: Vec<(Method, R)>,
    below: Vec<(Method, R)>,
}

impl<R> Default for PathTree<R> {
    fn default() -> Self {
        Self {
            root: Node::default(),
            entries: 0,
        }
    }
}

impl<R> Default for Node<R> {
    fn default() -> Self {
        Self {
            literals: HashMap::default(),
            parameter: None,
            exact: Vec::new(),
            below: Vec::new(),
        }
    }
}

impl<R> PathTree<R> {
    /// Adds one route for one method; `false` where the same pattern has that method already.
    #[must_use]
    pub(crate) fn insert(&mut self, pattern: Pattern<'_>, method: Method, route: R) -> bool {
        let (Pattern::Path(path) | Pattern::Prefix(path)) = pattern;
        let mut node = &mut self.root;
        let mut rest = segments(path);
        if matches!(pattern, Pattern::Prefix(_)) {
            rest = rest
                .map(|rest| rest.trim_end_matches('/'))
                .filter(|rest| !rest.is_empty());
        }
        while let Some(text) = rest {
            let (segment, next) = split(text);
            node = if is_parameter(segment) {
                node.parameter.get_or_insert_default()
            } else {
                node.literals.entry(segment.into()).or_default()
            };
            rest = next;
        }
        let methods = match pattern {
            Pattern::Path(_) => &mut node.exact,
            Pattern::Prefix(_) => &mut node.below,
        };
        if methods.iter().any(|(present, _)| *present == method) {
            return false;
        }
        methods.push((method, route));
        self.entries += 1;
        true
    }

    /// How many patterns × methods there are.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    pub(crate) fn find(&self, path: &str, method: &Method) -> Found<'_, R> {
        let mut declared = false;
        match self.root.find(segments(path), method, &mut declared) {
            Some(route) => Found::Route(route),
            None if declared => Found::OtherMethods,
            None => Found::Nothing,
        }
    }

    /// The methods that `path` declares, for the `Allow` field of a 405 (RFC 9110 §15.5.6).
    pub(crate) fn methods_of(&self, path: &str) -> Vec<Method> {
        let mut methods = Vec::new();
        self.root.collect(segments(path), &mut methods);
        methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        methods.dedup();
        methods
    }
}

impl<R> Node<R> {
    fn find(&self, rest: Option<&str>, method: &Method, declared: &mut bool) -> Option<&R> {
        let deeper = match rest {
            None => pick(&self.exact, method, declared),
            Some(text) => {
                let (segment, next) = split(text);
                self.literals
                    .get(segment)
                    .and_then(|node| node.find(next, method, declared))
                    .or_else(|| {
                        let node = self.parameter.as_ref().filter(|_| !segment.is_empty())?;
                        node.find(next, method, declared)
                    })
            }
        };
        deeper.or_else(|| pick(&self.below, method, declared))
    }

    fn collect(&self, rest: Option<&str>, methods: &mut Vec<Method>) {
        match rest {
            None => methods.extend(self.exact.iter().map(|(method, _)| method.clone())),
            Some(text) => {
                let (segment, next) = split(text);
                if let Some(node) = self.literals.get(segment) {
                    node.collect(next, methods);
                }
                if let Some(node) = self.parameter.as_ref().filter(|_| !segment.is_empty()) {
                    node.collect(next, methods);
                }
            }
        }
        methods.extend(self.below.iter().map(|(method, _)| method.clone()));
    }
}

fn pick<'tree, R>(
    methods: &'tree [(Method, R)],
    method: &Method,
    declared: &mut bool,
) -> Option<&'tree R> {
    *declared |= !methods.is_empty();
    methods
        .iter()
        .find(|(present, _)| present == method)
        .map(|(_, route)| route)
}

/// The text after the leading slash; `None` for the root itself.
fn segments(path: &str) -> Option<&str> {
    path.strip_prefix('/').filter(|rest| !rest.is_empty())
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (text, None),
    }
}

/// Whether a pattern's segment is `{name}`.
pub(crate) fn is_parameter(segment: &str) -> bool {
    segment.len() > 2 && segment.starts_with('{') && segment.ends_with('}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(routes: &[(Pattern<'_>, Method, &'static str)]) -> PathTree<&'static str> {
        let mut tree = PathTree::default();
        for (pattern, method, name) in routes {
            assert!(tree.insert(*pattern, method.clone(), *name), "{name}");
        }
        tree
    }

    fn found(tree: &PathTree<&'static str>, path: &str, method: &Method) -> &'static str {
        match tree.find(path, method) {
            Found::Route(name) => name,
            Found::OtherMethods => "405",
            Found::Nothing => "404",
        }
    }

    #[test]
    fn the_most_specific_route_that_declares_the_method_wins() {
        use Pattern::{Path, Prefix};
        let tree = tree(&[
            (Prefix("/"), Method::GET, "root"),
            (Prefix("/api"), Method::GET, "api"),
            (Path("/api/orders"), Method::POST, "place"),
            (Path("/api/orders/{id}"), Method::DELETE, "cancel"),
            (Path("/api/orders/mine"), Method::DELETE, "cancel-mine"),
        ]);
        for (path, method, expected) in [
            ("/", Method::GET, "root"),
            ("/x/y", Method::GET, "root"),
            ("/apix", Method::GET, "root"),
            ("/api", Method::GET, "api"),
            ("/api/", Method::GET, "api"),
            ("/api/orders", Method::GET, "api"),
            ("/api/orders", Method::POST, "place"),
            ("/api/orders/1", Method::DELETE, "cancel"),
            ("/api/orders/mine", Method::DELETE, "cancel-mine"),
            ("/api/orders/mine", Method::GET, "api"),
            ("/api/orders/", Method::DELETE, "405"),
            ("/api/orders/1/x", Method::DELETE, "405"),
            ("/x", Method::POST, "405"),
        ] {
            assert_eq!(found(&tree, path, &method), expected, "{method} {path}");
        }
        assert_eq!(tree.methods_of("/api/orders"), [Method::GET, Method::POST]);
    }

    #[test]
    fn undeclared_paths_are_not_found() {
        let tree = tree(&[(Pattern::Path("/v1/{id}"), Method::GET, "one")]);
        for path in ["/", "/v1", "/v1/", "/v1/a/b", "/V1/a", "/v2/a"] {
            assert_eq!(found(&tree, path, &Method::GET), "404", "{path}");
        }
        assert_eq!(found(&tree, "/v1/a", &Method::POST), "405");
    }

    #[test]
    fn a_second_route_of_the_same_pattern_and_method_is_refused() {
        let mut tree = tree(&[(Pattern::Path("/a/{x}"), Method::GET, "one")]);
        assert!(!tree.insert(Pattern::Path("/a/{y}"), Method::GET, "two"));
        assert!(tree.insert(Pattern::Path("/a/{y}"), Method::PUT, "two"));
        assert!(tree.insert(Pattern::Prefix("/a"), Method::GET, "three"));
    }
}
