//! The two places where one composition can run: processes on this machine, or containers.
//!
//! Owns: which addresses a component listens on and is dialled at, and where each of its files
//! stands, as we write it and as the component reads it. Must not: write anything. Read next:
//! `render.rs` and `composition/interpolate.rs`, which put the readers' side into configurations;
//! `provision/delivery.rs`, which writes for containers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ringwall_http_io::Address;

use crate::composition::{Component, Composition, Engine, Export, OPERATOR};
use crate::state::StateDir;

/// Where the provisioner finds the volumes of all components, and each component its own.
pub(crate) const RUN: &str = "/run/ringwall";
/// Where the agent's socket is in every container.
const AGENT: &str = "/run/ringwall-agent";
/// Where the agent finds the volumes that it delivers to.
const DELIVERIES: &str = "/run/deliver";
/// A component's durable files in its container.
const DATA: &str = "/var/lib/ringwall";
/// The web application in the image of the component that serves it.
const WEB: &str = "/usr/share/ringwall/web";
/// The plugins in the images of the components that run them.
const PLUGINS: &str = "/usr/share/ringwall/plugins";

/// Where the platform runs.
#[derive(Clone, Debug)]
pub(crate) enum Site {
    /// Processes on this machine, everything below one state directory.
    Native {
        state: StateDir,
        web: PathBuf,
        plugins: PathBuf,
    },
    /// A container for each component. What must last stands in `state`, which is ours alone; what
    /// a component reads is delivered to `run/<component>`, which is the component's [`RUN`].
    Containers { state: StateDir, run: PathBuf },
}

/// The files of one component, from one point of view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) config: PathBuf,
    /// SVID, key and bundle.
    pub(crate) identity: PathBuf,
    pub(crate) sealed: PathBuf,
    pub(crate) seal_key: PathBuf,
    /// The trust bundle.
    pub(crate) ca: PathBuf,
    /// Certificate of the public hosts.
    pub(crate) edge: PathBuf,
}

/// Where the agent writes a database server's certificate, and who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DatabaseDelivery {
    pub(crate) directory: PathBuf,
    /// The server's pid file, where the agent may signal it.
    pub(crate) pid_file: Option<PathBuf>,
}

/// Where a PostgreSQL server's things are, and from where it may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DatabasePlace {
    /// `listen_addresses`.
    pub(crate) listen: &'static str,
    /// The addresses that workloads come from, as `pg_hba.conf` says it.
    pub(crate) clients: &'static str,
    /// Server certificate, as the server reads it.
    pub(crate) tls: PathBuf,
    /// Folder of the unix socket.
    pub(crate) socket: PathBuf,
    /// Folder of `pg_hba.conf` and `pg_ident.conf`, where that is not the data directory.
    pub(crate) access: Option<PathBuf>,
}

impl Site {
    pub(crate) fn native(state: &StateDir, composition: &Composition) -> Self {
        Self::Native {
            state: state.clone(),
            web: composition.web.clone(),
            plugins: composition.plugins.clone(),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test(state: StateDir) -> Self {
        Self::Native {
            state,
            web: "/web".into(),
            plugins: "/plugins".into(),
        }
    }

    pub(crate) fn containers(state: &StateDir, run: &Path) -> Self {
        Self::Containers {
            state: state.clone(),
            run: run.to_path_buf(),
        }
    }

    /// What lasts: authority, sealed secrets, the operator's identity, the record.
    pub(crate) fn state(&self) -> &StateDir {
        match self {
            Self::Native { state, .. } | Self::Containers { state, .. } => state,
        }
    }

    /// A component's files as we write them.
    pub(crate) fn written(&self, name: &str) -> Files {
        match self {
            Self::Native { state, .. } => native(state, name),
            Self::Containers { run, .. } => delivered(&run.join(name), name),
        }
    }

    /// A component's files as it reads them.
    pub(crate) fn read(&self, name: &str) -> Files {
        match self {
            Self::Native { state, .. } => native(state, name),
            Self::Containers { .. } => delivered(Path::new(RUN), name),
        }
    }

    /// A workload's certificates as we write them; the operator's own stay with us.
    pub(crate) fn identity(&self, name: &str) -> PathBuf {
        if name == OPERATOR {
            self.state().identity(OPERATOR)
        } else {
            self.written(name).identity
        }
    }

    /// A component's durable files as it sees them.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        match self {
            Self::Native { state, .. } => state.data(name),
            Self::Containers { .. } => DATA.into(),
        }
    }

    /// The built web application.
    pub(crate) fn web(&self) -> PathBuf {
        match self {
            Self::Native { web, .. } => web.clone(),
            Self::Containers { .. } => WEB.into(),
        }
    }

    /// The folder of the built plugins.
    pub(crate) fn plugins(&self) -> PathBuf {
        match self {
            Self::Native { plugins, .. } => plugins.clone(),
            Self::Containers { .. } => PLUGINS.into(),
        }
    }

    /// The folder that we write a PostgreSQL server's files to.
    pub(crate) fn database_folder(&self, name: &str) -> PathBuf {
        match self {
            Self::Native { state, .. } => state.postgres(),
            Self::Containers { run, .. } => run.join(name),
        }
    }

    /// How a PostgreSQL server is set up here.
    pub(crate) fn database(&self) -> DatabasePlace {
        match self {
            Self::Native { state, .. } => DatabasePlace::native(state),
            // The networks that it stands in are those of its declared callers.
            Self::Containers { .. } => DatabasePlace {
                listen: "*",
                clients: "samenet",
                tls: Path::new(RUN).join("tls"),
                socket: "/tmp".into(),
                access: Some(RUN.into()),
            },
        }
    }

