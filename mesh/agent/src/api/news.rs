//! What a stream is made of: the caller's SVID and the trust, now and after each change.
//!
//! Owns: the wait for a first SVID within a limit, and the caller's recognition before every push.

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use crate::api::{Caller, NO_IDENTITY, Shared};
use crate::metrics::StreamCount;
use crate::renewal::Issued;
use crate::trust::{Current, Trust};
use crate::workloads::State;

/// How long a caller waits for a first SVID before it is told to come again.
const FIRST_SVID: Duration = Duration::from_secs(5);

/// News for one caller.
pub(crate) struct News {
    shared: Arc<Shared>,
    caller: Caller,
    svid: watch::Receiver<State>,
    trust: Current,
    begun: bool,
    _counted: Arc<StreamCount>,
}

/// One state of the world.
#[derive(Clone)]
pub(crate) struct Now {
    pub(crate) id: String,
    pub(crate) issued: Arc<Issued>,
    pub(crate) trust: Arc<Trust>,
}

impl News {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        caller: Caller,
        method: &'static str,
    ) -> Result<Self, Status> {
        let svid = shared
            .workloads
            .follow(&caller.workload)
            .ok_or_else(|| Status::permission_denied(NO_IDENTITY))?;
        Ok(Self {
            shared: Arc::clone(shared),
            caller,
            svid,
            trust: shared.trust.clone(),
            begun: false,
            _counted: shared.metrics.stream(method),
        })
    }

    /// The state now, at the first call; after that, the next one that differs.
    pub(crate) async fn next(&mut self) -> Result<Now, Status> {
        if self.begun {
            tokio::select! {
                changed = self.svid.changed() => ended(changed)?,
                changed = self.trust.changed() => ended(changed)?,
            }
        }
        let issued = self.issued().await?;
        self.begun = true;
        self.shared.still(&self.caller)?;
        let trust = self.trust.borrow_and_update().clone();
        let trust = trust.ok_or_else(|| Status::unavailable("this node knows nothing yet"))?;
        let registration = trust
            .workload(&self.caller.workload)
            .ok_or_else(|| Status::permission_denied(NO_IDENTITY))?;
        Ok(Now {
            id: registration.spiffe_id.clone(),
            issued,
            trust,
        })
    }

    async fn issued(&mut self) -> Result<Arc<Issued>, Status> {
        let deadline = Instant::now() + FIRST_SVID;
        let mut why = None;
        loop {
            match self.svid.borrow_and_update().clone() {
                State::Ready(issued) => return Ok(issued),
                State::Ended => return Err(Status::permission_denied(NO_IDENTITY)),
                State::Waiting(reason) => why = reason.or(why),
            }
            match timeout_at(deadline, self.svid.changed()).await {
                Ok(changed) => ended(changed)?,
                Err(_elapsed) => {
                    let why = why.unwrap_or_else(|| "the control plane has not answered".into());
                    return Err(Status::unavailable(format!("no SVID yet: {why}")));
                }
            }
        }
    }

    /// A stream of what `build` makes of the news. What is the same as before is not sent again. It
    /// ends with the first error.
    pub(crate) fn stream<T, F>(self, build: F) -> impl Stream<Item = Result<T, Status>> + Send
    where
        T: Clone + PartialEq + Send + 'static,
        F: Fn(&Now) -> T + Send + 'static,
    {
        let begin = Some((self, build, None));
        unfold(begin, |state| async {
            let (mut news, build, last): (Self, F, Option<T>) = state?;
            loop {
                let fresh = match news.next().await {
                    Ok(now) => build(&now),
                    Err(status) => return Some((Err(status), None)),
                };
                if last.as_ref() != Some(&fresh) {
                    return Some((Ok(fresh.clone()), Some((news, build, Some(fresh)))));
                }
            }
        })
    }
}

/// A sender that is gone means that the agent ends.
fn ended(changed: Result<(), watch::error::RecvError>) -> Result<(), Status> {
    changed.map_err(|_| Status::unavailable("the agent ends"))
}
