//! Properties.
//!
//! Owns: which the plugin may read and set. A property that a plugin has set is found first, by its whole path; as in
//! Envoy it is also under `filter_state`, by its path behind `wasm.`.

use bytes::Bytes;

use crate::abi::{Status, path};
use crate::hostcalls::{Answer, Guest, Out, Span, give, split};
use crate::http::fields::Head;
use crate::instance::Host;
use crate::properties::{self, Subject};

pub(super) fn get(caller: Guest<'_, '_>, path: Span, out: Out) -> Answer {
    let (bytes, host) = split(caller)?;
    let raw = path.of(bytes)?;
    let segments = path::parse(raw)?;
    if !may_read(host, &segments) {
        return Err(host
            .refuse("a property that it may not read", Status::NotFound)
            .into());
    }
    let found = find(host, raw, &segments).ok_or(Status::NotFound)?;
    give(caller, &found, out)
}

pub(super) fn set(caller: Guest<'_, '_>, path: Span, value: Span) -> Answer {
    let (bytes, host) = split(caller)?;
    let raw = path.of(bytes)?;
    let segments = path::parse(raw)?;
    let value = value.of(bytes)?;
    if !host
        .version
        .spec
        .capabilities
        .write_properties
        .allows(&segments.join("."))
    {
        let refused = host.refuse("a property that it may not set", Status::InternalFailure);
        return Err(refused.into());
    }
    let limit = host.version.spec.limits.properties;
    let context = host.stream()?;
    let shared = context.shared.as_ref().ok_or(Status::NotFound)?;
    let raw = raw.strip_suffix(b"\0").unwrap_or(raw);
    if shared
        .properties
        .set(raw, Bytes::copy_from_slice(value), limit)
    {
        return Ok(());
    }
    Err(host
        .refuse("properties beyond the limit", Status::InternalFailure)
        .into())
}

/// A header is a header, by whichever name it is asked for.
fn may_read(host: &Host, segments: &[&str]) -> bool {
    let capabilities = &host.version.spec.capabilities;
    if !capabilities.read_properties.allows(&segments.join(".")) {
        return false;
    }
    match segments {
        ["request" | "response", "headers" | "trailers"] => capabilities.read_headers.allows_any(),
        ["request" | "response", "headers" | "trailers", name, ..] => {
            capabilities.read_headers.allows(&name.to_ascii_lowercase())
        }
        _ => true,
    }
}

fn find(host: &Host, raw: &[u8], segments: &[&str]) -> Option<Vec<u8>> {
    let context = host.contexts.get(&host.effective());
    let shared = context.and_then(|context| context.shared.as_ref());
    if let Some(shared) = shared {
        let raw = raw.strip_suffix(b"\0").unwrap_or(raw);
        let state = raw.strip_prefix(b"filter_state\0wasm.");
        let set = shared.properties.get(raw);
        let set = set.or_else(|| shared.properties.get(state?));
        if let Some(value) = set {
            return Some(value.to_vec());
        }
    }
    let held_request = context.and_then(|context| match &context.request.head {
        Some(Head::Request(head)) => Some(&**head),
        _ => None,
    });
    let held_response = context.and_then(|context| match &context.response.head {
        Some(Head::Response(head)) => Some(&**head),
        _ => None,
    });
    let held_trailers = context.and_then(|context| context.response.trailers.as_ref());
    let seen = shared.map(|shared| &shared.seen);
    let subject = Subject {
        spec: &host.version.spec,
        info: shared.map(|shared| &shared.info),
        request: held_request.or_else(|| seen?.request.get()),
        response: held_response.or_else(|| seen?.response.get()),
        response_trailers: held_trailers.or_else(|| seen?.response_trailers.get()),
        request_bytes: seen.map_or(0, |seen| seen.request_bytes()),
        response_bytes: seen.map_or(0, |seen| seen.response_bytes()),
    };
    properties::find(&subject, segments)
}
