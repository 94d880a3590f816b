//! One connect: password and certificate are read now, not when the pool was made.
//!
//! Owns: the order of a connect. Must not: log the password or keep it.
//! Read next: `../postgres.rs`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use deadpool_postgres::Connect;
use ringwall_secret::SecretString;
use ringwall_tls::postgres::PostgresTls;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error};

use super::BoxError;
use crate::error::chain;

type ReadPassword = dyn Fn() -> Result<SecretString, BoxError> + Send + Sync;
type Connected = Result<(Client, JoinHandle<()>), Error>;

pub(super) struct ReadingConnect {
    tls: PostgresTls,
    password: Arc<ReadPassword>,
}

impl ReadingConnect {
    pub(super) fn new(tls: PostgresTls, password: Arc<ReadPassword>) -> Self {
        Self { tls, password }
    }
}

impl Connect for ReadingConnect {
    fn connect(&self, config: &Config) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
        let mut config = config.clone();
        Box::pin(async move {
            match (self.password)() {
                Ok(password) => {
                    config.password(password.expose());
                }
                // Without a password the server refuses the login: the connect fails closed.
                Err(error) => tracing::error!(%error, "cannot read the PostgreSQL password"),
            }
            // The pool's `create_timeout` bounds all of this: socket, TLS and login.
            let (client, connection) = config.connect(self.tls.clone()).await?;
            let task = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::warn!(error = chain(&error), "a PostgreSQL connection ended");
                }
            });
            Ok((client, task))
        })
    }
}
