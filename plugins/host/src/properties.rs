//! Properties: what a plugin may ask about a stream, by Envoy's attribute names.
//!
//! Owns: the names, and the encoding of values as Envoy has it (`serializeValue`). Must not: decide whether a plugin may
//! ask; `hostcalls/property.rs` does. Read next: `properties/lookup.rs`.

mod lookup;

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::abi::pairs;

pub(crate) use self::lookup::{Subject, find};

/// A value of a property.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Arc<str>),
    Bytes(Bytes),
    Time(SystemTime),
    Duration(Duration),
    Map(Arc<[(Box<str>, Value)]>),
    List(Arc<[Value]>),
}

impl Value {
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::Text(text.as_ref().into())
    }

    /// A map, in the order given.
    pub fn map<K: Into<Box<str>>>(entries: impl IntoIterator<Item = (K, Value)>) -> Self {
        Self::Map(entries.into_iter().map(|(k, v)| (k.into(), v)).collect())
    }

    /// One step down: a key of a map, an index of a list.
    fn step(&self, segment: &str) -> Option<&Value> {
        match self {
            Self::Map(entries) => {
                let mut entries = entries.iter();
                let found = entries.find(|(key, _)| **key == *segment);
                found.map(|(_, value)| value)
            }
            Self::List(items) => items.get(segment.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// As Envoy serialises it: integers and doubles in 8 bytes, little-endian; one byte for a boolean; times and
    /// durations in nanoseconds; texts raw; maps and lists as pairs.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Bool(value) => vec![u8::from(*value)],
            Self::Int(value) => value.to_le_bytes().to_vec(),
            Self::Uint(value) => value.to_le_bytes().to_vec(),
            Self::Double(value) => value.to_le_bytes().to_vec(),
            Self::Text(value) => value.as_bytes().to_vec(),
            Self::Bytes(value) => value.to_vec(),
            Self::Time(value) => unix_nanoseconds(*value).to_le_bytes().to_vec(),
            Self::Duration(value) => nanoseconds(*value).to_le_bytes().to_vec(),
            Self::Map(entries) => {
                let encoded: Vec<(&[u8], Vec<u8>)> = entries
                    .iter()
                    .map(|(key, value)| (key.as_bytes(), value.encode()))
                    .collect();
                pairs::to_vec(|| encoded.iter().map(|(key, value)| (*key, &**value)))
            }
            Self::List(items) => {
                let encoded: Vec<Vec<u8>> = items.iter().map(Self::encode).collect();
                pairs::to_vec(|| encoded.iter().map(|item| (&**item, &b""[..])))
            }
        }
    }
}

/// Nanoseconds, or as many as fit.
fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Since 1970; negative before.
pub(crate) fn unix_nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => nanoseconds(after),
        Err(before) => -nanoseconds(before.duration()),
    }
}

/// What the embedder knows of a connection. One for all its streams.
#[derive(Debug, Clone, Default)]
pub struct ConnectionInfo {
    /// `connection.id`.
    pub id: u64,
    /// `source.address` and `source.port`.
    pub source: Option<SocketAddr>,
    /// `destination.address` and `destination.port`.
    pub destination: Option<SocketAddr>,
    /// `connection.requested_server_name`.
    pub server_name: Option<Arc<str>>,
    /// `connection.tls_version`, such as `TLSv1.3`.
    pub tls_version: Option<Arc<str>>,
    /// The peer's certificate, if it has presented one: `connection.mtls` is whether it has.
    pub peer: Option<PeerCertificate>,
    /// `connection.uri_san_local_certificate`.
    pub local_uri_san: Option<Arc<str>>,
    /// `connection.subject_local_certificate`, in the form of RFC 2253.
    pub local_subject: Option<Arc<str>>,
}

