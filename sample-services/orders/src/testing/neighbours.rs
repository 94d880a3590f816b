//! Stand-ins for inventory, tokenizer, authorization server and payments, on one listener.
//!
//! They keep just enough state to tell what orders did to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use http::StatusCode;
use ringwall_http_io::Problem;
use ringwall_proto::ids::OrderId;
use ringwall_proto::inventory::ReservationRequest;
use ringwall_proto::payments::PaymentRequest;
use ringwall_proto::problems;
use serde_json::{Value, json};

const MUG: (&str, i64) = ("mug-stoneware", 1850);
const TEA: (&str, i64) = ("tea-assam-250", 1290);

/// How payments behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum PaymentMode {
    #[default]
    Capture,
    Decline,
    /// Refuses in its own words: nothing was captured.
    Unavailable,
    /// Captures, then answers with a bare 502, as if the answer was lost.
    CaptureAndLoseTheAnswer,
    /// Answers with a bare 502 and captures nothing.
    LoseTheRequest,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) payment_mode: PaymentMode,
    pub(crate) inventory_away: bool,
    pub(crate) release_fails: bool,
    pub(crate) sold_out: bool,
    pub(crate) reserved: BTreeSet<OrderId>,
    pub(crate) released: BTreeSet<OrderId>,
    pub(crate) source_tokens: u32,
    pub(crate) spent: BTreeSet<String>,
    pub(crate) payments: BTreeMap<OrderId, Value>,
    pub(crate) attempts: u32,
}

#[derive(Clone)]
pub(crate) struct Neighbours {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Neighbours {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let new = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let router = Router::new()
            .route("/v1/items", get(items))
            .route("/v1/reservations", post(reserve))
            .route("/v1/reservations/{order_id}", delete(release))
            .route("/v1/source-tokens", post(source_token))
            .route("/token", post(exchange))
            .route("/v1/payments", post(capture))
            .route("/v1/payments/{order_id}", get(payment_of))
            .with_state(new.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        new
    }

    /// Looks at or changes what the neighbours know.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Seen) -> T) -> T {
        work(&mut self.seen.lock().unwrap())
    }
}

fn away() -> Response {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        problems::UNAVAILABLE,
        "Away",
    )
    .into_response()
}

async fn items(State(neighbours): State<Neighbours>) -> Response {
    if neighbours.with(|seen| seen.inventory_away) {
        return away();
    }
    let item = |(sku, price): (&str, i64)| {
        json!({ "sku": sku, "name": sku, "description": sku, "price_minor": price,
                "currency": "EUR", "available": 10 })
    };
    Json(json!([item(MUG), item(TEA)])).into_response()
}

async fn reserve(
    State(neighbours): State<Neighbours>,
    Json(request): Json<ReservationRequest>,
) -> Response {
    neighbours.with(|seen| {
        if seen.inventory_away {
            return away();
        }
        if seen.sold_out {
            let problem = Problem::new(StatusCode::CONFLICT, problems::OUT_OF_STOCK, "Sold out");
            return problem.into_response();
        }
        let price = |sku: &str| if sku == MUG.0 { MUG.1 } else { TEA.1 };
        let mut total = 0;
        let lines: Vec<_> = request
            .lines
            .iter()
            .map(|line| {
                let price = price(line.sku.as_str());
                total += price * i64::from(line.quantity);
                json!({ "sku": line.sku, "name": line.sku, "quantity": line.quantity,
                        "unit_price_minor": price })
            })
            .collect();
        seen.reserved.insert(request.order_id);
        let reservation = json!({ "order_id": request.order_id, "lines": lines,
                                  "total_minor": total, "currency": "EUR" });
        (StatusCode::CREATED, Json(reservation)).into_response()
    })
}

async fn release(State(neighbours): State<Neighbours>, Path(order): Path<OrderId>) -> Response {
    neighbours.with(|seen| {
        if seen.release_fails {
            return away();
        }
        seen.released.insert(order);
        StatusCode::NO_CONTENT.into_response()
    })
}

async fn source_token(State(neighbours): State<Neighbours>) -> Json<Value> {
    let number = neighbours.with(|seen| {
        seen.source_tokens += 1;
        seen.source_tokens
    });
    Json(json!({
        "access_token": format!("rws_{number:043}"),
        "issued_token_type": "urn:ringwall:params:oauth:token-type:source-token",
        "token_type": "N_A", "expires_in": 30,
    }))
}

async fn exchange() -> Json<Value> {
    Json(json!({ "access_token": "exchanged", "token_type": "Bearer", "expires_in": 300 }))
}

async fn capture(
    State(neighbours): State<Neighbours>,
    Json(request): Json<PaymentRequest>,
) -> Response {
    neighbours.with(|seen| {
        seen.attempts += 1;
        // In the words of a proxy on the way, and in nobody's.
        let by_proxy = seen.attempts % 2 == 1;
        let lost = || match by_proxy {
            true => {
                let slug = problems::UPSTREAM_FAILED;
                Problem::new(StatusCode::BAD_GATEWAY, slug, "Lost").into_response()
            }
            false => (StatusCode::BAD_GATEWAY, "lost").into_response(),
        };
        let token = request.source_token.as_ref().unwrap().expose().to_owned();
        assert!(
            seen.spent.insert(token),
            "a source token was presented twice"
        );
        match seen.payment_mode {
            PaymentMode::Decline => {
                return Problem::new(
                    StatusCode::PAYMENT_REQUIRED,
                    problems::PAYMENT_DECLINED,
                    "Declined",
                )
                .into_response();
            }
            PaymentMode::Unavailable => return away(),
            PaymentMode::LoseTheRequest => return lost(),
            PaymentMode::Capture | PaymentMode::CaptureAndLoseTheAnswer => {}
        }
        let payment = json!({
            "payment_id": uuid::Uuid::now_v7(), "status": "captured",
            "order_id": request.order_id, "amount_minor": request.amount_minor,
            "currency": request.currency, "captured_at": "2026-01-01T00:00:00Z",
        });
        let payment = seen
            .payments
            .entry(request.order_id)
            .or_insert(payment)
            .clone();
        if seen.payment_mode == PaymentMode::CaptureAndLoseTheAnswer {
            return lost();
        }
        (StatusCode::CREATED, Json(payment)).into_response()
    })
}

async fn payment_of(State(neighbours): State<Neighbours>, Path(order): Path<OrderId>) -> Response {
    neighbours.with(|seen| match seen.payments.get(&order) {
        Some(payment) => Json(payment.clone()).into_response(),
        None => Problem::new(StatusCode::NOT_FOUND, problems::NOT_FOUND, "None").into_response(),
    })
}
