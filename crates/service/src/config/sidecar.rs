//! A component behind a service proxy: plaintext, and therefore on loopback only.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, IdentityFrom, ServiceConfig};

/// The service proxy beside a component. It speaks mTLS in the component's name; between the two
/// there is plaintext HTTP on loopback and a shared secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SidecarConfig {
    /// Where the proxy takes our calls; it finds a service by its name. Absent: calls go to the upstreams' own addresses,
    /// and the kernel leads them to the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<SocketAddr>,
    /// In a container: begin when the kernel captures this process, which it does not see to itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub await_capture: bool,
    /// Name of the secret that both hold.
    #[serde(default = "default_loopback_token")]
    pub loopback_token: String,
}

fn default_loopback_token() -> String {
    "loopback-token".into()
}

impl ServiceConfig {
    /// Whether the kernel captures us, in a group that a container engine makes.
    pub(crate) fn is_enforced_in_a_container(&self) -> bool {
        let sidecar = self.sidecar.as_ref();
        sidecar.is_some_and(|sidecar| sidecar.await_capture)
    }

    /// Either the component has an identity, or a proxy has it; and plaintext stays on this machine.
    pub(super) fn validate_way(&self) -> Result<(), ConfigError> {
        let Some(sidecar) = &self.sidecar else {
            return match &self.identity {
                IdentityFrom::Directory(_) | IdentityFrom::WorkloadApi(_) | IdentityFrom::Own => {
                    Ok(())
                }
                IdentityFrom::Proxy => Err(ConfigError::invalid(
                    "service",
                    "neither `identity` nor `sidecar`",
                    "a workload identity, or a service proxy that has it",
                    "add `identity: DIRECTORY`, or `sidecar: { outbound: \"127.0.0.1:PORT\" }`",
                )),
            };
        };
        let listeners = [
            ("service.listen", Some(self.listen)),
            ("service.admin", Some(self.admin)),
            ("service.sidecar.outbound", sidecar.outbound),
        ];
        let mut listeners = listeners
            .into_iter()
            .filter_map(|(key, at)| Some((key, at?)));
        let open = listeners.find(|(_, at)| !at.ip().is_loopback());
        open.map_or(Ok(()), |(key, address)| {
            Err(ConfigError::invalid(
                key,
                &address.to_string(),
                "an address of loopback: behind a service proxy everything here is plaintext",
                &format!("write `127.0.0.1:{}`", address.port()),
            ))
        })
    }
}
