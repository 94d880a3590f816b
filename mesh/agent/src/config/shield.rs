//! What the edge shield guards, and who may feed it.

use std::num::NonZeroU32;

use ringwall_ebpf_loader::{ConnectionRate, Guard, Mode, Prefix, Want};
use ringwall_service::ConfigError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::wrong;

/// Most entries of the allow list.
const MAX_ALLOWED: usize = 1000;
/// Most ports.
const MAX_PORTS: usize = 64;

/// `kernel.shield`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShieldConfig {
    /// Where clients' packets come in, such as `eth0`.
    pub(crate) interfaces: Vec<String>,
    /// Where the gateway listens. Other ports are not touched, unless `everything` is set.
    pub(crate) ports: Vec<u16>,
    /// Drop whatever a denied source sends, to any port.
    #[serde(default)]
    pub(crate) everything: bool,
    /// How fast one source (an IPv4 address, a /64 of IPv6) may open connections; absent: as fast as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<RateConfig>,
    /// Never dropped and never denied, beside loopback: networks of operators, of probes, of a proxy that many clients share.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(crate) allow: Vec<Network>,
    /// Workloads that may have a source denied for a while.
    #[serde(default = "gateway")]
    pub(crate) feeders: Vec<String>,
    /// Sources that may be denied at once on their word; the rest of the list is the operators'.
    #[serde(default = "most_reported")]
    pub(crate) max_reported: usize,
    /// In the driver, at the stack's ingress, or generic; absent: the first that works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<ModeConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateConfig {
    pub(crate) per_second: NonZeroU32,
    /// How many may come at once.
    pub(crate) burst: NonZeroU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModeConfig {
    Driver,
    Ingress,
    Generic,
}

/// A network as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Network(pub(crate) Prefix);

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let prefix = text.parse().map_err(|error| format!("`{text}`: {error}"))?;
        Ok(Self(prefix))
    }
}

impl From<Network> for String {
    fn from(Network(prefix): Network) -> Self {
        prefix.to_string()
    }
}

fn gateway() -> Vec<String> {
    vec!["gateway".to_owned()]
}

const fn most_reported() -> usize {
    50_000
}

impl ShieldConfig {
    /// What the kernel is told. Loopback is never dropped: our own components speak over it.
    pub(crate) fn guard(&self) -> Guard {
        let loopback = ["127.0.0.0/8", "::1"].into_iter();
        let loopback = loopback.filter_map(|text| text.parse().ok());
        let allow = self.allow.iter().map(|Network(prefix)| *prefix);
        Guard {
            ports: self.ports.clone(),
            everything: self.everything,
            rate: self.connections.map(|rate| ConnectionRate {
                per_second: rate.per_second,
                burst: rate.burst,
            }),
            allow: loopback.chain(allow).collect(),
        }
    }

    pub(crate) fn want(&self) -> Want {
        match self.mode {
            None => Want::Best,
            Some(ModeConfig::Driver) => Want::Only(Mode::Driver),
            Some(ModeConfig::Ingress) => Want::Only(Mode::Ingress),
            Some(ModeConfig::Generic) => Want::Only(Mode::Generic),
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.interfaces.is_empty() {
            return wrong(
                "kernel.shield.interfaces",
                "none",
                "the interface that clients' packets come in at",
                "write `interfaces: [eth0]`, or take `shield` out",
            );
        }
        if self.ports.is_empty() || self.ports.len() > MAX_PORTS || self.ports.contains(&0) {
            return wrong(
                "kernel.shield.ports",
                &format!("{:?}", self.ports),
                &format!("the gateway's ports, at most {MAX_PORTS}"),
                "write `ports: [443]`",
            );
        }
        if self.allow.len() > MAX_ALLOWED {
            return wrong(
                "kernel.shield.allow",
                &format!("{} networks", self.allow.len()),
                &format!("at most {MAX_ALLOWED}"),
                "write wider networks",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<ShieldConfig, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn loopback_is_always_allowed() {
        let config = config(r#"{"interfaces":["eth0"],"ports":[443],"allow":["10.0.0.0/8"]}"#);
        let config = config.unwrap();
        assert!(config.validate().is_ok());
        let allow: Vec<String> = config.guard().allow.iter().map(Prefix::to_string).collect();
        assert_eq!(allow, ["127.0.0.0/8", "::1", "10.0.0.0/8"]);
        assert_eq!(config.feeders, ["gateway"]);
        assert_eq!(config.want(), Want::Best);
    }

    #[test]
    fn what_guards_nothing_is_refused_with_the_fix() {
        let said = |text: &str| config(text).unwrap().validate().unwrap_err().to_string();
        assert!(said(r#"{"interfaces":[],"ports":[443]}"#).contains("interfaces: [eth0]"));
        assert!(said(r#"{"interfaces":["eth0"],"ports":[]}"#).contains("ports: [443]"));
        let error = config(r#"{"interfaces":["eth0"],"ports":[443],"allow":["10.1.0.0/8"]}"#);
        assert!(error.unwrap_err().contains("write 10.0.0.0/8"));
        let error = config(
            r#"{"interfaces":["eth0"],"ports":[443],"connections":{"per_second":0,"burst":1}}"#,
        );
        assert!(error.unwrap_err().contains("nonzero"));
    }
}
