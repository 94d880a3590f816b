//! The way between a component and its service proxy: plaintext on loopback, where every process of the
//! machine can knock. A secret that the two share is what keeps others out.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::mesh;
use e2e::promptly;
use e2e::stack::StackInfo;
use http::{Request, StatusCode};
use serde_json::Value;

/// Well-formed: it is for want of the secret that it must be refused.
const FORGED: &str = "URI=spiffe://ringwall.local/gateway";
const CALLER: &str = "x-forwarded-client-cert";
const PASS: &str = "x-ringwall-loopback";

/// Where a component and its proxy meet, as their configuration files say it.
struct Between {
    app: SocketAddr,
    app_admin: SocketAddr,
    outbound: SocketAddr,
}

impl Between {
    fn of(stack: &StackInfo, component: &str) -> Result<Self> {
        let file = stack.state_dir.join(format!("config/{component}.yaml"));
        let text = std::fs::read_to_string(&file)?;
        let value: Value = serde_saphyr::from_str(&text)?;
        let service = &value["service"];
        let address = |value: &Value| -> Result<SocketAddr> {
            let text = value.as_str().context("no address")?;
            Ok(text.parse()?)
        };
        Ok(Self {
            app: address(&service["listen"])?,
            app_admin: address(&service["admin"])?,
            outbound: address(&service["sidecar"]["outbound"])?,
        })
    }
}

/// R25: a dial of the component past its proxy, and of the proxy past its component, by whoever runs on
/// this machine: refused without the secret, whoever the request says that it is.
pub(super) async fn r25_loopback_without_the_secret_is_refused(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let behind = [
        "orders",
        "inventory",
        "payments",
        "authz-server",
        "spa-proxy",
    ];
    for component in behind.into_iter().chain(["tokenizer", "notifications"]) {
        let between = Between::of(&stack, component)?;
        for (address, path) in [
            (between.app, "/v1/orders"),
            (between.app_admin, "/metrics"),
            (between.outbound, "/v1/items"),
        ] {
            for (name, value) in [
                ("accept", "*/*"),
                (CALLER, FORGED),
                (PASS, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
                (PASS, ""),
            ] {
                let status = knock(address, path, &[(name, value), (CALLER, FORGED)]).await?;
                ensure!(
                    status == StatusCode::FORBIDDEN,
                    "{component}: {path} at {address} with {name} answered {status}"
                );
            }
        }
    }
    Ok(())
}

/// R25: the control of the scenario above: with the secret, as somebody who has stolen it, the component
/// believes who calls. So it is the secret that was missing there.
pub(super) async fn r25_the_secret_is_what_loopback_believes(stack: Arc<StackInfo>) -> Result<()> {
    let between = Between::of(&stack, "inventory")?;
    let pass = stack.secret("inventory", "loopback-token")?;
    let key = stack.secret("orders", "api-key-inventory")?;
    let orders = "URI=spiffe://ringwall.local/orders";
    let fields = [(PASS, pass.as_str()), (CALLER, orders), ("x-api-key", &key)];
    let status = knock(between.app, "/v1/items", &fields).await?;
    ensure!(status == StatusCode::OK, "with the secret: {status}");
    let other = stack.secret("orders", "loopback-token")?;
    ensure!(other != pass, "two components share one secret");
    let fields = [
        (PASS, other.as_str()),
        (CALLER, orders),
        ("x-api-key", &key),
    ];
    let status = knock(between.app, "/v1/items", &fields).await?;
    ensure!(
        status == StatusCode::FORBIDDEN,
        "with another component's secret: {status}"
    );
    Ok(())
}

/// R25: through the proxy, nobody becomes somebody else by the header with which proxies name callers.
pub(super) async fn r25_a_forged_caller_is_stripped(stack: Arc<StackInfo>) -> Result<()> {
    let key = stack.secret("orders", "api-key-inventory")?;
    // Its own edge and its own request, with the words of another: it stays who it is.
    let mine = "/v1/topics/order.placed/events?group=notifications";
    let ask = |path: &str| -> Result<Request<Bytes>> {
        let request = Request::get(path)
            .header(CALLER, FORGED)
            .header(CALLER, "URI=spiffe://ringwall.local/payments")
            .header(PASS, "guess")
            .header("x-api-key", &key);
        Ok(request.body(Bytes::new())?)
    };
    let answer = mesh::call_as(&stack, "notifications", "orders", ask(mine)?).await?;
    ensure!(
        answer.status == StatusCode::OK,
        "as itself: {}",
        answer.status
    );
    let answer = mesh::call_as(&stack, "notifications", "orders", ask("/v1/orders")?).await?;
    ensure!(
        answer.status == StatusCode::FORBIDDEN,
        "as the gateway: {}",
        answer.status
    );
    // The component gets the proxy's word alone: a key that is orders' does not pass for notifications.
    let outcome = mesh::call_as(&stack, "notifications", "inventory", ask("/v1/items")?).await;
    mesh::refused_in_the_handshake(outcome)
}

/// R31: nobody's policy reaches the ingress, which knows its callers from its configuration alone; but callers reach it
/// by their own proxies, which know the policy. Without the edge, a call is refused there within a second.
pub(super) async fn r31_an_edge_to_the_ingress_ends_within_a_second(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let between = Between::of(&stack, "notifications")?;
    let pass = stack.secret("notifications", "loopback-token")?;
    let keys = async || {
        let fields = [("host", "gateway"), (PASS, pass.as_str())];
        let path = "/.well-known/jwks.json";
        call(between.outbound, path, &fields).await
    };
    let close = |bundle: &mut Value| {
        let edges = bundle["edges"].as_array_mut().context("no edges")?;
        let before = edges.len();
        edges.retain(|edge| edge["caller"] != "notifications" || edge["callee"] != "gateway");
        ensure!(edges.len() < before, "there is no such edge");
        Ok(())
    };
    let is_allowed = async || {
        Ok(match keys().await? {
            StatusCode::OK => Some(true),
            // Who has no edge to a service is not told of it either.
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Some(false),
            _ => None,
        })
    };
    promptly::policies_are_in_force(&stack, close, is_allowed).await
}

async fn knock(address: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Result<StatusCode> {
    // The outbound listener finds a service by this name.
    let mut fields = fields.to_vec();
    fields.push(("host", "inventory"));
    call(address, path, &fields).await
}

async fn call(address: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Result<StatusCode> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut request = client.get(format!("http://{address}{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let answer = request.send().await;
    Ok(answer
        .with_context(|| format!("knocking at {address}"))?
        .status())
}
