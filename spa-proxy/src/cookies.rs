//! The two kinds of cookies, read strictly and written with every protection.
//!
//! Owns: names and attributes. The `__Host-` prefix (RFC 6265bis §4.1.3.2) makes browsers refuse the
//! cookie unless it is Secure, has no Domain and Path=/, so no sibling host can plant one.
//! `SameSite=Lax` and not `Strict`: the browser comes back from the authorization server by a
//! top-level navigation from another site, and must bring the cookies along.
//! Must not: trust a name that occurs twice.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header::COOKIE};

use crate::error::Error;

/// Holds the session's id.
pub(crate) const SESSION: &str = "__Host-ringwall-session";
/// Holds one started sign-in; one cookie for each, so that parallel tabs do not disturb each other.
pub(crate) const SIGN_IN_PREFIX: &str = "__Host-ringwall-login-";

/// All cookies of a request, also when HTTP/2 splits them over several fields (RFC 9113 §8.2.3).
#[derive(Debug)]
pub(crate) struct Cookies<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Cookies<'a> {
    /// Reads `headers`; a field that is not visible ASCII is left out.
    pub(crate) fn read(headers: &'a HeaderMap) -> Self {
        let fields = headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|field| field.to_str().ok());
        let pairs = fields
            .flat_map(|field| field.split(';'))
            .filter_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                Some((name.trim(), value.trim()))
            });
        Self(pairs.collect())
    }

    /// The value of `name`. Twice the same name is an attempt to plant one: refused.
    pub(crate) fn one(&self, name: &str) -> Result<Option<&'a str>, Error> {
        let mut values = self
            .0
            .iter()
            .filter(|(own, _)| *own == name)
            .map(|(_, value)| *value);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Error::DuplicateCookie),
            (value, None) => Ok(value),
        }
    }

    /// Names and values that start with `prefix`.
    pub(crate) fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0
            .iter()
            .copied()
            .filter(move |(name, _)| name.starts_with(prefix))
    }
}

/// `Set-Cookie` for `name`. Without `max_age` it lives as long as the browser's session.
pub(crate) fn set(name: &str, value: &str, max_age: Option<Duration>) -> HeaderValue {
    let age = max_age
        .map(|age| format!("; Max-Age={}", age.as_secs()))
        .unwrap_or_default();
    let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax{age}");
    let mut field = HeaderValue::from_str(&text)
        .expect("names are constants or base64url, values are base64url or empty");
    field.set_sensitive(true);
    field
}

/// `Set-Cookie` that removes `name`.
pub(crate) fn remove(name: &str) -> HeaderValue {
    set(name, "", Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[&'static str]) -> HeaderMap {
        fields
            .iter()
            .map(|field| (COOKIE, HeaderValue::from_static(field)))
            .collect()
    }

    #[test]
    fn r18_a_duplicate_cookie_is_refused_in_one_field_and_in_two() {
        for fields in [
            &["__Host-ringwall-session=a; __Host-ringwall-session=b"][..],
            &[
                "__Host-ringwall-session=a",
                "x=1; __Host-ringwall-session=b",
            ][..],
            &["__Host-ringwall-session=a; __Host-ringwall-session=a"][..],
        ] {
            let headers = headers(fields);
            let found = Cookies::read(&headers).one(SESSION);
            assert!(matches!(found, Err(Error::DuplicateCookie)), "{fields:?}");
        }
    }

    #[test]
    fn other_names_do_not_count() {
        let headers =
            headers(&["ringwall-session=a; __host-ringwall-session=b; __Host-ringwall-session=c"]);
        assert_eq!(Cookies::read(&headers).one(SESSION).unwrap(), Some("c"));
        assert_eq!(Cookies::read(&HeaderMap::new()).one(SESSION).unwrap(), None);
    }

    #[test]
    fn r43_cookies_carry_every_protection() {
        let field = set(SESSION, "v", None);
        let text = field.to_str().unwrap();
        for attribute in [
            "__Host-",
            "; Path=/",
            "; Secure",
            "; HttpOnly",
            "; SameSite=Lax",
        ] {
            assert!(text.contains(attribute), "{text}");
        }
        assert!(!text.contains("Domain"));
        assert!(remove(SESSION).to_str().unwrap().ends_with("Max-Age=0"));
    }
}
