//! The health gate: a component counts as started when it says itself that it is ready.

use std::time::{Duration, Instant};

use ringwall_http_io::Address;
use tokio::sync::mpsc::Sender;

use super::unit::{Kind, Running, Unit, failure, make_databases};
use super::{Event, Prober};
use crate::error::CliError;
use crate::state::StateDir;

/// How long a component may take to get ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// PostgreSQL may have to recover first.
const DATABASE_PATIENCE: Duration = Duration::from_secs(90);
/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(40);

/// Asks in a task of its own until the component is ready or the time is over.
pub(super) fn watch(
    unit: &Unit,
    running: &Running,
    prober: Prober,
    state: &StateDir,
    events: &Sender<Event>,
) {
    let (name, generation, log) = (unit.name.clone(), running.generation, unit.log.clone());
    let (offset, process, events) = (running.log_offset(), running.process, events.clone());
    let gate = match &unit.kind {
        Kind::Binary(binary) => Gate::Admin {
            prober,
            admin: binary.admin.clone(),
            identity: binary.identity.clone(),
            pid: process.pid,
        },
        Kind::Postgres { server, databases } => Gate::Database {
            server: (**server).clone(),
            databases: databases.clone(),
            state: state.clone(),
        },
    };
    tokio::spawn(async move {
        let deadline = Instant::now() + gate.patience();
        let event = loop {
            if !process.is_alive() {
                // Its end is reported by the task that waits for it.
                return;
            }
            match gate.ask().await {
                Ok(()) => break Event::Ready { name, generation },
                Err(Answer::Broken(error)) => {
                    break Event::NotReady {
                        name,
                        generation,
                        error,
                    };
                }
                Err(Answer::NotYet(why)) if Instant::now() >= deadline => {
                    let why = format!(
                        "does not get ready within {} s: {why}",
                        gate.patience().as_secs()
                    );
                    let fix = format!("the log says more: {}", log.display());
                    let error = failure(&name, why, fix, &log, offset);
                    break Event::NotReady {
                        name,
                        generation,
                        error,
                    };
                }
                Err(Answer::NotYet(_)) => tokio::time::sleep(PAUSE).await,
            }
        };
        // The loop outlives every gate, but for a stop in the middle of a start.
        let _ = events.send(event).await;
    });
}

enum Gate {
    Admin {
        prober: Prober,
        admin: Address,
        identity: String,
        /// Another process may answer at the same address while this one takes over.
        pid: i32,
    },
    Database {
        server: crate::postgres::Server,
        databases: Vec<String>,
        state: StateDir,
    },
}

enum Answer {
    NotYet(String),
    /// Waiting does not help.
    Broken(CliError),
}

impl Gate {
    fn patience(&self) -> Duration {
        match self {
            Self::Admin { .. } => PATIENCE,
            Self::Database { .. } => DATABASE_PATIENCE,
        }
    }

    async fn ask(&self) -> Result<(), Answer> {
        match self {
            Self::Admin {
                prober,
                admin,
                identity,
                pid,
            } => {
                let asked = prober.ready(identity, admin, Some(*pid)).await;
                asked.map_err(Answer::NotYet)
            }
            Self::Database {
                server,
                databases,
                state,
            } => {
                if !server.is_ready() {
                    return Err(Answer::NotYet("the server is starting".into()));
                }
                let (server, databases, state) = (server.clone(), databases.clone(), state.clone());
                let made = tokio::task::spawn_blocking(move || {
                    make_databases(&server, &databases, &state)
                });
                let made = made
                    .await
                    .map_err(|error| Answer::NotYet(error.to_string()))?;
                made.map_err(Answer::Broken)
            }
        }
    }
}