/// What is in a peer's certificate.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificate {
    /// `connection.uri_san_peer_certificate`: the SPIFFE id.
    pub uri_san: Option<Arc<str>>,
    /// `connection.dns_san_peer_certificate`.
    pub dns_san: Option<Arc<str>>,
    /// `connection.subject_peer_certificate`.
    pub subject: Option<Arc<str>>,
    /// `connection.sha256_peer_certificate_digest`, in hexadecimal digits.
    pub sha256: Option<Arc<str>>,
}

/// `listener_direction`, with Envoy's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(i64)]
pub enum Direction {
    #[default]
    Unspecified = 0,
    Inbound = 1,
    Outbound = 2,
}

/// Where the request goes, once that is known.
#[derive(Debug, Clone, Default)]
pub struct UpstreamInfo {
    /// `upstream.address` and `upstream.port`.
    pub address: Option<SocketAddr>,
    /// `upstream.uri_san_peer_certificate`.
    pub uri_san: Option<Arc<str>>,
    /// `upstream.tls_version`.
    pub tls_version: Option<Arc<str>>,
}

/// More properties, by the segments of their path. Asked before everything else.
pub trait Properties: Send + Sync {
    fn property(&self, path: &[&str]) -> Option<Value>;
}

/// What the embedder knows of a stream when it opens one.
#[derive(Clone)]
pub struct StreamInfo {
    pub connection: Arc<ConnectionInfo>,
    /// When the request arrived: `request.time`.
    pub start: SystemTime,
    /// `request.id`.
    pub request_id: Option<Arc<str>>,
    /// `route_name`.
    pub route_name: Arc<str>,
    /// `cluster_name`.
    pub cluster_name: Arc<str>,
    /// `listener_direction`.
    pub direction: Direction,
    pub upstream: UpstreamInfo,
    /// `metadata`: user-context claims are at `metadata.filter_metadata.ringwall.user`.
    pub metadata: Option<Value>,
    /// `node`: `node.id`, `node.cluster`.
    pub node: Option<Value>,
    /// `filter_state`.
    pub filter_state: Option<Value>,
    pub properties: Option<Arc<dyn Properties>>,
}

static UNNAMED: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

impl StreamInfo {
    pub fn new(connection: Arc<ConnectionInfo>, start: SystemTime) -> Self {
        Self {
            connection,
            start,
            request_id: None,
            route_name: Arc::clone(&UNNAMED),
            cluster_name: Arc::clone(&UNNAMED),
            direction: Direction::default(),
            upstream: UpstreamInfo::default(),
            metadata: None,
            node: None,
            filter_state: None,
            properties: None,
        }
    }
}

impl std::fmt::Debug for StreamInfo {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Claims of users are in there: the route says enough.
        let mut shown = formatter.debug_struct("StreamInfo");
        shown
            .field("route_name", &self.route_name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r90_values_have_envoy_s_bytes() {
        assert_eq!(Value::Bool(true).encode(), [1]);
        assert_eq!(Value::Bool(false).encode(), [0]);
        assert_eq!(
            Value::Int(-2).encode(),
            [0xfe, 255, 255, 255, 255, 255, 255, 255]
        );
        assert_eq!(Value::Uint(258).encode(), [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Value::Double(1.5).encode(), 1.5_f64.to_le_bytes());
        assert_eq!(Value::text("abc").encode(), b"abc");
        let time = UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(Value::Time(time).encode(), 1_000_000_000_i64.to_le_bytes());
        let before = UNIX_EPOCH - Duration::from_nanos(5);
        assert_eq!(Value::Time(before).encode(), (-5_i64).to_le_bytes());
        let duration = Value::Duration(Duration::from_micros(3));
        assert_eq!(duration.encode(), 3000_i64.to_le_bytes());
        let map = Value::map([("a", Value::text("1"))]);
        assert_eq!(map.encode(), b"\x01\0\0\0\x01\0\0\0\x01\0\0\0a\x001\0");
        let list = Value::List([Value::text("x")].into());
        assert_eq!(list.encode(), b"\x01\0\0\0\x01\0\0\0\0\0\0\0x\0\0");
    }
}
