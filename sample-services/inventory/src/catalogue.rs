//! The shop's range: what a new store is filled with at its first start.
//!
//! Owns: names, texts, prices and opening stock. It must not be consulted for an order: prices and
//! stock come from `store.rs`, which this table only seeds. Read next: `store.rs`.

/// One line of the opening range. Prices are in minor units (cents) of [`CURRENCY`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeedItem {
    pub(crate) sku: &'static str,
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) price_minor: i64,
    pub(crate) stock: i64,
}

/// ISO 4217 code of every price in the range.
pub(crate) const CURRENCY: &str = "EUR";

/// The opening range, in the order in which the shop shows it.
pub(crate) const RANGE: [SeedItem; 12] = [
    SeedItem {
        sku: "mug-stoneware",
        name: "Stoneware mug",
        description: "Hand-thrown and glazed in slate blue. Holds 350 ml and keeps it warm.",
        price_minor: 1850,
        stock: 240,
    },
    SeedItem {
        sku: "tea-assam-250",
        name: "Assam breakfast tea",
        description: "A malty second-flush leaf from one garden, 250 g in a tin.",
        price_minor: 1290,
        stock: 400,
    },
    SeedItem {
        sku: "kettle-enamel",
        name: "Enamel kettle",
        description: "Two litres, a beech handle, and a whistle that does not shout.",
        price_minor: 5400,
        stock: 60,
    },
    SeedItem {
        sku: "chocolate-sea-salt",
        name: "Dark chocolate, sea salt",
        description: "72% cocoa, stone-ground, with flakes from the Atlantic coast. 90 g.",
        price_minor: 650,
        stock: 600,
    },
    SeedItem {
        sku: "notebook-dot-a5",
        name: "Dot-grid notebook",
        description: "192 numbered pages of 100 g paper in a linen cover that lies flat. A5.",
        price_minor: 1400,
        stock: 320,
    },
    SeedItem {
        sku: "pen-brass",
        name: "Brass ballpoint pen",
        description: "Turned from one bar. It darkens with use and takes any G2 refill.",
        price_minor: 3200,
        stock: 120,
    },
    SeedItem {
        sku: "lamp-oak",
        name: "Oak desk lamp",
        description: "A warm, dimmable light on an arm that stays where it is put.",
        price_minor: 8900,
        stock: 45,
    },
    SeedItem {
        sku: "throw-merino",
        name: "Merino throw",
        description: "Woven in herringbone from undyed wool, 130 by 180 cm.",
        price_minor: 11900,
        stock: 36,
    },
    SeedItem {
        sku: "candle-cedar",
        name: "Cedar candle",
        description: "Rapeseed wax and cedar oil in a jar made for a second life. 45 hours.",
        price_minor: 2400,
        stock: 180,
    },
    SeedItem {
        sku: "print-ring-wall",
        name: "Print: The Ring Wall",
        description: "A two-colour risograph of a walled town at dusk, 30 by 40 cm, numbered.",
        price_minor: 2800,
        stock: 75,
    },
    SeedItem {
        sku: "clock-quiet",
        name: "Quiet wall clock",
        description: "A sweeping movement without a tick, in powder-coated steel. 25 cm.",
        price_minor: 7200,
        stock: 3,
    },
    SeedItem {
        sku: "olive-tree",
        name: "Small olive tree",
        description: "Five years old and used to balconies. Back in spring.",
        price_minor: 3600,
        stock: 0,
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ringwall_proto::ids::{Label, Sku, Text};

    use super::RANGE;

    #[test]
    fn r67_every_seeded_item_is_sellable_under_the_shared_schema() {
        let skus: BTreeSet<_> = RANGE.iter().map(|item| item.sku).collect();
        assert_eq!(skus.len(), RANGE.len(), "a sku appears twice");
        for item in RANGE {
            assert!(item.price_minor > 0, "{} has no price", item.sku);
            assert!(item.stock >= 0, "{} has negative stock", item.sku);
            assert!(Sku::parse(item.sku).is_ok(), "{}", item.sku);
            assert!(Label::parse(item.name).is_ok(), "{}", item.name);
            assert!(
                Text::parse(item.description).is_ok(),
                "{}",
                item.description
            );
        }
    }
}
