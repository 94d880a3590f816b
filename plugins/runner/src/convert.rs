//! From the words of `cases.yaml` to those of the host and of HTTP, and back.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header};
use ringwall_plugin_cases as cases;
use ringwall_plugin_cases::{Answer, Fields, GrpcAnswer, Message, Reply};
use ringwall_plugin_host::{BodyAccess, Capabilities, Names, PluginSpec};

use crate::frames::Frames;

/// Before a message of gRPC: whether it is compressed, and its length.
pub(crate) const GRPC_PREFIX: usize = 5;

/// What a suite declares, as the host takes it.
#[must_use]
pub fn capabilities(declared: &cases::Capabilities) -> Capabilities {
    Capabilities {
        read_headers: Names::new(&declared.read_headers),
        write_headers: Names::new(&declared.write_headers),
        body: match declared.body {
            cases::BodyAccess::None => BodyAccess::None,
            cases::BodyAccess::Read => BodyAccess::Read,
            cases::BodyAccess::Write => BodyAccess::Write,
        },
        local_response: declared.local_response,
        clusters: Names::new(&declared.clusters),
        shared_data: Names::new(&declared.shared_data),
        queues: Names::new(&declared.queues),
        read_properties: Names::new(&declared.read_properties),
        write_properties: Names::new(&declared.write_properties),
        foreign_functions: Names::new(&declared.foreign_functions),
        ..Capabilities::default()
    }
}

/// A plugin as a suite declares it, with one of its configurations.
#[must_use]
pub fn spec(name: &str, declared: &cases::Capabilities, configuration: &[u8]) -> PluginSpec {
    let mut spec = PluginSpec::new(name);
    spec.capabilities = capabilities(declared);
    spec.configuration = Bytes::copy_from_slice(configuration);
    spec
}

/// A request as a client sends it: HTTP/1.1, or HTTP/2 where it ends with trailers.
pub(crate) fn request(message: &Message) -> Result<Request<Frames>, String> {
    let failed = |error: http::Error| error.to_string();
    let mut request = Request::builder().method(message.method.as_str());
    let trailers = match message.trailers.is_empty() {
        true => {
            request = request
                .uri(&message.path)
                .header(header::HOST, &message.authority);
            if !message.body.is_empty() {
                request = request.header(header::CONTENT_LENGTH, message.body.len());
            }
            None
        }
        false => {
            let uri = format!("http://{}{}", message.authority, message.path);
            request = request.uri(uri).version(Version::HTTP_2);
            Some(map(&message.trailers)?)
        }
    };
    for (name, value) in message.headers.iter() {
        request = request.header(name, value);
    }
    let body = Frames::new(&message.body, trailers);
    request.body(body).map_err(failed)
}

/// What an upstream or a cluster says to a request of this method.
pub(crate) fn response(answer: &Answer, method: &Method) -> Result<Response<Frames>, String> {
    let mut response = Response::builder().status(answer.status);
    let mut has_length = false;
    for (name, value) in answer.headers.iter() {
        has_length |= name == "content-length" || name == "transfer-encoding";
        response = response.header(name, value);
    }
    let body = match &answer.grpc {
        Some(grpc) => {
            response = response.header(header::CONTENT_TYPE, "application/grpc");
            grpc_body(grpc)
        }
        None => {
            let has_body = !matches!(answer.status, 204 | 304);
            if has_body && !has_length {
                response = response.header(header::CONTENT_LENGTH, answer.body.len());
            }
            let sends_body = has_body && *method != Method::HEAD;
            Frames::new(if sends_body { &answer.body } else { b"" }, None)
        }
    };
    response.body(body).map_err(|error| error.to_string())
}

/// A message with its prefix, where the call succeeds, and the status in trailers.
fn grpc_body(answer: &GrpcAnswer) -> Frames {
    let mut message = Vec::new();
    if answer.status == 0 {
        let length = u32::try_from(answer.body.len()).unwrap_or(u32::MAX);
        message.push(0);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&answer.body);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(answer.status));
    if let Ok(text) = HeaderValue::from_str(&answer.message) {
        trailers.insert("grpc-message", text);
    }
    Frames::new(&message, Some(trailers))
}

/// A request as it arrived somewhere, still without its body.
pub(crate) fn message(head: &http::request::Parts) -> Message {
    let headers = fields(&head.headers);
    let path = head.uri.path_and_query();
    let authority = head.uri.authority().map(ToString::to_string);
    Message {
        method: head.method.to_string(),
        path: path.map_or_else(|| "/".to_owned(), ToString::to_string),
        authority: authority
            .or_else(|| headers.value("host"))
            .unwrap_or_default(),
        headers,
        ..Message::default()
    }
}

pub(crate) fn reply(head: &http::response::Parts, body: Vec<u8>) -> Reply {
    Reply {
        status: head.status.as_u16(),
        headers: fields(&head.headers),
        body,
    }
}

/// As texts; what is not UTF-8 has replacement characters.
pub(crate) fn fields(headers: &HeaderMap) -> Fields {
    Fields::new(headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value)
    }))
}

fn map(fields: &Fields) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter() {
        let name = HeaderName::try_from(name).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
        map.append(name, value);
    }
    Ok(map)
}
