//! Step 5: how often (R1).
//!
//! Owns: whose requests a rule counts together. Next: `limiter.rs`, which counts.

use super::authorize::Authorized;
use crate::access_log::Exchange;
use crate::config::LimitScope;
use crate::conn::Connection;
use crate::limiter::{LimitKey, Verdict};
use crate::refusal::Refusal;

pub(crate) fn limit(
    connection: &Connection,
    authorized: &Authorized,
    exchange: &Exchange,
) -> Result<(), Refusal> {
    for rule in &authorized.route().limits {
        let token = authorized.token();
        let whose = match (rule.scope, token) {
            (LimitScope::Route, _) => 0,
            (LimitScope::User, Some(token)) => token.user_hash,
            (LimitScope::Client, Some(token)) => token.client_hash,
            // Nobody to name: the address is what is left.
            (LimitScope::Address | LimitScope::User | LimitScope::Client, _) => {
                connection.address_hash
            }
        };
        let key = LimitKey(whose ^ (u128::from(rule.seed) << 64 | u128::from(rule.seed)));
        let limiter = &connection.worker.shared.limiter;
        if let Verdict::Wait(wait) = limiter.check(key, &rule.quota, exchange.since_start()) {
            return Err(Refusal::Limited {
                wait,
                quota: rule.quota,
            });
        }
    }
    Ok(())
}
