//! Back-channel logout (OpenID Connect Back-Channel Logout 1.0): every client that took part in an
//! ended session gets a signed logout token, again and again until it has answered.
//!
//! Deliveries are rows, so a restart forgets none. They go only to declared upstreams.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ringwall_token::claims::LogoutToken;

use crate::clock::UnixTime;
use crate::config::clients::BackchannelLogout;
use crate::error::Error;
use crate::ids::TokenId;
use crate::server::Server;
use crate::store::logouts::Delivery;

const TOKEN_LIFETIME: Duration = Duration::from_secs(120);
const MAX_ATTEMPTS: u32 = 12;
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const BATCH: u32 = 32;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Posts one logout token; the error is a reason for the log.
pub(crate) type Send = Arc<
    dyn Fn(
            BackchannelLogout,
            String,
        ) -> Pin<Box<dyn Future<Output = Result<(), String>> + std::marker::Send>>
        + std::marker::Send
        + Sync,
>;

/// Background work: delivers what is due, at once after a sign-out and else every second.
pub(crate) async fn deliver_forever(server: Arc<Server>, send: Send) {
    loop {
        if let Err(error) = deliver_due(&server, &send).await {
            tracing::error!(%error, "logout tokens could not be delivered");
        }
        tokio::select! {
            () = server.logout_wake.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// One round; returns how many clients have answered.
pub(crate) async fn deliver_due(server: &Server, send: &Send) -> Result<usize, Error> {
    let mut answered = 0;
    for delivery in server.store.due_deliveries(server.now(), BATCH).await? {
        let client = server.clients.find(delivery.client.as_str());
        let Some(place) = client.and_then(|c| c.declaration.backchannel_logout.clone()) else {
            server.store.delivered(delivery.id).await?;
            continue;
        };
        let token = logout_token(server, &delivery)?;
        match send(place, token).await {
            Ok(()) => {
                answered += 1;
                server.store.delivered(delivery.id).await?;
            }
            Err(reason) => put_off(server, &delivery, &reason).await?,
        }
    }
    Ok(answered)
}

async fn put_off(server: &Server, delivery: &Delivery, reason: &str) -> Result<(), Error> {
    let client = &delivery.client;
    if delivery.attempts + 1 >= MAX_ATTEMPTS {
        tracing::error!(%client, reason, "logout token given up");
        server.store.delivered(delivery.id).await?;
        return Ok(());
    }
    let pause = Duration::from_secs(1 << delivery.attempts.min(6)).min(LONGEST_PAUSE);
    tracing::warn!(%client, reason, retry_in = ?pause, "logout token not delivered");
    server
        .store
        .retry_delivery(delivery.id, server.now().plus(pause))
        .await?;
    Ok(())
}

fn logout_token(server: &Server, delivery: &Delivery) -> Result<String, Error> {
    let issued_at: UnixTime = server.now();
    let claims = LogoutToken {
        iss: server.settings.issuer.clone(),
        aud: delivery.client.to_string(),
        exp: issued_at.plus(TOKEN_LIFETIME).unsigned(),
        iat: issued_at.unsigned(),
        jti: TokenId::random().to_string(),
        sub: Some(delivery.sub.to_string()),
        sid: Some(delivery.sid.to_string()),
        events: LogoutToken::event(),
        nonce: None,
    };
    server.keys.sign(LogoutToken::TYP, &claims)
}
