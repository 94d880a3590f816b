//! Why there is no identity: which socket, what was seen, and what to do.

use std::path::PathBuf;

use ringwall_tls::TlsError;

/// Every refusal of this crate.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadApiError {
    /// Within the time that the caller waits, the API gave nothing usable.
    #[error(
        "no identity came from the Workload API at unix:{} within {waited_s} s\n  seen: {seen}\n  fix: {fix}",
        socket.display()
    )]
    Waited {
        /// The socket.
        socket: PathBuf,
        /// Seconds.
        waited_s: u64,
        /// The last thing that happened.
        seen: String,
        /// What to do about that.
        fix: &'static str,
    },
}

/// Why one attempt failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Attempt {
    #[error("{0}")]
    Refused(String),
    #[error("the agent gives this process no identity ({0})")]
    NoIdentity(String),
    #[error("the stream has ended")]
    Ended,
    #[error("the answer is not what the standard says: {0}")]
    Content(&'static str),
    #[error("the identity is not usable: {0}")]
    Unusable(#[from] TlsError),
    #[error("nothing has come yet")]
    Silent,
}

impl Attempt {
    pub(crate) fn fix(&self) -> &'static str {
        match self {
            Self::Refused(_) | Self::Ended | Self::Silent => {
                "check that the agent runs and that service.identity names its socket (`ringwall status`)"
            }
            Self::NoIdentity(_) => {
                "start this process as a registered workload of this node: by `ringwall up`, or in the cgroup \
                 ringwall-app-NAME.slice or ringwall-proxy-NAME.slice"
            }
            Self::Content(_) | Self::Unusable(_) => {
                "look into the log of the agent; its control plane may use another trust domain or clock"
            }
        }
    }
}

impl From<tonic::Status> for Attempt {
    fn from(status: tonic::Status) -> Self {
        if status.code() == tonic::Code::PermissionDenied {
            return Self::NoIdentity(status.message().to_owned());
        }
        // The innermost cause says what happened, such as "No such file or directory".
        let mut cause: &dyn std::error::Error = &status;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let text = cause.to_string();
        Self::Refused(if text == status.to_string() {
            format!("{:?}: {}", status.code(), status.message())
        } else {
            text
        })
    }
}
