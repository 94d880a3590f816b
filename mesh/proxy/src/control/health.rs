//! Whether the application behind this proxy can serve: asked actively, on loopback.
//!
//! Owns: the thresholds. A listening socket is not enough where the application has a `/readyz`.
//! Must not: say anything to callers; the control plane takes an endpoint that is not ready out of use.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use ringwall_http_io::{Client, ClientLimits, Transport, body};
use ringwall_identity::SpiffeId;
use ringwall_mesh_api::v1::Health;
use ringwall_secret::SecretString;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Time between two questions while nothing has answered yet, and from then on.
const UNTIL_READY: Duration = Duration::from_millis(200);
const EVERY: Duration = Duration::from_secs(1);
/// Longest time of one question.
const PATIENCE: Duration = Duration::from_secs(2);
/// Failures in a row before a ready application counts as not ready: one may be a full backlog.
const FAILURES: u32 = 2;

/// What is asked.
#[derive(Clone)]
pub(crate) struct HealthCheck {
    pub(crate) address: SocketAddr,
    pub(crate) question: Question,
}

#[derive(Clone)]
pub(crate) enum Question {
    /// Whether a connection opens.
    Connect,
    /// `GET path`, which must be answered by 2xx. The application sees its own workload as the caller.
    Get {
        path: String,
        own: SpiffeId,
        token: Option<Arc<SecretString>>,
    },
}

/// Thresholds, without a clock.
#[derive(Debug, Default)]
struct Judge {
    ready: bool,
    failures: u32,
}

impl Judge {
    /// Takes one answer; the judgement from then on.
    fn answer(&mut self, good: bool) -> bool {
        if good {
            self.failures = 0;
            self.ready = true;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.ready = self.ready && self.failures < FAILURES;
        }
        self.ready
    }
}

/// Asks until nobody wants to know any more.
pub(crate) async fn watch(check: HealthCheck, health: watch::Sender<Health>) {
    let mut judge = Judge::default();
    let client = Client::plain(
        check.address,
        ClientLimits {
            connect_timeout: PATIENCE,
            request_timeout: PATIENCE,
            max_idle: 1,
            ..ClientLimits::default()
        },
    );
    loop {
        let answer = match timeout(PATIENCE, ask(&check, &client)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(format!("no answer within {PATIENCE:?}")),
        };
        let ready = judge.answer(answer.is_ok());
        let next = if ready {
            Health::Ready
        } else {
            Health::NotReady
        };
        let changed = health.send_if_modified(|health| std::mem::replace(health, next) != next);
        if changed {
            let why = answer.err().unwrap_or_default();
            tracing::info!(ready, why, "the application's health has changed");
        }
        tokio::select! {
            () = sleep(if ready { EVERY } else { UNTIL_READY }) => {}
            () = health.closed() => return,
        }
    }
}

async fn ask(check: &HealthCheck, client: &Client) -> Result<(), String> {
    match &check.question {
        Question::Connect => {
            let connected = TcpStream::connect(check.address).await;
            connected.map(drop).map_err(|error| error.to_string())
        }
        Question::Get { path, own, token } => {
            let mut request = Request::get(path.as_str())
                .header("host", own.path())
                .header("x-forwarded-client-cert", format!("URI={own}"));
            if let Some(token) = token {
                let mut value = http::HeaderValue::from_str(token.expose())
                    .map_err(|_| "the loopback token is no header value".to_owned())?;
                value.set_sensitive(true);
                request = request.header("x-ringwall-loopback", value);
            }
            let request = request
                .body(body::empty())
                .map_err(|error| error.to_string())?;
            let response = client
                .send(request)
                .await
                .map_err(|error| error.to_string())?;
            let status = response.status();
            if status.is_success() {
                Ok(())
            } else {
                Err(format!("answers {status}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_failure_is_forgiven_and_two_are_not(answers in proptest::collection::vec(any::<bool>(), 1..40)) {
            let mut judge = Judge::default();
            for (index, answer) in answers.iter().enumerate() {
                let ready = judge.answer(*answer);
                let before = index.checked_sub(1).map(|index| answers[index]);
                if *answer {
                    prop_assert!(ready);
                } else if before != Some(true) {
                    prop_assert!(!ready, "never ready before, or the second failure");
                } else {
                    prop_assert!(ready);
                }
            }
        }
    }

    fn own() -> SpiffeId {
        SpiffeId::parse("spiffe://ringwall.local/orders").unwrap()
    }

    #[tokio::test]
    async fn the_application_is_asked_as_its_own_workload() {
        let answer = |headers: HeaderMap| async move {
            let passed = headers
                .get("x-ringwall-loopback")
                .is_some_and(|token| token == "t0ken");
            let named = headers["x-forwarded-client-cert"] == "URI=spiffe://ringwall.local/orders";
            if passed && named {
                StatusCode::OK
            } else {
                StatusCode::FORBIDDEN
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/readyz", get(answer));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let client = Client::plain(address, ClientLimits::default());
        let check = |token: Option<&str>| HealthCheck {
            address,
            question: Question::Get {
                path: "/readyz".into(),
                own: own(),
                token: token.map(|token| Arc::new(SecretString::new(token.to_owned()))),
            },
        };
        ask(&check(Some("t0ken")), &client).await.unwrap();
        let refused = ask(&check(None), &client).await.unwrap_err();
        assert!(refused.contains("403"), "{refused}");
        let connect = HealthCheck {
            address,
            question: Question::Connect,
        };
        ask(&connect, &client).await.unwrap();
        let (sender, mut receiver) = watch::channel(Health::NotReady);
        let watching = tokio::spawn(super::watch(check(Some("t0ken")), sender));
        receiver.changed().await.unwrap();
        assert_eq!(*receiver.borrow(), Health::Ready);
        drop(receiver);
        watching.await.unwrap();
    }

    #[tokio::test]
    async fn a_closed_port_is_not_ready() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let client = Client::plain(address, ClientLimits::default());
        let connect = HealthCheck {
            address,
            question: Question::Connect,
        };
        assert!(ask(&connect, &client).await.is_err());
    }
}
