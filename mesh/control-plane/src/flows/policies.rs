//! R31: a policy on its way from a proposal to every proxy and back, and what does not get on that way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use ringwall_mesh_api::v1::WatchTrustRequest;
use ringwall_store::testing::Server;
use ringwall_token::{JwkSet, VerifyingKeys};
use serde_json::{Value, json};

use super::replicas;
use crate::testing::desk::Desk;
use crate::testing::proxies::Proxy;
use crate::testing::{Caller, Running, Site};

/// One over each store. The server lives as long as its site.
async fn sites() -> Vec<(Site, Option<Arc<Server>>)> {
    let server = Server::shared("control-plane");
    let replicated = replicas::site(&server).with_policy();
    vec![
        (Site::new().with_policy(), None),
        (replicated, Some(server)),
    ]
}

/// The keys by which proxies know the control plane's word: their agent hands them out.
async fn keys(running: &Running, agent: &Caller) -> VerifyingKeys {
    let mut client = running.identity(agent);
    let watching = client.watch_trust(WatchTrustRequest {}).await;
    let told = watching.unwrap().into_inner().message().await;
    let keys: JwkSet = serde_json::from_slice(&told.unwrap().unwrap().jwt_keys).unwrap();
    VerifyingKeys::from_jwks(&keys).unwrap()
}

/// The bundle, with payments open to refunds as well.
fn with_refunds(bundle: &Value) -> Value {
    let mut next = bundle.clone();
    next["policies"]["refunds"] = json!(
        "@id(\"orders-refunds\")\npermit (principal == Workload::\"orders\", action == Action::\"DELETE\", resource == Service::\"payments\");"
    );
    let example = json!({ "name": "refunds", "caller": "orders", "callee": "payments", "port": 7104,
                          "method": "DELETE", "path": "/v1/payments/1", "expect": "allow" });
    next["examples"].as_array_mut().unwrap().push(example);
    next
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r31_a_policy_is_applied_signed_pushed_within_a_second_kept_and_rolled_back() {
    for (site, _server) in sites().await {
        let running = site.start().await;
        let desk = running.desk(&site.caller("ringwall"));
        let agent = site.join(&running, "local").await;
        let keys = keys(&running, &agent).await;
        let mut orders = running.connected(&site.caller("orders"), "local").await;
        let mut gateway = running.connected(&site.caller("gateway"), "local").await;
        let first = desk.get("/v1/policy").await;
        assert_eq!(
            (&first["version"], &first["author"]),
            (&json!(1), &json!("ringwall.yaml"))
        );
        assert_eq!(orders.bundle(&keys).version, 1);

        let next = with_refunds(&first["bundle"]);
        // A check changes nothing.
        let checked = desk
            .post("/v1/policy/check", json!({ "bundle": next }))
            .await;
        assert_eq!(
            checked.body["diff"]["policies_added"],
            json!(["orders-refunds"])
        );
        assert_eq!(checked.body["faults"], json!([]));
        assert_eq!(
            (desk.version().await, &checked.body["against"]),
            (1, &json!(1))
        );

        let asked = Instant::now();
        let both = async {
            tokio::join!(orders.until_policy(2), gateway.until_policy(2));
            asked.elapsed()
        };
        let (applied, took) = tokio::join!(desk.apply(&next, 1, "5s"), both);
        println!("a policy reached its proxies in {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(applied.tag.as_deref(), Some("\"2\""), "{applied:?}");
        assert_eq!(applied.body["changed"], json!(true));
        let spread = &applied.body["proxies"];
        assert_eq!(
            (&spread["applied"], &spread["pending"]),
            (&json!(2), &json!([]))
        );
        let signed = orders.bundle(&keys);
        assert_eq!(signed.version, 2);
        assert!(signed.bundle.policies.contains_key("refunds"));
        // The same once more is no new version.
        let again = desk.apply(&next, 2, "0s").await;
        assert_eq!(
            (&again.body["changed"], again.tag.as_deref()),
            (&json!(false), Some("\"2\""))
        );

        let (back, ()) = tokio::join!(desk.rollback(1, 2), orders.until_policy(3));
        assert_eq!(back.status, 200, "{back:?}");
        assert_eq!(orders.bundle(&keys).bundle.policies.len(), 1);
        history_is_whole(&desk).await;
        running.kill();

        // What is kept is what serves after a restart.
        let running = site.start().await;
        let orders = running.served(&site.caller("orders"), "local", 0).await;
        assert_eq!(orders.policy().version, 3);
        let desk = running.desk(&site.caller("ringwall"));
        assert_eq!(desk.bundle().await, first["bundle"]);
        running.stop().await;
    }
}

