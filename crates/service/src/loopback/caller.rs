//! `x-forwarded-client-cert` as Envoy writes it: `By=…;Hash=…;Subject="…";URI=…`.
//!
//! Strict: exactly one field with exactly one element, known keys, one URI that is a workload of our
//! own trust domain, and `By` (where it is there) ourselves. Whatever else came along is a sign that
//! something between the proxy and us adds to the field.

use http::{HeaderMap, HeaderName};
use ringwall_identity::SpiffeId;

/// Longest field that is read, in bytes. An element with a whole certificate would be longer, and our
/// proxy sends none.
const LONGEST: usize = 4096;

/// Why the field names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unnamed {
    #[error("x-forwarded-client-cert is missing or there twice")]
    Absent,
    #[error("x-forwarded-client-cert is too long or no text")]
    NotText,
    #[error("x-forwarded-client-cert does not have exactly one element of known keys")]
    Malformed,
    #[error("x-forwarded-client-cert was not written by our own proxy")]
    ByAnother,
    #[error("x-forwarded-client-cert does not name exactly one workload")]
    NoUri,
    #[error("x-forwarded-client-cert names a workload of another trust domain")]
    Foreign,
}

/// The workload that the field names; `own` is whose proxy must have written it.
pub(super) fn of(
    fields: &HeaderMap,
    name: &HeaderName,
    own: &SpiffeId,
) -> Result<SpiffeId, Unnamed> {
    let mut values = fields.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Unnamed::Absent);
    };
    if value.len() > LONGEST {
        return Err(Unnamed::NotText);
    }
    let text = value.to_str().map_err(|_| Unnamed::NotText)?;
    let element = Element::parse(text)?;
    if element.by.is_some_and(|by| by != own.as_str()) {
        return Err(Unnamed::ByAnother);
    }
    let id = element.uri.and_then(|uri| SpiffeId::parse(uri).ok());
    let id = id.filter(SpiffeId::is_workload).ok_or(Unnamed::NoUri)?;
    if id.trust_domain() != own.trust_domain() {
        return Err(Unnamed::Foreign);
    }
    Ok(id)
}

/// What of an element matters to us.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element<'a> {
    by: Option<&'a str>,
    uri: Option<&'a str>,
}

impl<'a> Element<'a> {
    fn parse(text: &'a str) -> Result<Self, Unnamed> {
        let mut element = Self::default();
        let mut seen = Vec::with_capacity(4);
        let mut rest = text;
        loop {
            let (key, after) = rest.split_once('=').ok_or(Unnamed::Malformed)?;
            let (value, next) = split_value(after)?;
            match key {
                "By" => element.by = Some(value),
                "URI" if element.uri.is_some() => return Err(Unnamed::NoUri),
                "URI" => element.uri = Some(value),
                "Hash" if is_sha256(value) => {}
                "Subject" | "DNS" => {}
                _ => return Err(Unnamed::Malformed),
            }
            // A certificate may have several DNS names, and nothing else twice.
            if key != "DNS" && seen.contains(&key) {
                return Err(Unnamed::Malformed);
            }
            seen.push(key);
            match next {
                Some(next) => rest = next,
                None => return Ok(element),
            }
        }
    }
}

