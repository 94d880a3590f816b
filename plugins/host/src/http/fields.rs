//! Header maps as a plugin sees them: pseudo-headers first, names in lower case, `host` as `:authority`.
//!
//! Owns: what a name means in a request, a response or trailers; which values are valid; what a plugin may never set.
//! Must not: know capabilities (`hostcalls/headers.rs` does). A field that would change how a message is framed or how the
//! connection is kept is the host's alone.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri, Version, request, response};

use crate::abi::Status;

/// Fields of one hop (RFC 9110 section 7.6.1): kept as they are, whatever a plugin writes.
const HOP_BY_HOP: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Whether the host alone may set it. `content-length` may be removed, never set.
pub(crate) fn is_framing(name: &HeaderName) -> bool {
    *name == CONTENT_LENGTH || HOP_BY_HOP.contains(&name.as_str())
}

/// The head of a message on its way. Boxed, since it changes hands many times for each plugin.
#[derive(Debug)]
pub(crate) enum Head {
    Request(Box<request::Parts>),
    Response(Box<response::Parts>),
}

/// One map, to read.
#[derive(Clone, Copy)]
pub(crate) enum Fields<'a> {
    /// With whether it arrived by TLS, which an origin-form request does not say.
    Request(&'a request::Parts, bool),
    Response(&'a response::Parts),
    Map(&'a HeaderMap),
}

/// A value of which the map may be dropped meanwhile.
pub(crate) enum Taken {
    Value(HeaderValue),
    Text(Vec<u8>),
}

impl AsRef<[u8]> for Taken {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Value(value) => value.as_bytes(),
            Self::Text(text) => text,
        }
    }
}

type Pair<'a> = (&'a [u8], &'a [u8]);

impl<'a> Fields<'a> {
    fn map(self) -> &'a HeaderMap {
        match self {
            Self::Request(head, _) => &head.headers,
            Self::Response(head) => &head.headers,
            Self::Map(map) => map,
        }
    }

    fn pseudo(self) -> [Option<Pair<'a>>; 4] {
        match self {
            Self::Request(head, https) => [
                authority(head).map(|text| (&b":authority"[..], text.as_bytes())),
                Some((b":path", path(head).as_bytes())),
                Some((b":method", head.method.as_str().as_bytes())),
                Some((b":scheme", scheme_or(head, https).as_bytes())),
            ],
            Self::Response(head) => [
                Some((b":status", head.status.as_str().as_bytes())),
                None,
                None,
                None,
            ],
            Self::Map(_) => [None; 4],
        }
    }

    /// All pairs, in order.
    pub(crate) fn pairs(self) -> impl Iterator<Item = Pair<'a>> {
        let is_request = matches!(self, Self::Request(..));
        let fields = self.map().iter();
        let fields = fields.filter(move |(name, _)| !(is_request && *name == HOST));
        let fields = fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        self.pseudo().into_iter().flatten().chain(fields)
    }

    /// How many pairs.
    pub(crate) fn count(self) -> usize {
        let hosts = match self {
            Self::Request(head, _) => head.headers.get_all(HOST).iter().count(),
            _ => 0,
        };
        let pseudo = self.pseudo().iter().flatten().count();
        self.map().len().saturating_sub(hosts) + pseudo
    }

    /// The first value of `name`, which is in lower case.
    pub(crate) fn get(self, name: &str) -> Option<Taken> {
        if name.starts_with(':') {
            let found = self.pseudo().into_iter().flatten();
            let mut found = found.filter(|(key, _)| *key == name.as_bytes());
            return found.next().map(|(_, value)| Taken::Text(value.to_vec()));
        }
        if name == "host"
            && let Self::Request(head, _) = self
        {
            return authority(head).map(|text| Taken::Text(text.as_bytes().to_vec()));
        }
        self.map().get(name).cloned().map(Taken::Value)
    }
}

