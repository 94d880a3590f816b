//! Header hygiene: which fields end at this hop, and which are ours alone to set.
//!
//! Owns: the hop-by-hop list (RFC 9110 §7.6.1) and the trusted list. A proxy strips both from what a
//! client sent, *then* adds its own: a client that names one of our fields in `Connection` therefore
//! removes nothing of ours.
//! Must not: decide anything about values.

use http::{HeaderMap, HeaderName, header};

pub use ringwall_proto::headers::{
    API_KEY as X_API_KEY, CSRF as X_CSRF, USER_CONTEXT as X_USER_CONTEXT,
};

/// Fields that concern one connection only (RFC 9110 §7.6.1), and the proxy authentication pair that
/// ends at the proxy (RFC 9110 §11.7).
pub const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const TRUSTED_PREFIXES: [&str; 2] = ["x-ringwall-", "x-forwarded-"];
const TRUSTED_NAMES: [&str; 3] = ["forwarded", "via", "x-real-ip"];

/// Whether a field ends at this hop whatever `Connection` says.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
}

/// Whether only a proxy of the platform may set this field.
///
/// Underscores count as hyphens, since CGI-style servers cannot tell them apart. The one exception
/// is `x-ringwall-csrf`, which browsers send and which states nothing about who they are.
pub fn is_trusted_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if name == X_CSRF {
        return false;
    }
    let name = name.replace('_', "-");
    TRUSTED_NAMES.contains(&name.as_str())
        || TRUSTED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Removes the hop-by-hop fields and every field that `Connection` lists.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in connection_options(headers) {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Removes every trusted field that a client sent; returns how many names were removed.
pub fn strip_trusted(headers: &mut HeaderMap) -> usize {
    let forged: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_trusted_header(name.as_str()))
        .cloned()
        .collect();
    for name in &forged {
        headers.remove(name);
    }
    forged.len()
}

/// Names listed in `Connection` (RFC 9110 §7.6.1); what is no field name is skipped.
fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|option| HeaderName::from_bytes(option.trim().as_bytes()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    name.parse::<HeaderName>().unwrap(),
                    value.parse::<HeaderValue>().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn fields_named_in_connection_end_here() {
        let mut headers = map(&[
            ("connection", "close, x-secret-hop"),
            ("connection", " , x-other"),
            ("x-secret-hop", "1"),
            ("x-other", "2"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.len(), 1);
        assert_eq!(headers["accept"], "*/*");
    }

    #[test]
    fn forged_trusted_fields_and_their_underscore_twins_go() {
        let mut headers = map(&[
            ("x-ringwall-user-context", "forged"),
            ("x_ringwall_user_context", "forged"),
            ("x-ringwall_user-context", "forged"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x_forwarded_proto", "https"),
            ("forwarded", "for=1.1.1.1"),
            ("via", "1.1 x"),
            ("x-real-ip", "1.1.1.1"),
            ("x-ringwall-csrf", "1"),
            ("x_ringwall_csrf", "1"),
            ("authorization", "Bearer x"),
        ]);
        assert_eq!(strip_trusted(&mut headers), 9);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "x-ringwall-csrf"]);
    }

    proptest! {
        #[test]
        fn every_spelling_of_a_trusted_name_is_trusted(
            name in "(x-ringwall-|x-forwarded-)[a-z-]{1,12}",
            flips in proptest::collection::vec(any::<(bool, bool)>(), 32),
        ) {
            prop_assume!(name != X_CSRF);
            let spelled: String = name.chars().zip(flips).map(|(c, (twin, upper))| match c {
                '-' if twin => '_',
                c if upper => c.to_ascii_uppercase(),
                c => c,
            }).collect();
            prop_assert!(is_trusted_header(&spelled));
        }

        #[test]
        fn stripping_leaves_no_trusted_and_no_hop_field(
            names in proptest::collection::vec("[a-z_-]{1,6}|x-ringwall-[a-z]{1,4}|x_forwarded_[a-z]{1,4}|te|via|upgrade", 0..12),
            listed in proptest::collection::vec("[a-z-]{1,6}", 0..4),
        ) {
            let mut headers = HeaderMap::new();
            for name in names {
                if let Ok(name) = HeaderName::try_from(name) {
                    headers.append(name, HeaderValue::from_static("v"));
                }
            }
            for name in &listed {
                if let Ok(name) = HeaderName::try_from(name.as_str()) {
                    headers.append(name, HeaderValue::from_static("v"));
                }
            }
            headers.insert(header::CONNECTION, listed.join(",").parse().unwrap());
            strip_hop_by_hop(&mut headers);
            strip_trusted(&mut headers);
            for name in headers.keys() {
                prop_assert!(!is_hop_by_hop(name));
                prop_assert!(!is_trusted_header(name.as_str()));
                prop_assert!(!listed.iter().any(|l| l == name.as_str()));
            }
        }

        #[test]
        fn ordinary_fields_survive(value in "[ -~]{0,20}") {
            let mut headers = map(&[("accept", "*/*"), ("x-request-id", "7")]);
            headers.insert("cookie", value.parse().unwrap());
            let before = headers.clone();
            strip_hop_by_hop(&mut headers);
            strip_trusted(&mut headers);
            prop_assert_eq!(headers, before);
        }
    }
}
