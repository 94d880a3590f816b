//! Why a change of the policy, or a question about it, is refused, and the problem (RFC 9457) that says so.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ringwall_policy::PolicyError;
use ringwall_policy::mesh::administration::CheckReport;
use ringwall_proto::problems;
use ringwall_service::Problem;
use ringwall_store::StoreError;

use crate::error::Error;
use crate::leader::NOBODY;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The bundle is not good; what is wrong with it.
    #[error("{0}")]
    Policy(PolicyError),
    /// Somebody else was faster.
    #[error("version {current} is active, not {expected}")]
    Conflict { expected: u64, current: u64 },
    /// The change does not say what it replaces.
    #[error("If-Match with the version that is replaced is missing")]
    NoPrecondition,
    /// The request does not follow the contract.
    #[error("{0}")]
    Invalid(String),
    /// There is no such version, or none yet.
    #[error("there is no version {0}")]
    NoVersion(u64),
    /// Everything that is not about policies.
    #[error(transparent)]
    Other(#[from] Error),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Other(error.into())
    }
}

impl From<PolicyError> for Refusal {
    fn from(error: PolicyError) -> Self {
        Self::Policy(error)
    }
}

impl Refusal {
    /// The word for metrics and the audit log.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Policy(_) => "policy",
            Self::Conflict { .. } => "conflict",
            Self::NoPrecondition => "no_precondition",
            Self::Invalid(_) => "invalid",
            Self::NoVersion(_) => "no_version",
            Self::Other(error) => error.reason(),
        }
    }

    fn problem(&self) -> Problem {
        match self {
            Self::Policy(error) => refused(error),
            Self::Conflict { current, .. } => Problem::new(
                StatusCode::PRECONDITION_FAILED,
                problems::VERSION_CONFLICT,
                "Another version is active",
            )
            .detail(self.to_string())
            .with("current", *current),
            Self::NoPrecondition => Problem::new(
                StatusCode::PRECONDITION_REQUIRED,
                problems::PRECONDITION_MISSING,
                "Version missing",
            )
            .detail("Say by If-Match: \"VERSION\" which version this replaces."),
            Self::Invalid(why) => Problem::new(
                StatusCode::BAD_REQUEST,
                problems::BAD_REQUEST,
                "Bad request",
            )
            .detail(why.clone()),
            Self::NoVersion(_) => {
                Problem::new(StatusCode::NOT_FOUND, problems::NOT_FOUND, "Not found")
                    .detail(self.to_string())
            }
            Self::Other(Error::NotLeader { leader }) if leader == NOBODY => unavailable(
                "No control plane leads now: its store does not answer, or the last leader's lease is not over yet. Nothing was changed.",
            ),
            Self::Other(Error::Store(_)) => unavailable(
                "The control plane's store does not answer. Look which version is active before you try again.",
            ),
            Self::Other(Error::NotLeader { leader }) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                problems::NOT_LEADER,
                "Another replica leads",
            )
            .with("leader", leader.clone())
            .header(header::RETRY_AFTER, HeaderValue::from_static("1")),
            Self::Other(_) => unavailable("The log of the control plane says why."),
        }
    }
}

fn unavailable(why: &str) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        problems::UNAVAILABLE,
        "Temporarily unavailable",
    )
    .detail(why.to_owned())
    .header(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

fn refused(error: &PolicyError) -> Problem {
    let report = report(error);
    let problem = Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        problems::POLICY_REFUSED,
        "The bundle is refused",
    );
    let lists = serde_json::to_value(&report.faults).and_then(|faults| {
        let failed = serde_json::to_value(&report.failed_examples)?;
        Ok((faults, failed))
    });
    match lists {
        Ok((faults, failed)) => problem
            .detail(error.to_string())
            .with("faults", faults)
            .with("failed_examples", failed),
        Err(_) => problem.detail(error.to_string()),
    }
}

/// What is wrong, in the form of a check.
pub(super) fn report(error: &PolicyError) -> CheckReport {
    let mut report = CheckReport::default();
    match error {
        PolicyError::Policies(faults) => report.faults.clone_from(faults),
        PolicyError::Examples(failed) => report.failed_examples.clone_from(failed),
        PolicyError::Action { .. } | PolicyError::Schema(_) => {
            report.faults.push(ringwall_policy::Fault {
                file: "policies".to_owned(),
                line: 1,
                message: error.to_string(),
            });
        }
    }
    report
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if let Self::Other(error) = &self
            && !matches!(error, Error::NotLeader { .. })
        {
            tracing::error!(%error, "a request about the policy failed");
        }
        self.problem().into_response()
    }
}
