//! Which control groups the kernel binds to which proxies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ringwall_http_io::Address;
use ringwall_service::ConfigError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shield::ShieldConfig;
use super::wrong;

/// The kernel captures what workloads connect to, and refuses everything that the policy does not allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KernelConfig {
    /// The programs (`cargo xtask ebpf`).
    pub(crate) object: PathBuf,
    /// The control group (version 2) above those of all workloads. What runs below it and is not named here is refused
    /// everything.
    pub(crate) slice: PathBuf,
    /// Who makes the groups, and so where exactly they are.
    #[serde(default)]
    pub(crate) groups: Groups,
    /// Folder of our own on bpffs. What is pinned there goes on without the agent.
    pub(crate) pins: PathBuf,
    /// Applications, and the proxies that they are led to.
    #[serde(default)]
    pub(crate) workloads: Vec<CapturedWorkload>,
    /// Groups below the slice that speak mTLS themselves, such as the gateway's: they are let go where they like.
    #[serde(default)]
    pub(crate) uncaptured: Vec<UncapturedWorkload>,
    /// Services without a proxy that the control plane knows by a name alone: where the agent looks them up.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
    pub(crate) named: BTreeMap<String, Vec<Address>>,
    /// Bytes between an application and its own proxy go from socket to socket, where a trial finds that good.
    #[serde(default)]
    pub(crate) acceleration: AccelerationWish,
    /// Denied sources and floods are dropped at the gateway's interface; absent: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shield: Option<ShieldConfig>,
}

/// Who makes the control groups of workloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Groups {
    /// A supervisor: they stand below `slice`, and nobody else's.
    #[default]
    Slice,
    /// A container engine, by `cgroup_parent`: `slice` is where control groups are mounted, and a group is called there what the
    /// engine was told. Others' groups stand beside them.
    Engine,
}

/// Whether connections on loopback are accelerated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AccelerationWish {
    /// Never.
    #[default]
    Off,
    /// Where a trial at start finds every shape of traffic right and a gain, as long as a canary finds it good.
    Auto,
}

/// One application with its proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CapturedWorkload {
    pub(crate) workload: String,
    /// The application's control group, directly below the slice.
    pub(crate) app: PathBuf,
    /// The proxy's.
    pub(crate) proxy: PathBuf,
    /// The proxy's capture listeners on loopback: one, or one for each family of addresses.
    pub(crate) capture: Vec<SocketAddr>,
    /// Where its questions for names go (UDP, port 53): one address, or one for each family. None: it has no names.
    #[serde(default)]
    pub(crate) names: Vec<SocketAddr>,
    /// TCP past the capture, such as the proxy's explicit listeners. Names are looked up by the agent.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(crate) direct: Vec<Address>,
    /// Ports of the application, which only its own proxy reaches. It binds to no other one, and to loopback alone.
    #[serde(default)]
    pub(crate) ports: Vec<u16>,
    /// What is no service of the mesh goes to the proxy too, for the egress gateway to decide; else it is refused.
    #[serde(default)]
    pub(crate) egress: bool,
}

/// A group that is not captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UncapturedWorkload {
    pub(crate) workload: String,
    pub(crate) group: PathBuf,
}

impl KernelConfig {
    /// Every group that is named.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Path> {
        let pairs = self.workloads.iter();
        let pairs = pairs.flat_map(|one| [one.app.as_path(), one.proxy.as_path()]);
        let others = self.uncaptured.iter().map(|one| one.group.as_path());
        pairs.chain(others)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        for (key, path) in [
            ("kernel.object", &self.object),
            ("kernel.slice", &self.slice),
            ("kernel.pins", &self.pins),
        ] {
            if !path.is_absolute() {
                return wrong(
                    key,
                    &format!("`{}`", path.display()),
                    "an absolute path",
                    "write the whole path",
                );
            }
        }
        if let Some(group) = self
            .groups()
            .find(|group| group.parent() != Some(self.slice.as_path()))
        {
            return wrong(
                "kernel.workloads",
                &format!("the control group `{}`", group.display()),
                "one directly below `kernel.slice`, by which the kernel tells workloads apart",
                &format!("make it in {}", self.slice.display()),
            );
        }
        if let Some(shield) = &self.shield {
            shield.validate()?;
        }
        self.workloads
            .iter()
            .try_for_each(CapturedWorkload::validate)
    }
}

impl CapturedWorkload {
    fn validate(&self) -> Result<(), ConfigError> {
        let key = format!("kernel.workloads[{}].capture", self.workload);
        let families = |six: bool| self.capture.iter().filter(|at| at.is_ipv6() == six).count();
        if self.capture.is_empty() || families(false) > 1 || families(true) > 1 {
            return wrong(
                &key,
                &format!("{} addresses", self.capture.len()),
                "the proxy's capture listener: one address, or one for each family",
                "write `capture: [\"127.0.0.1:7805\", \"[::1]:7805\"]`",
            );
        }
        match self.capture.iter().find(|at| !at.ip().is_loopback()) {
            Some(at) => wrong(
                &key,
                &at.to_string(),
                "an address of loopback: up to the proxy everything is plaintext",
                &format!("write `127.0.0.1:{}`", at.port()),
            ),
            None => Ok(()),
        }
    }
}
