//! From a path to a value.
//!
//! Owns: which attribute is where. Names are those of Envoy's `expr/context.cc`; README.md lists what is missing.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, request, response};

use crate::http::fields::{self, Fields};
use crate::properties::{ConnectionInfo, StreamInfo, UpstreamInfo, Value};
use crate::spec::PluginSpec;

/// All that a property can be about. What is not there yet is `None`.
pub(crate) struct Subject<'a> {
    pub(crate) spec: &'a PluginSpec,
    pub(crate) info: Option<&'a StreamInfo>,
    pub(crate) request: Option<&'a request::Parts>,
    pub(crate) response: Option<&'a response::Parts>,
    pub(crate) response_trailers: Option<&'a HeaderMap>,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
}

/// The value at `path`, encoded. `None` is `NOT_FOUND`.
pub(crate) fn find(subject: &Subject<'_>, path: &[&str]) -> Option<Vec<u8>> {
    let (first, rest) = path.split_first()?;
    if let Some(own) = subject.info.and_then(|info| info.properties.as_ref())
        && let Some(value) = own.property(path)
    {
        return Some(value.encode());
    }
    let plugin = |text: &Arc<str>| rest.is_empty().then(|| Value::Text(Arc::clone(text)));
    let spec = subject.spec;
    let value = match *first {
        "plugin_name" => plugin(&spec.name),
        "plugin_root_id" => plugin(&spec.root_id),
        "plugin_vm_id" => plugin(&spec.vm_id),
        _ => stream(subject, subject.info?, first, rest),
    };
    value.map(|value| value.encode())
}

fn stream(subject: &Subject<'_>, info: &StreamInfo, first: &str, rest: &[&str]) -> Option<Value> {
    let leaf = |value: Value| rest.is_empty().then_some(value);
    match first {
        "request" => {
            let (name, under) = rest.split_first()?;
            request_attribute(subject, info, name, under)
        }
        "response" => {
            let (name, under) = rest.split_first()?;
            response_attribute(subject, name, under)
        }
        "connection" => connection(&info.connection, single(rest)?),
        "upstream" => upstream(&info.upstream, single(rest)?),
        "source" => address(info.connection.source?, single(rest)?),
        "destination" => address(info.connection.destination?, single(rest)?),
        "connection_id" => leaf(Value::Uint(info.connection.id)),
        "route_name" => leaf(Value::Text(Arc::clone(&info.route_name))),
        "cluster_name" => leaf(Value::Text(Arc::clone(&info.cluster_name))),
        "listener_direction" => leaf(Value::Int(info.direction as i64)),
        "metadata" => walk(info.metadata.as_ref()?, rest),
        "node" => walk(info.node.as_ref()?, rest),
        "filter_state" => walk(info.filter_state.as_ref()?, rest),
        _ => None,
    }
}

fn single<'a>(rest: &[&'a str]) -> Option<&'a str> {
    match rest {
        [only] => Some(only),
        _ => None,
    }
}

fn walk(value: &Value, rest: &[&str]) -> Option<Value> {
    let mut value = value;
    for segment in rest {
        value = value.step(segment)?;
    }
    Some(value.clone())
}

fn request_attribute(
    subject: &Subject<'_>,
    info: &StreamInfo,
    name: &str,
    under: &[&str],
) -> Option<Value> {
    if name == "time" && under.is_empty() {
        return Some(Value::Time(info.start));
    }
    if name == "id" && under.is_empty() && info.request_id.is_some() {
        return info.request_id.clone().map(Value::Text);
    }
    let head = subject.request?;
    let https = info.connection.tls_version.is_some();
    if name == "headers" {
        return headers(Fields::Request(head, https), &head.headers, under);
    }
    if !under.is_empty() {
        return None;
    }
    let field = |name: &str| header_text(&head.headers, name);
    let whole = head.uri.path_and_query();
    match name {
        "path" => Some(Value::text(whole.map_or("/", |path| path.as_str()))),
        "url_path" => Some(Value::text(head.uri.path())),
        "query" => Some(Value::text(head.uri.query().unwrap_or_default())),
        "host" => fields::authority(head).map(Value::text),
        "scheme" => Some(Value::text(fields::scheme(head, https))),
        "method" => Some(Value::text(&head.method)),
        "referer" => field("referer"),
        "useragent" => field("user-agent"),
        "id" => field("x-request-id"),
        "protocol" => Some(Value::text(protocol(head.version))),
        "size" => Some(size(&head.headers, subject.request_bytes)),
        "total_size" => {
            let bytes = fields::byte_size(Fields::Request(head, https));
            Some(integer(subject.request_bytes.saturating_add(bytes as u64)))
        }
        _ => None,
    }
}

