//! The HTTP interface of orders for signed-in users.
//!
//! Owns: the routes. Who the user is comes from the gateway's user-context token alone
//! ([`User`]); the access token is only handed on to the components that verify it. It must not
//! hold SQL or the order of steps. Read next: `place_order.rs`.

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, header};
use ringwall_proto::WireToken;
use ringwall_proto::ids::{IdempotencyKey, OrderId, Subject};
use ringwall_proto::inventory::Item;
use ringwall_proto::orders::{History, HistoryQuery, Order, OrderStatus, PlaceOrder};
use ringwall_proto::{headers, paths};
use ringwall_service::extract::{Json, Path, Query};
use ringwall_service::telemetry;
use ringwall_service::user_context::User;
use tracing::Instrument;

use crate::draft::Placement;
use crate::error::OrderError;
use crate::place_order::{Placed, Shop, place_order};

/// Orders of one page of the history, when the client does not say.
const DEFAULT_PAGE: u32 = 20;
/// Most orders of one page.
const MAX_PAGE: u32 = 100;
/// Tells a client that its key named an order that stands already.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

pub(crate) fn router(shop: Shop) -> Router {
    Router::new()
        .route(paths::CATALOGUE, get(catalogue))
        .route(paths::ORDERS, get(history).post(place))
        .route("/v1/orders/{order_id}", get(order))
        .with_state(shop)
}

async fn catalogue(
    User(_): User,
    State(shop): State<Shop>,
) -> Result<axum::Json<Vec<Item>>, OrderError> {
    Ok(axum::Json(shop.inventory.catalogue().await?))
}

async fn place(
    User(user): User,
    key: Key,
    token: UsersToken,
    State(shop): State<Shop>,
    Json(request): Json<PlaceOrder>,
) -> Result<Response, OrderError> {
    let placement = Placement {
        user: subject(&user.sub)?,
        key: key.0,
        request,
        trace_id: telemetry::current_trace_id(),
        traceparent: telemetry::current_traceparent(),
    };
    // A task of its own: when the client hangs up, the order still comes to its end.
    let flow = async move { place_order(&shop, placement, &token.0).await }.in_current_span();
    let placed = tokio::spawn(flow)
        .await
        .map_err(|_| OrderError::Interrupted)??;
    Ok(placed.into_response())
}

async fn history(
    User(user): User,
    State(shop): State<Shop>,
    Query(query): Query<HistoryQuery>,
) -> Result<axum::Json<History>, OrderError> {
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(OrderError::PageSize);
    }
    // One more than asked for tells whether there is a next page.
    let wanted = i64::from(limit) + 1;
    let mut orders = shop
        .store
        .history(&subject(&user.sub)?, query.before, wanted)
        .await?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = orders.len() > page;
    orders.truncate(page);
    let next_before = if more {
        orders.last().map(|order| order.id)
    } else {
        None
    };
    Ok(axum::Json(History {
        orders,
        next_before,
    }))
}

async fn order(
    User(user): User,
    State(shop): State<Shop>,
    Path(order_id): Path<OrderId>,
) -> Result<axum::Json<Order>, OrderError> {
    let order = shop.store.order_of(&subject(&user.sub)?, order_id).await?;
    order.map(axum::Json).ok_or(OrderError::NotFound)
}

impl IntoResponse for Placed {
    fn into_response(self) -> Response {
        let (order, replayed) = match self {
            Self::Now(order) => (order, false),
            Self::Before(order) => (order, true),
        };
        // A repetition gets what the first request got; one that ended badly is shown as it is.
        let status = match order.status {
            OrderStatus::Pending | OrderStatus::Placed => StatusCode::CREATED,
            OrderStatus::Declined | OrderStatus::Failed => StatusCode::OK,
        };
        let location = format!("{}/{}", paths::ORDERS, order.id);
        let mut response =
            (status, [(header::LOCATION, location)], axum::Json(order)).into_response();
        if replayed {
            response
                .headers_mut()
                .insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// The client's `Idempotency-Key`.
struct Key(IdempotencyKey);

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = OrderError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let key = one(parts, &HeaderName::from_static(headers::IDEMPOTENCY_KEY))
            .and_then(|text| IdempotencyKey::parse(text).ok());
        key.map(Self).ok_or(OrderError::IdempotencyKeyMissing)
    }
}

/// The user's access token, to be handed on; whoever receives it verifies it.
struct UsersToken(WireToken);

impl<S: Sync> FromRequestParts<S> for UsersToken {
    type Rejection = OrderError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let token = one(parts, &header::AUTHORIZATION)
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .and_then(|(_, token)| WireToken::new(token.trim()).ok());
        token.map(Self).ok_or(OrderError::AccessTokenMissing)
    }
}

/// The value of a header that occurs exactly once.
fn one<'a>(parts: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    let mut values = parts.headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

fn subject(sub: &str) -> Result<Subject, OrderError> {
    Subject::parse(sub).map_err(|_| OrderError::BrokenRow("sub"))
}

#[cfg(test)]
mod tests;
