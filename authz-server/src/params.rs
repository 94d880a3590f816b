//! Request parameters as OAuth means them: each at most once, empty means absent (RFC 6749 §3.1).
//!
//! Parsing is done once here; handlers never see the raw body. The type has no `Debug`, because
//! parameters carry secrets.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::error::{Code, Error};

/// More distinct names than any flow here uses; beyond it, the request is hostile.
const MAX_PARAMETERS: usize = 64;

/// The decoded parameters of one request.
pub(crate) struct Params(HashMap<String, String>);

impl Params {
    /// Decodes `application/x-www-form-urlencoded` text (a body or a query).
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut map = HashMap::new();
        for (name, value) in url::form_urlencoded::parse(text) {
            if value.is_empty() {
                continue;
            }
            if value.contains('\0') || map.len() >= MAX_PARAMETERS {
                return Err(Error::refused(
                    Code::InvalidRequest,
                    "a parameter is malformed",
                ));
            }
            match map.entry(name.into_owned()) {
                Entry::Vacant(slot) => slot.insert(value.into_owned()),
                // RFC 8707 allows several resources; this server issues for exactly one.
                Entry::Occupied(slot) if slot.key() == "resource" => {
                    return Err(Error::refused(
                        Code::InvalidTarget,
                        "exactly one resource can be requested",
                    ));
                }
                Entry::Occupied(_) => {
                    return Err(Error::refused(
                        Code::InvalidRequest,
                        "a parameter is given more than once",
                    ));
                }
            };
        }
        Ok(Self(map))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value, or `invalid_request` with a description that names the parameter.
    pub(crate) fn require(&self, name: &'static str) -> Result<&str, Error> {
        self.get(name).ok_or_else(|| {
            Error::refused_owned(
                Code::InvalidRequest,
                format!("the parameter {name} is missing"),
            )
        })
    }
}

/// The parameters of a form body; any other content type is refused, so that a cross-site request
/// cannot choose one that browsers send without asking.
pub(crate) fn from_form(headers: &HeaderMap, body: &[u8]) -> Result<Params, Error> {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Error::refused(
            Code::InvalidRequest,
            "the body must be application/x-www-form-urlencoded",
        ));
    }
    Params::parse(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_means_absent() {
        let params = Params::parse(b"scope=&state=a%20b").unwrap();
        assert!(params.get("scope").is_none());
        assert_eq!(params.get("state"), Some("a b"));
    }

    #[test]
    fn duplicates_are_refused() {
        assert!(Params::parse(b"client_id=a&client_id=b").is_err());
        let error = Params::parse(b"resource=a&resource=b").err().unwrap();
        assert_eq!(error.code(), Some(Code::InvalidTarget));
    }

    #[test]
    fn a_flood_of_names_and_nul_are_refused() {
        let flood: Vec<String> = (0..100).map(|n| format!("p{n}=1")).collect();
        assert!(Params::parse(flood.join("&").as_bytes()).is_err());
        assert!(Params::parse(b"a=%00").is_err());
    }
}
