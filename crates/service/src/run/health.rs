//! `--health`: asks the running component whether it is ready, for a container engine's health check.
//!
//! Owns: one question over mTLS as the component itself, which its admin listener must let in; behind a
//! service proxy, past that proxy and with the secret that it shares with the component. Where the kernel lets nobody but
//! the proxy in, `capture.rs` asks instead.
//! Must not: open anything but the identity, or start more than one thread: it runs every few
//! seconds beside the component, within its limits.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use ringwall_http_io::{Client, ClientLimits, Transport, body::collect};
use ringwall_identity::SpiffeId;
use ringwall_secret::SecretProvider;
use ringwall_tls::mesh_client_config;
use serde::Deserialize;
use tokio::runtime::Builder;

use super::{capture, identity};
use crate::{
    config::{ServiceConfig, parse_yaml, place, read},
    error::StartError,
    loopback,
};

/// From reading the identity to the whole answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer that is repeated, in bytes.
const LONGEST_ANSWER: usize = 4096;

/// Why the component does not count as healthy.
pub(super) enum Unhealthy {
    /// The configuration cannot be used.
    Config(StartError),
    /// It does not answer, or says that it is not ready.
    NotReady(String),
}

/// The shared section; the component's own keys are none of this question's business.
#[derive(Deserialize)]
struct Config {
    service: ServiceConfig,
}

/// Asks the component `name` that runs with the configuration at `path`.
pub(super) fn ask(name: &str, path: &Path) -> Result<(), Unhealthy> {
    let service = load(name, path).map_err(Unhealthy::Config)?;
    if service.is_enforced_in_a_container() {
        return capture::ask(&service.name).map_err(Unhealthy::NotReady);
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Unhealthy::NotReady(error.to_string()))?;
    let answer = async {
        tokio::time::timeout(PATIENCE, Box::pin(ready(&service)))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
    };
    runtime.block_on(answer).map_err(Unhealthy::NotReady)
}

fn load(name: &str, path: &Path) -> Result<ServiceConfig, StartError> {
    let text = read(path)?;
    let Config { service } = parse_yaml(&text, path)?;
    service
        .validate(name)
        .map_err(|error| place(error, path, &text))?;
    Ok(service)
}

async fn ready(service: &ServiceConfig) -> Result<(), String> {
    let own = service.own_id().map_err(|error| error.to_string())?;
    let client = client(service, &own).await?;
    let mut question = client.get("/readyz");
    if service.sidecar.is_some() {
        let (name, value) = loopback::named(&own);
        question = question.header(name, value);
    }
    let response = question.send().await.map_err(|error| error.to_string())?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let text = collect(response.into_body(), LONGEST_ANSWER)
        .await
        .unwrap_or_default();
    Err(format!(
        "answers {status}: {}",
        String::from_utf8_lossy(&text).trim()
    ))
}

/// The way to our own admin listener.
async fn client(service: &ServiceConfig, own: &SpiffeId) -> Result<Client, String> {
    let (admin, limits) = (own_address(service.admin), ClientLimits::default());
    let Some(sidecar) = &service.sidecar else {
        ringwall_tls::install_crypto_provider();
        let identity = identity::of_running(service, PATIENCE / 2).await?;
        let tls = mesh_client_config(&identity, own.clone()).map_err(|error| error.to_string())?;
        return Ok(Client::mesh(admin, tls, limits).named(&service.name));
    };
    let secrets = SecretProvider::open(&service.secrets).map_err(|error| error.to_string())?;
    let token = loopback::token(sidecar, &secrets).map_err(|error| error.to_string())?;
    let pass = loopback::pass(&token).map_err(|error| error.to_string())?;
    Client::through(admin, &service.name, pass, limits).map_err(|error| error.to_string())
}

/// A listener on every address is reached on loopback.
fn own_address(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
#[path = "health/tests.rs"]
mod tests;
