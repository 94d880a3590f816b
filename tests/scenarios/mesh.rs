//! Between the components: who may dial whom, and with what.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::mesh::{self, Presented};
use e2e::stack::StackInfo;
use e2e::stack::declared::Declared;
use http::Request;
use ringwall_identity::authority::Authority;
use ringwall_identity::{SpiffeId, TrustDomain};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// R50: the handshake passes exactly where an edge is declared.
pub(super) async fn r50_undeclared_edges_are_refused_in_the_handshake(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let composition = Declared::read()?;
    let workloads = || {
        composition
            .components
            .iter()
            .filter(|node| node.admin.is_some())
    };
    // Whoever is a workload may speak to the control plane; what it may ask is decided there. The agent
    // is called by nobody over the network.
    let callees =
        workloads().filter(|node| node.name == "egress" || !composition.is_part(&node.name));
    for callee in callees.map(|node| node.name.as_str()) {
        for caller in workloads().map(|node| node.name.as_str()) {
            if caller == callee {
                continue;
            }
            let outcome = mesh::call_as(&stack, caller, callee, get("/")?).await;
            let declared = composition.has_edge(caller, callee);
            ensure!(
                outcome.is_ok() == declared,
                "{caller} → {callee}: declared {declared}, but the handshake says {outcome:?}"
            );
        }
    }
    Ok(())
}

pub(super) async fn r71_a_foreign_trust_domain_is_refused(stack: Arc<StackInfo>) -> Result<()> {
    let now = OffsetDateTime::now_utc();
    let foreign = TrustDomain::parse("evil.example")?;
    let issued = forged(&foreign, now)?;
    let outcome = mesh::call_with(&stack, issued, "orders", get("/v1/orders")?).await;
    mesh::refused_in_the_handshake(outcome)
}

pub(super) async fn r71_the_right_name_from_another_authority_is_refused(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let now = OffsetDateTime::now_utc();
    let issued = forged(&mesh::trust_domain()?, now)?;
    let outcome = mesh::call_with(&stack, issued, "orders", get("/v1/orders")?).await;
    mesh::refused_in_the_handshake(outcome)
}

/// R71: a certificate of the platform's own authority, for a caller that is declared: it passes
/// while it is valid and not after.
pub(super) async fn r71_an_expired_identity_is_refused(stack: Arc<StackInfo>) -> Result<()> {
    let authority = mesh::stolen_authority(&stack)?;
    let gateway = SpiffeId::workload(&mesh::trust_domain()?, "gateway")?;
    let now = OffsetDateTime::now_utc();
    let valid = Presented::made(&authority, &gateway, now)?;
    let answer = mesh::call_with(&stack, valid, "orders", get("/v1/orders")?).await;
    answer.context("the control: a valid certificate of the same authority")?;
    let long_ago = now - time::Duration::days(2);
    let expired = Presented::made(&authority, &gateway, long_ago)?;
    let outcome = mesh::call_with(&stack, expired, "orders", get("/v1/orders")?).await;
    mesh::refused_in_the_handshake(outcome)
}

/// The gateway's identity, from an authority of our own making.
fn forged(domain: &TrustDomain, now: OffsetDateTime) -> Result<Presented> {
    let authority = Authority::generate(domain, now)?;
    let id = SpiffeId::workload(domain, "gateway")?;
    authority.issue_svid(&id, &[], HOUR, now)?.try_into()
}

/// R15: a dial of a service past the gateway, with no identity at all, and in plaintext.
pub(super) async fn r15_a_direct_dial_without_identity_is_refused(
    stack: Arc<StackInfo>,
) -> Result<()> {
    for component in stack
        .components()?
        .iter()
        .filter(|component| component.name != "postgres")
    {
        for address in [Some(component.address), component.admin]
            .into_iter()
            .flatten()
        {
            if address == stack.public_address() {
                continue;
            }
            let answer = plaintext(address).await?;
            ensure!(
                !answer.contains("HTTP/1.1 200"),
                "{}: {answer}",
                component.name
            );
            ensure!(
                !answer.contains("HTTP/1.1 4"),
                "{} speaks plaintext: {answer}",
                component.name
            );
            let answer = anonymous_tls(&stack, address).await;
            ensure!(
                !answer.as_ref().is_ok_and(|text| text.contains("HTTP/1.1")),
                "{} at {address} answered without a client certificate: {answer:?}",
                component.name
            );
        }
    }
    Ok(())
}

/// R59: what the kernel says of every process: its listeners are on loopback, and only the gateway
/// has the public one.
pub(super) async fn r59_only_the_gateway_is_public(stack: Arc<StackInfo>) -> Result<()> {
    for component in stack.components()? {
        let listeners = e2e::stack::listeners(component.pid)?;
        ensure!(
            !listeners.is_empty(),
            "{} listens nowhere: the kernel was not asked rightly",
            component.name
        );
        for listener in listeners {
            ensure!(
                listener.ip().is_loopback(),
                "{} listens on {listener}",
                component.name
            );
            let public = listener.port() == stack.public_address().port();
            ensure!(
                !public || component.name == "gateway",
                "{} has the public port",
                component.name
            );
        }
    }
    Ok(())
}

const HOUR: Duration = Duration::from_secs(3600);

fn get(path: &str) -> Result<Request<Bytes>> {
    Request::get(path)
        .body(Bytes::new())
        .context("not a request")
}

async fn plaintext(address: SocketAddr) -> Result<String> {
    let mut stream = e2e::edge::raw_tcp(address).await?;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    // A reset instead of an answer is what a TLS listener may do.
    let _ = tokio::time::timeout(Duration::from_secs(6), stream.read_to_end(&mut answer)).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn anonymous_tls(stack: &StackInfo, address: SocketAddr) -> Result<String> {
    // The client believes every server: its own doubt would hide that nobody asks it who it is.
    let mut stream = e2e::edge::credulous_tls(stack, address, None).await?;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
