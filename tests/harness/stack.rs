//! The platform under test, native or in containers.
//!
//! Owns: [`StackInfo`], which is what an operator knows of a running platform: addresses, files,
//! credentials and logs, the same for both stacks, and nothing of the harness. How a platform is
//! started and stopped stands in [`native`] and [`containers`], what can be done to it while it
//! runs in `faults`. Read next: `tests/scenarios.rs`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use ringwall_identity::SpiffeId;
use ringwall_secret::{SecretProvider, SecretsConfig};
use serde_json::Value;
use url::Url;

use crate::composition;
use crate::mesh;
use crate::outside::Outside;

pub mod cleanup;
mod compose_file;
pub mod containers;
pub mod declared;
pub mod engine;
mod faults;
pub mod native;
pub mod probe;

pub use faults::{Cables, Frozen, RECOVERY};
pub use native::listeners;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Native,
    Containers,
}

/// A running platform. Stop it with [`Stack::stop`]; dropping it stops it as well.
pub struct Stack {
    pub info: StackInfo,
    platform: Platform,
}

enum Platform {
    Native(native::Platform),
    Containers(Box<containers::Platform>),
}

/// What an operator knows of a running platform.
#[derive(Debug, Clone)]
pub struct StackInfo {
    pub url: Url,
    pub issuer: Url,
    pub public_address: SocketAddr,
    /// `ca/`, `secrets/` and `identity/<component>/`; of containers a copy, see [`StackInfo::refresh`].
    pub state_dir: PathBuf,
    ca_bundle: PathBuf,
    credentials: Value,
    site: Site,
    /// Where clients come from that are not of this machine, if it was started with such a network.
    outside: Option<Arc<Outside>>,
}

#[derive(Debug, Clone)]
enum Site {
    Native(native::Site),
    Containers(containers::Site),
}

/// One component of a running platform, as it runs now.
#[derive(Debug, Clone)]
pub struct Component {
    pub name: String,
    /// The workload that answers: a service proxy has its component's identity.
    pub identity: String,
    pub address: SocketAddr,
    pub admin: Option<SocketAddr>,
    pub pid: i32,
}

/// A moment in the logs, to read what came after it.
#[derive(Debug, Clone)]
pub struct LogMark {
    at: time::OffsetDateTime,
    /// Lengths of the files of the native stack.
    lengths: Vec<(String, usize)>,
}

impl Component {
    /// The SPIFFE id with which it answers.
    pub fn peer(&self) -> Result<SpiffeId> {
        Ok(SpiffeId::workload(&mesh::trust_domain()?, &self.identity)?)
    }
}

impl Stack {
    /// Starts the platform and waits until it is healthy. In containers only `needs` are started
    /// (and what delivers their configuration); natively it is always the whole platform.
    pub fn start(kind: Kind, needs: &[&str]) -> Result<Self> {
        match kind {
            Kind::Native => Self::start_as(None),
            Kind::Containers => {
                let (info, platform) = containers::Platform::start(needs)?;
                let platform = Platform::Containers(Box::new(platform));
                Ok(Self { info, platform })
            }
        }
    }

    /// The native platform from the text of another composition than the built-in one; with the policy
    /// of the checkout.
    pub fn start_as(composition: Option<&str>) -> Result<Self> {
        Self::start_with(composition, &[])
    }

    /// The native platform as it is where the kernel takes no part: components dial their proxies.
    pub fn in_userspace() -> Result<Self> {
        Self::start_with(None, &["--interception", "userspace"])
    }

