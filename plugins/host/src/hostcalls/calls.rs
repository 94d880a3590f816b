//! HTTP calls to declared clusters.
//!
//! Owns: what a call must have, and its time-out. The answer comes to the plugin's own context; a call counts for the
//! stream that has made it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};

use crate::abi::pairs::{self, PairLimits};
use crate::abi::{Status, memory};
use crate::hostcalls::stream::fields;
use crate::hostcalls::{Answer, Guest, Span, split};
use crate::instance::{Action, CallKind, Host};

pub(super) fn http_call(
    caller: Guest<'_, '_>,
    cluster: Span,
    headers: Span,
    body: Span,
    trailers: Span,
    timeout: u32,
    out: u32,
) -> Answer {
    let (bytes, host) = split(caller)?;
    let cluster = known_cluster(host, cluster.of(bytes)?).ok_or(Status::BadArgument)?;
    let allowed = limits(host);
    let given = pairs::parse(headers.of(bytes)?, allowed)?;
    let body = body.of(bytes)?;
    let trailers = fields(pairs::parse(trailers.of(bytes)?, allowed)?)?;
    let timeout = time_out(host, timeout)?;
    if body.len() > host.version.spec.limits.buffered_body {
        return Err(host
            .refuse("a call's body beyond the limit", Status::InternalFailure)
            .into());
    }
    let request = request(given, Bytes::copy_from_slice(body)).ok_or(Status::BadArgument)?;
    memory::slice(bytes, out, 4)?; // before anything is begun
    let id = host.add_call(CallKind::Http, None)?;
    host.actions.push(Action::HttpCall {
        id,
        cluster,
        request,
        trailers,
        timeout,
    });
    Ok(memory::write_u32(bytes, out, id)?)
}

/// The name of a cluster that the plugin may call and the embedder knows.
pub(super) fn known_cluster(host: &Host, name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    if !host.version.spec.capabilities.clusters.allows(name) {
        host.refuse("a cluster that it may not call", Status::BadArgument);
        return None;
    }
    // On trial there is nobody to ask: the configuration is what is tried.
    let worker = host.worker.upgrade()?;
    (worker.handle.is_none() || worker.callouts.knows(name)).then(|| name.to_owned())
}

pub(super) fn limits(host: &Host) -> PairLimits {
    let limits = &host.version.spec.limits;
    PairLimits {
        count: limits.header_count,
        bytes: limits.header_bytes,
    }
}

/// In milliseconds; zero is the longest that is allowed.
pub(super) fn time_out(host: &Host, milliseconds: u32) -> Result<Duration, Status> {
    let longest = host.version.spec.limits.call_time;
    // A negative number of the guest's.
    i32::try_from(milliseconds).map_err(|_| Status::BadArgument)?;
    Ok(match milliseconds {
        0 => longest,
        asked => Duration::from_millis(u64::from(asked)).min(longest),
    })
}

fn request(pairs: Vec<(&[u8], &[u8])>, body: Bytes) -> Option<Request<Bytes>> {
    let pseudo = |name: &[u8]| {
        let found = pairs.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| *value)
    };
    let method = Method::from_bytes(pseudo(b":method")?).ok()?;
    let authority = pseudo(b":authority").or_else(|| pseudo(b"host"))?;
    let path = pseudo(b":path").filter(|path| path.starts_with(b"/"))?;
    let scheme = pseudo(b":scheme").unwrap_or(b"http");
    if method == Method::CONNECT {
        return None;
    }
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(path);
    let uri = uri.build().ok()?;
    let mut headers: HeaderMap = fields(pairs).ok()?;
    headers.remove(header::HOST);
    if !body.is_empty() {
        headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r90_a_call_has_a_method_a_path_and_an_authority() {
        let whole: Vec<(&[u8], &[u8])> = vec![
            (b":method", b"POST"),
            (b":path", b"/a?b"),
            (b":authority", b"host:1"),
            (b"X-A", b"1"),
            (b"transfer-encoding", b"chunked"),
        ];
        let made = request(whole.clone(), Bytes::from_static(b"abc")).unwrap();
        assert_eq!(made.method(), Method::POST);
        assert_eq!(made.uri(), "http://host:1/a?b");
        assert_eq!(made.headers().len(), 2);
        assert_eq!(made.headers()["x-a"], "1");
        assert_eq!(made.headers()[header::CONTENT_LENGTH], "3");
        for missing in 0..3 {
            let mut pairs = whole.clone();
            pairs.remove(missing);
            assert!(request(pairs, Bytes::new()).is_none(), "{missing}");
        }
        for (place, bad) in [
            (0, &b"CONNECT"[..]),
            (1, b"no-slash"),
            (2, b"a b"),
            (3, b"\n"),
        ] {
            let mut pairs = whole.clone();
            pairs[place].1 = bad;
            assert!(request(pairs, Bytes::new()).is_none(), "{bad:?}");
        }
    }
}
