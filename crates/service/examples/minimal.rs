//! The smallest component: one route, one own key. `tests/process.rs` runs it as a process of its own.

use std::process::ExitCode;

use axum::{Router, routing::get};
use ringwall_service::{App, ComponentConfig, Peer, ServiceConfig, Shell, StartError, run};
use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    service: ServiceConfig,
    greeting: String,
}

impl ComponentConfig for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }
}

pub(crate) fn main() -> ExitCode {
    run::<Config, _, _>("minimal", start)
}

async fn start(_shell: Shell, config: Config) -> Result<App, StartError> {
    let greet = move |peer: Peer| async move { format!("{}, {}", config.greeting, peer.name()) };
    Ok(App::new(Router::new().route("/", get(greet))))
}
