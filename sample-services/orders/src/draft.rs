//! What the user asked for, and what it costs: pure functions of the request and the catalogue.
//!
//! Owns: the rule that amounts come from inventory's prices, never from the client. It must not do
//! any I/O. Read next: `place_order.rs`.

use aws_lc_rs::digest::{SHA256, digest};
use ringwall_proto::ids::{Currency, IdempotencyKey, MinorUnits, OrderId, Subject};
use ringwall_proto::inventory::Item;
use ringwall_proto::lines::{self, PricedLine};
use ringwall_proto::orders::PlaceOrder;

use crate::error::OrderError;

/// A valid request of one user, with the key that makes its repetition harmless.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    pub(crate) user: Subject,
    pub(crate) key: IdempotencyKey,
    pub(crate) request: PlaceOrder,
    /// W3C trace context of the request, kept so that the event continues the same trace.
    pub(crate) trace_id: Option<String>,
    pub(crate) traceparent: Option<String>,
}

impl Placement {
    /// SHA-256 of the request in its parsed form, so that spacing does not count as a difference.
    pub(crate) fn digest(&self) -> Vec<u8> {
        let canonical = serde_json::to_vec(&self.request)
            .expect("a parsed request has only string keys and serialises");
        digest(&SHA256, &canonical).as_ref().to_vec()
    }
}

/// A priced order that was not written yet.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) id: OrderId,
    pub(crate) placement: Placement,
    pub(crate) lines: Vec<PricedLine>,
    pub(crate) total: MinorUnits,
    pub(crate) currency: Currency,
}

impl Draft {
    /// Prices every line from the catalogue. Reserving confirms the same prices or refuses.
    pub(crate) fn price(placement: Placement, catalogue: &[Item]) -> Result<Self, OrderError> {
        let mut currency = None;
        let mut priced = Vec::new();
        for line in &placement.request.lines {
            let item = catalogue
                .iter()
                .find(|item| item.sku == line.sku)
                .ok_or_else(|| OrderError::UnknownItem(line.sku.clone()))?;
            // One order has one currency; a catalogue that mixes them is not payable in one go.
            if *currency.get_or_insert(item.currency) != item.currency {
                return Err(OrderError::MixedCurrencies);
            }
            priced.push(PricedLine {
                sku: item.sku.clone(),
                name: item.name.clone(),
                quantity: line.quantity,
                unit_price_minor: item.price_minor,
            });
        }
        Ok(Self {
            id: OrderId::generate(),
            total: lines::total(&priced).map_err(|_| OrderError::TotalTooLarge)?,
            currency: currency.ok_or(OrderError::MixedCurrencies)?,
            lines: priced,
            placement,
        })
    }
}

#[cfg(test)]
mod tests {
    use ringwall_proto::ids::{Label, Quantity, Sku, Text};
    use ringwall_proto::lines::{Line, Lines};

    use super::*;

    fn placement(lines: &[(&str, i64)]) -> Placement {
        let lines = lines.iter().map(|(sku, quantity)| Line {
            sku: Sku::parse(*sku).unwrap(),
            quantity: Quantity::new(*quantity).unwrap(),
        });
        Placement {
            user: Subject::parse("alice").unwrap(),
            key: IdempotencyKey::parse("k1").unwrap(),
            request: PlaceOrder {
                lines: Lines::new(lines.collect()).unwrap(),
            },
            trace_id: None,
            traceparent: None,
        }
    }

    fn item(sku: &str, price: i64, currency: &str) -> Item {
        Item {
            sku: Sku::parse(sku).unwrap(),
            name: Label::parse(sku).unwrap(),
            description: Text::parse(sku).unwrap(),
            price_minor: MinorUnits::new(price).unwrap(),
            currency: Currency::parse(currency).unwrap(),
            available: 10,
        }
    }

    #[test]
    fn r67_amounts_come_from_the_catalogue() {
        let catalogue = [item("mug", 1850, "EUR"), item("tea", 1290, "EUR")];
        let draft = Draft::price(placement(&[("tea", 2), ("mug", 1)]), &catalogue).unwrap();
        assert_eq!(draft.total.get(), 2 * 1290 + 1850);
        assert_eq!(draft.currency, Currency::EUR);
        assert_eq!(draft.lines.len(), 2);
    }

    #[test]
    fn r40_an_item_outside_the_catalogue_is_refused() {
        let error = Draft::price(placement(&[("gold", 1)]), &[item("mug", 1, "EUR")]).unwrap_err();
        assert!(matches!(error, OrderError::UnknownItem(sku) if sku.as_str() == "gold"));
    }

    #[test]
    fn r40_two_currencies_in_one_order_are_refused() {
        let catalogue = [item("mug", 1, "EUR"), item("tea", 1, "SEK")];
        let error = Draft::price(placement(&[("tea", 1), ("mug", 1)]), &catalogue).unwrap_err();
        assert!(matches!(error, OrderError::MixedCurrencies));
    }

    #[test]
    fn r40_a_total_beyond_the_range_of_money_is_refused() {
        let catalogue = [item("castle", MinorUnits::MOST, "EUR")];
        let error = Draft::price(placement(&[("castle", 2)]), &catalogue).unwrap_err();
        assert!(matches!(error, OrderError::TotalTooLarge));
    }

    #[test]
    fn the_digest_tells_other_requests_apart_but_not_repetitions() {
        let first = placement(&[("mug", 1)]);
        assert_eq!(first.digest(), placement(&[("mug", 1)]).digest());
        assert_ne!(first.digest(), placement(&[("mug", 2)]).digest());
    }
}