fn response_attribute(subject: &Subject<'_>, name: &str, under: &[&str]) -> Option<Value> {
    let head = subject.response?;
    match name {
        "headers" => headers(Fields::Response(head), &head.headers, under),
        "trailers" => {
            let trailers = subject.response_trailers?;
            headers(Fields::Map(trailers), trailers, under)
        }
        _ if !under.is_empty() => None,
        "code" => Some(Value::Int(i64::from(head.status.as_u16()))),
        "size" => Some(integer(subject.response_bytes)),
        "total_size" => {
            let bytes = fields::byte_size(Fields::Response(head));
            Some(integer(subject.response_bytes.saturating_add(bytes as u64)))
        }
        "grpc_status" => {
            let trailers = subject.response_trailers;
            let status = trailers.and_then(|map| map.get("grpc-status"));
            let status = status.or_else(|| head.headers.get("grpc-status"))?;
            Some(Value::Int(status.to_str().ok()?.parse().ok()?))
        }
        _ => None,
    }
}

/// The whole map, or one field of it, as `request.headers.user-agent`.
fn headers(all: Fields<'_>, map: &HeaderMap, under: &[&str]) -> Option<Value> {
    match under {
        [] => Some(Value::map(all.pairs().map(|(key, value)| {
            let key = String::from_utf8_lossy(key).into_owned();
            (key, Value::Bytes(bytes::Bytes::copy_from_slice(value)))
        }))),
        [name] => {
            let mut values = map.get_all(*name).iter();
            let mut joined = values.next()?.as_bytes().to_vec();
            for value in values {
                joined.push(b',');
                joined.extend_from_slice(value.as_bytes());
            }
            Some(Value::Bytes(joined.into()))
        }
        _ => None,
    }
}

fn header_text(map: &HeaderMap, name: &str) -> Option<Value> {
    Some(Value::Bytes(bytes::Bytes::copy_from_slice(
        map.get(name)?.as_bytes(),
    )))
}

fn integer(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn size(headers: &HeaderMap, seen: u64) -> Value {
    let declared = headers.get(http::header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse().ok());
    declared.map_or_else(|| integer(seen), Value::Int)
}

const fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_3 => "HTTP/3",
        http::Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn connection(connection: &ConnectionInfo, name: &str) -> Option<Value> {
    let peer = connection.peer.as_ref();
    let text = |text: &Option<Arc<str>>| text.clone().map(Value::Text);
    match name {
        "id" => Some(Value::Uint(connection.id)),
        "mtls" => Some(Value::Bool(peer.is_some())),
        "requested_server_name" => {
            let name = connection.server_name.clone();
            Some(Value::Text(name.unwrap_or_else(|| Arc::from(""))))
        }
        "tls_version" => text(&connection.tls_version),
        "uri_san_local_certificate" => text(&connection.local_uri_san),
        "subject_local_certificate" => text(&connection.local_subject),
        "uri_san_peer_certificate" => text(&peer?.uri_san),
        "dns_san_peer_certificate" => text(&peer?.dns_san),
        "subject_peer_certificate" => text(&peer?.subject),
        "sha256_peer_certificate_digest" => text(&peer?.sha256),
        _ => None,
    }
}

fn upstream(upstream: &UpstreamInfo, name: &str) -> Option<Value> {
    match name {
        "uri_san_peer_certificate" => upstream.uri_san.clone().map(Value::Text),
        "tls_version" => upstream.tls_version.clone().map(Value::Text),
        _ => address(upstream.address?, name),
    }
}

fn address(address: SocketAddr, name: &str) -> Option<Value> {
    match name {
        "address" => Some(Value::text(address.to_string())),
        "port" => Some(Value::Int(i64::from(address.port()))),
        _ => None,
    }
}
