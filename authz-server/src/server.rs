//! What every endpoint shares: settings, clock, store, clients, keys and limits.

use std::sync::Arc;
use std::time::Duration;

use ringwall_identity::SpiffeId;
use ringwall_secret::SecretProvider;
use ringwall_token::Expectation;
use tokio::sync::Notify;

use crate::clients::ClientRegistry;
use crate::clock::{Clock, UnixTime};
use crate::config::Lifetimes;
use crate::grants::GrantRegistry;
use crate::keys::Keys;
use crate::passwords::Passwords;
use crate::scopes::Scopes;
use crate::store::Store;
use crate::throttle::Throttle;

/// Clocks of clients may differ by this much.
const LEEWAY: Duration = Duration::from_secs(30);

/// The state behind the router.
pub(crate) struct Server {
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) clients: ClientRegistry,
    pub(crate) secrets: Arc<SecretProvider>,
    pub(crate) keys: Keys,
    pub(crate) grants: GrantRegistry,
    pub(crate) passwords: Passwords,
    pub(crate) throttle: Throttle,
    /// Wakes the delivery of logout tokens.
    pub(crate) logout_wake: Notify,
}

/// The parts of the configuration that requests need, in the form that they need.
pub(crate) struct Settings {
    /// Without a trailing slash.
    pub(crate) issuer: String,
    /// The issuer's origin, as browsers write it.
    pub(crate) origin: String,
    pub(crate) ingress: SpiffeId,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) scopes: Scopes,
}

impl Settings {
    pub(crate) fn endpoint(&self, path: &str) -> String {
        format!("{}{path}", self.issuer)
    }
}

impl Server {
    pub(crate) fn now(&self) -> UnixTime {
        self.clock.now()
    }

    pub(crate) fn expectation(
        &self,
        issuer: &str,
        audience: &str,
        typ: &'static str,
    ) -> Expectation {
        Expectation {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            typ,
            leeway: LEEWAY,
        }
    }
}
