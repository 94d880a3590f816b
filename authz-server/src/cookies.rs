//! The two cookies of the server, both `__Host-`: bound to this origin by the browser itself.
//!
//! A cookie that arrives twice was planted by somebody; the request is refused.

use axum::response::Response;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};

use crate::error::{Code, Error};

/// The sign-in. A new value at each sign-in.
pub(crate) const SESSION_COOKIE: &str = "__Host-ringwall-sign-in";
/// Binds a pending request to the browser that began it; proves nothing about a user.
pub(crate) const BROWSER_COOKIE: &str = "__Host-ringwall-browser";

const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Lax";

/// The value of a cookie.
pub(crate) fn get<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Error> {
    let mut found = None;
    for header in headers.get_all(COOKIE) {
        let Ok(text) = header.to_str() else { continue };
        for pair in text.split(';') {
            let Some((key, value)) = pair.trim().split_once('=') else {
                continue;
            };
            if key != name {
                continue;
            }
            if found.is_some() {
                return Err(Error::refused(
                    Code::InvalidRequest,
                    "a cookie is given twice",
                ));
            }
            found = Some(value).filter(|v| !v.is_empty() && v.len() <= 128);
        }
    }
    Ok(found)
}

/// Sets a cookie for the life of the browser; the server keeps the true expiry.
pub(crate) fn set(response: &mut Response, name: &str, value: &str) {
    append(response, &format!("{name}={value}; {ATTRIBUTES}"));
}

pub(crate) fn clear(response: &mut Response, name: &str) {
    append(response, &format!("{name}=; Max-Age=0; {ATTRIBUTES}"));
}

fn append(response: &mut Response, text: &str) {
    // Names are constants and values base64url, so the text is always a valid header value.
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().append(SET_COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(COOKIE, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn duplicate_cookies_are_refused() {
        let twice = headers(&["__Host-ringwall-browser=a; __Host-ringwall-browser=b"]);
        assert!(get(&twice, BROWSER_COOKIE).is_err());
        let split = headers(&["__Host-ringwall-browser=a", "__Host-ringwall-browser=b"]);
        assert!(get(&split, BROWSER_COOKIE).is_err());
        let one = headers(&["x=1; __Host-ringwall-browser=a"]);
        assert_eq!(get(&one, BROWSER_COOKIE).unwrap(), Some("a"));
    }

    #[test]
    fn a_name_without_the_prefix_is_another_cookie() {
        assert!(
            get(&headers(&["ringwall-sign-in=a"]), SESSION_COOKIE)
                .unwrap()
                .is_none()
        );
    }
}