/// One map, to change.
pub(crate) enum FieldsMut<'a> {
    Request(&'a mut request::Parts),
    Response(&'a mut response::Parts),
    Map(&'a mut HeaderMap),
}

impl FieldsMut<'_> {
    fn map(&mut self) -> &mut HeaderMap {
        match self {
            Self::Request(head) => &mut head.headers,
            Self::Response(head) => &mut head.headers,
            Self::Map(map) => map,
        }
    }

    /// Adds a value beside those that are there; of a pseudo-header there is one only.
    pub(crate) fn add(&mut self, name: &str, value: &[u8]) -> Result<(), Status> {
        if self.is_pseudo(name) {
            return self.set_pseudo(name, value);
        }
        let (name, value) = valid(name, value)?;
        if !is_framing(&name) {
            let added = self.map().try_append(name, value);
            added.map_err(|_| Status::InternalFailure)?;
        }
        Ok(())
    }

    /// Puts one value in the place of all others.
    pub(crate) fn replace(&mut self, name: &str, value: &[u8]) -> Result<(), Status> {
        if self.is_pseudo(name) {
            return self.set_pseudo(name, value);
        }
        let (name, value) = valid(name, value)?;
        if !is_framing(&name) {
            let set = self.map().try_insert(name, value);
            set.map_err(|_| Status::InternalFailure)?;
        }
        Ok(())
    }

    /// Removes all values. Without a pseudo-header a message is none.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), Status> {
        if self.is_pseudo(name) {
            return Err(Status::BadArgument);
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Status::BadArgument)?;
        if name == CONTENT_LENGTH || !is_framing(&name) {
            self.map().remove(name);
        }
        Ok(())
    }

    fn is_pseudo(&self, name: &str) -> bool {
        name.starts_with(':') || (name == "host" && matches!(self, Self::Request(_)))
    }

    fn set_pseudo(&mut self, name: &str, value: &[u8]) -> Result<(), Status> {
        let set = match self {
            Self::Request(head) => set_request(head, name, value),
            Self::Response(head) if name == ":status" => {
                let status = StatusCode::from_bytes(value).ok();
                let status = status.filter(|status| !status.is_informational());
                status.map(|status| head.status = status)
            }
            Self::Response(_) | Self::Map(_) => None,
        };
        set.ok_or(Status::BadArgument)
    }
}

fn valid(name: &str, value: &[u8]) -> Result<(HeaderName, HeaderValue), Status> {
    // The types refuse CR, LF and NUL, and names that are no tokens.
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Status::BadArgument)?;
    let value = HeaderValue::from_maybe_shared(stored(value)).map_err(|_| Status::BadArgument)?;
    Ok((name, value))
}

/// A copy of a value, beside others of this thread: a head's values take no memory of their own, and none when the head is
/// copied for `proxy_on_log`.
fn stored(value: &[u8]) -> Bytes {
    const CHUNK: usize = 2048;
    thread_local! {
        static STORE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    }
    if value.len() > CHUNK / 4 {
        return Bytes::copy_from_slice(value);
    }
    STORE.with_borrow_mut(|store| {
        if store.capacity() < value.len() {
            store.reserve(CHUNK);
        }
        store.extend_from_slice(value);
        store.split().freeze()
    })
}

fn set_request(head: &mut request::Parts, name: &str, value: &[u8]) -> Option<()> {
    match name {
        ":method" => {
            let method = Method::from_bytes(value).ok()?;
            // A tunnel is another kind of exchange: none becomes one, and none ceases to be one.
            if (method == Method::CONNECT) != (head.method == Method::CONNECT) {
                return None;
            }
            head.method = method;
            Some(())
        }
        ":path" => {
            let is_valid = value.starts_with(b"/") && !value.contains(&b'#');
            let path = PathAndQuery::try_from(value).ok().filter(|_| is_valid)?;
            rebuild(head, |parts| parts.path_and_query = Some(path))
        }
        ":scheme" => {
            let scheme = Scheme::try_from(value).ok()?;
            if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
                return None;
            }
            if head.uri.scheme().is_none() {
                return Some(()); // an origin-form request names none
            }
            rebuild(head, |parts| parts.scheme = Some(scheme))
        }
        ":authority" | "host" => {
            let authority = Authority::try_from(value).ok()?;
            if authority.as_str().contains('@') {
                return None; // user information has no place there (RFC 9110 section 4.2.4)
            }
            if head.version < Version::HTTP_2 || head.headers.contains_key(HOST) {
                let value = HeaderValue::from_bytes(value).ok()?;
                head.headers.insert(HOST, value);
            }
            if head.uri.authority().is_none() {
                return Some(());
            }
            rebuild(head, |parts| parts.authority = Some(authority))
        }
        _ => None,
    }
}

fn rebuild(head: &mut request::Parts, change: impl FnOnce(&mut http::uri::Parts)) -> Option<()> {
    let mut parts = head.uri.clone().into_parts();
    change(&mut parts);
    head.uri = Uri::from_parts(parts).ok()?;
    Some(())
}

/// `:authority`: that of the target, or the `Host` field.
pub(crate) fn authority(head: &request::Parts) -> Option<&str> {
    let of_target = head.uri.authority().map(Authority::as_str);
    of_target.or_else(|| head.headers.get(HOST)?.to_str().ok())
}

