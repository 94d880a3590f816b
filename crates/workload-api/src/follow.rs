//! A stream of the Workload API that is opened again whenever it ends.
//!
//! Owns: the first answer within a limit, the pauses between attempts, and the end together with the
//! last user. Must not: interpret answers.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use ringwall_mesh_api::workload::SECURITY_HEADER;
use ringwall_mesh_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};
use tower::service_fn;

use crate::WorkloadApiError;
use crate::error::Attempt;

/// Pauses between attempts double from the first to the last of these. The socket is local: nobody
/// else is in the way, so that nothing need be spread by chance.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a silent stream asks whether anybody still wants its news.
const LOOK_AROUND: Duration = Duration::from_secs(10);

/// A channel to the Workload API at `socket`; it connects at first use, and again when it must.
#[must_use]
pub fn channel(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    let connect = service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    // The name is sent as `:authority` only.
    Endpoint::from_static("http://workload-api").connect_with_connector_lazy(connect)
}

/// One kind of stream: how to open it, and what to do with its answers.
pub(crate) trait Feed: Send + 'static {
    type Answer: Send + 'static;

    fn open(
        client: SpiffeWorkloadApiClient<Channel>,
    ) -> impl Future<Output = Result<Streaming<Self::Answer>, tonic::Status>> + Send;

    /// Takes an answer over; a broken one leaves what was there.
    fn take(&mut self, answer: Self::Answer) -> Result<(), Attempt>;

    /// Whether anybody still uses what is fed.
    fn is_wanted(&self) -> bool;

    /// What is fed, for the log.
    const WHAT: &'static str;
}

/// A stream from its first answer on.
pub(crate) struct Begun<A> {
    client: SpiffeWorkloadApiClient<Channel>,
    stream: Streaming<A>,
}

/// Waits for a first answer that `accept` can use, for at most `patience`.
pub(crate) async fn begin<F: Feed, T>(
    socket: &Path,
    patience: Duration,
    mut accept: impl FnMut(F::Answer) -> Result<T, Attempt>,
) -> Result<(T, Begun<F::Answer>), WorkloadApiError> {
    let client = SpiffeWorkloadApiClient::new(channel(socket));
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    let mut last = Attempt::Silent;
    loop {
        let attempt = async {
            let mut stream = F::open(client.clone()).await?;
            let answer = stream.message().await?.ok_or(Attempt::Ended)?;
            Ok::<_, Attempt>((accept(answer)?, stream))
        };
        match timeout_at(deadline, attempt).await {
            Ok(Ok((first, stream))) => return Ok((first, Begun { client, stream })),
            Ok(Err(error)) => last = error,
            Err(_elapsed) => {}
        }
        let next = Instant::now() + pause;
        if next >= deadline {
            return Err(WorkloadApiError::Waited {
                socket: socket.to_owned(),
                waited_s: patience.as_secs(),
                seen: last.to_string(),
                fix: last.fix(),
            });
        }
        tokio::time::sleep_until(next).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Feeds until nobody wants it any more. What was fed last stays while the agent is away.
pub(crate) async fn follow<F: Feed>(begun: Begun<F::Answer>, mut feed: F) {
    let Begun { client, stream } = begun;
    let mut stream = Some(stream);
    let mut pause = FIRST_PAUSE;
    while feed.is_wanted() {
        let Some(open) = stream.as_mut() else {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            match F::open(client.clone()).await {
                Ok(opened) => stream = Some(opened),
                Err(status) => report::<F>(&Attempt::from(status)),
            }
            continue;
        };
        let answer = tokio::select! {
            answer = open.message() => answer,
            () = sleep(LOOK_AROUND) => continue,
        };
        let taken = match answer {
            Ok(Some(answer)) => feed.take(answer),
            Ok(None) => Err(Attempt::Ended),
            Err(status) => Err(status.into()),
        };
        match taken {
            Ok(()) => pause = FIRST_PAUSE,
            // The stream is good, this answer was not: the next one may be.
            Err(error @ (Attempt::Content(_) | Attempt::Unusable(_))) => report::<F>(&error),
            Err(error) => {
                report::<F>(&error);
                stream = None;
            }
        }
    }
}

fn report<F: Feed>(error: &Attempt) {
    tracing::warn!(what = F::WHAT, %error, "nothing new from the Workload API; the last good one serves on");
}

/// A request with the header that the standard demands against request forgery (SPIFFE Workload
/// Endpoint §5).
pub(crate) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}