async fn history_is_whole(desk: &Desk) {
    let history = desk.get("/v1/policy/versions").await;
    let told: Vec<_> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|version| {
            (
                version["version"].as_u64().unwrap(),
                version["author"].as_str().unwrap(),
                version["identity"].as_str().unwrap(),
                version["rollback_of"].as_u64(),
            )
        })
        .collect();
    let expected = [
        (3, "bob", "ringwall", Some(1)),
        (2, "alice", "ringwall", None),
        (1, "ringwall.yaml", "control-plane", None),
    ];
    assert_eq!(told, expected);
    assert_eq!(history[1]["note"], "as agreed");
    let older = desk.get("/v1/policy/versions?before=3&limit=1").await;
    assert_eq!(older.as_array().unwrap().len(), 1);
    assert_eq!(older[0], history[1]);
    let second = desk.get("/v1/policy/versions/2").await;
    assert!(second["bundle"]["policies"]["refunds"].is_string());
    let events = desk.events().await;
    let event = |name: &str| events.iter().find(|event| event.0 == name).unwrap();
    assert_eq!(event("policy_applied").1, "alice (ringwall)");
    assert_eq!(event("policy_rolled_back").1, "bob (ringwall)");
}

/// Bundles that must not get through, each with what must be said of it.
fn hostile(bundle: &Value) -> Vec<(Value, &'static str, Value)> {
    let policy = |text: &str| {
        let mut next = bundle.clone();
        next["policies"]["evil"] = json!(text);
        next
    };
    let edge = |caller: &str, callee: &str, ports: Value| {
        let mut next = bundle.clone();
        let edge = json!({ "caller": caller, "callee": callee, "ports": ports });
        next["edges"].as_array_mut().unwrap().push(edge);
        next
    };
    let nested = format!(
        "@id(\"n\") permit (principal, action, resource) when {{ {}true{} }};",
        "!(".repeat(20_000),
        ")".repeat(20_000)
    );
    let mut wrong_case = bundle.clone();
    wrong_case["examples"][2]["expect"] = json!("allow");
    let mut open = policy("@id(\"open\")\npermit (principal, action, resource);");
    open["examples"].as_array_mut().unwrap().push(json!({
        "name": "no deletes", "caller": "gateway", "callee": "orders", "port": 7105,
        "method": "DELETE", "expect": "deny" }));
    vec![
        (policy("\n\nthis is no policy"), "evil", json!(3)),
        (
            policy(
                "@id(\"a\")\npermit (principal == Workload::\"orders\", action == Action::\"FLY\", resource);",
            ),
            "evil",
            json!(2),
        ),
        (
            policy("permit (principal, action, resource);"),
            "evil",
            json!(1),
        ),
        (
            policy("@id(\"orders-pays\") permit (principal, action, resource);"),
            "",
            Value::Null,
        ),
        (
            policy(
                "@id(\"t\")\npermit (principal, action, resource) when { context.port == \"x\" };",
            ),
            "evil",
            json!(2),
        ),
        (policy(&nested), "evil", json!(1)),
        (edge("orders", "nobody", json!([])), "edges", json!(3)),
        (edge("orders", "payments", json!([9999])), "edges", json!(3)),
        (edge("Not A Name", "payments", json!([])), "edges", json!(3)),
        (wrong_case, "example", json!(3)),
        (open, "example", json!(4)),
    ]
}

