//! When certificates are issued again: at half of their life, at the operator's wish, and soon
//! after an attempt that failed.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::Provisioned;
use super::certificates::Issuer;
use super::join::JoinTokens;
use crate::output::say;
use crate::probe::Prober;

/// How often certificates are looked at.
pub(crate) const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Time to the next attempt when certificates could not be written.
const RENEWAL_PAUSE: Duration = Duration::from_secs(15);

/// The age of all certificates together.
pub(crate) struct Rotation {
    issuer: Arc<Issuer>,
    issued_at: OffsetDateTime,
    tokens: JoinTokens,
}

impl Rotation {
    /// Certificates and the first join token must have been made just now.
    pub(crate) fn new(provisioned: Provisioned) -> Self {
        Self {
            issuer: Arc::new(provisioned.issuer),
            issued_at: OffsetDateTime::now_utc(),
            tokens: provisioned.tokens,
        }
    }

    /// Makes another join token when it is time.
    pub(crate) fn renew_token(&mut self, now: OffsetDateTime) {
        if self.tokens.is_due(now)
            && let Err(error) = self.issuer.renew_token(&mut self.tokens, now)
        {
            say(&format!("warning: no new join token: {error}"));
        }
    }

    /// True when it is time. The clock on the wall counts: a machine that slept has old
    /// certificates.
    pub(crate) fn is_due(&self, now: OffsetDateTime) -> bool {
        now - self.issued_at >= self.issuer.interval()
    }

    /// Issues every certificate again; components see the new files by themselves. False, with a
    /// warning, when that failed: then it is due again after a pause.
    pub(crate) async fn renew(&mut self, prober: &Prober) -> bool {
        let issuer = Arc::clone(&self.issuer);
        let issued = tokio::task::spawn_blocking(move || issuer.issue_all()).await;
        let failed = match issued {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let now = OffsetDateTime::now_utc();
        if let Some(why) = failed {
            say(&format!("warning: certificates are not renewed: {why}"));
            // The old ones are good for as long again: enough for many more attempts.
            self.issued_at = now - self.issuer.interval() + RENEWAL_PAUSE;
            return false;
        }
        self.issued_at = now;
        if let Err(error) = prober.reload() {
            say(&format!("warning: {error}"));
        }
        true
    }
}