    /// The native platform with a network outside, at whose interface the edge shield stands. Abuse is soon enough, and soon
    /// forgotten.
    pub fn behind_a_shield() -> Result<Self> {
        let outside = Outside::new()?;
        let public = format!(
            "listen: [127.0.0.1, {}]\n  shield: {{ interfaces: [{}], connections: {{ per_second: 20, burst: 100 }} }}",
            outside.near(),
            outside.interface(),
        );
        let changes = [
            ("listen: [127.0.0.1, \"::1\"]", public.as_str()),
            (
                "      listeners:\n        - addresses: ${public_listen}",
                "      abuse: { threshold: 40, first: 5s }\n      listeners:\n        - addresses: ${public_listen}",
            ),
        ];
        let mut stack = Self::start_as(Some(&composition::changed(&changes)?))?;
        stack.info.outside = Some(Arc::new(outside));
        Ok(stack)
    }

    /// The same with further words for `ringwall up`.
    pub fn start_with(composition: Option<&str>, options: &[&str]) -> Result<Self> {
        let (info, platform) = native::Platform::start(composition, options)?;
        let platform = Platform::Native(platform);
        Ok(Self { info, platform })
    }

    /// Stops the platform in order and reports what it left behind.
    pub fn stop(self) -> Result<()> {
        match self.platform {
            Platform::Native(platform) => platform.stop(),
            Platform::Containers(platform) => platform.stop(),
        }
    }

    /// Keeps the state directory, for a look at what a failed run left.
    pub fn keep_state(&mut self) -> &Path {
        match &mut self.platform {
            Platform::Native(platform) => platform.keep_state(),
            Platform::Containers(platform) => platform.keep_state(),
        }
    }
}

impl StackInfo {
    pub fn kind(&self) -> Kind {
        match self.site {
            Site::Native(_) => Kind::Native,
            Site::Containers(_) => Kind::Containers,
        }
    }

    /// The container site, for scenarios about containers.
    pub fn containers(&self) -> Result<&containers::Site> {
        match &self.site {
            Site::Containers(site) => Ok(site),
            Site::Native(_) => bail!("this is not the stack of containers"),
        }
    }

    /// The network outside, for scenarios that are played with one.
    pub fn outside(&self) -> Result<&Outside> {
        let outside = self.outside.as_deref();
        outside.context("this platform was started without a network outside")
    }

    pub fn app_url(&self) -> Url {
        self.url.clone()
    }

    pub fn api_url(&self) -> Url {
        self.sibling("api")
    }

    pub fn auth_url(&self) -> Url {
        self.issuer.clone()
    }

    pub fn app_host(&self) -> String {
        host(&self.url)
    }

    pub fn api_host(&self) -> String {
        host(&self.api_url())
    }

    pub fn auth_host(&self) -> String {
        host(&self.issuer)
    }

    pub fn public_address(&self) -> SocketAddr {
        self.public_address
    }

    /// The audience of the public API: its origin, without a trailing slash.
    pub fn api_audience(&self) -> String {
        self.api_url().origin().ascii_serialization()
    }

    /// The issuer as it stands in tokens, without a trailing slash.
    pub fn issuer_text(&self) -> String {
        self.issuer.origin().ascii_serialization()
    }

    pub fn ca_bundle(&self) -> PathBuf {
        self.ca_bundle.clone()
    }

    /// Every component that runs, PostgreSQL among them.
    pub fn components(&self) -> Result<Vec<Component>> {
        match &self.site {
            Site::Native(site) => site.components(&self.state_dir),
            Site::Containers(site) => site.components(),
        }
    }

    /// A component with its address of now: a container may get another one when it starts again.
    pub fn component(&self, name: &str) -> Result<Component> {
        let found = match &self.site {
            Site::Native(site) => site.known(name),
            Site::Containers(site) => site.component(name)?,
        };
        found.with_context(|| format!("the platform has no component {name}"))
    }

    /// Where the component's SVID lies.
    pub fn identity(&self, component: &str) -> PathBuf {
        self.state_dir.join("identity").join(component)
    }

    /// Copies certificates and secrets out of the provisioner again, after they have been renewed.
    pub fn refresh(&self) -> Result<()> {
        match &self.site {
            Site::Native(_) => Ok(()),
            Site::Containers(site) => site.copy_state(&self.state_dir),
        }
    }