fn is_sha256(value: &str) -> bool {
    value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A value and what stands after its `;`. Quoted values may hold anything, with `\` before a quote or
/// a backslash; others hold no comma, which would begin another element.
fn split_value(text: &str) -> Result<(&str, Option<&str>), Unnamed> {
    if let Some(quoted) = text.strip_prefix('"') {
        let end = end_of_quoted(quoted).ok_or(Unnamed::Malformed)?;
        let (value, after) = quoted.split_at_checked(end).ok_or(Unnamed::Malformed)?;
        let after = after.strip_prefix('"').ok_or(Unnamed::Malformed)?;
        return match after.strip_prefix(';') {
            Some(next) => Ok((value, Some(next))),
            None if after.is_empty() => Ok((value, None)),
            None => Err(Unnamed::Malformed),
        };
    }
    let (value, next) = match text.split_once(';') {
        Some((value, next)) => (value, Some(next)),
        None => (text, None),
    };
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b'"' | b'=');
    if value.bytes().all(plain) {
        Ok((value, next))
    } else {
        Err(Unnamed::Malformed)
    }
}

/// Place of the quote that ends a quoted value.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (place, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(place),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use ringwall_proto::headers;

    use super::*;

    const NAME: HeaderName = HeaderName::from_static(headers::CLIENT_CERT);

    fn own() -> SpiffeId {
        SpiffeId::parse("spiffe://ringwall.local/inventory").unwrap()
    }

    fn read(values: &[&str]) -> Result<String, Unnamed> {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(NAME, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        of(&fields, &NAME, &own()).map(|id| id.path().to_owned())
    }

    #[test]
    fn the_workload_is_read_from_every_form_that_envoy_writes() {
        let hash = "a".repeat(64);
        for text in [
            "URI=spiffe://ringwall.local/orders".to_owned(),
            "By=spiffe://ringwall.local/inventory;URI=spiffe://ringwall.local/orders".to_owned(),
            format!(
                "By=spiffe://ringwall.local/inventory;Hash={hash};URI=spiffe://ringwall.local/orders"
            ),
            format!(
                "Hash={hash};Subject=\"O=a;b,c=\\\"d\\\"\";URI=spiffe://ringwall.local/orders;DNS=orders;DNS=orders.local"
            ),
            "Subject=\"\";URI=spiffe://ringwall.local/orders".to_owned(),
        ] {
            assert_eq!(read(&[&text]).as_deref(), Ok("orders"), "{text}");
        }
    }

    #[test]
    fn attack_a_field_that_is_not_exactly_one_element_of_our_proxy_is_refused() {
        let one = "URI=spiffe://ringwall.local/orders";
        for (values, expected) in [
            (vec![], Unnamed::Absent),
            (vec![one, one], Unnamed::Absent),
            (vec![""], Unnamed::Malformed),
            (vec!["orders"], Unnamed::Malformed),
            (
                vec!["uri=spiffe://ringwall.local/orders"],
                Unnamed::Malformed,
            ),
            (
                vec!["URI=spiffe://ringwall.local/orders,URI=spiffe://ringwall.local/gateway"],
                Unnamed::Malformed,
            ),
            (
                vec!["URI=spiffe://ringwall.local/orders, By=x"],
                Unnamed::Malformed,
            ),
            (
                vec!["URI=spiffe://ringwall.local/orders;"],
                Unnamed::Malformed,
            ),
            (
                vec!["URI=spiffe://ringwall.local/orders;Role=admin"],
                Unnamed::Malformed,
            ),
            (
                vec!["URI=spiffe://ringwall.local/orders;By=a;By=a"],
                Unnamed::Malformed,
            ),
            (
                vec!["Hash=abc;URI=spiffe://ringwall.local/orders"],
                Unnamed::Malformed,
            ),
            (
                vec!["Subject=\"x;URI=spiffe://ringwall.local/orders"],
                Unnamed::Malformed,
            ),
            (
                vec!["Subject=\"x\"URI=spiffe://ringwall.local/orders"],
                Unnamed::Malformed,
            ),
            (
                vec!["Subject=\"\\\";URI=spiffe://ringwall.local/orders"],
                Unnamed::Malformed,
            ),
            (
                vec!["URI=spiffe://ringwall.local/orders;URI=spiffe://ringwall.local/gateway"],
                Unnamed::NoUri,
            ),
            (vec!["URI=spiffe://ringwall.local"], Unnamed::NoUri),
            (vec!["URI=https://ringwall.local/orders"], Unnamed::NoUri),
            (vec!["DNS=orders"], Unnamed::NoUri),
            (
                vec!["By=spiffe://ringwall.local/orders;URI=spiffe://ringwall.local/orders"],
                Unnamed::ByAnother,
            ),
            (
                vec!["URI=spiffe://ringwall.example/orders"],
                Unnamed::Foreign,
            ),
        ] {
            assert_eq!(read(&values), Err(expected), "{values:?}");
        }
        let long = format!("Subject=\"{}\";{one}", "x".repeat(LONGEST));
        assert_eq!(read(&[&long]), Err(Unnamed::NotText));
        assert_eq!(
            read(&["URI=spiffe://ringwall.local/\u{e9}"]),
            Err(Unnamed::NotText)
        );
    }
}
