//! The PostgreSQL pool: verify-full TLS with a client certificate, and SCRAM with channel binding.
//!
//! Owns: connecting, pooling, recycling and migrating. Must not: know a table of its callers, fall
//! back to an unverified or password-only connection, or keep a password longer than one connect.
//! Read next: `postgres/config.rs`, `postgres/connect.rs`.
//!
//! Certificate and password are read again at each connect. No connection outlives `max_lifetime`
//! or, by more than a few seconds, the certificate that it was made with: a rotation reaches the
//! whole pool without a failed query.

mod config;
mod connect;
mod freshness;

use std::sync::Arc;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use ringwall_secret::SecretString;
use ringwall_tls::postgres::PostgresTls;

pub use self::config::PostgresConfig;
pub use deadpool_postgres::{Client, Transaction};
pub use tokio_postgres;

use self::connect::ReadingConnect;
use self::freshness::Freshness;
use crate::error::{StoreError, chain};

/// Any error of the closure that reads the password.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The advisory lock that serialises migrations: "ringwall" in ASCII.
const MIGRATION_LOCK: i64 = 0x7269_6e67_7761_6c6c;

/// A pool of verified connections; clones share it.
#[derive(Clone)]
pub struct Postgres {
    pool: Pool,
    database: Arc<str>,
}

/// How full the pool is, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// Connections that exist.
    pub size: usize,
    /// Of these, idle ones.
    pub available: usize,
    /// Callers that wait for one.
    pub waiting: usize,
}

impl Postgres {
    /// Makes the pool and proves it with one connection. Needs a tokio runtime.
    ///
    /// `password` is called at each connect, so that a rotated secret is used from the next one.
    ///
    /// # Errors
    /// [`StoreError::PostgresConfig`] for a configuration that cannot work and
    /// [`StoreError::PostgresUnavailable`] when the first connection fails.
    pub async fn connect<F>(config: &PostgresConfig, password: F) -> Result<Self, StoreError>
    where
        F: Fn() -> Result<SecretString, BoxError> + Send + Sync + 'static,
    {
        let postgres = Self::open(config, password)?;
        postgres.ping().await?;
        Ok(postgres)
    }

    /// Makes the pool without connecting: for a service that starts while the database is away.
    ///
    /// # Errors
    /// [`StoreError::PostgresConfig`].
    pub fn open<F>(config: &PostgresConfig, password: F) -> Result<Self, StoreError>
    where
        F: Fn() -> Result<SecretString, BoxError> + Send + Sync + 'static,
    {
        config.validate()?;
        let tls = PostgresTls::new(&config.tls);
        let freshness = Arc::new(Freshness::new(tls.clone(), config.max_lifetime));
        let connect = ReadingConnect::new(tls, Arc::new(password));
        // Fast: a broken connection is found by its task, so recycling asks the server nothing.
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_connect(config.client_config(), connect, recycling);
        let judge = Arc::clone(&freshness);
        let pool = Pool::builder(manager)
            .max_size(config.pool_size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(config.wait_timeout))
            .create_timeout(Some(config.connect_timeout))
            .pre_recycle(Hook::sync_fn(move |_, metrics| {
                if judge.is_fresh(metrics) {
                    return Ok(());
                }
                Err(HookError::message(
                    "the connection is older than its lifetime or certificate",
                ))
            }))
            .build()
            .map_err(|error| StoreError::PostgresConfig(error.to_string()))?;
        spawn_reaper(&pool, freshness);
        Ok(Self {
            pool,
            database: config.database.as_str().into(),
        })
    }

    /// Lends a connection; it returns to the pool when dropped.
    ///
    /// # Errors
    /// [`StoreError::PostgresUnavailable`].
    pub async fn client(&self) -> Result<Client, StoreError> {
        self.pool
            .get()
            .await
            .map_err(|error| StoreError::PostgresUnavailable(chain(&error)))
    }

    /// One round trip to the server: for readiness checks.
    ///
    /// # Errors
    /// [`StoreError::PostgresUnavailable`] or [`StoreError::Postgres`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.client().await?.simple_query("SELECT 1").await?;
        Ok(())
    }

    /// Brings the schema to `migrations.len()`, numbered from 1 by position.
    ///
    /// All missing steps are one transaction under an advisory lock: instances that start at once
    /// take turns, and a failed step leaves nothing behind.
    ///
    /// # Errors
    /// [`StoreError::Migrate`], [`StoreError::NewerSchema`], or a failed connection.
    pub async fn migrate(&self, migrations: &[&str]) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let tx = client.transaction().await?;
        // A migration may rightly take longer than a request's statement.
        tx.batch_execute("SET LOCAL statement_timeout = '5min'; SET LOCAL lock_timeout = '1min'")
            .await?;
        tx.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK])
            .await?;
        tx.batch_execute(
            "CREATE TABLE IF NOT EXISTS ringwall_migrations (
                version bigint PRIMARY KEY,
                applied_at timestamptz NOT NULL DEFAULT now()
            )",
        )
        .await?;
        let found: i64 = tx
            .query_one(
                "SELECT coalesce(max(version), 0) FROM ringwall_migrations",
                &[],
            )
            .await?
            .get(0);
        let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
        if found > known {
            let path = self.database.to_string();
            return Err(StoreError::NewerSchema { path, found, known });
        }
        let applied = usize::try_from(found).unwrap_or(0);
        for (index, sql) in migrations.iter().enumerate().skip(applied) {
            let number = index + 1;
            let step = async {
                tx.batch_execute(sql).await?;
                let version = i64::try_from(number).unwrap_or(i64::MAX);
                tx.execute(
                    "INSERT INTO ringwall_migrations (version) VALUES ($1)",
                    &[&version],
                )
                .await
            };
            step.await.map_err(|error| StoreError::Migrate {
                path: self.database.to_string(),
                number,
                source: chain(&error).into(),
            })?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// How full the pool is.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let status = self.pool.status();
        PoolStatus {
            size: status.size,
            available: status.available,
            waiting: status.waiting,
        }
    }
}

/// Closes idle connections that are too old; the hook catches those in use. Ends with the pool.
fn spawn_reaper(pool: &Pool, freshness: Arc<Freshness>) {
    let pool = pool.weak();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(freshness.interval());
        loop {
            ticks.tick().await;
            let Some(pool) = pool.upgrade() else { return };
            freshness.look();
            pool.retain(|_, metrics| freshness.is_fresh(&metrics));
        }
    });
}
