//! The policy administration point: what is bad never comes into force, what is good does within a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::mesh::{self, Answer};
use e2e::operator;
use e2e::person::Person;
use e2e::promptly;
use e2e::stack::StackInfo;
use http::{Request, StatusCode};
use serde_json::{Value, json};

/// R31: a policy that does not parse, names what does not exist, or breaks one of its own cases, is
/// refused with the place and the reason, and the last good one goes on serving.
pub(super) async fn r31_a_bad_policy_is_refused_and_the_last_good_one_serves(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    let (version, good) = operator::policy(&stack).await?;
    let bad: [(&str, &str, &[&str]); 3] = [
        (
            "@id(\"typo\") permit (principal, action, resource) when { context.pth == \"/v1/items\" };",
            "no such attribute",
            &["inventory:1", "pth"],
        ),
        (
            "permit (principal == Workload::\"orders\", action == Action::\"GET\"",
            "no end",
            &["inventory:1"],
        ),
        (
            "@id(\"nobody\") forbid (principal, action, resource == Service::\"inventory\");",
            "the cases of the bundle",
            &["orders → inventory", "GET /v1/items"],
        ),
    ];
    for (text, what, words) in bad {
        let mut bundle = good.clone();
        bundle["policies"]["inventory"] = json!(text);
        let answer = operator::apply(&stack, version, &bundle).await?;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(
            answer.status == StatusCode::UNPROCESSABLE_ENTITY,
            "{what}: {} {said}",
            answer.status
        );
        for word in words {
            ensure!(said.contains(word), "{what}: `{word}` is not in {said}");
        }
    }
    let (after, still) = operator::policy(&stack).await?;
    ensure!(
        after == version && still == good,
        "a refused policy has left version {after}"
    );
    alice
        .place_order()
        .await
        .context("by the last good policy")?;
    Ok(())
}

/// R31: a good one is in force at every proxy within a second, and so is the one before it again.
pub(super) async fn r31_a_policy_is_in_force_within_a_second_and_rolled_back(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let items = Items::new(&stack)?;
    let close = |bundle: &mut Value| {
        bundle["policies"]["closed"] = json!(
            "@id(\"the-catalogue-is-closed\")\nforbid (principal, action, resource == Service::\"inventory\")\n\
             when { context.path == \"/v1/items\" };"
        );
        let about_items =
            |example: &Value| example["callee"] == "inventory" && example["expect"] == "allow";
        let examples = bundle["examples"].as_array_mut().context("no cases")?;
        examples.retain(|example| !about_items(example));
        Ok(())
    };
    let is_allowed = async || {
        Ok(match items.ask().await?.status {
            StatusCode::OK => Some(true),
            StatusCode::FORBIDDEN => Some(false),
            _ => None,
        })
    };
    promptly::policies_are_in_force(&stack, close, is_allowed).await?;
    let history = operator::about_policy(&stack, "versions").await?;
    let rolled = history.to_string().contains("\"rollback_of\"");
    ensure!(rolled, "the history does not say it: {history}");
    Ok(())
}

/// R31: somebody else's change in between is not overwritten, and only the operator changes anything.
pub(super) async fn r31_policies_are_changed_by_the_operator_alone(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let (version, bundle) = operator::policy(&stack).await?;
    let answer = operator::apply(&stack, version + 7, &bundle).await?;
    ensure!(
        answer.status == StatusCode::PRECONDITION_FAILED,
        "another version: {}",
        answer.status
    );
    for caller in ["orders", "gateway", "prometheus"] {
        for path in ["/v1/policy", "/v1/policy/unused"] {
            let request = Request::get(path).body(Bytes::new())?;
            let answer = mesh::call_as(&stack, caller, "control-plane", request).await?;
            ensure!(
                answer.status == StatusCode::FORBIDDEN,
                "{caller} {path}: {}",
                answer.status
            );
        }
    }
    Ok(())
}

/// R51: what nobody has used for long is named, and what is used is not.
pub(super) async fn r51_unused_grants_are_reported(stack: Arc<StackInfo>) -> Result<()> {
    /// Proxies report, and the control plane writes, every ten seconds.
    const REPORTED: Duration = Duration::from_secs(30);
    let alice = Person::signed_in(&stack, "alice").await?;
    alice.place_order().await?;
    let begun = Instant::now();
    loop {
        let unused = operator::about_policy(&stack, "unused").await?;
        let text = unused["policies"].to_string();
        ensure!(
            text.contains("orders-asks-what-became-of-a-payment")
                || text.contains("authz-server-ends-sessions"),
            "nobody has asked that: {unused}"
        );
        if !text.contains("orders-pays")
            && !text.contains("the-gateway-places-orders-for-customers")
        {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < REPORTED,
            "used, and still called unused: {unused}"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Reads inventory's catalogue as orders, over a connection that stays.
struct Items {
    caller: mesh::Caller,
    key: String,
}

impl Items {
    fn new(stack: &StackInfo) -> Result<Self> {
        Ok(Self {
            caller: mesh::Caller::new(stack, "orders", "inventory")?,
            key: stack.secret("orders", "api-key-inventory")?,
        })
    }

    async fn ask(&self) -> Result<Answer> {
        let request = Request::get("/v1/items").header("x-api-key", &self.key);
        self.caller.call(request.body(Bytes::new())?).await
    }
}
