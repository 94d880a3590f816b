//! All SQL of inventory: items, their stock, and the reservations made by orders.
//!
//! Owns: the invariant that `available` never goes below zero and that one order holds at most one
//! reservation. It must not know about HTTP. Read next: `catalogue.rs` for the seeded range.

use ringwall_proto::ids::{Currency, Label, MinorUnits, OrderId, Quantity, Sku, Text};
use ringwall_proto::inventory::{Item, Reservation, ReservationRequest};
use ringwall_proto::lines::{self, Lines, PricedLine};
use ringwall_store::rusqlite::{self, Connection, OptionalExtension, Row, params};
use ringwall_store::{Database, StoreError};

use crate::catalogue::{CURRENCY, SeedItem};
use crate::error::InventoryError;

/// Numbered by position; never edit one that was released, add the next.
pub(crate) const MIGRATIONS: &[&str] = &["
CREATE TABLE items (
    sku         TEXT PRIMARY KEY,
    position    INTEGER NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    description TEXT NOT NULL,
    price_minor INTEGER NOT NULL CHECK (price_minor > 0),
    currency    TEXT NOT NULL,
    available   INTEGER NOT NULL CHECK (available >= 0)
) STRICT;

-- 'released' rows stay: a delayed reserve of a released order must not take stock again.
CREATE TABLE reservations (
    order_id   TEXT PRIMARY KEY,
    state      TEXT NOT NULL CHECK (state IN ('held', 'released')),
    updated_at INTEGER NOT NULL DEFAULT (unixepoch())
) STRICT;

-- A line keeps the price at which it was reserved: the same request again gets the same answer.
CREATE TABLE reservation_lines (
    order_id         TEXT NOT NULL REFERENCES reservations (order_id),
    position         INTEGER NOT NULL,
    sku              TEXT NOT NULL REFERENCES items (sku),
    name             TEXT NOT NULL,
    quantity         INTEGER NOT NULL CHECK (quantity > 0),
    unit_price_minor INTEGER NOT NULL,
    currency         TEXT NOT NULL,
    PRIMARY KEY (order_id, position)
) STRICT, WITHOUT ROWID;
"];

/// Whether a reservation was made now or was already there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reserved {
    Now(Reservation),
    Before(Reservation),
}

/// The stock of the shop. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Stock {
    database: Database,
}

impl Stock {
    pub(crate) fn new(database: Database) -> Self {
        Self { database }
    }

    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        self.database.ping().await
    }

    /// Fills an empty store with `range`; a store that has items is left as it is.
    pub(crate) async fn seed(
        &self,
        range: &'static [SeedItem],
        opening_stock: Option<u32>,
    ) -> Result<(), StoreError> {
        self.database
            .write(move |db| {
                if db.query_row("SELECT EXISTS (SELECT 1 FROM items)", [], |row| row.get(0))? {
                    return Ok(());
                }
                let mut insert = db.prepare(
                    "INSERT INTO items
                         (sku, position, name, description, price_minor, currency, available)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?;
                for (position, item) in (0_i64..).zip(range) {
                    let stock = opening_stock.map_or(item.stock, i64::from);
                    insert.execute(params![
                        item.sku,
                        position,
                        item.name,
                        item.description,
                        item.price_minor,
                        CURRENCY,
                        stock
                    ])?;
                }
                Ok(())
            })
            .await
    }

    /// The whole catalogue, in the order of the shop.
    pub(crate) async fn items(&self) -> Result<Vec<Item>, InventoryError> {
        self.database
            .try_read(|db| {
                let mut statement = db.prepare_cached(
                    "SELECT sku, name, description, price_minor, currency, available
                     FROM items ORDER BY position",
                )?;
                let mut rows = statement.query([])?;
                let mut items = Vec::new();
                while let Some(row) = rows.next()? {
                    items.push(item_from(row)?);
                }
                Ok(items)
            })
            .await
    }

    /// Takes the stock of every line or of none.
    ///
    /// Idempotent by order: the same lines again answer [`Reserved::Before`] and take nothing;
    /// other lines, or an order that was released, are refused.
    pub(crate) async fn reserve(
        &self,
        request: ReservationRequest,
    ) -> Result<Reserved, InventoryError> {
        self.database
            .try_write(move |db| reserve(db, &request))
            .await
    }

    /// Gives the stock of an order back. Idempotent, also for an order that never reserved: its
    /// tombstone makes a reserve that is still on its way fail instead of leaking stock.
    pub(crate) async fn release(&self, order_id: OrderId) -> Result<(), StoreError> {
        self.database.write(move |db| release(db, order_id)).await
    }
}

