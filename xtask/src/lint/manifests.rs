//! The commands that judge manifests: what an engine or a tool of its own can say about files that are not Rust.
//!
//! One row for each; a new kind of manifest gets a row here and is run by `cargo xtask test` from then on.

use std::process::Command;

use crate::config::Config;
use crate::engine::Engine;

/// A named command.
pub(super) struct Check {
    pub(super) name: &'static str,
    how: How,
}

enum How {
    /// `docker compose WORDS` at the root of the checkout.
    Compose(&'static [&'static str]),
    /// `docker run` of an image that holds the tool, with the checkout read-only at /checkout.
    Image {
        image: &'static str,
        entrypoint: &'static str,
        words: &'static [&'static str],
    },
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "compose check",
        how: How::Compose(&["--profile", "*", "config", "--quiet"]),
    },
    // Without --syntax-only it would look for the certificates, which are the provisioner's.
    promtool(
        "prometheus check",
        &[
            "check",
            "config",
            "--syntax-only",
            "deploy/compose/observability/prometheus/prometheus.yaml",
        ],
    ),
    promtool(
        "alert rules",
        &[
            "check",
            "rules",
            "deploy/compose/observability/prometheus/rules.yaml",
            "deploy/compose/observability/prometheus/alerts.yaml",
        ],
    ),
    promtool(
        "alert rules, tests",
        &[
            "test",
            "rules",
            "deploy/compose/observability/prometheus/rules.test.yaml",
        ],
    ),
];

/// The overlay's own Prometheus judges what it is given.
const fn promtool(name: &'static str, words: &'static [&'static str]) -> Check {
    Check {
        name,
        how: How::Image {
            image: "prom/prometheus:v3.5.0",
            entrypoint: "promtool",
            words,
        },
    }
}

impl Check {
    pub(super) fn command(&self, config: &Config, engine: &Engine) -> Command {
        let mut command = match self.how {
            How::Compose(words) => {
                let mut compose = engine.compose();
                compose.args(words);
                compose
            }
            How::Image {
                image,
                entrypoint,
                words,
            } => {
                let mut docker = engine.docker();
                docker.args([
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    "--entrypoint",
                    entrypoint,
                ]);
                docker
                    .arg("--volume")
                    .arg(format!("{}:/checkout:ro", config.root.display()));
                docker.args(["--workdir", "/checkout", image]).args(words);
                docker
            }
        };
        command.current_dir(&config.root);
        command
    }
}
