//! All SQL of payments: the ledger.
//!
//! Owns: the invariant that one order is paid at most once. It must not decide who may pay: it
//! takes a [`Cleared`], which only `clearance.rs` can make. Read next: `clearance.rs`.

use ringwall_proto::ids::{Currency, MinorUnits, OrderId, PaymentId};
use ringwall_proto::payments::{Payment, PaymentStatus, PaymentTerms};
use ringwall_store::rusqlite::{Connection, params};
use ringwall_store::{Database, StoreError};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::clearance::Cleared;
use crate::error::PaymentError;

/// Numbered by position; never edit one that was released, add the next.
pub(crate) const MIGRATIONS: &[&str] = &["
CREATE TABLE payments (
    payment_id   TEXT PRIMARY KEY,
    order_id     TEXT NOT NULL UNIQUE,
    user_sub     TEXT NOT NULL,
    client_id    TEXT NOT NULL,
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    currency     TEXT NOT NULL,
    captured_at  INTEGER NOT NULL
) STRICT;
"];

/// Whether the money was taken now or had been taken before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Captured {
    Now(Payment),
    Before(Payment),
}

/// The ledger. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    database: Database,
}

impl Ledger {
    pub(crate) fn new(database: Database) -> Self {
        Self { database }
    }

    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        self.database.ping().await
    }

    /// Takes the money once per order; durable before it returns.
    ///
    /// A second clearance for the same order, user and terms finds the first payment; anything else
    /// under the same order is a conflict.
    pub(crate) async fn capture(
        &self,
        cleared: Cleared,
        payment_id: PaymentId,
        now: OffsetDateTime,
    ) -> Result<Captured, PaymentError> {
        self.database
            .try_write(move |db| -> Result<Captured, PaymentError> {
                let terms = cleared.terms();
                let inserted = db.execute(
                    "INSERT INTO payments (payment_id, order_id, user_sub, client_id,
                         amount_minor, currency, captured_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                     ON CONFLICT (order_id) DO NOTHING",
                    params![
                        payment_id.to_string(),
                        terms.order_id.to_string(),
                        cleared.user(),
                        cleared.client(),
                        terms.amount_minor.get(),
                        terms.currency.as_str(),
                        now.unix_timestamp(),
                    ],
                )?;
                let entry = find(db, terms.order_id)?.ok_or(PaymentError::NotFound)?;
                if inserted == 1 {
                    return Ok(Captured::Now(entry.payment));
                }
                if entry.user != cleared.user() || !entry.is_for(terms) {
                    return Err(PaymentError::OtherTerms(terms.order_id));
                }
                Ok(Captured::Before(entry.payment))
            })
            .await
    }

    /// The payment of an order, for the recovery of orders that were interrupted.
    pub(crate) async fn payment_of(&self, order_id: OrderId) -> Result<Payment, PaymentError> {
        let found = self
            .database
            .try_read(move |db| -> Result<Option<Entry>, PaymentError> { find(db, order_id) })
            .await?;
        found
            .map(|entry| entry.payment)
            .ok_or(PaymentError::NotFound)
    }
}

struct Entry {
    user: String,
    payment: Payment,
}

impl Entry {
    fn is_for(&self, terms: &PaymentTerms) -> bool {
        let Payment {
            order_id,
            amount_minor,
            currency,
            ..
        } = self.payment;
        *terms
            == PaymentTerms {
                order_id,
                amount_minor,
                currency,
            }
    }
}

fn find(db: &Connection, order_id: OrderId) -> Result<Option<Entry>, PaymentError> {
    let mut statement = db.prepare_cached(
        "SELECT payment_id, user_sub, amount_minor, currency, captured_at FROM payments
         WHERE order_id = ?1",
    )?;
    let mut rows = statement.query([order_id.to_string()])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let broken = PaymentError::BrokenRow;
    let (payment_id, currency): (String, String) = (row.get("payment_id")?, row.get("currency")?);
    Ok(Some(Entry {
        user: row.get("user_sub")?,
        payment: Payment {
            payment_id: PaymentId(Uuid::try_parse(&payment_id).map_err(|_| broken("payment_id"))?),
            status: PaymentStatus::Captured,
            order_id,
            amount_minor: MinorUnits::new(row.get("amount_minor")?)
                .map_err(|_| broken("amount_minor"))?,
            currency: Currency::parse(&currency).map_err(|_| broken("currency"))?,
            captured_at: OffsetDateTime::from_unix_timestamp(row.get("captured_at")?)
                .map_err(|_| broken("captured_at"))?,
        },
    }))
}