fn reserve(db: &Connection, request: &ReservationRequest) -> Result<Reserved, InventoryError> {
    let order_id = request.order_id;
    match reservation_state(db, order_id)?.as_deref() {
        None => {}
        Some("held") => {
            let held = reservation(db, order_id)?;
            let same = is_for(&held, &request.lines);
            return if same {
                Ok(Reserved::Before(held))
            } else {
                Err(InventoryError::OtherLines)
            };
        }
        Some(_) => return Err(InventoryError::Released),
    }

    db.execute(
        "INSERT INTO reservations (order_id, state) VALUES (?1, 'held')",
        [order_id.to_string()],
    )?;
    for (position, line) in (0_i64..).zip(&request.lines) {
        // The condition and the decrement are one statement: two orders cannot both take the last
        // piece. An error rolls back the lines that were taken before.
        let taken = db.execute(
            "UPDATE items SET available = available - ?2 WHERE sku = ?1 AND available >= ?2",
            params![line.sku.as_str(), line.quantity.get()],
        )?;
        if taken == 0 {
            return Err(why_not(db, &line.sku)?);
        }
        db.execute(
            "INSERT INTO reservation_lines
                 (order_id, position, sku, name, quantity, unit_price_minor, currency)
             SELECT ?1, ?2, sku, name, ?4, price_minor, currency FROM items WHERE sku = ?3",
            params![
                order_id.to_string(),
                position,
                line.sku.as_str(),
                line.quantity.get()
            ],
        )?;
    }
    reservation(db, order_id).map(Reserved::Now)
}

fn release(db: &Connection, order_id: OrderId) -> rusqlite::Result<()> {
    if reservation_state(db, order_id)?.as_deref() == Some("held") {
        db.execute(
            "UPDATE items SET available = available + line.quantity
             FROM reservation_lines AS line
             WHERE line.order_id = ?1 AND line.sku = items.sku",
            [order_id.to_string()],
        )?;
    }
    db.execute(
        "INSERT INTO reservations (order_id, state) VALUES (?1, 'released')
         ON CONFLICT (order_id) DO UPDATE SET state = 'released', updated_at = unixepoch()",
        [order_id.to_string()],
    )?;
    Ok(())
}

fn reservation_state(db: &Connection, order_id: OrderId) -> rusqlite::Result<Option<String>> {
    db.prepare_cached("SELECT state FROM reservations WHERE order_id = ?1")?
        .query_row([order_id.to_string()], |row| row.get(0))
        .optional()
}

fn reservation(db: &Connection, order_id: OrderId) -> Result<Reservation, InventoryError> {
    let mut statement = db.prepare_cached(
        "SELECT sku, name, quantity, unit_price_minor, currency FROM reservation_lines
         WHERE order_id = ?1 ORDER BY position",
    )?;
    let mut rows = statement.query([order_id.to_string()])?;
    let mut priced = Vec::new();
    let mut currency = None;
    while let Some(row) = rows.next()? {
        // One sum needs one currency.
        let of_line = currency_from(row)?;
        if *currency.get_or_insert(of_line) != of_line {
            return Err(InventoryError::MixedCurrencies);
        }
        priced.push(priced_line_from(row)?);
    }
    Ok(Reservation {
        order_id,
        total_minor: lines::total(&priced).map_err(|_| InventoryError::BrokenRow("total"))?,
        currency: currency.ok_or(InventoryError::BrokenRow("lines"))?,
        lines: priced,
    })
}

fn is_for(held: &Reservation, wanted: &Lines) -> bool {
    let held = held.lines.iter().map(|line| (&line.sku, line.quantity));
    held.eq(wanted.iter().map(|line| (&line.sku, line.quantity)))
}

fn why_not(db: &Connection, sku: &Sku) -> rusqlite::Result<InventoryError> {
    let known = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM items WHERE sku = ?1)",
        [sku.as_str()],
        |row| row.get(0),
    )?;
    let sku = sku.clone();
    Ok(if known {
        InventoryError::OutOfStock(sku)
    } else {
        InventoryError::UnknownItem(sku)
    })
}

fn item_from(row: &Row<'_>) -> Result<Item, InventoryError> {
    let broken = InventoryError::BrokenRow;
    Ok(Item {
        sku: Sku::parse(row.get::<_, String>("sku")?).map_err(|_| broken("sku"))?,
        name: Label::parse(row.get::<_, String>("name")?).map_err(|_| broken("name"))?,
        description: Text::parse(row.get::<_, String>("description")?)
            .map_err(|_| broken("description"))?,
        price_minor: MinorUnits::new(row.get("price_minor")?).map_err(|_| broken("price_minor"))?,
        currency: currency_from(row)?,
        available: row.get("available")?,
    })
}

fn priced_line_from(row: &Row<'_>) -> Result<PricedLine, InventoryError> {
    let broken = InventoryError::BrokenRow;
    Ok(PricedLine {
        sku: Sku::parse(row.get::<_, String>("sku")?).map_err(|_| broken("sku"))?,
        name: Label::parse(row.get::<_, String>("name")?).map_err(|_| broken("name"))?,
        quantity: Quantity::new(row.get("quantity")?).map_err(|_| broken("quantity"))?,
        unit_price_minor: MinorUnits::new(row.get("unit_price_minor")?)
            .map_err(|_| broken("unit_price_minor"))?,
    })
}

fn currency_from(row: &Row<'_>) -> Result<Currency, InventoryError> {
    Currency::parse(&row.get::<_, String>("currency")?)
        .map_err(|_| InventoryError::BrokenRow("currency"))
}

#[cfg(test)]
mod tests;
