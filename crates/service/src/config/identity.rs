//! Where a component's own identity comes from: one string of four forms.

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Prefix of a socket.
const UNIX: &str = "unix:";
/// The word for components that get an identity in their own way.
const OWN: &str = "self";
/// The word for components behind a service proxy.
const PROXY: &str = "proxy";

/// `service.identity`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum IdentityFrom {
    /// Files, replaced by whoever issues them.
    Directory(PathBuf),
    /// The socket of a SPIFFE Workload API.
    WorkloadApi(PathBuf),
    /// The component gets its identity in its own way: the control plane issues it, the agent joins.
    /// It is started by [`crate::run_with_identity`].
    Own,
    /// The service proxy before the component has it.
    #[default]
    Proxy,
}

impl IdentityFrom {
    /// Reads one of the four forms.
    ///
    /// # Errors
    /// Why the text is none of them.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text.strip_prefix(UNIX) {
            Some(path) if Path::new(path).is_absolute() => Ok(Self::WorkloadApi(path.into())),
            Some(_) => Err("`unix:` must be followed by an absolute path"),
            None if text == OWN => Ok(Self::Own),
            None if text == PROXY => Ok(Self::Proxy),
            None if text.is_empty() => Err("it is empty"),
            None => Ok(Self::Directory(text.into())),
        }
    }

    /// The directory, where it is one.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            _ => None,
        }
    }
}

impl fmt::Display for IdentityFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::WorkloadApi(path) => write!(f, "{UNIX}{}", path.display()),
            Self::Own => f.write_str(OWN),
            Self::Proxy => f.write_str(PROXY),
        }
    }
}

impl Serialize for IdentityFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IdentityFrom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|why| {
            D::Error::custom(format!(
                "the identity `{text}` is not a directory, `unix:PATH`, `self` or `proxy`: {why}"
            ))
        })
    }
}

impl JsonSchema for IdentityFrom {
    fn schema_name() -> Cow<'static, str> {
        "IdentityFrom".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "A directory, `unix:PATH` of a Workload API, `self` or `proxy`"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms_are_read_and_written() {
        for (text, expected) in [
            ("/i/orders", IdentityFrom::Directory("/i/orders".into())),
            ("run/orders", IdentityFrom::Directory("run/orders".into())),
            (
                "unix:/run/a.sock",
                IdentityFrom::WorkloadApi("/run/a.sock".into()),
            ),
            ("self", IdentityFrom::Own),
            ("proxy", IdentityFrom::Proxy),
        ] {
            let read: IdentityFrom = serde_json::from_value(text.into()).unwrap();
            assert_eq!(read, expected);
            assert_eq!(serde_json::to_value(&read).unwrap(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "unix:", "unix:agent.sock"] {
            let read = serde_json::from_value::<IdentityFrom>(text.into());
            let why = read.unwrap_err().to_string();
            assert!(
                why.contains("is not a directory, `unix:PATH`, `self` or `proxy`"),
                "{why}"
            );
        }
    }
}
