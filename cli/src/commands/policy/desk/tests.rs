//! What refusals of the control plane become, over real connections.

use ringwall_http_io::ClientLimits;
use ringwall_policy::mesh::Bundle;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A control plane that says one thing, and what it was asked.
async fn desk(status: u16, content: Value) -> (Desk, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        // The head is enough: the body is short and comes with it.
        while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
            assert!(stream.read_buf(&mut asked).await.unwrap() > 0);
        }
        let body = content.to_string();
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8_lossy(&asked).to_lowercase()
    });
    (
        Desk::of(Client::plain(address, ClientLimits::default())),
        asked,
    )
}

fn proposal() -> Proposal {
    Proposal {
        bundle: Bundle::default(),
        note: String::new(),
        author: "me".into(),
    }
}

const WAIT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn r31_an_apply_says_what_it_replaces_and_how_long_it_waits() {
    let faults = json!([{ "file": "main", "line": 3, "message": "odd" }]);
    let failed =
        json!([{ "number": 2, "name": "c", "expected": "deny", "decided": "x permits it" }]);
    let problem = json!({ "status": 422, "title": "t", "type": "urn:ringwall:problem:policy-refused",
                          "faults": faults, "failed_examples": failed });
    let (desk, asked) = desk(422, problem).await;
    let wrong = desk.apply(&proposal(), 7, WAIT).await.unwrap().unwrap_err();
    assert_eq!(
        (wrong.faults[0].line, wrong.failed_examples[0].number),
        (3, 2)
    );
    assert!(!wrong.is_good());
    let asked = asked.await.unwrap();
    assert!(
        asked.starts_with("put /v1/policy?wait=3s http/1.1\r\n"),
        "{asked}"
    );
    assert!(asked.contains("if-match: \"7\"\r\n"), "{asked}");
}

#[tokio::test]
async fn r31_a_change_that_comes_late_is_a_conflict() {
    let problem = json!({ "status": 412, "title": "t", "type": "about:blank", "current": 9 });
    let (desk, asked) = desk(412, problem).await;
    let rollback = Rollback {
        to: 3,
        note: String::new(),
        author: "me".into(),
    };
    let error = desk.rollback(&rollback, 7, WAIT).await.unwrap_err();
    assert!(matches!(
        error,
        CliError::PolicyConflict {
            expected: 7,
            current: 9
        }
    ));
    assert_eq!(error.code(), 75);
    assert!(error.to_string().contains("fix: "), "{error}");
    assert!(
        asked
            .await
            .unwrap()
            .starts_with("post /v1/policy/rollback?wait=3s ")
    );
}

#[tokio::test]
async fn every_other_refusal_is_told_with_a_fix() {
    for (status, kind, fix) in [
        (503, "not-leader", "another replica"),
        (503, "unavailable", "ringwall status"),
        (403, "peer-refused", "--state-dir"),
        (404, "not-found", "ringwall policy history"),
        (400, "bad-request", "correct the command"),
    ] {
        let kind = format!("urn:ringwall:problem:{kind}");
        let problem =
            json!({ "status": status, "title": "t", "type": kind, "detail": "so\u{1b}it is" });
        let (desk, _asked) = desk(status, problem).await;
        let error = desk.version(Some(2)).await.unwrap_err();
        assert_eq!(error.code(), 69);
        let error = error.to_string();
        assert!(error.contains("soit is") && error.contains(fix), "{error}");
    }
}

#[tokio::test]
async fn questions_go_where_the_api_has_them() {
    let (desk, asked) = desk(200, json!([])).await;
    assert!(desk.history(5, Some(9)).await.unwrap().is_empty());
    assert!(
        asked
            .await
            .unwrap()
            .starts_with("get /v1/policy/versions?limit=5&before=9 ")
    );
}
