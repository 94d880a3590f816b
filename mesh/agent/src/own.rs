//! The node's own identity: joined by a token, renewed over mTLS, joined again when it is lost.
//!
//! Owns: the SVID `agent/NODE` in memory and, 0600, in the directory `identity` of the state.
//! Must not: use a join token while the SVID does, or log one.
//! Read next: `renewal.rs` for when, `plane.rs` for how.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use ringwall_identity::SpiffeId;
use ringwall_identity::csr::NewKey;
use ringwall_mesh_api::v1::attestation_client::AttestationClient;
use ringwall_mesh_api::v1::{Certificate, JoinRequest, JwtSvid};
use ringwall_secret::{SecretProvider, SecretString, private_file};
use ringwall_service::{Seed, StartError, grpc};
use ringwall_tls::{IdentitySource, join_client_config};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::{Bootstrap, CONTROL_PLANE, Config};
use crate::error::AgentError;
use crate::pem;
use crate::plane::{ControlPlane, Issuer, Want, limited};
use crate::renewal::{Issued, Renewals};
use crate::trust::Trust;

/// Name of the secret.
const JOIN_TOKEN: &str = "join-token";
/// Directory below the state, where `--health` finds it too.
const DIRECTORY: &str = "identity";
/// How long a start waits for the control plane, which may be starting too.
const START_PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a started agent goes on with.
pub(crate) struct Joined {
    pub(crate) config: Config,
    pub(crate) own: Arc<Own>,
    pub(crate) joiner: Joiner,
    pub(crate) clock: Clock,
}

/// Gets the identity: the kept one while it is good, else by joining.
pub(crate) async fn identify(
    seed: Seed,
    config: Config,
) -> Result<(Arc<IdentitySource>, Joined), StartError> {
    let clock = Clock::system();
    let id = seed.config.own_id()?;
    let state = seed.config.state.clone().unwrap_or_default();
    let directory = state.join(DIRECTORY);
    private_directory(&directory)?;
    let joiner = Joiner {
        bootstrap: config.bootstrap.clone(),
        control_plane: seed.config.workload(CONTROL_PLANE)?,
        secrets: Arc::clone(&seed.secrets),
        tried: Mutex::new(None),
    };
    let own = match Own::kept(&directory, &id) {
        Some(own) => own,
        None => join_patiently(&joiner, &directory, &id, START_PATIENCE).await?,
    };
    let joined = Joined {
        config,
        own: Arc::new(own),
        joiner,
        clock,
    };
    Ok((Arc::clone(&joined.own.source), joined))
}

