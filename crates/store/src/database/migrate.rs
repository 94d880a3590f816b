//! Brings a file to the schema that the program knows, one numbered step at a time.
//!
//! Owns: `user_version`. Must not: skip or repeat a step, or touch a file of a newer program.
//! Read next: `database.rs`.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::error::StoreError;

/// Applies the steps that the file lacks; each is one transaction with its version number.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), StoreError> {
    let name = path.display().to_string();
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    for (index, sql) in migrations.iter().enumerate() {
        let number = index + 1;
        step(connection, number, sql).map_err(|source| StoreError::Migrate {
            path: name.clone(),
            number,
            source: Box::new(source),
        })?;
    }
    let found = version(connection).map_err(|source| StoreError::Open {
        path: path.to_owned(),
        source,
    })?;
    if found > known {
        return Err(StoreError::NewerSchema {
            path: name,
            found,
            known,
        });
    }
    Ok(())
}

/// The version is read inside the transaction: two processes that start at once take turns.
fn step(connection: &mut Connection, number: usize, sql: &str) -> rusqlite::Result<()> {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    if version(connection)? >= number {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if version(&tx)? < number {
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "user_version", number)?;
    }
    tx.commit()
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}
