//! Header maps: which is open now, which names the plugin may see and change.
//!
//! Owns: that check. As in Envoy, a map that is not open is `BAD_ARGUMENT` to read one field of or to change, and empty to
//! read as a whole. Must not: know what fields mean; `http/fields.rs` does.

use std::borrow::Cow;

use http::HeaderMap;

use crate::abi::pairs::{self, PairLimits};
use crate::abi::{MapKind, Status, memory};
use crate::hostcalls::{Answer, Guest, Out, Span, give, give_with, split};
use crate::http::fields::{Fields, FieldsMut, Head, byte_size, is_framing};
use crate::instance::{Context, Host, Side};
use crate::spec::{Limits, Names};

pub(super) fn get_size(caller: Guest<'_, '_>, kind: u32, out: u32) -> Answer {
    let kind = MapKind::try_from(kind)?;
    let host = caller.data();
    let fields = view(host, kind).ok_or(Status::BadArgument)?;
    let size = pairs::size(visible(host, kind, fields));
    let size = u32::try_from(size).map_err(|_| Status::InternalFailure)?;
    let (bytes, _) = split(caller)?;
    Ok(memory::write_u32(bytes, out, size)?)
}

pub(super) fn get_pairs(caller: Guest<'_, '_>, kind: u32, out: Out) -> Answer {
    let kind = MapKind::try_from(kind)?;
    let host = caller.data();
    let Some(fields) = view(host, kind) else {
        return give(caller, b"", out);
    };
    let size = pairs::size(visible(host, kind, fields));
    give_with(caller, size, out, |target, host| {
        let fields = view(host, kind)?;
        pairs::write(|| visible(host, kind, fields), target)
    })
}

pub(super) fn get_value(caller: Guest<'_, '_>, kind: u32, key: Span, out: Out) -> Answer {
    let kind = MapKind::try_from(kind)?;
    let (bytes, host) = split(caller)?;
    let key = lower(key.of(bytes)?)?;
    let host = &*host;
    let found = match view(host, kind) {
        Some(fields) => fields.get(&key),
        None if is_logging(host) || is_of_failed_call(host, kind) => None,
        None => return Err(Status::BadArgument.into()),
    };
    let found = match found {
        Some(_) if !may_read(host, kind, &key) => {
            host.refuse("a header that it may not read", Status::NotFound);
            None
        }
        found => found,
    };
    match found {
        Some(value) => give(caller, value.as_ref(), out),
        // The oldest ABI has no other way to say so.
        None if host.is_0_1_0() => give(caller, b"", out),
        None => Err(Status::NotFound.into()),
    }
}

pub(super) fn add_value(caller: Guest<'_, '_>, kind: u32, key: Span, value: Span) -> Answer {
    change(caller, kind, key, Some(value), |mut fields, key, value| {
        fields.add(key, value)
    })
}

pub(super) fn replace_value(caller: Guest<'_, '_>, kind: u32, key: Span, value: Span) -> Answer {
    change(caller, kind, key, Some(value), |mut fields, key, value| {
        fields.replace(key, value)
    })
}

pub(super) fn remove_value(caller: Guest<'_, '_>, kind: u32, key: Span) -> Answer {
    change(caller, kind, key, None, |mut fields, key, _| {
        fields.remove(key)
    })
}