    /// What a component has logged until now.
    pub fn log(&self, component: &str) -> Result<String> {
        match &self.site {
            Site::Native(site) => site.log(component),
            Site::Containers(site) => site.log(component, None),
        }
    }

    /// The present moment in the logs.
    pub fn log_mark(&self) -> LogMark {
        LogMark {
            at: time::OffsetDateTime::now_utc(),
            lengths: match &self.site {
                Site::Native(site) => site.log_lengths(),
                Site::Containers(_) => Vec::new(),
            },
        }
    }

    /// What a component has logged since `mark`.
    pub fn log_since(&self, component: &str, mark: &LogMark) -> Result<String> {
        match &self.site {
            Site::Native(site) => {
                let log = site.log(component)?;
                let known = mark.lengths.iter().find(|(name, _)| name == component);
                let from = known.map_or(0, |(_, length)| *length);
                // A log that was turned meanwhile is shorter: then all of it is new.
                Ok(log.get(from..).unwrap_or(&log).to_owned())
            }
            Site::Containers(site) => site.log(component, Some(mark.at)),
        }
    }

    /// The generated password of a demo user.
    pub fn password(&self, user: &str) -> Result<String> {
        self.credential("users", "name", user, "password")
    }

    /// The generated secret of a demo client.
    pub fn client_secret(&self, client: &str) -> Result<String> {
        self.credential("clients", "client_id", client, "secret")
    }

    /// Every generated secret that `ringwall status --credentials` shows.
    pub fn all_credentials(&self) -> Vec<String> {
        let lists = ["users", "clients"]
            .into_iter()
            .filter_map(|list| self.credentials.get(list)?.as_array());
        let values = lists
            .flatten()
            .flat_map(|entry| [&entry["password"], &entry["secret"]]);
        values
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    /// A secret from a component's sealed file, as somebody who has stolen both of its files reads it.
    pub fn secret(&self, component: &str, name: &str) -> Result<String> {
        let folder = self.state_dir.join("secrets");
        let provider = SecretProvider::open(&SecretsConfig::Sealed {
            file: folder.join(format!("{component}.sealed")),
            key_file: folder.join(format!("{component}.seal-key")),
        })?;
        Ok(provider.get_string(name)?.expose().clone())
    }

    fn credential(&self, list: &str, key: &str, name: &str, field: &str) -> Result<String> {
        self.credentials
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .find(|entry| entry[key] == name)
            .and_then(|entry| entry[field].as_str())
            .map(str::to_owned)
            .with_context(|| format!("`ringwall status --credentials` names no {name}"))
    }

    fn sibling(&self, label: &str) -> Url {
        let mut url = self.url.clone();
        let sibling = host(&url).replacen("app.", &format!("{label}."), 1);
        url.set_host(Some(&sibling))
            .expect("a host with another first label is a host");
        url
    }
}

/// The `ringwall` binary that was built with this test binary.
pub fn ringwall() -> Result<Command> {
    Ok(Command::new(built("ringwall")?))
}

/// A binary that was built with this test binary.
pub fn built(name: &str) -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    executable
        .ancestors()
        .skip(1)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            format!(
                "no `{name}` beside {}: run `cargo xtask e2e`",
                executable.display()
            )
        })
}

/// The checkout that we run in: the nearest folder upwards that holds the composition. It is not
/// compiled in, since checkouts may share one target directory.
pub fn checkout() -> Result<PathBuf> {
    let here = std::env::current_dir()?;
    here.ancestors()
        .find(|folder| folder.join("ringwall.yaml").is_file())
        .map(Path::to_path_buf)
        .with_context(|| format!("no ringwall.yaml at or above {}", here.display()))
}

fn host(url: &Url) -> String {
    url.host_str().expect("a public URL has a host").to_owned()
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(())
}
