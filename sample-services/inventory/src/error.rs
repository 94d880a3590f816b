//! Every way in which inventory refuses, and the one place where a refusal becomes a response.
//!
//! It must not tell a caller more than it needs: what failed inside is logged, not answered.
//! Read next: `api.rs`.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use ringwall_http_io::problem::Problem;
use ringwall_proto::ids::Sku;
use ringwall_proto::problems;
use ringwall_service::api_keys::ApiKeyRefusal;
use ringwall_store::StoreError;
use ringwall_store::rusqlite;

#[derive(Debug, thiserror::Error)]
pub(crate) enum InventoryError {
    #[error(transparent)]
    ApiKey(#[from] ApiKeyRefusal),
    #[error("not enough of `{0}` is left")]
    OutOfStock(Sku),
    #[error("there is no item `{0}`")]
    UnknownItem(Sku),
    #[error("the items are priced in different currencies")]
    MixedCurrencies,
    #[error("this order already holds a reservation of other lines")]
    OtherLines,
    #[error("the reservation of this order was released")]
    Released,
    #[error("a row has an invalid `{0}`")]
    BrokenRow(&'static str),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("a statement failed")]
    Statement(#[from] rusqlite::Error),
}

impl IntoResponse for InventoryError {
    fn into_response(self) -> Response {
        let (status, slug, title) = match self {
            Self::ApiKey(refusal) => return refusal.into_response(),
            Self::OutOfStock(_) => (StatusCode::CONFLICT, problems::OUT_OF_STOCK, "Out of stock"),
            Self::UnknownItem(_) | Self::MixedCurrencies => (
                StatusCode::UNPROCESSABLE_ENTITY,
                problems::UNKNOWN_ITEM,
                "Not for sale like this",
            ),
            Self::OtherLines | Self::Released => (
                StatusCode::CONFLICT,
                problems::RESERVATION_CONFLICT,
                "This order cannot reserve again",
            ),
            Self::BrokenRow(_) | Self::Store(_) | Self::Statement(_) => {
                tracing::error!(
                    error = &self as &dyn std::error::Error,
                    "request failed inside"
                );
                let title = "Stock cannot be read now";
                return Problem::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    problems::INVENTORY_UNAVAILABLE,
                    title,
                )
                .into_response();
            }
        };
        Problem::new(status, slug, title)
            .detail(self.to_string())
            .into_response()
    }
}
