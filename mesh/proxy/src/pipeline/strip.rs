//! Step 2: what a peer may not say is taken out, before anybody reads it.
//!
//! Owns: removal of hop-by-hop fields (RFC 9110 §7.6.1), of the fields by which the application learns who calls and
//! that it is we who say so, and of the underscore twins of every trusted field. Must not: add anything.

use http::header::{self, HeaderName};
use http::{HeaderMap, request::Parts};
use ringwall_data_path::fields;
use ringwall_http_io::headers::{is_hop_by_hop, is_trusted_header};
use ringwall_proto::headers::{CLIENT_CERT, LOOPBACK};

use super::admit::{Admitted, Purpose};
use crate::body::ProxyBody;
use crate::inbound::AppPort;

/// A request that says only what its caller may say.
#[derive(Debug)]
pub(crate) struct Stripped {
    pub(super) parts: Parts,
    pub(super) body: ProxyBody,
    pub(super) port: AppPort,
    pub(super) purpose: Purpose,
    /// The caller takes trailers (RFC 9110 §10.1.4); gRPC servers ask for it.
    pub(super) takes_trailers: bool,
}

pub(crate) fn strip(admitted: Admitted) -> Stripped {
    let Admitted {
        mut parts,
        body,
        port,
        purpose,
    } = admitted;
    let takes_trailers = takes_trailers(&parts.headers);
    fields::remove(&mut parts.headers, ends_here);
    Stripped {
        parts,
        body,
        port,
        purpose,
        takes_trailers,
    }
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    headers
        .get(header::TE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"))
}

pub(super) fn ends_here(name: &HeaderName) -> bool {
    let text = name.as_str();
    match text.as_bytes().first() {
        Some(b'x') => is_ours(text) || (text.contains('_') && is_trusted_header(text)),
        Some(b'c' | b'k' | b'p' | b't' | b'u') => {
            // What trailers there will be concerns both ends.
            is_hop_by_hop(name) && *name != header::TRAILER
        }
        Some(b'e') => *name == header::EXPECT,
        Some(b'h') => text == "http2-settings",
        _ => false,
    }
}

/// The fields that only a proxy sets for its application, however they are spelt.
pub(crate) fn is_ours(name: &str) -> bool {
    let is = |ours: &str| {
        let same = |(seen, ours)| seen == ours || (seen == b'_' && ours == b'-');
        name.len() == ours.len() && name.bytes().zip(ours.bytes()).all(same)
    };
    is(CLIENT_CERT) || is(LOOPBACK)
}

/// Takes out of an application's response what ends here.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    fields::remove(headers, |name| {
        let text = name.as_str();
        match text.as_bytes().first() {
            Some(b'x') => is_ours(text),
            Some(b'c' | b'k' | b'p' | b't' | b'u') => {
                is_hop_by_hop(name) && *name != header::TRAILER
            }
            _ => false,
        }
    });
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn left(names: &[&str]) -> Vec<String> {
        let mut headers: HeaderMap = names
            .iter()
            .map(|name| (name.parse().expect("name"), HeaderValue::from_static("v")))
            .collect();
        fields::remove(&mut headers, ends_here);
        let mut left: Vec<String> = headers.keys().map(ToString::to_string).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn attack_forged_identity_fields_and_their_twins_never_pass() {
        let forged = [
            "x-forwarded-client-cert",
            "x_forwarded_client_cert",
            "x-forwarded_client-cert",
            "x-ringwall-loopback",
            "x_ringwall_loopback",
            "x_ringwall_user_context",
            "x-ringwall_user-context",
            "x_forwarded_for",
            "te",
            "upgrade",
            "keep-alive",
            "proxy-authorization",
            "expect",
            "http2-settings",
        ];
        assert_eq!(left(&forged), Vec::<String>::new());
    }

    #[test]
    fn what_the_gateway_says_passes() {
        let said = [
            "traceparent",
            "trailer",
            "x-forwarded-for",
            "x-ringwall-user-context",
        ];
        assert_eq!(left(&said), said);
    }

    proptest! {
        #[test]
        fn ours_is_ours_in_every_spelling(name in "x[-_]ringwall[-_]loopback|x[-_]forwarded[-_]client[-_]cert") {
            prop_assert!(is_ours(&name));
        }
    }
}
