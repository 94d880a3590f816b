//! `run/state.json`: what runs now, for `status`, `down` and tests.

use std::path::PathBuf;

use ringwall_http_io::Address;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::cgroups::Tier;
use crate::composition::{Composition, Profile, proxy_name};
use crate::error::CliError;
use crate::files;
use crate::processes::ProcessId;
use crate::site::Site;
use crate::state::StateDir;

/// How far the platform is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Starting,
    Up,
    Stopping,
}

/// The running platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The supervisor's.
    pub(crate) pid: i32,
    pub(crate) started: u64,
    pub(crate) phase: Phase,
    pub(crate) profile: Profile,
    /// Where a browser goes.
    pub(crate) url: String,
    pub(crate) issuer: String,
    pub(crate) domain: String,
    pub(crate) trust_domain: String,
    /// `ip:port`, or `name:port` where a name service knows it.
    pub(crate) public_address: Address,
    pub(crate) state_dir: PathBuf,
    pub(crate) ca_bundle: PathBuf,
    /// How the agent recognises processes; none without a mesh, and in containers, where it is always
    /// by control group.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) attestation: Option<Tier>,
    /// Who leads components' calls to their proxies, and why; none without a mesh.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) interception: Option<String>,
    /// Why the edge shield is not asked for; none where it is, and without a mesh.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) shield: Option<String>,
    pub(crate) components: Vec<ComponentRecord>,
}

/// One component of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ComponentRecord {
    pub(crate) name: String,
    pub(crate) what: String,
    /// Workload that answers at `admin`: a proxy has its component's.
    pub(crate) identity: String,
    /// The component that this proxy stands before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) before: Option<String>,
    pub(crate) address: Address,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) admin: Option<Address>,
    /// 0 when it is not a process of ours.
    pub(crate) pid: i32,
    pub(crate) started: u64,
    /// Restarts since `up`.
    pub(crate) restarts: u32,
    /// When the present process was started; of one that nobody watches, when it was recorded.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) since: OffsetDateTime,
    pub(crate) condition: Condition,
    /// What it prints, where that is a file of ours.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) log: Option<PathBuf>,
}

/// What the supervisor knows of a component; `status` asks the component itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Condition {
    /// Not started yet.
    Waiting,
    Starting,
    Ready,
    /// Died; a restart is due.
    Restarting,
    /// Died too often, or restarts are switched off.
    Failed,
    Stopped,
    /// Started and watched by somebody else (a container engine): only itself can be asked.
    Unwatched,
}

impl Condition {
    /// The word for tables.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Unwatched => "unwatched",
        }
    }
}

impl Record {
    /// The platform as this process has just prepared it.
    pub(crate) fn new(
        composition: &Composition,
        site: &Site,
        profile: Profile,
        public_address: Address,
        (phase, condition): (Phase, Condition),
    ) -> Result<Self, CliError> {
        let own =
            ProcessId::own().ok_or_else(|| CliError::internal("reading /proc", "no own entry"))?;
        let now = OffsetDateTime::now_utc();
        let (state, watched) = (site.state(), condition != Condition::Unwatched);
        let blank = |name: String| ComponentRecord {
            log: watched.then(|| state.log(&name)),
            what: String::new(),
            identity: name.clone(),
            before: None,
            address: site.place(&name, 0),
            admin: None,
            pid: 0,
            started: 0,
            restarts: 0,
            since: now,
            condition,
            name,
        };
        let components = composition.components.iter().flat_map(|component| {
            let name = &component.name.value;
            let own = ComponentRecord {
                what: component.what.clone(),
                identity: composition.workload_of(component),
                address: site.dial(component),
                admin: site.dial_admin(component),
                ..blank(name.clone())
            };
            let proxy = composition.sidecar(component).map(|sidecar| {
                // Where it stands before: in containers the two share a network.
                let admin = site.place(name, sidecar.admin.value);
                ComponentRecord {
                    what: format!("service proxy of {name}"),
                    identity: name.clone(),
                    before: Some(name.clone()),
                    address: admin.clone(),
                    admin: Some(admin),
                    ..blank(proxy_name(component))
                }
            });
            [Some(own), proxy].into_iter().flatten()
        });
        Ok(Self {
            pid: own.pid,
            started: own.started,
            phase,
            profile,
            url: composition.url("app"),
            issuer: composition.url("auth"),
            domain: composition.public.domain.value.clone(),
            trust_domain: composition.trust_domain.value.clone(),
            public_address,
            state_dir: state.root().to_path_buf(),
            ca_bundle: state.ca_bundle(),
            attestation: None,
            interception: None,
            shield: None,
            components: components.collect(),
        })
    }

    /// Reads the record that a supervisor left.
    pub(crate) fn read(state: &StateDir) -> Result<Option<Self>, CliError> {
        let path = state.record();
        let Some(text) = files::read_if_there(&path)? else {
            return Ok(None);
        };
        // A record of another version is no reason to fail: what it names cannot be trusted anyway.
        Ok(serde_json::from_str(&text).ok())
    }

    /// Writes it for others to read.
    pub(crate) fn write(&self, state: &StateDir) -> Result<(), CliError> {
        files::write(&state.record(), self.json()?.as_bytes(), 0o600, None)
    }

    /// One JSON object, on several lines.
    pub(crate) fn json(&self) -> Result<String, CliError> {
        serde_json::to_string_pretty(self)
            .map_err(|error| CliError::internal("writing the record", error))
    }

    /// Whether there is a control plane.
    pub(crate) fn has_mesh(&self) -> bool {
        self.components
            .iter()
            .any(|component| component.before.is_some())
    }

    /// The supervisor's process.
    pub(crate) fn supervisor(&self) -> ProcessId {
        ProcessId {
            pid: self.pid,
            started: self.started,
        }
    }
}

impl ComponentRecord {
    /// The component's process; none when it was never started, or by somebody else.
    pub(crate) fn process(&self) -> Option<ProcessId> {
        (self.pid > 0).then_some(ProcessId {
            pid: self.pid,
            started: self.started,
        })
    }
}
