//! The HTTP interface of notifications: a list and a live stream, each user's own.
//!
//! Owns: the routes and the shape of the stream (server-sent events, WHATWG HTML §9.2). Who the
//! user is comes from the gateway's user-context token alone. It must not hold SQL. Read next:
//! `live.rs`.

use std::convert::Infallible;

use axum::Router;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use axum::routing::get;
use futures_util::future::{BoxFuture, Shared};
use futures_util::{Stream, StreamExt};
use http::HeaderMap;
use ringwall_proto::ids::Subject;
use ringwall_proto::notifications::{Notification, NotificationList};
use ringwall_proto::{headers, paths};
use ringwall_service::extract::Query;
use ringwall_service::user_context::User;
use serde::Deserialize;

use crate::config::StreamConfig;
use crate::error::NotificationsError;
use crate::live::Live;
use crate::store::NotificationStore;

/// Notifications of one answer, when the client does not say.
const DEFAULT_PAGE: u32 = 20;
/// Most notifications of one answer.
const MAX_PAGE: u32 = 100;

/// Everything that a handler can reach.
#[derive(Clone)]
pub(crate) struct Notifications {
    pub(crate) store: NotificationStore,
    pub(crate) live: Live,
    pub(crate) limits: StreamConfig,
    /// Resolves when the process begins to drain.
    pub(crate) drain: Shared<BoxFuture<'static, ()>>,
}

pub(crate) fn router(notifications: Notifications) -> Router {
    Router::new()
        .route(paths::NOTIFICATIONS, get(list))
        .route(paths::NOTIFICATIONS_STREAM, get(follow))
        .with_state(notifications)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<u32>,
}

async fn list(
    User(user): User,
    State(on): State<Notifications>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<NotificationList>, NotificationsError> {
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(NotificationsError::PageSize);
    }
    let notifications = on.store.latest(&subject(&user.sub)?, limit).await?;
    Ok(axum::Json(NotificationList { notifications }))
}

/// The user's notifications as they come. With `Last-Event-ID` it starts after that one, otherwise
/// with the next one. It ends at the drain and at `stream.max_age`; browsers come back by
/// themselves and resume.
async fn follow(
    User(user): User,
    State(on): State<Notifications>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, NotificationsError> {
    let user = subject(&user.sub)?;
    let seat = on.live.admit(&user)?;
    let after = match last_event_id(&headers) {
        Some(sequence) => sequence,
        None => on.store.newest().await?,
    };
    let end = async move {
        tokio::select! {
            () = on.drain => {}
            () = tokio::time::sleep(on.limits.max_age) => {}
        }
    };
    let events = seat
        .follow(on.store, after)
        .take_until(Box::pin(end))
        // An error ends the stream: the client resumes where it was.
        .scan((), |(), next| std::future::ready(next.ok()))
        .map(|notification| Ok(event_of(&notification)));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(on.limits.heartbeat)))
}

fn event_of(notification: &Notification) -> Event {
    let json = serde_json::to_string(notification)
        .expect("a notification has only string keys and serialises");
    // Compact JSON has no line breaks, so it is one `data:` line.
    Event::default()
        .event(&notification.kind)
        .id(notification.sequence.to_string())
        .data(json)
}

/// The sequence after which a stream resumes. What is not a number of ours is ignored, as the
/// standard has it for unknown ids.
fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(headers::LAST_EVENT_ID)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn subject(sub: &str) -> Result<Subject, NotificationsError> {
    Subject::parse(sub).map_err(|_| NotificationsError::Subject)
}

#[cfg(test)]
mod tests;