fn change(
    caller: Guest<'_, '_>,
    kind: u32,
    key: Span,
    value: Option<Span>,
    act: impl FnOnce(FieldsMut<'_>, &str, &[u8]) -> Result<(), Status>,
) -> Answer {
    let kind = MapKind::try_from(kind)?;
    let (bytes, host) = split(caller)?;
    let key = lower(key.of(bytes)?)?;
    let adds = value.is_some();
    let value = value.map_or(Ok(&b""[..]), |value| value.of(bytes))?;
    if !host.version.spec.capabilities.write_headers.allows(&key) {
        return Err(host
            .refuse("a header that it may not set", Status::InternalFailure)
            .into());
    }
    let allowed = !adds || has_room(host, kind, key.len() + value.len());
    let context = host.context().ok_or(Status::BadArgument)?;
    let fields = open(context, kind)?;
    if !allowed {
        return Err(host
            .refuse("headers beyond the limit", Status::InternalFailure)
            .into());
    }
    act(fields, &key, value)?;
    note_rewrite(host, kind, &key);
    Ok(())
}

/// Whether a map may have one more pair, of `more` bytes. A head is counted when it might be full, and not for each pair.
fn has_room(host: &mut Host, kind: MapKind, more: usize) -> bool {
    let context = host.context();
    let counted = context.and_then(|context| side_of(context, kind)?.head_bytes);
    let limits = &host.version.spec.limits;
    let (most_pairs, most_bytes) = (limits.header_count, limits.header_bytes);
    let Some(fields) = view(host, kind) else {
        return most_pairs > 0 && more <= most_bytes;
    };
    if fields.count() >= most_pairs {
        return false;
    }
    let with = |bytes: usize| Some(bytes.saturating_add(more)).filter(|all| *all <= most_bytes);
    let all = counted.and_then(with).or_else(|| with(byte_size(fields)));
    if let Some(side) = host.context().and_then(|context| side_of(context, kind)) {
        side.head_bytes = all;
    }
    all.is_some()
}

/// The side that a head is of.
const fn side_of(context: &mut Context, kind: MapKind) -> Option<&mut Side> {
    match kind {
        MapKind::RequestHeaders => Some(&mut context.request),
        MapKind::ResponseHeaders => Some(&mut context.response),
        _ => None,
    }
}

const fn pair_limits(limits: &Limits) -> PairLimits {
    PairLimits {
        count: limits.header_count,
        // Beside names and values there are lengths and NULs.
        bytes: limits.header_bytes + 4 + 10 * limits.header_count,
    }
}

/// Replaces all that the plugin can see and may set. What it cannot see stays, as does what frames the message.
pub(super) fn set_pairs(caller: Guest<'_, '_>, kind: u32, map: Span) -> Answer {
    let kind = MapKind::try_from(kind)?;
    let (bytes, host) = split(caller)?;
    let given = pairs::parse(map.of(bytes)?, pair_limits(&host.version.spec.limits))?;
    let version = std::sync::Arc::clone(&host.version);
    let write = &version.spec.capabilities.write_headers;
    let read = &version.spec.capabilities.read_headers;
    let mut wanted = Vec::with_capacity(given.len());
    for (key, value) in given {
        wanted.push((lower(key)?, value));
    }
    // Whatever it may not set must be as it was.
    if let Some(now) = view(host, kind) {
        let is_foreign = |key: &str| !write.allows(key);
        let unchanged = wanted
            .iter()
            .filter(|(key, _)| is_foreign(key))
            .all(|(key, value)| {
                now.pairs()
                    .any(|(name, old)| name == key.as_bytes() && old == *value)
            });
        if !unchanged {
            let refused = host.refuse("a header that it may not set", Status::InternalFailure);
            return Err(refused.into());
        }
    }
    let context = host.context().ok_or(Status::BadArgument)?;
    if let Some(side) = side_of(context, kind) {
        side.head_bytes = None;
    }
    let mut fields = open(context, kind)?;
    let mut trial = copy(&fields);
    clear(&mut trial, |key| write.allows(key) && read.allows(key));
    for (key, value) in &wanted {
        if write.allows(key) {
            add(&mut trial, key, value)?;
        }
    }
    apply(&mut fields, trial);
    for (key, _) in &wanted {
        note_rewrite(host, kind, key);
    }
    Ok(())
}

/// The map as it would be, so that a bad pair leaves the real one whole.
enum Trial {
    Head(Head),
    Map(HeaderMap),
}

fn copy(fields: &FieldsMut<'_>) -> Trial {
    match fields {
        FieldsMut::Request(head) => Trial::Head(Head::Request(Box::new((**head).clone()))),
        FieldsMut::Response(head) => Trial::Head(Head::Response(Box::new((**head).clone()))),
        FieldsMut::Map(map) => Trial::Map((**map).clone()),
    }
}

impl Trial {
    fn fields(&mut self) -> FieldsMut<'_> {
        match self {
            Self::Head(Head::Request(head)) => FieldsMut::Request(head),
            Self::Head(Head::Response(head)) => FieldsMut::Response(head),
            Self::Map(map) => FieldsMut::Map(map),
        }
    }

    fn map(&mut self) -> &mut HeaderMap {
        match self {
            Self::Head(Head::Request(head)) => &mut head.headers,
            Self::Head(Head::Response(head)) => &mut head.headers,
            Self::Map(map) => map,
        }
    }
}

fn clear(trial: &mut Trial, may: impl Fn(&str) -> bool) {
    let is_request = matches!(trial, Trial::Head(Head::Request(_)));
    let map = trial.map();
    let names = map.keys().filter(|name| {
        let is_host = is_request && *name == http::header::HOST;
        !is_host && !is_framing(name) && may(name.as_str())
    });
    for name in names.cloned().collect::<Vec<_>>() {
        map.remove(name);
    }
}

fn add(trial: &mut Trial, key: &str, value: &[u8]) -> Result<(), Status> {
    trial.fields().add(key, value)
}

fn apply(fields: &mut FieldsMut<'_>, trial: Trial) {
    match (fields, trial) {
        (FieldsMut::Request(head), Trial::Head(Head::Request(new))) => **head = *new,
        (FieldsMut::Response(head), Trial::Head(Head::Response(new))) => **head = *new,
        (FieldsMut::Map(map), Trial::Map(new)) => **map = new,
        _ => {}
    }
}

