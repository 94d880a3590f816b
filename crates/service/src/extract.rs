//! Request extractors whose refusals are problem details: use these instead of axum's own.
//!
//! Owns: one shape for bad input. Data that does not fit the contract is `400` (not `422`), so that
//! every bypass of the client's own validation meets the same answer.

use axum::{
    extract::{
        FromRequest, FromRequestParts, Request,
        rejection::{FormRejection, JsonRejection, PathRejection, QueryRejection},
    },
    http::request::Parts,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use ringwall_http_io::Problem;
use ringwall_proto::problems;
use serde::{Serialize, de::DeserializeOwned};

/// JSON body in, JSON body out.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

/// `application/x-www-form-urlencoded` body, or the query of a `GET`.
#[derive(Debug, Clone)]
pub struct Form<T>(pub T);

/// Query string.
#[derive(Debug, Clone)]
pub struct Query<T>(pub T);

/// Path parameters.
#[derive(Debug, Clone)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(refusal(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body must be JSON.",
            )),
            Err(other) => Err(refusal(other.status(), &other.body_text())),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Form<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match axum::Form::<T>::from_request(request, state).await {
            Ok(axum::Form(value)) => Ok(Self(value)),
            Err(FormRejection::InvalidFormContentType(_)) => Err(refusal(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body must be a form.",
            )),
            Err(other) => Err(refusal(other.status(), &other.body_text())),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query: Result<_, QueryRejection> =
            axum::extract::Query::<T>::from_request_parts(parts, state).await;
        match query {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(other) => Err(refusal(other.status(), &other.body_text())),
        }
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<_, PathRejection> =
            axum::extract::Path::<T>::from_request_parts(parts, state).await;
        match path {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(other) => Err(refusal(other.status(), &other.body_text())),
        }
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

fn refusal(status: StatusCode, detail: &str) -> Problem {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(status, problems::BODY_TOO_LARGE, "Body too large")
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(
            status,
            problems::UNSUPPORTED_MEDIA_TYPE,
            "Unsupported media type",
        )
        .detail(detail),
        status if status.is_server_error() => {
            Problem::new(status, problems::INTERNAL, "Internal error")
        }
        _ => Problem::new(
            StatusCode::BAD_REQUEST,
            problems::INVALID_BODY,
            "Invalid request",
        )
        .detail(detail),
    }
}
