//! A step on a connection that broke under it is taken again, on another one.
//!
//! The proxy beside us is exchanged, or the server is: connections end with what is on its way. Owns: when that is so.
//! Must not: be used for a step whose second time would change more than its first; the server may have done the first one.

use std::error::Error;
use std::io;
use std::time::Duration;

use ringwall_store::StoreError;
use ringwall_store::postgres::tokio_postgres::{self, error::SqlState};

use crate::error::OrderError;

/// All connections may have ended at once, and the pool finds out one by one.
const TIMES: usize = 3;
/// In which it does.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two tries of a step that waits for the database: a breaker on the way lets one connection through at first.
const AWAY: Duration = Duration::from_millis(500);

/// Takes the step, and once more wherever its connection has ended under it.
pub(super) async fn again<T, F>(step: impl Fn() -> F) -> Result<T, OrderError>
where
    F: Future<Output = Result<T, OrderError>>,
{
    tried(step, has_ended, PAUSE).await
}

/// Takes the step as [`again`] does, and tries a database that is away for another while: for what costs somebody dearly
/// when it is left to recovery.
pub(super) async fn patiently<T, F>(step: impl Fn() -> F) -> Result<T, OrderError>
where
    F: Future<Output = Result<T, OrderError>>,
{
    tried(|| again(&step), is_away, AWAY).await
}

async fn tried<T, F>(
    step: impl Fn() -> F,
    is_passing: impl Fn(&OrderError) -> bool,
    pause: Duration,
) -> Result<T, OrderError>
where
    F: Future<Output = Result<T, OrderError>>,
{
    for _ in 1..TIMES {
        match step().await {
            Err(error) if is_passing(&error) => {
                tracing::info!(error = &error as &dyn Error, "the database is asked again");
                tokio::time::sleep(pause).await;
            }
            done => return done,
        }
    }
    step().await
}

const fn is_away(error: &OrderError) -> bool {
    matches!(error, OrderError::Store(StoreError::PostgresUnavailable(_)))
}

fn has_ended(error: &OrderError) -> bool {
    let of = |error: &tokio_postgres::Error| {
        let server_s = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN];
        let source = error.source();
        error.is_closed()
            || source.is_some_and(|source| source.is::<io::Error>())
            || error.code().is_some_and(|code| server_s.contains(code))
    };
    match error {
        OrderError::Statement(error) | OrderError::Store(StoreError::Postgres(error)) => of(error),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ringwall_store::StoreError;
    use ringwall_store::postgres::Postgres;

    use super::{TIMES, again, patiently};
    use crate::error::OrderError;
    use crate::testing::Server;

    /// One step, in which the server ends the connection the first `broken` times; how often it was taken.
    async fn taken(database: &Postgres, broken: usize) -> (usize, bool) {
        let times = Cell::new(0);
        let done = again(async || {
            times.set(times.get() + 1);
            let client = database.client().await?;
            if times.get() <= broken {
                let end = "SELECT pg_terminate_backend(pg_backend_pid())";
                client.batch_execute(end).await?;
            }
            client.batch_execute("SELECT 1").await?;
            Ok(())
        })
        .await;
        (times.get(), done.is_ok())
    }

    #[tokio::test]
    async fn r61_a_step_whose_connection_ends_is_taken_again() {
        let server = Server::shared("orders");
        let database = server.database().await;
        assert_eq!(taken(&database, 0).await, (1, true));
        // The pool may lend the broken one a second time before it knows.
        let (times, done) = taken(&database, 1).await;
        assert!((2..=TIMES).contains(&times) && done, "{times}");
        assert_eq!(taken(&database, TIMES).await, (TIMES, false));
    }

    #[tokio::test]
    async fn r61_a_step_that_must_not_be_left_waits_for_the_database() {
        let away = || OrderError::Store(StoreError::PostgresUnavailable("refused".into()));
        let times = Cell::new(0);
        let step = async || {
            times.set(times.get() + 1);
            if times.get() < TIMES {
                Err(away())
            } else {
                Ok(())
            }
        };
        assert!(patiently(step).await.is_ok());
        times.set(0);
        assert!(again(step).await.is_err());
        assert_eq!(times.get(), 1, "others are told at once");
        let for_ever = patiently(async || Err::<(), _>(away()));
        assert!(for_ever.await.is_err());
    }

    #[tokio::test]
    async fn a_step_that_the_server_refuses_is_not() {
        let server = Server::shared("orders");
        let database = server.database().await;
        let times = Cell::new(0);
        let refused = again(async || {
            times.set(times.get() + 1);
            let client = database.client().await?;
            client.batch_execute("SELECT nonsense").await?;
            Ok(())
        });
        assert!(matches!(refused.await, Err(OrderError::Statement(_))));
        assert_eq!(times.get(), 1);
    }
}