async fn join_patiently(
    joiner: &Joiner,
    directory: &Path,
    id: &SpiffeId,
    patience: Duration,
) -> Result<Own, StartError> {
    let deadline = tokio::time::Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match Box::pin(joiner.first(directory, id)).await {
            Ok(own) => return Ok(own),
            Err(error) => error,
        };
        // A token that was refused stays refused; only a new one helps, and then a new start.
        if matches!(error, AgentError::Refused(_)) || tokio::time::Instant::now() >= deadline {
            return Err(StartError::unavailable(
                "the node's identity",
                format!(
                    "{error}\n  fix: check that the control plane runs at {}, and give this node a new join token (`ringwall up` does)",
                    joiner.bootstrap.shown()
                ),
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The identity in use.
pub(crate) struct Own {
    id: SpiffeId,
    directory: PathBuf,
    pub(crate) source: Arc<IdentitySource>,
    held: Mutex<Held>,
}

struct Held {
    issued: Issued,
    bundle: Vec<Vec<u8>>,
    lists: Vec<Vec<u8>>,
}

impl Own {
    /// What an earlier start has left, if it is still good.
    fn kept(directory: &Path, id: &SpiffeId) -> Option<Self> {
        let source = IdentitySource::load(directory).ok()?;
        if source.spiffe_id() != *id {
            return None;
        }
        let file = |name: &str| directory.join(name);
        let certificates = |name| -> Option<Vec<Vec<u8>>> {
            let iter = CertificateDer::pem_file_iter(file(name)).ok()?;
            iter.map(|der| der.map(|der| der.to_vec()).ok()).collect()
        };
        let key = private_file::read(&file("svid.key")).ok()?;
        let key = PrivateKeyDer::from_pem_slice(key.expose()).ok()?;
        let answer = Certificate {
            chain: certificates("svid.pem")?,
            bundle: certificates("bundle.pem")?,
            not_after: 0,
        };
        let key = Zeroizing::new(key.secret_der().to_vec());
        Self::new(directory, id, Issued::new(answer, key).ok()?).ok()
    }

    /// An identity that was issued just now. The source is one of memory, also where the files are
    /// there: it must follow the trust domain's roots as they come.
    pub(crate) fn new(directory: &Path, id: &SpiffeId, issued: Issued) -> Result<Self, AgentError> {
        issued.check_svid(id)?;
        let source = IdentitySource::from_material(issued.material(&issued.bundle, &[]))?;
        let bundle = issued.bundle.clone();
        let own = Self {
            id: id.clone(),
            directory: directory.to_owned(),
            source,
            held: Mutex::new(Held {
                issued,
                bundle,
                lists: Vec::new(),
            }),
        };
        own.write(&own.held.lock())?;
        Ok(own)
    }

    /// Takes a renewed certificate over.
    fn take(&self, issued: Issued) -> Result<(), AgentError> {
        issued.check_svid(&self.id)?;
        let mut held = self.held.lock();
        let next = Held {
            bundle: issued.bundle.clone(),
            lists: held.lists.clone(),
            issued,
        };
        self.source
            .update(next.issued.material(&next.bundle, &next.lists))?;
        *held = next;
        self.write(&held)
    }

    /// Believes and refuses as the trust domain now does.
    pub(crate) fn follow(&self, trust: &Trust) -> Result<(), AgentError> {
        let mut held = self.held.lock();
        if held.bundle == trust.bundle() && held.lists == trust.lists() {
            return Ok(());
        }
        self.source
            .update(held.issued.material(trust.bundle(), trust.lists()))?;
        held.bundle = trust.bundle().to_vec();
        held.lists = trust.lists().to_vec();
        self.write(&held)
    }

    /// Key first: a reader accepts only a pair that fits.
    fn write(&self, held: &Held) -> Result<(), AgentError> {
        let file = |name: &str, text: &str| {
            private_file::write(&self.directory.join(name), text.as_bytes())
        };
        let Held { issued, bundle, .. } = held;
        file("bundle.pem", &pem::encode(pem::CERTIFICATE, bundle))?;
        file(
            "svid.key",
            &pem::encode(pem::PRIVATE_KEY, [issued.key.as_slice()]),
        )?;
        file("svid.pem", &pem::encode(pem::CERTIFICATE, &issued.chain))?;
        Ok(())
    }

    fn times(&self) -> (time::OffsetDateTime, time::OffsetDateTime) {
        let held = self.held.lock();
        (held.issued.not_before, held.issued.not_after)
    }

    /// Renews for ever.
    pub(crate) async fn keep(self: Arc<Self>, renewals: Arc<Renewals>, plane: ControlPlane) {
        let held = Some(self.times());
        let own = Arc::clone(&self);
        renewals
            .keep(Want::Agent, held, move |result| {
                match result.and_then(|issued| own.take(issued)) {
                    Ok(()) => {
                        tracing::info!(not_after = %own.source.not_after(), "the node's identity is renewed");
                        plane.dial_again();
                        ControlFlow::Continue(true)
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the node's identity is not renewed");
                        ControlFlow::Continue(false)
                    }
                }
            })
            .await;
    }
}

/// Proves the node by its token.
pub(crate) struct Joiner {
    bootstrap: Bootstrap,
    control_plane: SpiffeId,
    secrets: Arc<SecretProvider>,
    /// The token of the last attempt: another one is there when somebody has put it there.
    tried: Mutex<Option<SecretString>>,
}

impl Joiner {
    async fn first(&self, directory: &Path, id: &SpiffeId) -> Result<Own, AgentError> {
        let new = NewKey::generate()?;
        let answer = self.join(new.request).await?;
        let own = Own::new(directory, id, Issued::new(answer, new.pkcs8)?)?;
        tracing::info!(identity = %id, "this node has joined");
        Ok(own)
    }

    /// Spends the token, which is read again each time: the operator may have put a new one there.
    async fn join(&self, csr: Vec<u8>) -> Result<Certificate, AgentError> {
        let token = self.secrets.get_string(JOIN_TOKEN)?;
        let request = JoinRequest {
            token: token.expose().clone(),
            csr,
        };
        *self.tried.lock() = Some(token);
        let tls = join_client_config(&self.bootstrap.bundle, self.control_plane.clone())?;
        let mut last = None;
        for address in self.bootstrap.addresses() {
            let channel = grpc::channel(address.clone(), Arc::clone(&tls));
            let mut client = AttestationClient::new(channel);
            match client.join(limited(request.clone())).await {
                Ok(joined) => return Ok(joined.into_inner()),
                Err(status) => match AgentError::from(status) {
                    // Any other one may have the answer, as they share what is known of tokens.
                    error @ AgentError::Away(_) => last = Some(error),
                    refused => return Err(refused),
                },
            }
        }
        Err(last.unwrap_or_else(|| AgentError::Away("no control plane is declared".to_owned())))
    }

    fn has_new_token(&self) -> bool {
        let tried = self.tried.lock();
        self.secrets.get_string(JOIN_TOKEN).is_ok_and(|token| {
            !tried
                .as_ref()
                .is_some_and(|tried| tried.ct_eq(token.expose().as_bytes()))
        })
    }
}

/// The issuer of everything: the control plane, and for the node itself the join where nothing else
/// helps.
pub(crate) struct NodeIssuer {
    pub(crate) plane: ControlPlane,
    pub(crate) joiner: Joiner,
    pub(crate) own: Arc<Own>,
    pub(crate) clock: Clock,
}

#[async_trait]
impl Issuer for NodeIssuer {
    async fn certify(&self, want: &Want, csr: Vec<u8>) -> Result<Certificate, AgentError> {
        if *want != Want::Agent {
            return self.plane.certify(want, csr).await;
        }
        // A machine that slept, or whose clock was set: mTLS is not possible any more.
        if self.clock.now() >= self.own.source.not_after() {
            tracing::warn!("the node's identity has expired: joining again");
            return Box::pin(self.joiner.join(csr)).await;
        }
        let refused = match self.plane.certify(want, csr.clone()).await {
            Err(error) => error,
            good => return good,
        };
        if !self.joiner.has_new_token() {
            return Err(refused);
        }
        tracing::warn!(error = %refused, "the node's identity is not renewed, and there is a new join token: joining again");
        Box::pin(self.joiner.join(csr)).await.map_err(|_| refused)
    }

    async fn jwt(&self, workload: &str, audience: &[String]) -> Result<JwtSvid, AgentError> {
        self.plane.jwt(workload, audience).await
    }
}

fn private_directory(path: &Path) -> Result<(), AgentError> {
    std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
        .create(path)
        .map_err(|error| AgentError::file(path, error))
}
