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

/// Takes the step, and once more wherever its connection has ended under it.
pub(super) async fn again<T, F>(step: impl Fn() -> F) -> Result<T, OrderError>
where
    F: Future<Output = Result<T, OrderError>>,
{
    for _ in 1..TIMES {
        match step().await {
            Err(error) if has_ended(&error) => {
                tracing::info!(%error, "a connection to the database ended; another one is asked");
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
    step().await
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

    use ringwall_store::postgres::Postgres;

    use super::{TIMES, again};
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
