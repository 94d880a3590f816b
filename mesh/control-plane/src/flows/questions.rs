//! R50, R51: why something is decided as it is, what nobody uses, and what differs.

use serde_json::{Value, json};

use crate::testing::Site;
use crate::testing::desk::Desk;

fn request(caller: &str, callee: &str, port: u16, method: &str, path: &str) -> Value {
    json!({ "name": "q", "caller": caller, "callee": callee, "port": port, "method": method,
            "path": path, "expect": "allow" })
}

async fn explained(desk: &Desk, question: Value) -> Value {
    let said = desk.post("/v1/policy/explain", question).await;
    assert_eq!(said.status, 200, "{said:?}");
    said.body
}

#[tokio::test]
async fn r50_what_is_not_declared_is_denied_and_explained() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let desk = running.desk(&site.caller("ringwall"));
    for (question, outcome) in [
        (
            request("gateway", "orders", 7105, "GET", "/v1/orders"),
            "permitted",
        ),
        (
            request("gateway", "orders", 7105, "DELETE", "/v1/orders"),
            "no-permit",
        ),
        (
            request("gateway", "payments", 7104, "POST", "/v1/payments"),
            "no-edge",
        ),
        (
            request("orders", "payments", 7104, "POST", "/v1/payments"),
            "permitted",
        ),
        (
            request("orders", "payments", 7104, "POST", "/v1/payments/"),
            "no-permit",
        ),
        (request("payments", "orders", 7105, "GET", "/"), "no-edge"),
        (request("stranger", "orders", 7105, "GET", "/"), "no-edge"),
    ] {
        let answer = explained(&desk, json!({ "request": question })).await;
        assert_eq!(answer["decision"]["outcome"], outcome, "{answer}");
        assert_eq!(answer["decision"]["allowed"], json!(outcome == "permitted"));
        assert_eq!(answer["edge"].is_null(), outcome == "no-edge");
        assert_eq!(answer["version"], json!(1));
    }
    // Every policy with its place and what it had to do with it.
    let question = request("orders", "payments", 7104, "POST", "/elsewhere");
    let answer = explained(&desk, json!({ "request": question, "version": 1 })).await;
    let considered = &answer["considered"];
    assert_eq!(considered[0]["policy"], "orders-pays");
    assert_eq!(
        (&considered[0]["file"], &considered[0]["line"]),
        (&json!("main"), &json!(4))
    );
    assert_eq!(considered[0]["verdict"], "condition-false");
    assert_eq!(considered[1]["verdict"], "other-scope");
    for (question, status) in [
        (
            json!({ "request": request("Not A Name", "orders", 1, "GET", "/") }),
            400,
        ),
        (
            json!({ "request": request("orders", "payments", 1, "GET", "/"), "version": 9 }),
            404,
        ),
        (json!({ "question": 1 }), 400),
    ] {
        assert_eq!(
            desk.post("/v1/policy/explain", question).await.status,
            status
        );
    }
    running.stop().await;
}

async fn unused(desk: &Desk) -> (Value, Vec<String>) {
    let unused = desk.get("/v1/policy/unused").await;
    let names = unused["policies"].as_array().unwrap().iter();
    let names = names
        .map(|policy| policy["policy"].as_str().unwrap().to_owned())
        .collect();
    (unused, names)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r51_grants_that_nobody_uses_are_reported_and_uses_outlive_a_restart() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let desk = running.desk(&site.caller("ringwall"));
    let orders = running.connected(&site.caller("orders"), "local").await;
    let (report, names) = unused(&desk).await;
    assert_eq!(names, ["gateway-reads", "orders-pays"]);
    assert_eq!(
        (&report["edges_counted"], &report["edges"]),
        (&json!(false), &json!([]))
    );
    assert!(report["since"].is_string());

    orders.used("gateway-reads", 3).await;
    orders.used("edge:gateway>orders", 1).await;
    orders.used("a-name-that-no-policy-has", 1).await;
    while unused(&desk).await.1.len() > 1 || unused(&desk).await.0["edges_counted"] == json!(false)
    {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let (report, names) = unused(&desk).await;
    assert_eq!(names, ["orders-pays"]);
    assert_eq!(report["edges"][0]["callee"], "payments");
    assert_eq!(report["edges"].as_array().unwrap().len(), 1);
    assert_eq!(report["policies"][0]["file"], "main");
    running.kill();

    let running = site.start().await;
    let desk = running.desk(&site.caller("ringwall"));
    assert_eq!(unused(&desk).await.1, ["orders-pays"]);
    // A policy that says something else now is another one, and counts from zero.
    let mut next = desk.bundle().await;
    let text = next["policies"]["main"].as_str().unwrap();
    next["policies"]["main"] =
        json!(text.replace("action == Action::\"GET\"", "action in Action::\"read\""));
    assert_eq!(desk.apply(&next, 1, "0s").await.status, 200);
    assert_eq!(unused(&desk).await.1, ["gateway-reads", "orders-pays"]);
    running.stop().await;
}

#[tokio::test]
async fn versions_are_compared() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let desk = running.desk(&site.caller("ringwall"));
    let mut next = desk.bundle().await;
    next["edges"].as_array_mut().unwrap().remove(0);
    next["examples"][0]["expect"] = json!("deny");
    assert_eq!(desk.apply(&next, 1, "0s").await.status, 200);
    let forth = desk.get("/v1/policy/diff?from=1").await;
    assert_eq!((&forth["from"], &forth["to"]), (&json!(1), &json!(2)));
    assert_eq!(forth["diff"]["edges_removed"][0]["caller"], "gateway");
    assert_eq!(forth["diff"]["verdicts"][0]["to"], "deny");
    let back = desk.get("/v1/policy/diff?from=2&to=1").await;
    assert_eq!(back["diff"]["edges_added"], forth["diff"]["edges_removed"]);
    running.stop().await;
}
