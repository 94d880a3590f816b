//! Composition root: identity, trust, attestation and the socket become one component.
//!
//! Owns: what is wired to what. Must not: decide. Read next: `own.rs`, `trust.rs`, `attest.rs`, `api.rs`.

use std::sync::Arc;

use ringwall_service::{App, Shell, StartError};
use ringwall_tls::IdentitySource;
use tokio::time::{Duration, sleep};

use crate::api::{self, Shared, Socket};
use crate::attest::{Attestor, ControlSocket, Registry, Selectors};
use crate::clock::Clock;
use crate::config::{CONTROL_PLANE, Config, Spawned};
use crate::deliver;
use crate::jwt::JwtSvids;
use crate::metrics::Metrics;
use crate::own::{Joined, NodeIssuer, Own};
use crate::plane::ControlPlane;
use crate::renewal::Renewals;
use crate::shield::Edge;
use crate::trust::{Current, Follower};
use crate::workloads::Workloads;

/// How long open streams may go on when the agent ends: their clients connect again by themselves.
const LAST_WORDS: Duration = Duration::from_millis(200);

pub(crate) async fn start(shell: Shell, joined: Joined) -> Result<App, StartError> {
    let Joined {
        config,
        own,
        joiner,
        clock,
    } = joined;
    let state = shell.state_dir()?;
    let metrics = Metrics::default();
    metrics.register(&shell.metrics);

    let dialling = shell.clone();
    let plane = ControlPlane::new(move || dialling.grpc_replicas(CONTROL_PLANE))?;
    let issuer = NodeIssuer {
        plane: plane.clone(),
        joiner,
        own: Arc::clone(&own),
        clock: clock.clone(),
    };
    let renewals = Renewals::new(Arc::new(issuer), clock.clone(), metrics.clone());
    let follower = Follower::open(&shell.config.trust_domain, &state, clock.clone());
    let trust = follower.subscribe();
    let workloads = Workloads::new(Arc::clone(&renewals), trust.clone(), metrics.clone());

    let (spawned, control) = supervisor(&config, &shell)?;
    let selectors = Selectors::new(config.attestation.selectors.clone());
    let owned = config.attestation.require_owned_cgroups;
    let shared = Arc::new(Shared {
        attestor: Attestor::new(selectors, owned, spawned),
        workloads: Arc::clone(&workloads),
        trust: trust.clone(),
        jwt: JwtSvids::new(Arc::clone(&renewals)),
        metrics,
        clock: clock.clone(),
    });
    let socket = Socket::bind(&config.socket)?;
    tracing::info!(socket = %config.socket.display(), node = config.node, "the Workload API is served");

    let edge = shield(&config, &shell);
    let mut app = App::custom(serve(socket, shared, edge.clone(), shell.clone()))
        .background(
            "own identity",
            Arc::clone(&own).keep(Arc::clone(&renewals), plane.clone()),
        )
        .background("own roots", follow_roots(Arc::clone(&own), trust.clone()))
        .background("trust", follower.run(plane.clone()))
        .background("workloads", workloads.run());
    if let Some(kernel) = &config.kernel {
        let plane = plane.clone();
        app = crate::kernel::start(app, kernel, &shell, plane, (&state, edge)).await?;
    }
    if let Some(control) = control {
        app = app.background("supervisor", control.run());
    }
    for delivery in config.deliver.iter().cloned() {
        let keeping = deliver::keep(delivery, Arc::clone(&renewals), trust.clone());
        app = app.background("delivery", keeping);
    }
    Ok(ready_checks(app, &own.source, clock, trust, &config))
}

/// The edge shield, where it is configured; else nothing is left of one.
fn shield(config: &Config, shell: &Shell) -> Option<Arc<Edge>> {
    let kernel = config.kernel.as_ref()?;
    let Some(shield) = &kernel.shield else {
        Edge::remove(kernel);
        return None;
    };
    Some(Edge::open(kernel, shield, shell))
}

/// The second attestor, where it is configured.
fn supervisor(
    config: &Config,
    shell: &Shell,
) -> Result<(Option<Arc<Registry>>, Option<ControlSocket>), StartError> {
    let Some(Spawned {
        socket,
        any_process_of_user,
    }) = &config.attestation.spawned
    else {
        return Ok((None, None));
    };
    let registry = Arc::new(Registry::default());
    let domain = shell.config.trust_domain.clone();
    let control = ControlSocket::bind(socket, Arc::clone(&registry), domain, *any_process_of_user)?;
    Ok((Some(registry), Some(control)))
}

fn ready_checks(
    app: App,
    identity: &Arc<IdentitySource>,
    clock: Clock,
    trust: Current,
    config: &Config,
) -> App {
    let identity = Arc::clone(identity);
    let deliveries = config.deliver.clone();
    app.ready_check("identity", move || {
        let (end, now) = (identity.not_after(), clock.now());
        async move {
            if now < end {
                return Ok(());
            }
            Err(format!("the node's SVID has expired at {end}"))
        }
    })
    .ready_check("trust", move || {
        let known = trust.borrow().is_some();
        async move {
            known
                .then_some(())
                .ok_or_else(|| "the control plane has told nothing yet".to_owned())
        }
    })
    .ready_check("deliveries", move || {
        let missing: Vec<String> = deliveries
            .iter()
            .filter(|delivery| !deliver::is_delivered(delivery))
            .map(|delivery| delivery.directory().display().to_string())
            .collect();
        async move {
            if missing.is_empty() {
                return Ok(());
            }
            Err(format!("not delivered yet: {}", missing.join(", ")))
        }
    })
}

async fn serve(socket: Socket, shared: Arc<Shared>, edge: Option<Arc<Edge>>, shell: Shell) {
    let stop = shell.shutdown();
    let cut = async {
        shell.shutdown().await;
        sleep(LAST_WORDS).await;
    };
    // Streams of the Workload API never end by themselves.
    let served = tokio::select! {
        served = api::serve(socket, shared, edge, stop) => served,
        () = cut => Ok(()),
    };
    if let Err(error) = served {
        tracing::error!(%error, "the Workload API is not served any more");
    }
}

/// The node believes and refuses as the trust domain does.
async fn follow_roots(own: Arc<Own>, mut trust: Current) {
    loop {
        let current = trust.borrow_and_update().clone();
        if let Some(current) = current
            && let Err(error) = own.follow(&current)
        {
            tracing::error!(%error, "the node goes on with its earlier roots");
        }
        if trust.changed().await.is_err() {
            return;
        }
    }
}