/// Where the faults are. Their words end in a guess of Cedar's ("did you mean …"), which is another one each time.
fn places(faults: &Value) -> Vec<(&Value, &Value)> {
    let faults = faults.as_array().into_iter().flatten();
    faults
        .map(|fault| (&fault["file"], &fault["line"]))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_a_hostile_policy_is_refused_whole_with_line_and_reason_and_the_last_good_serves() {
    for (site, _server) in sites().await {
        let running = site.start().await;
        let desk = running.desk(&site.caller("ringwall"));
        let mut orders = running.connected(&site.caller("orders"), "local").await;
        let good = desk.bundle().await;
        for (bundle, place, line) in hostile(&good) {
            let refused = desk.apply(&bundle, 1, "0s").await;
            assert_eq!(refused.status, 422, "{refused:?}");
            let (faults, failed) = (&refused.body["faults"], &refused.body["failed_examples"]);
            match place {
                "" => assert!(!faults[0]["message"].is_null(), "{refused:?}"),
                "example" => assert_eq!(failed[0]["number"], line, "{refused:?}"),
                _ => {
                    let found = faults.as_array().unwrap().iter();
                    let mut found = found.filter(|fault| fault["file"] == place);
                    let fault = found.next().unwrap_or_else(|| panic!("{refused:?}"));
                    assert_eq!(fault["line"], line, "{refused:?}");
                    assert!(!fault["message"].as_str().unwrap().is_empty());
                }
            }
            // The same is said by a check, and that is no error.
            let checked = desk
                .post("/v1/policy/check", json!({ "bundle": bundle }))
                .await;
            assert_eq!(checked.status, 200);
            assert_eq!(
                (
                    places(&checked.body["faults"]),
                    &checked.body["failed_examples"]
                ),
                (places(faults), failed)
            );
        }
        assert_eq!(desk.bundle().await, good);
        assert!(orders.is_quiet().await, "nothing was pushed");
        let events = desk.events().await;
        let refused = events.iter().filter(|event| event.0 == "policy_refused");
        let refused: Vec<_> = refused.collect();
        assert_eq!(refused.len(), hostile(&good).len());
        assert!(
            refused
                .iter()
                .all(|event| event.1 == "alice (ringwall)" && !event.2.is_empty())
        );
        // And the next good one passes.
        let next = with_refunds(&good);
        let (applied, ()) = tokio::join!(desk.apply(&next, 1, "5s"), orders.until_policy(2));
        assert_eq!(applied.body["proxies"]["applied"], json!(1), "{applied:?}");
        running.stop().await;
    }
}

#[tokio::test]
async fn attack_what_is_no_proposal_is_refused_before_it_is_looked_at() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let desk = running.desk(&site.caller("ringwall"));
    let good = desk.bundle().await;
    let put = async |content: Value, version: Option<&str>| {
        let said = desk
            .ask(Method::PUT, "/v1/policy", version, Some(content))
            .await;
        (
            said.status.as_u16(),
            said.body["detail"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let first = Some("\"1\"");
    let proposal = json!({ "bundle": with_refunds(&good) });
    // Which version it replaces must be said, and be true.
    assert_eq!(put(proposal.clone(), None).await.0, 428);
    for no_version in ["*", "1", "\"x\"", "W/\"1\"", "\"1\", \"2\"", "\"-1\""] {
        assert_eq!(
            put(proposal.clone(), Some(no_version)).await.0,
            400,
            "{no_version}"
        );
    }
    for other in ["\"0\"", "\"2\"", "\"18446744073709551615\""] {
        assert_eq!(put(proposal.clone(), Some(other)).await.0, 412, "{other}");
    }
    // What is not in the contract, with its place.
    let mut typo = proposal.clone();
    typo["bundle"]["egdes"] = json!([]);
    let (status, detail) = put(typo, first).await;
    assert_eq!(status, 400);
    assert!(
        detail.contains("egdes") && detail.contains("line 1 column"),
        "{detail}"
    );
    let named = |author: &str, note: &str| json!({ "bundle": with_refunds(&good), "author": author, "note": note });
    for (author, note) in [
        ("a\nb", ""),
        ("\u{1b}[2Jalice", ""),
        ("a", "x\u{7}"),
        (&*"a".repeat(65), ""),
        ("a", &*"n".repeat(501)),
    ] {
        assert_eq!(
            put(named(author, note), first).await.0,
            400,
            "{author:?} {note:?}"
        );
    }
    // Too large: read no further than that, or refused by its own limit.
    let mut large = proposal.clone();
    large["bundle"]["policies"]["large"] = json!("/".repeat(5 << 20));
    assert_eq!(put(large, first).await.0, 413);
    let mut large = proposal.clone();
    for text in 0..40 {
        large["bundle"]["policies"][format!("large{text}")] = json!("/".repeat(60_000));
    }
    assert_eq!(put(large, first).await.0, 400);
    for path in [
        "/v1/policy/versions/2",
        "/v1/policy/diff?from=2",
        "/v1/policy/diff?from=1&to=9",
    ] {
        let said = desk.ask(Method::GET, path, None, None).await;
        assert_eq!(said.status, 404, "{path}");
    }
    assert_eq!(desk.rollback(7, 1).await.status, 404);
    assert_eq!(desk.bundle().await, good);
    running.stop().await;
}

#[tokio::test]
async fn attack_nobody_but_the_operator_sees_or_changes_the_policy() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let desk = running.desk(&site.caller("ringwall"));
    let bundle = desk.bundle().await;
    let proposal = json!({ "bundle": with_refunds(&bundle) });
    for stranger in ["orders", "agent/local", "control-plane", "ringwall/x"] {
        let desk = running.desk(&site.caller(stranger));
        for (method, path, content) in [
            (Method::GET, "/v1/policy", None),
            (Method::GET, "/v1/policy/versions", None),
            (Method::GET, "/v1/policy/versions/1", None),
            (Method::GET, "/v1/policy/proxies", None),
            (Method::GET, "/v1/policy/unused", None),
            (Method::GET, "/v1/policy/diff?from=1", None),
            (Method::POST, "/v1/policy/check", Some(proposal.clone())),
            (Method::PUT, "/v1/policy", Some(proposal.clone())),
            (
                Method::POST,
                "/v1/policy/rollback",
                Some(json!({ "to": 1 })),
            ),
            (
                Method::POST,
                "/v1/policy/explain",
                Some(json!("not even read")),
            ),
        ] {
            let said = desk.ask(method, path, Some("\"1\""), content).await;
            assert_eq!(said.status, 403, "{stranger} {path}");
            assert!(said.body.get("bundle").is_none());
        }
    }
    assert_eq!(desk.version().await, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r31_of_two_who_have_seen_the_same_version_one_wins() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let desk = running.desk(&site.caller("ringwall"));
    let good = desk.bundle().await;
    let proposals: Vec<Value> = (0..8)
        .map(|number| {
            let mut next = good.clone();
            next["examples"][0]["name"] = json!(format!("reads {number}"));
            next
        })
        .collect();
    let racing = proposals.iter().map(|bundle| desk.apply(bundle, 1, "0s"));
    let said = futures_util::future::join_all(racing).await;
    let won = said.iter().filter(|said| said.status == 200).count();
    let late = said.iter().filter(|said| said.status == 412);
    assert_eq!((won, late.clone().count()), (1, 7), "{said:?}");
    for said in late {
        assert_eq!(said.body["current"], json!(2));
    }
    running.stop().await;
}

/// A proxy that takes over everything until it is told to stop.
pub(super) fn obedient(mut proxy: Proxy) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            proxy.apply().await;
        }
    })
}
