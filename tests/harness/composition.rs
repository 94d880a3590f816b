//! The shipped composition with a few words of it changed.
//!
//! Owns: the changes that more than one run makes. Must not: let one pass that changes nothing.

use anyhow::{Result, ensure};

/// What is written in the place of what is shipped.
pub type Change<'a> = (&'a str, &'a str);

/// How long certificates live, as shipped.
pub const LIVES: &str = "{ workloads: 1h, edge: 24h }";

/// More stock than can be bought, and limits that no load reaches: everybody here comes from one machine.
pub const NO_LIMITS: [Change<'static>; 4] = [
    (
        "limits: [{ per: user, rate: 20 }, { per: client, rate: 200 }]",
        "limits: [{ per: user, rate: 20000 }, { per: client, rate: 20000 }]",
    ),
    (
        "{ per: address, rate: 20 }",
        "{ per: address, rate: 20000 }",
    ),
    (
        "{ per: address, rate: 100 }",
        "{ per: address, rate: 20000 }",
    ),
    (
        "    port: 7103\n",
        "    port: 7103\n    config: { catalogue: { opening_stock: 1000000 } }\n",
    ),
];

/// `ringwall.yaml` of this build with the changes.
pub fn changed(changes: &[Change<'_>]) -> Result<String> {
    let mut text = include_str!("../../ringwall.yaml").to_owned();
    for (shipped, instead) in changes {
        ensure!(
            text.contains(shipped),
            "ringwall.yaml no longer says {shipped:?}"
        );
        text = text.replace(shipped, instead);
    }
    Ok(text)
}
