//! What a request says about the page that sent it, and what every answer says to the browser.
//!
//! Owns: the cross-site checks (CSRF) and the security headers.
//! Must not: look at sessions; a request is refused here before anybody asks whose it is.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use ringwall_proto::headers::CSRF;

use crate::error::Error;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Everything comes from this origin and nothing is inline; no page may frame this one; no script
/// may turn text into markup.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; font-src 'self'; object-src 'none'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
     trusted-types 'none'";

const PERMISSIONS_POLICY: &str = "camera=(), microphone=(), geolocation=(), payment=(), usb=(), \
     browsing-topics=(), publickey-credentials-get=()";

const SECURITY_HEADERS: [(HeaderName, HeaderValue); 8] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(CONTENT_SECURITY_POLICY),
    ),
    (
        header::STRICT_TRANSPORT_SECURITY,
        HeaderValue::from_static("max-age=31536000; includeSubDomains"),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static(PERMISSIONS_POLICY),
    ),
];

/// Layer: adds the security headers to every answer, also to refusals; what may not be stored
/// unless the handler said otherwise is not stored.
pub(crate) async fn protect(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in &SECURITY_HEADERS {
        headers.insert(name, value.clone());
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Layer for everything that acts in the name of a session: refuses what a foreign page can cause.
pub(crate) async fn same_origin_only(
    State(origin): State<Arc<str>>,
    request: Request,
    next: Next,
) -> Response {
    match check(request.method(), request.headers(), &origin) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// An unsafe method needs the header that only scripts of our own origin can set (a foreign one
/// would need a CORS preflight, which nobody answers) and a browser's word that the page is ours:
/// `Origin`, or `Sec-Fetch-Site` where a browser leaves `Origin` out. A safe method is refused when
/// the browser says that another site asks.
fn check(method: &Method, headers: &HeaderMap, origin: &str) -> Result<(), Error> {
    let site = one(headers, &SEC_FETCH_SITE)?;
    if method.is_safe() {
        return match site {
            None | Some("same-origin" | "none") => Ok(()),
            Some(_) => Err(Error::CrossSite),
        };
    }
    if one(headers, &HeaderName::from_static(CSRF))? != Some("1") {
        return Err(Error::CrossSite);
    }
    match (one(headers, &header::ORIGIN)?, site) {
        (Some(sender), None | Some("same-origin")) if sender == origin => Ok(()),
        (None, Some("same-origin")) => Ok(()),
        _ => Err(Error::CrossSite),
    }
}

/// The only value of a field; several, or one that is not text, are refused.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Error> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Error::CrossSite),
        (Some(_), Some(_)) => Err(Error::CrossSite),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "https://app.localhost:8443";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        pairs.iter().map(pair).collect()
    }

    fn passes(method: Method, pairs: &[(&'static str, &'static str)]) -> bool {
        check(&method, &headers(pairs), OURS).is_ok()
    }

    #[test]
    fn r18_csrf_matrix_of_unsafe_methods() {
        let csrf = (CSRF, "1");
        let ours = ("origin", OURS);
        let same = ("sec-fetch-site", "same-origin");
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let ok = |pairs: &[(&'static str, &'static str)]| passes(method.clone(), pairs);
            assert!(ok(&[csrf, ours, same]));
            assert!(ok(&[csrf, ours]));
            assert!(ok(&[csrf, same]));

            assert!(!ok(&[]));
            assert!(!ok(&[csrf]), "nobody vouches for the page");
            assert!(!ok(&[ours, same]), "no header");
            assert!(!ok(&[(CSRF, "0"), ours, same]));
            assert!(!ok(&[csrf, csrf, ours, same]));
            assert!(!ok(&[csrf, ("origin", "null"), same]));
            assert!(!ok(&[csrf, ("origin", "https://evil.example")]));
            assert!(!ok(&[csrf, ("origin", "https://app.localhost")]));
            assert!(!ok(&[
                csrf,
                ("origin", "https://auth.localhost:8443"),
                same
            ]));
            assert!(!ok(&[
                csrf,
                ("origin", "https://app.localhost:8443.evil.example"),
                same
            ]));
            assert!(!ok(&[csrf, ours, ("origin", "https://evil.example"), same]));
            assert!(!ok(&[csrf, ours, ("sec-fetch-site", "same-site")]));
            assert!(!ok(&[csrf, ours, ("sec-fetch-site", "cross-site")]));
            assert!(!ok(&[csrf, ("sec-fetch-site", "none")]));
        }
    }

    #[test]
    fn r18_safe_methods_are_refused_to_other_sites() {
        assert!(passes(Method::GET, &[]));
        assert!(passes(Method::GET, &[("sec-fetch-site", "same-origin")]));
        assert!(passes(Method::GET, &[("sec-fetch-site", "none")]));
        assert!(!passes(Method::GET, &[("sec-fetch-site", "same-site")]));
        assert!(!passes(Method::GET, &[("sec-fetch-site", "cross-site")]));
    }
}
