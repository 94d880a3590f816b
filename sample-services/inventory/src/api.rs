//! The HTTP interface of inventory, for `orders` alone.
//!
//! Owns: the routes. Handlers ask for evidence ([`MayReadItems`], [`MayReserve`]) in their first
//! argument, so the API key is checked before anything of the body is read. It must not hold SQL.
//! Read next: `store.rs`.

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::routing::{delete, get, post};
use http::StatusCode;
use http::request::Parts;
use ringwall_proto::ids::OrderId;
use ringwall_proto::inventory::{
    Item, Reservation, ReservationRequest, SCOPE_ITEMS_READ, SCOPE_STOCK_RESERVE,
};
use ringwall_proto::paths;
use ringwall_service::extract::{Json, Path};

use crate::app::Inventory;
use crate::error::InventoryError;
use crate::store::Reserved;

pub(crate) fn router(inventory: Inventory) -> Router {
    Router::new()
        .route(paths::INVENTORY_ITEMS, get(list_items))
        .route(paths::INVENTORY_RESERVATIONS, post(reserve))
        .route("/v1/reservations/{order_id}", delete(release))
        .with_state(inventory)
}

async fn list_items(
    _: MayReadItems,
    State(inventory): State<Inventory>,
) -> Result<axum::Json<Vec<Item>>, InventoryError> {
    Ok(axum::Json(inventory.stock.items().await?))
}

async fn reserve(
    _: MayReserve,
    State(inventory): State<Inventory>,
    Json(request): Json<ReservationRequest>,
) -> Result<(StatusCode, axum::Json<Reservation>), InventoryError> {
    Ok(match inventory.stock.reserve(request).await? {
        Reserved::Now(reservation) => (StatusCode::CREATED, axum::Json(reservation)),
        Reserved::Before(reservation) => (StatusCode::OK, axum::Json(reservation)),
    })
}

async fn release(
    _: MayReserve,
    State(inventory): State<Inventory>,
    Path(order_id): Path<OrderId>,
) -> Result<StatusCode, InventoryError> {
    inventory.stock.release(order_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Evidence: the caller's API key carries `items:read` and belongs to its mTLS identity.
struct MayReadItems;

impl FromRequestParts<Inventory> for MayReadItems {
    type Rejection = InventoryError;

    async fn from_request_parts(
        parts: &mut Parts,
        on: &Inventory,
    ) -> Result<Self, Self::Rejection> {
        on.keys.check(parts, SCOPE_ITEMS_READ)?;
        Ok(Self)
    }
}

/// Evidence: the caller's API key carries `stock:reserve` and belongs to its mTLS identity.
struct MayReserve;

impl FromRequestParts<Inventory> for MayReserve {
    type Rejection = InventoryError;

    async fn from_request_parts(
        parts: &mut Parts,
        on: &Inventory,
    ) -> Result<Self, Self::Rejection> {
        on.keys.check(parts, SCOPE_STOCK_RESERVE)?;
        Ok(Self)
    }
}

#[cfg(test)]
mod tests;