    /// Where a component takes calls.
    pub(crate) fn listen(&self, component: &Component) -> Option<SocketAddr> {
        let port = component.port.as_ref()?;
        Some((self.listen_ip(), port.value).into())
    }

    /// Where a component takes the operator's questions.
    pub(crate) fn admin_listen(&self, component: &Component) -> Option<SocketAddr> {
        let port = component.admin.as_ref()?;
        Some((self.listen_ip(), port.value).into())
    }

    /// A listener of a process of ours at `port`.
    pub(crate) fn own_listen(&self, port: u16) -> Option<SocketAddr> {
        Some((self.listen_ip(), port).into())
    }

    /// Whether each component has a network of its own, so that ports mean the same everywhere.
    pub(crate) fn has_own_network(&self) -> bool {
        matches!(self, Self::Containers { .. })
    }

    /// Under which address a proxy is dialled by others, where that is not loopback: in containers the
    /// one by which it reaches the control plane.
    pub(crate) fn advertised(&self) -> Option<(String, serde_json::Value)> {
        let own = ("advertise".to_owned(), "auto".into());
        self.has_own_network().then_some(own)
    }

    /// The agent's socket, as workloads see it.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        match self {
            Self::Native { state, .. } => state.agent_socket(),
            Self::Containers { .. } => Path::new(AGENT).join("agent.sock"),
        }
    }

    /// Where the supervisor tells the agent which process is whose.
    pub(crate) fn spawned_socket(&self) -> Option<PathBuf> {
        match self {
            Self::Native { state, .. } => Some(state.agent_control()),
            Self::Containers { .. } => None,
        }
    }

    /// A component's files as the agent writes them: it sees the volumes as we do.
    pub(crate) fn delivered(&self, name: &str) -> Files {
        match self {
            Self::Native { state, .. } => native(state, name),
            Self::Containers { .. } => delivered(&Path::new(DELIVERIES).join(name), name),
        }
    }

    /// A database server's certificate as the agent writes it.
    pub(crate) fn database_delivery(&self, name: &str) -> DatabaseDelivery {
        match self {
            Self::Native { state, .. } => DatabaseDelivery {
                directory: state.postgres().join("tls"),
                pid_file: Some(state.postgres().join("data").join("postmaster.pid")),
            },
            Self::Containers { .. } => DatabaseDelivery {
                directory: Path::new(DELIVERIES).join(name).join("tls"),
                pid_file: None,
            },
        }
    }

    /// Where others reach a component; one that takes no calls, where the operator does.
    pub(crate) fn dial(&self, component: &Component) -> Address {
        let port = component.port.as_ref().or(component.admin.as_ref());
        self.place(&component.name.value, port.map_or(0, |port| port.value))
    }

    /// Where the operator reaches a component.
    pub(crate) fn dial_admin(&self, component: &Component) -> Option<Address> {
        let port = component.admin.as_ref()?;
        Some(self.place(&component.name.value, port.value))
    }

    /// Where the public listener stands.
    pub(crate) fn public_listen(&self, composition: &Composition) -> Vec<SocketAddr> {
        let port = composition.public.port.value;
        match self {
            Self::Native { .. } => {
                let addresses = composition.public.listen.iter();
                addresses.map(|ip| (*ip, port).into()).collect()
            }
            // Which of the machine's addresses lead here is said where the port is published.
            Self::Containers { .. } => vec![(self.listen_ip(), port).into()],
        }
    }

    /// Where a component dials the public listener.
    pub(crate) fn public_dial(&self, composition: &Composition) -> Address {
        let public = &composition.public;
        self.place(&public.component.value, public.port.value)
    }

    /// Engines that get an identity from us.
    pub(crate) fn engines<'a>(&self, composition: &'a Composition) -> &'a [Engine] {
        match self {
            Self::Native { .. } => &[],
            Self::Containers { .. } => &composition.engines,
        }
    }

    /// Where the collector passes spans on to.
    pub(crate) fn span_export<'a>(&self, composition: &'a Composition) -> Option<&'a Export> {
        match self {
            Self::Native { .. } => None,
            Self::Containers { .. } => composition.telemetry.as_ref()?.export.as_ref(),
        }
    }

    /// The address of something that is known by name in containers.
    pub(crate) fn place(&self, name: &str, port: u16) -> Address {
        match self {
            Self::Native { .. } => SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into(),
            Self::Containers { .. } => Address::Name {
                host: name.into(),
                port,
            },
        }
    }

    fn listen_ip(&self) -> IpAddr {
        match self {
            Self::Native { .. } => Ipv4Addr::LOCALHOST.into(),
            Self::Containers { .. } => Ipv4Addr::UNSPECIFIED.into(),
        }
    }
}

impl DatabasePlace {
    /// Loopback only.
    pub(crate) fn native(state: &StateDir) -> Self {
        Self {
            listen: "127.0.0.1",
            clients: "127.0.0.1/32",
            tls: state.postgres().join("tls"),
            socket: state.socket(),
            access: None,
        }
    }
}

fn native(state: &StateDir, name: &str) -> Files {
    let (sealed, seal_key) = state.secrets(name);
    Files {
        config: state.config(name),
        identity: state.identity(name),
        sealed,
        seal_key,
        ca: state.ca_bundle(),
        edge: state.edge(),
    }
}

/// The name of a sealed file is whose it is: a component opens no other's, even with its key.
fn delivered(folder: &Path, name: &str) -> Files {
    Files {
        config: folder.join("config.yaml"),
        identity: folder.join("identity"),
        sealed: folder.join(format!("{name}.sealed")),
        seal_key: folder.join(format!("{name}.seal-key")),
        ca: folder.join("ca.pem"),
        edge: folder.join("edge"),
    }
}
