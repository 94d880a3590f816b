//! The operator's routes on the admin listener: what is denied, deny, forgive, who tries most.
//!
//! Must not: be open to anybody else; the listener sees to that (`App::admin`). Every change is written to the log with who
//! asked for it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use ringwall_ebpf_loader::{Added, Error, Prefix};
use ringwall_proto::problems;
use ringwall_service::{Peer, Problem};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Edge, EdgeError, Standing};

/// Rows that are shown, where nobody asks for fewer.
const MOST_ROWS: usize = 100_000;
const MOST_TALKERS: usize = 1000;
const DEFAULT_TALKERS: usize = 20;
/// Shorter prefixes take a good part of the internet away: an error of typing more often than a wish.
const SHORTEST_4: u8 = 8;
const SHORTEST_6: u8 = 19;

pub(super) fn router(edge: Arc<Edge>) -> Router {
    Router::new()
        .route("/shield", get(list))
        .route("/shield/top", get(top))
        .route("/shield/deny", post(deny))
        .route("/shield/forgive", post(forgive))
        .with_state(edge)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Most {
    max: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deny {
    network: String,
    /// Absent: until it is forgiven.
    seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Forgive {
    network: String,
}

async fn list(
    State(edge): State<Arc<Edge>>,
    most: Result<Query<Most>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let most = limit(most)?.unwrap_or(MOST_ROWS).min(MOST_ROWS);
    let standing = blocking(move || edge.standing()).await?;
    Ok(Json(shown(&standing, most)))
}

async fn top(
    State(edge): State<Arc<Edge>>,
    most: Result<Query<Most>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let most = limit(most)?.unwrap_or(DEFAULT_TALKERS).min(MOST_TALKERS);
    let talkers = blocking(move || edge.top(most)).await?;
    let rows = talkers.iter().map(|row| {
        json!({
            "network": row.prefix.to_string(),
            "reason": row.cause.map_or("connection-rate", |cause| cause.as_str()),
            "dropped": row.dropped,
        })
    });
    Ok(Json(json!({ "talkers": rows.collect::<Vec<_>>() })))
}

async fn deny(
    State(edge): State<Arc<Edge>>,
    peer: Peer,
    asked: Result<Json<Deny>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(asked) = asked.map_err(|error| bad_request(&error.body_text()))?;
    let prefix = network(&asked.network)?;
    let shortest = if prefix.address().is_ipv4() {
        SHORTEST_4
    } else {
        SHORTEST_6
    };
    if prefix.length() < shortest {
        return Err(bad_request(&format!(
            "{prefix} is wider than a /{shortest}: deny parts of it, or close the port"
        )));
    }
    if asked.seconds == Some(0) {
        return Err(bad_request("`seconds` is at least 1"));
    }
    let lasts = asked.seconds.map(Duration::from_secs);
    let added = blocking(move || edge.deny(prefix, lasts)).await?;
    tracing::info!(operator = %peer.0, network = %prefix, seconds = asked.seconds, "a network is denied");
    let outcome = match added {
        Added::New => "denied",
        Added::Renewed => "renewed",
        Added::Kept => "kept",
    };
    Ok(Json(
        json!({ "network": prefix.to_string(), "outcome": outcome }),
    ))
}

async fn forgive(
    State(edge): State<Arc<Edge>>,
    peer: Peer,
    asked: Result<Json<Forgive>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(asked) = asked.map_err(|error| bad_request(&error.body_text()))?;
    let prefix = network(&asked.network)?;
    let removed = blocking(move || edge.forgive(prefix)).await?;
    if removed {
        tracing::info!(operator = %peer.0, network = %prefix, "a network is forgiven");
        return Ok(Json(
            json!({ "network": prefix.to_string(), "outcome": "forgiven" }),
        ));
    }
    Err(Problem::new(
        StatusCode::NOT_FOUND,
        problems::NOT_FOUND,
        "It is not denied",
    )
    .detail(format!(
        "{prefix} is not on the list; a wider network that holds it may be"
    )))
}

fn shown(standing: &Standing, most: usize) -> Value {
    let attached = standing.places.attached.iter().map(|place| {
        json!({ "interface": place.interface, "mode": place.mode.as_str(), "reason": place.reason })
    });
    let missing = standing.places.missing.iter();
    let missing = missing.map(|one| json!({ "interface": one.interface, "why": one.why }));
    let lists = standing.fill.iter().map(|(list, fill)| {
        json!({ "list": list.as_str(), "used": fill.used, "capacity": fill.capacity })
    });
    let denied = standing.denied.iter().take(most).map(|row| {
        json!({
            "network": row.prefix.to_string(),
            "reason": row.cause.as_str(),
            "seconds_left": row.left.map(|left| left.as_secs()),
            "seconds_denied": row.age.as_secs(),
            "dropped": row.hits,
        })
    });
    json!({
        "attached": attached.collect::<Vec<_>>(),
        "missing": missing.collect::<Vec<_>>(),
        "lists": lists.collect::<Vec<_>>(),
        "total": standing.denied.len(),
        "denied": denied.collect::<Vec<_>>(),
    })
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, EdgeError> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(act).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(problem(&error)),
        Err(_panicked) => Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            problems::INTERNAL,
            "The shield has failed",
        )),
    }
}

/// Operators read the words.
fn problem(error: &EdgeError) -> Problem {
    let (status, slug) = match error {
        EdgeError::Off(_) => (StatusCode::SERVICE_UNAVAILABLE, problems::UNAVAILABLE),
        EdgeError::Kernel(Error::ShieldFull { .. }) => {
            (StatusCode::INSUFFICIENT_STORAGE, problems::UNAVAILABLE)
        }
        EdgeError::Kernel(_) => (StatusCode::INTERNAL_SERVER_ERROR, problems::INTERNAL),
    };
    Problem::new(status, slug, "Not done").detail(error.to_string())
}

fn network(text: &str) -> Result<Prefix, Problem> {
    text.parse()
        .map_err(|error| bad_request(&format!("`{text}`: {error}")))
}

fn limit(most: Result<Query<Most>, QueryRejection>) -> Result<Option<usize>, Problem> {
    let Query(most) = most.map_err(|error| bad_request(&error.body_text()))?;
    Ok(most.max)
}

fn bad_request(why: &str) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        problems::BAD_REQUEST,
        "Bad request",
    )
    .detail(why)
}