/// A name in lower case.
fn lower(key: &[u8]) -> Result<Cow<'_, str>, Status> {
    let text = std::str::from_utf8(key).map_err(|_| Status::BadArgument)?;
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(text.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(text))
}

/// The names of a map that a plugin may read; of its own calls it may read all.
fn readable(host: &Host, kind: MapKind) -> Option<&Names> {
    match kind {
        MapKind::RequestHeaders
        | MapKind::RequestTrailers
        | MapKind::ResponseHeaders
        | MapKind::ResponseTrailers => Some(&host.version.spec.capabilities.read_headers),
        _ => None,
    }
}

fn may_read(host: &Host, kind: MapKind, key: &str) -> bool {
    readable(host, kind).is_none_or(|names| names.allows(key))
}

fn visible<'a>(
    host: &'a Host,
    kind: MapKind,
    fields: Fields<'a>,
) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    let names = readable(host, kind).filter(|names| !names.allows_any());
    let allowed = move |key: &[u8]| {
        names.is_none_or(|names| std::str::from_utf8(key).is_ok_and(|key| names.allows(key)))
    };
    fields.pairs().filter(move |(key, _)| allowed(key))
}

fn is_logging(host: &Host) -> bool {
    let context = host.contexts.get(&host.effective());
    context.is_some_and(|context| context.is_logging)
}

/// The answer of a call that has failed is one without fields: plugins ask it for `:status`, and some SDKs end the guest at any
/// other word than `NOT_FOUND`. Envoy's client makes a 503 of most failures.
fn is_of_failed_call(host: &Host, kind: MapKind) -> bool {
    let is_answer = matches!(
        kind,
        MapKind::CallResponseHeaders | MapKind::CallResponseTrailers
    );
    is_answer && host.delivery.has_failed
}

/// A map that is open to be read.
fn view(host: &Host, kind: MapKind) -> Option<Fields<'_>> {
    let delivery = &host.delivery;
    match kind {
        MapKind::GrpcInitialMetadata => return delivery.grpc_initial.as_ref().map(Fields::Map),
        MapKind::GrpcTrailingMetadata => return delivery.grpc_trailing.as_ref().map(Fields::Map),
        MapKind::CallResponseTrailers => return delivery.call_trailers.as_ref().map(Fields::Map),
        MapKind::CallResponseHeaders => {
            return delivery.call_head.as_ref().map(|head| fields(head, false));
        }
        _ => {}
    }
    let context = host.contexts.get(&host.effective())?;
    let shared = context.shared.as_ref()?;
    let https = shared.info.connection.tls_version.is_some();
    let seen = context.is_logging.then_some(&shared.seen);
    match kind {
        MapKind::RequestHeaders => match &context.request.head {
            Some(head) => Some(fields(head, https)),
            None => Some(Fields::Request(seen?.request.get()?, https)),
        },
        MapKind::ResponseHeaders => match &context.response.head {
            Some(head) => Some(fields(head, https)),
            None => Some(Fields::Response(seen?.response.get()?)),
        },
        MapKind::RequestTrailers => context.request.trailers.as_ref().map(Fields::Map),
        _ => match &context.response.trailers {
            Some(trailers) => Some(Fields::Map(trailers)),
            None => Some(Fields::Map(seen?.response_trailers.get()?)),
        },
    }
}

const fn fields(head: &Head, https: bool) -> Fields<'_> {
    match head {
        Head::Request(head) => Fields::Request(head, https),
        Head::Response(head) => Fields::Response(head),
    }
}

/// A map that is open to be changed. Trailers may be added at the end of a body that has none.
fn open(context: &mut Context, kind: MapKind) -> Result<FieldsMut<'_>, Status> {
    let (side, is_head) = match kind {
        MapKind::RequestHeaders => (&mut context.request, true),
        MapKind::ResponseHeaders => (&mut context.response, true),
        MapKind::RequestTrailers => (&mut context.request, false),
        MapKind::ResponseTrailers => (&mut context.response, false),
        _ => return Err(Status::BadArgument),
    };
    if is_head {
        return match side.head.as_mut().ok_or(Status::BadArgument)? {
            Head::Request(head) => Ok(FieldsMut::Request(head)),
            Head::Response(head) => Ok(FieldsMut::Response(head)),
        };
    }
    if side.trailers.is_none() && side.end && side.body_open {
        side.trailers = Some(HeaderMap::new());
    }
    side.trailers
        .as_mut()
        .map(FieldsMut::Map)
        .ok_or(Status::BadArgument)
}

/// Whoever routes by these must look again.
fn note_rewrite(host: &mut Host, kind: MapKind, key: &str) {
    let is_target = key.starts_with(':') || key == "host";
    if kind == MapKind::RequestHeaders
        && is_target
        && let Some(shared) = host.context().and_then(|context| context.shared.as_ref())
    {
        shared.note_rewrite();
    }
}
