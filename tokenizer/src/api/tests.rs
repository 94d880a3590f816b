//! The whole component in one process: real router, real SQLite file, real HTTP to a stand-in
//! authorization server, a clock that the test sets.

mod harness;

use http::{Method, StatusCode};
use ringwall_proto::introspection::IntrospectionResponse;
use serde_json::{Value, json};

use self::harness::{Harness, active, form, redemption};

#[tokio::test]
async fn r21_a_token_is_issued_and_redeemed_once() {
    let h = Harness::start().await;
    let issued = h.issue("orders", &form(&[])).await;
    assert_eq!(issued.status, StatusCode::OK, "{issued:?}");
    assert_eq!(issued.header("cache-control"), Some("no-store"));
    assert_eq!(issued.json["token_type"], "N_A");
    assert_eq!(issued.json["expires_in"], 30);
    assert_eq!(
        issued.json["issued_token_type"],
        "urn:ringwall:params:oauth:token-type:source-token"
    );
    let token = issued.token();

    let redeemed = h.redeem("payments", &redemption(&token)).await;
    assert_eq!(redeemed.status, StatusCode::OK, "{redeemed:?}");
    assert_eq!(redeemed.json["sub"], "alice");
    assert_eq!(redeemed.json["client_id"], "spa-proxy");
    assert_eq!(redeemed.json["issued_at"], "2023-11-14T22:13:20Z");

    let again = h.redeem("payments", &redemption(&token)).await;
    assert_eq!(again.status, StatusCode::BAD_REQUEST);
    assert_eq!(h.audit.total("redeem_refused", "used"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r21_parallel_redemption_has_one_winner() {
    let h = Harness::start().await;
    let token = h.issued_token().await;
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let (h, body) = (h.clone(), redemption(&token));
        attempts.spawn(async move { h.redeem("payments", &body).await });
    }
    let mut winners = 0;
    let mut refusals = std::collections::BTreeSet::new();
    while let Some(answer) = attempts.join_next().await {
        let answer = answer.unwrap();
        if answer.status == StatusCode::OK {
            winners += 1;
        } else {
            refusals.insert(format!("{} {}", answer.status, answer.json));
        }
    }
    assert_eq!(winners, 1);
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert_eq!(h.audit.total("redeemed", ""), 1);
    assert_eq!(h.audit.total("redeem_refused", "used"), 999);
}

#[tokio::test]
async fn r21_every_wrong_redemption_is_refused_alike_and_audited_apart() {
    let h = Harness::start().await;
    let token = h.issued_token().await;
    let (revoked, expired) = (h.issued_token().await, h.issued_token().await);
    h.revoke("orders", &revoked).await;

    let change = |member: &str, value: &str| {
        let mut body = redemption(&token);
        body[member] = json!(value);
        body
    };
    let unknown = format!("rws_{}", "A".repeat(43));
    let cases = [
        ("wrong_audience", "orders", redemption(&token)),
        ("wrong_audience", "inventory", redemption(&token)),
        (
            "wrong_caller",
            "payments",
            change("caller", "spiffe://ringwall.local/inventory"),
        ),
        (
            "wrong_caller",
            "payments",
            change("caller", "spiffe://other.local/orders"),
        ),
        ("wrong_method", "payments", change("htm", "GET")),
        ("wrong_path", "payments", change("htu", "/v1/payments/")),
        ("wrong_path", "payments", change("htu", "/v1/refunds")),
        (
            "wrong_body",
            "payments",
            change("body_digest", &"B".repeat(43)),
        ),
        ("unknown", "payments", redemption(&unknown)),
        ("unknown", "payments", redemption("rws_x")),
        ("unknown", "payments", redemption("an.access.token")),
        ("unknown", "payments", redemption(&token.to_lowercase())),
        ("revoked", "payments", redemption(&revoked)),
    ];
    let mut refusals = std::collections::BTreeSet::new();
    for (reason, peer, body) in cases {
        let before = h.audit.total("redeem_refused", reason);
        let answer = h.redeem(peer, &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{reason}");
        assert_eq!(answer.slug(), "source-token-refused");
        assert_eq!(
            h.audit.total("redeem_refused", reason),
            before + 1,
            "{reason}"
        );
        refusals.insert(answer.json.to_string());
    }
    // None of these attempts spent the token.
    assert_eq!(
        h.redeem("payments", &redemption(&token)).await.status,
        StatusCode::OK
    );

    h.advance(30);
    let late = h.redeem("payments", &redemption(&expired)).await;
    assert_eq!(h.audit.total("redeem_refused", "expired"), 1);
    refusals.insert(late.json.to_string());
    assert_eq!(
        refusals.len(),
        1,
        "refusals tell causes apart: {refusals:?}"
    );
}

#[tokio::test]
async fn r21_replay_after_a_restart_is_refused() {
    let h = Harness::start().await;
    let (spent, unspent) = (h.issued_token().await, h.issued_token().await);
    assert_eq!(
        h.redeem("payments", &redemption(&spent)).await.status,
        StatusCode::OK
    );
    let h = h.restarted();
    assert_eq!(
        h.redeem("payments", &redemption(&spent)).await.status,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        h.redeem("payments", &redemption(&unspent)).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn r21_caller_and_audience_can_revoke_and_nobody_else() {
    let h = Harness::start().await;
    for peer in ["orders", "payments"] {
        let token = h.issued_token().await;
        assert_eq!(h.revoke(peer, &token).await.status, StatusCode::OK);
        let refused = h.redeem("payments", &redemption(&token)).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{peer}");
    }
    let token = h.issued_token().await;
    // The answer is the same (RFC 7009 §2.2), the effect is not.
    assert_eq!(h.revoke("inventory", &token).await.status, StatusCode::OK);
    assert_eq!(
        h.revoke("orders", "rws_unknown").await.status,
        StatusCode::OK
    );
    assert_eq!(
        h.redeem("payments", &redemption(&token)).await.status,
        StatusCode::OK
    );
    assert_eq!(h.audit.total("revoked", ""), 2);
}

#[tokio::test]
async fn r21_a_caller_lists_its_own_tokens_without_their_text() {
    let h = Harness::start().await;
    let [used, revoked, active] = [
        h.issued_token().await,
        h.issued_token().await,
        h.issued_token().await,
    ];
    h.redeem("payments", &redemption(&used)).await;
    h.revoke("orders", &revoked).await;
    let list = h
        .call("orders", Method::GET, "/v1/source-tokens", None)
        .await;
    let mut states: Vec<_> = list
        .json
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["state"].as_str().unwrap())
        .collect();
    states.sort_unstable();
    assert_eq!(states, ["active", "revoked", "used"]);
    assert_eq!(list.json[0]["audience"], "payments");
    assert_eq!(list.json[0]["htu"], "/v1/payments");
    let text = list.json.to_string();
    for token in [&used, &revoked, &active] {
        assert!(!text.contains(token.as_str()) && !text.contains(&token[4..]));
    }
    h.advance(31);
    let list = h
        .call("orders", Method::GET, "/v1/source-tokens", None)
        .await;
    assert!(
        list.json
            .as_array()
            .unwrap()
            .iter()
            .any(|t| t["state"] == "expired")
    );
    let others = h
        .call("payments", Method::GET, "/v1/source-tokens", None)
        .await;
    assert_eq!(others.json, json!([]));
}

#[tokio::test]
async fn undeclared_edges_are_refused_before_the_users_token_is_shown_to_anyone() {
    let h = Harness::start().await;
    for (caller, change) in [
        ("inventory", ("audience", "payments")),
        ("payments", ("audience", "payments")),
        ("orders", ("audience", "inventory")),
        ("orders", ("audience", "orders")),
        ("orders", ("htm", "GET")),
        ("orders", ("htu", "/v1/refunds")),
    ] {
        let answer = h.issue(caller, &form(&[change])).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{caller} {change:?}");
        assert_eq!(answer.slug(), "forbidden");
        assert_eq!(answer.json["error"], "invalid_target");
    }
    assert!(h.introspected().is_empty());
    assert_eq!(h.audit.total("issue_refused", "undeclared_edge"), 6);
}

#[tokio::test]
async fn the_users_token_is_introspected_with_our_client_id() {
    let h = Harness::start().await;
    h.issue("orders", &form(&[])).await;
    let asked = h.introspected();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["token"], "users-access-token");
    assert_eq!(asked[0]["token_type_hint"], "access_token");
    assert_eq!(asked[0]["client_id"], "tokenizer");
    // Never cached: a token revoked in between must not buy another source token.
    h.authz_answers(StatusCode::OK, &json!({ "active": false }));
    let refused = h.issue("orders", &form(&[])).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(refused.slug(), "access-token-refused");
    assert_eq!(h.introspected().len(), 2);
}

#[tokio::test]
async fn a_user_token_that_is_not_for_us_is_refused() {
    let h = Harness::start().await;
    let inactive = serde_json::to_value(IntrospectionResponse::inactive()).unwrap();
    let other = |member: &str, value: Value| {
        let mut answer = active();
        answer[member] = value;
        answer
    };
    for answer in [
        inactive,
        other("aud", json!("payments")),
        other("iss", json!("https://evil.example")),
        other("scope", json!("orders:read")),
        other("exp", json!(1_700_000_000)),
        other("sub", Value::Null),
    ] {
        h.authz_answers(StatusCode::OK, &answer);
        let refused = h.issue("orders", &form(&[])).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{answer}");
        assert_eq!(refused.slug(), "access-token-refused", "{answer}");
    }
    assert_eq!(h.audit.total("issued", ""), 0);
}

#[tokio::test]
async fn without_a_clear_answer_of_the_authorization_server_nothing_is_issued() {
    let h = Harness::start().await;
    for (status, answer) in [
        (StatusCode::INTERNAL_SERVER_ERROR, active()),
        (
            StatusCode::UNAUTHORIZED,
            json!({ "error": "invalid_client" }),
        ),
        (StatusCode::SEE_OTHER, active()),
        (StatusCode::OK, json!("active")),
        (StatusCode::OK, json!({ "active": "true" })),
        (StatusCode::OK, json!({ "sub": "alice" })),
    ] {
        h.authz_answers(status, &answer);
        let refused = h.issue("orders", &form(&[])).await;
        assert_eq!(
            refused.status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{status} {answer}"
        );
        assert_eq!(refused.slug(), "unavailable");
    }
    h.stop_authz().await;
    let refused = h.issue("orders", &form(&[])).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(h.audit.total("issued", ""), 0);
    assert_eq!(h.audit.total("issue_refused", "unavailable"), 7);
}

#[tokio::test]
async fn a_source_token_does_not_outlive_the_users_token() {
    let h = Harness::start().await;
    let mut answer = active();
    answer["exp"] = json!(1_700_000_000 + 10);
    h.authz_answers(StatusCode::OK, &answer);
    let issued = h.issue("orders", &form(&[])).await;
    assert_eq!(issued.json["expires_in"], 10);
    h.advance(10);
    let late = h.redeem("payments", &redemption(&issued.token())).await;
    assert_eq!(late.status, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_so_many_tokens_are_outstanding_under_concurrency() {
    let h = Harness::start().await;
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..harness::MAX_OUTSTANDING * 4 {
        let h = h.clone();
        attempts.spawn(async move { h.issue("orders", &form(&[])).await });
    }
    let mut tokens = Vec::new();
    while let Some(answer) = attempts.join_next().await {
        let answer = answer.unwrap();
        if answer.status == StatusCode::OK {
            tokens.push(answer.token());
        } else {
            assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
    }
    assert_eq!(tokens.len(), harness::MAX_OUTSTANDING as usize);
    // A spent and an expired token make room.
    h.redeem("payments", &redemption(&tokens[0])).await;
    assert_eq!(h.issue("orders", &form(&[])).await.status, StatusCode::OK);
    assert_eq!(
        h.issue("orders", &form(&[])).await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
    h.advance(30);
    assert_eq!(h.issue("orders", &form(&[])).await.status, StatusCode::OK);
}

#[tokio::test]
async fn malformed_requests_are_refused_and_never_echo_a_token() {
    let h = Harness::start().await;
    let secret = "users-access-token";
    let bad_forms = [
        form(&[("grant_type", "client_credentials")]),
        form(&[(
            "subject_token_type",
            "urn:ietf:params:oauth:token-type:refresh_token",
        )]),
        form(&[(
            "requested_token_type",
            "urn:ietf:params:oauth:token-type:access_token",
        )]),
        form(&[("body_digest", "short")]),
        form(&[("htu", "v1/payments")]),
        form(&[("htu", "/v1/../payments")]),
        form(&[("htm", "post")]),
        form(&[("audience", "Payments")]),
        format!("{}&subject_token=another", form(&[])),
        format!("{}&actor_token=x", form(&[])),
        form(&[]).replace("body_digest", "other"),
        form(&[("subject_token", "")]),
    ];
    for body in bad_forms {
        let answer = h.issue("orders", &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(!answer.json.to_string().contains(secret), "{answer:?}");
    }
    let mut wrong_types = vec![json!([]), json!("x"), json!({}), json!(null)];
    for (member, value) in [
        ("token", json!(1)),
        ("caller", json!("orders")),
        ("htm", json!("TRACE")),
        ("x", json!(1)),
    ] {
        let mut body = redemption(secret);
        body[member] = value;
        wrong_types.push(body);
    }
    for body in wrong_types {
        let answer = h.redeem("payments", &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(!answer.json.to_string().contains(secret), "{answer:?}");
    }
    let large = h
        .issue("orders", &form(&[("subject_token", &"a".repeat(20_000))]))
        .await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(h.introspected().is_empty());
}

#[tokio::test]
async fn without_a_verified_peer_nothing_is_answered() {
    let h = Harness::start().await;
    let token = h.issued_token().await;
    for (method, path, body) in [
        (Method::POST, "/v1/source-tokens", form(&[])),
        (Method::GET, "/v1/source-tokens", String::new()),
        (
            Method::POST,
            "/v1/source-tokens/redeem",
            redemption(&token).to_string(),
        ),
        (
            Method::POST,
            "/v1/source-tokens/revoke",
            json!({ "token": token }).to_string(),
        ),
    ] {
        let answer = h.call_anonymously(method, path, &body).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(answer.slug(), "peer-refused");
    }
    assert_eq!(
        h.redeem("payments", &redemption(&token)).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn r21_no_token_text_is_on_the_disk() {
    let h = Harness::start().await;
    let token = h.issued_token().await;
    h.redeem("payments", &redemption(&token)).await;
    let mut read = 0;
    for file in std::fs::read_dir(h.directory()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        read += bytes.len();
        for secret in [
            token.as_bytes(),
            &token.as_bytes()[4..],
            b"users-access-token",
        ] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
    }
    assert!(read > 0);
}

#[tokio::test]
async fn ended_tokens_are_purged_after_their_time() {
    let h = Harness::start().await;
    h.issued_token().await;
    let listed = || async {
        let list = h
            .call("orders", Method::GET, "/v1/source-tokens", None)
            .await;
        list.json.as_array().unwrap().len()
    };
    h.advance(89);
    h.tokenizer.purge().await.unwrap();
    assert_eq!(listed().await, 1);
    h.advance(2);
    h.tokenizer.purge().await.unwrap();
    assert_eq!(listed().await, 0);
}
