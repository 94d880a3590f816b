//! What a plugin may touch: nothing, unless declared.
//!
//! Owns: how a declaration matches a name. What a plugin may not see does not exist for it (`NOT_FOUND`, or left out of
//! a map); what it may not change is refused with `INTERNAL_FAILURE`, as Envoy answers restricted capabilities.

/// The declaration.
#[derive(Debug, Clone, Default)]
pub struct Capabilities {
    /// Header and trailer names it may read, pseudo-headers (`:path`) included.
    pub read_headers: Names,
    /// Names it may add, replace or remove.
    pub write_headers: Names,
    pub body: BodyAccess,
    /// Bytes of TCP streams.
    pub stream_data: BodyAccess,
    /// Whether it may answer a request itself, or end a stream.
    pub local_response: bool,
    /// Clusters that it may call.
    pub clusters: Names,
    /// Keys of shared data.
    pub shared_data: Names,
    /// Names of queues.
    pub queues: Names,
    /// Properties it may read, as dotted paths (`request.*`, `connection.mtls`).
    pub read_properties: Names,
    /// Properties it may set.
    pub write_properties: Names,
    pub foreign_functions: Names,
    /// Whether the environment of its specification is shown to it.
    pub environment: bool,
}

impl Capabilities {
    /// Everything. For tests and for plugins that are trusted as the host is.
    pub fn all() -> Self {
        Self {
            read_headers: Names::any(),
            write_headers: Names::any(),
            body: BodyAccess::Write,
            stream_data: BodyAccess::Write,
            local_response: true,
            clusters: Names::any(),
            shared_data: Names::any(),
            queues: Names::any(),
            read_properties: Names::any(),
            write_properties: Names::any(),
            foreign_functions: Names::any(),
            environment: true,
        }
    }
}

/// What a plugin may do with the bytes of a body or a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum BodyAccess {
    /// Its body callbacks are not called.
    #[default]
    None,
    Read,
    Write,
}

/// A set of names: exact ones, prefixes ended by `*`, or `*` for all. Header names are lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    any: bool,
    exact: Vec<Box<str>>,
    prefixes: Vec<Box<str>>,
}

impl Names {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn any() -> Self {
        Self {
            any: true,
            ..Self::default()
        }
    }

    /// From patterns such as `x-*`, `:path` or `*`.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Self {
        let mut names = Self::default();
        for pattern in patterns {
            match pattern.as_ref().strip_suffix('*') {
                Some("") => names.any = true,
                Some(prefix) => names.prefixes.push(prefix.into()),
                None => names.exact.push(pattern.as_ref().into()),
            }
        }
        names
    }

    pub fn allows(&self, name: &str) -> bool {
        self.any
            || self.exact.iter().any(|exact| **exact == *name)
            || self
                .prefixes
                .iter()
                .any(|prefix| name.starts_with(&**prefix))
    }

    pub(crate) const fn allows_any(&self) -> bool {
        self.any
    }

    pub const fn is_empty(&self) -> bool {
        !self.any && self.exact.is_empty() && self.prefixes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r91_nothing_is_allowed_unless_declared() {
        let nothing = Capabilities::default();
        assert!(nothing.read_headers.is_empty() && nothing.clusters.is_empty());
        assert!(!nothing.read_headers.allows(":path"));
        assert!(!nothing.local_response && !nothing.environment);
        assert_eq!(nothing.body, BodyAccess::None);
    }

    #[test]
    fn r91_patterns_match_exactly_by_prefix_or_everything() {
        let names = Names::new(["x-*", ":path"]);
        assert!(names.allows("x-a") && names.allows("x-") && names.allows(":path"));
        assert!(!names.allows("x") && !names.allows(":pat") && !names.allows(":path2"));
        assert!(Names::new(["*"]).allows("anything"));
        assert!(!Names::none().allows(""));
    }
}
