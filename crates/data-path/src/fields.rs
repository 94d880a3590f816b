//! Taking fields out of a head at the price of those that are there.
//!
//! Owns: the removal of fields that end at a hop, with what `Connection` lists (RFC 9110 §7.6.1), and the check of
//! framing fields. Must not: decide which fields end; callers do.

use http::header::{self, HeaderName};
use http::{HeaderMap, Version};

/// Takes out the fields of which `ends` is true. One pass over the names; most messages have nothing to remove
/// and pay no more than that.
pub fn remove(headers: &mut HeaderMap, ends: impl Fn(&HeaderName) -> bool) {
    let mut doomed: [Option<HeaderName>; 8] = [const { None }; 8];
    loop {
        let mut found = 0;
        for (name, slot) in headers.keys().filter(|name| ends(name)).zip(&mut doomed) {
            *slot = Some(name.clone());
            found += 1;
        }
        if found == 0 {
            return;
        }
        for name in doomed.iter_mut().filter_map(Option::take) {
            if name == header::CONNECTION {
                strip_listed(headers);
            }
            headers.remove(name);
        }
    }
}

/// Fields that `Connection` lists end here too.
#[cold]
fn strip_listed(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|option| HeaderName::from_bytes(option.trim().as_bytes()).ok())
        // hyper has read them already; the next hop's framing is not the client's to remove.
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    for name in listed {
        headers.remove(name);
    }
}

/// What two parsers may disagree on is refused even though hyper decided already (RFC 9112 §6.3).
///
/// # Errors
/// The word of the access log.
pub fn check_framing(headers: &HeaderMap, version: Version) -> Result<(), &'static str> {
    if !headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(());
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let only = codings
        .next()
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if version != Version::HTTP_11 || !only || codings.next().is_some() {
        return Err("transfer-encoding-not-chunked");
    }
    if headers.contains_key(header::CONTENT_LENGTH) {
        return Err("content-length-with-transfer-encoding");
    }
    Ok(())
}