fn path(head: &request::Parts) -> &str {
    head.uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

fn scheme_or(head: &request::Parts, https: bool) -> &str {
    let unsaid = if https { "https" } else { "http" };
    head.uri.scheme_str().unwrap_or(unsaid)
}

/// `:scheme` where nothing is known but the request.
pub(crate) fn scheme(head: &request::Parts, https: bool) -> &str {
    scheme_or(head, https)
}

/// Bytes of all names and values.
pub(crate) fn byte_size(fields: Fields<'_>) -> usize {
    let sizes = fields.pairs().map(|(key, value)| key.len() + value.len());
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn r91_no_name_or_value_of_a_guest_breaks_a_message(name in "\\PC{0,12}|:path|:method|:authority|:scheme|host|x-a", value in prop::collection::vec(any::<u8>(), 0..24)) {
            let mut head = request("http://a.example/a");
            let name = name.to_lowercase();
            let mut fields = FieldsMut::Request(&mut head);
            let _ = fields.add(&name, &value);
            let _ = fields.replace(&name, &value);
            for (key, value) in Fields::Request(&head, false).pairs() {
                let breaks = |bytes: &[u8]| bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
                prop_assert!(!breaks(key) && !breaks(value));
            }
            prop_assert!(head.uri.path().starts_with('/'));
            prop_assert_eq!(head.headers.get_all(HOST).iter().count(), 1);
        }
    }

    fn request(uri: &str) -> request::Parts {
        let request = http::Request::get(uri).header("host", "a.example");
        request.body(()).unwrap().into_parts().0
    }

    fn texts(fields: Fields<'_>) -> Vec<String> {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let pairs = fields.pairs();
        pairs
            .map(|(key, value)| format!("{}={}", text(key), text(value)))
            .collect()
    }

    #[test]
    fn r90_a_request_shows_its_pseudo_headers_first() {
        let mut head = request("/a?b=c");
        head.headers.insert("x-a", HeaderValue::from_static("1"));
        let fields = Fields::Request(&head, true);
        let expected = [
            ":authority=a.example",
            ":path=/a?b=c",
            ":method=GET",
            ":scheme=https",
            "x-a=1",
        ];
        assert_eq!(texts(fields), expected);
        assert_eq!(fields.count(), 5);
        assert_eq!(fields.get("host").unwrap().as_ref(), b"a.example");
        assert!(fields.get(":status").is_none());
    }

    #[test]
    fn r90_pseudo_headers_can_be_set() {
        let mut head = request("http://a.example/a");
        let mut fields = FieldsMut::Request(&mut head);
        assert_eq!(fields.replace(":path", b"/new?x"), Ok(()));
        assert_eq!(fields.replace(":authority", b"b.example:8080"), Ok(()));
        assert_eq!(fields.replace(":method", b"POST"), Ok(()));
        assert_eq!(fields.replace(":scheme", b"https"), Ok(()));
        assert_eq!(head.uri, "https://b.example:8080/new?x");
        assert_eq!(head.headers[HOST], "b.example:8080");
        assert_eq!(head.method, Method::POST);
        let (mut head, ()) = http::Response::new(()).into_parts();
        assert_eq!(
            FieldsMut::Response(&mut head).replace(":status", b"418"),
            Ok(())
        );
        assert_eq!(head.status, 418);
    }

    #[test]
    fn r91_what_would_split_or_reframe_a_message_is_refused_or_ignored() {
        let mut head = request("/a");
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
        let mut fields = FieldsMut::Request(&mut head);
        for (name, value) in [
            ("x-a", &b"b\r\nx: y"[..]),
            ("x-a", b"b\0"),
            ("x a", b"b"),
            ("", b"b"),
            (":path", b"no-slash"),
            (":path", b"/a b"),
            (":path", b"/a#b"),
            (":path", b"/\r\n"),
            (":authority", b"user@host"),
            (":authority", b"a b"),
            (":method", b"CONNECT"),
            (":method", b"G T"),
            (":scheme", b"ftp"),
            (":status", b"200"),
            (":unknown", b"x"),
        ] {
            assert_eq!(
                fields.add(name, value),
                Err(Status::BadArgument),
                "{name}: {value:?}"
            );
        }
        assert_eq!(fields.remove(":path"), Err(Status::BadArgument));
        for name in HOP_BY_HOP {
            assert_eq!(fields.replace(name, b"x"), Ok(()));
        }
        assert_eq!(fields.replace("content-length", b"9"), Ok(()));
        assert_eq!(head.headers.len(), 2);
        assert_eq!(head.headers[CONTENT_LENGTH], "3");
        assert_eq!(
            FieldsMut::Request(&mut head).remove("content-length"),
            Ok(())
        );
        assert!(!head.headers.contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn r91_a_status_is_final() {
        let (mut head, ()) = http::Response::new(()).into_parts();
        let mut fields = FieldsMut::Response(&mut head);
        for status in ["100", "99", "abc", "1000"] {
            assert_eq!(
                fields.replace(":status", status.as_bytes()),
                Err(Status::BadArgument)
            );
        }
    }
}
