//! `/v1/policy`: the policy for its operator.
//!
//! Owns: the translation between HTTP and `admin.rs`. Must not: decide. The messages are those of
//! `ringwall_policy::mesh::administration`.

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use ringwall_policy::mesh::administration::{
    Applied, CHECK_PATH, DIFF_PATH, EXPLAIN_PATH, PATH, PROXIES_PATH, Proposal, Question,
    ROLLBACK_PATH, Rollback, UNUSED_PATH, VERSIONS_PATH, VersionWithBundle,
};
use ringwall_policy::mesh::limits;
use ringwall_service::extract::{Json, Path, Query};
use ringwall_service::{Peer, Problem};
use serde::Deserialize;

use super::admin::{Author, PolicyAdmin};
use super::refusal::Refusal;
use crate::authority::operator_api::OPERATOR;

/// Largest request: a bundle with room for the way in which it is written.
const MAX_BODY: usize = 4 * limits::BUNDLE_BYTES;

pub(crate) fn router(admin: PolicyAdmin) -> Router {
    Router::new()
        .route(PATH, get(newest).put(apply))
        .route(VERSIONS_PATH, get(history))
        .route(&format!("{VERSIONS_PATH}/{{version}}"), get(version))
        .route(CHECK_PATH, post(check))
        .route(DIFF_PATH, get(difference))
        .route(ROLLBACK_PATH, post(rollback))
        .route(EXPLAIN_PATH, post(explain))
        .route(PROXIES_PATH, get(proxies))
        .route(UNUSED_PATH, get(unused))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(admin)
}

/// Everything here is the operator's alone. Stands before the body in each handler: a stranger's is not even read.
struct Operator(Peer);

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let peer = Peer::from_request_parts(parts, state).await?;
        peer.require(OPERATOR)?;
        Ok(Self(peer))
    }
}

type Answered = Result<Response, Refusal>;

fn answer<T: serde::Serialize>(result: Result<T, Refusal>) -> Answered {
    let mut response = Json(result?).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

fn tagged(version: u64, response: Answered) -> Answered {
    let mut response = response?;
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

async fn newest(State(admin): State<PolicyAdmin>, _: Operator) -> Answered {
    one(admin.get().await)
}

async fn version(
    State(admin): State<PolicyAdmin>,
    _: Operator,
    Path(version): Path<u64>,
) -> Answered {
    one(admin.version(version).await)
}

fn one(found: Result<VersionWithBundle, Refusal>) -> Answered {
    let version = found.as_ref().map_or(0, |found| found.version.version);
    tagged(version, answer(found))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    before: Option<u64>,
    limit: Option<u32>,
}

async fn history(
    State(admin): State<PolicyAdmin>,
    _: Operator,
    Query(page): Query<Page>,
) -> Answered {
    answer(admin.history(page.before, page.limit).await)
}

async fn check(
    State(admin): State<PolicyAdmin>,
    _: Operator,
    Json(proposal): Json<Proposal>,
) -> Answered {
    answer(admin.check(proposal.bundle).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Waiting {
    #[serde(default, with = "humantime_serde::option")]
    wait: Option<Duration>,
}

async fn apply(
    State(admin): State<PolicyAdmin>,
    peer: Operator,
    headers: HeaderMap,
    Query(waiting): Query<Waiting>,
    Json(proposal): Json<Proposal>,
) -> Answered {
    let expected = expected(&headers)?;
    let author = author(&peer.0, proposal.author, proposal.note);
    let applied = admin.apply(proposal.bundle, author, expected).await;
    changed(&admin, applied, waiting).await
}

async fn rollback(
    State(admin): State<PolicyAdmin>,
    peer: Operator,
    headers: HeaderMap,
    Query(waiting): Query<Waiting>,
    Json(rollback): Json<Rollback>,
) -> Answered {
    let expected = expected(&headers)?;
    let author = author(&peer.0, rollback.author, rollback.note);
    let applied = admin.rollback(rollback.to, author, expected).await;
    changed(&admin, applied, waiting).await
}

/// Waits for proxies, when that is asked for, and answers.
async fn changed(
    admin: &PolicyAdmin,
    applied: Result<Applied, Refusal>,
    waiting: Waiting,
) -> Answered {
    let mut applied = applied?;
    let version = applied.version.version;
    if let Some(wait) = waiting.wait {
        applied.proxies = admin.spread_after(version, wait).await;
    }
    tagged(version, answer(Ok(applied)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ends {
    from: u64,
    to: Option<u64>,
}

async fn difference(
    State(admin): State<PolicyAdmin>,
    _: Operator,
    Query(ends): Query<Ends>,
) -> Answered {
    answer(admin.difference(ends.from, ends.to).await)
}

async fn explain(
    State(admin): State<PolicyAdmin>,
    _: Operator,
    Json(question): Json<Question>,
) -> Answered {
    answer(admin.explain(question).await)
}

async fn proxies(State(admin): State<PolicyAdmin>, _: Operator) -> Answered {
    answer(admin.proxies())
}

async fn unused(State(admin): State<PolicyAdmin>, _: Operator) -> Answered {
    answer(admin.unused().await)
}

fn author(peer: &Peer, name: String, note: String) -> Author {
    Author {
        name: if name.is_empty() {
            peer.name().to_owned()
        } else {
            name
        },
        identity: peer.name().to_owned(),
        note,
    }
}

/// The version in `If-Match`: one strong tag, never `*`.
fn expected(headers: &HeaderMap) -> Result<u64, Refusal> {
    let mut fields = headers.get_all(header::IF_MATCH).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return Err(Refusal::NoPrecondition);
    };
    let tag = field.to_str().ok().and_then(|text| {
        let version = text.strip_prefix('"')?.strip_suffix('"')?;
        version.parse().ok()
    });
    tag.ok_or_else(|| Refusal::Invalid("If-Match is a version in quotes, such as \"7\"".to_owned()))
}
