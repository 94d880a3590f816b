//! Sources that are refused again and again: the agent is asked to drop them in the kernel for a while.
//!
//! Owns: what counts as abuse, and by whom. Off unless `abuse.agent` is configured. Must not: refuse anything itself, wait, or
//! need the agent: where that is away, the gateway's own limits hold and the failed reports are counted.
//! Read next: `abuse/score.rs` (when it is enough), `abuse/feed.rs` (who is asked).

mod feed;
mod score;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ringwall_ebpf_common::shield::Cause;
use ringwall_service::ConfigError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::metrics::GatewayMetrics;
use crate::refusal::Refusal;

pub(crate) use feed::Feed;
pub(crate) use score::{Policy, Scores};

/// Reports that wait for the agent; further ones are dropped and counted.
const MAX_WAITING: usize = 1024;

/// `abuse`. Changing it needs a restart.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AbuseConfig {
    /// The agent's socket. Who is on its allow list is never denied.
    pub(crate) agent: PathBuf,
    /// Points at which a source is reported, on each worker: 1 for a request beyond its rate, 4 for a wrong token or a failed
    /// handshake, 10 for a malformed request.
    #[serde(default = "default_threshold")]
    pub(crate) threshold: u32,
    /// Time in which half of the points are forgotten.
    #[serde(default = "default_half_life", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) half_life: Duration,
    /// How long a source is denied at first; each time after that, twice as long.
    #[serde(default = "default_first", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) first: Duration,
    /// How long at the longest; at most 24h.
    #[serde(default = "default_longest", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) longest: Duration,
}

const fn default_threshold() -> u32 {
    200
}
const fn default_half_life() -> Duration {
    Duration::from_secs(30)
}
const fn default_first() -> Duration {
    Duration::from_secs(60)
}
const fn default_longest() -> Duration {
    Duration::from_secs(24 * 60 * 60)
}

impl AbuseConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, seen: &str, expected: &str, fix: &str| {
            Err(ConfigError::invalid(key, seen, expected, fix))
        };
        if !self.agent.is_absolute() {
            let seen = format!("`{}`", self.agent.display());
            return wrong(
                "abuse.agent",
                &seen,
                "an absolute path",
                "write the whole path",
            );
        }
        if self.threshold < 10 {
            let seen = self.threshold.to_string();
            let expected = "at least 10: one mistake is no abuse";
            return wrong("abuse.threshold", &seen, expected, "write `threshold: 200`");
        }
        if self.half_life < Duration::from_secs(1) || self.half_life > Duration::from_secs(3600) {
            let seen = format!("{:?}", self.half_life);
            return wrong(
                "abuse.half_life",
                &seen,
                "from 1s to 1h",
                "write `half_life: 30s`",
            );
        }
        let bounds = Duration::from_secs(1)..=self.longest;
        if self.longest > default_longest() || !bounds.contains(&self.first) {
            let seen = format!("{:?} to {:?}", self.first, self.longest);
            return wrong(
                "abuse.first",
                &seen,
                "from 1s to `longest`, and that at most 24h",
                "write `first: 1m` and `longest: 24h`",
            );
        }
        Ok(())
    }

    fn policy(&self) -> Policy {
        Policy {
            threshold: f64::from(self.threshold),
            half_life: self.half_life,
            first: self.first,
            longest: self.longest,
        }
    }
}

/// What a source has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offence {
    pub(crate) cause: Cause,
    pub(crate) points: u32,
}

impl Offence {
    pub(crate) const LIMITED: Self = Self::of(Cause::RateLimit, 1);
    pub(crate) const TOKEN: Self = Self::of(Cause::Authentication, 4);
    pub(crate) const HANDSHAKE: Self = Self::of(Cause::Handshake, 4);
    pub(crate) const MALFORMED: Self = Self::of(Cause::Malformed, 10);

    const fn of(cause: Cause, points: u32) -> Self {
        Self { cause, points }
    }

    /// Most refusals are nobody's fault: a token ends, a path is mistyped, a service is away.
    pub(crate) fn in_refusal(refusal: &Refusal) -> Option<Self> {
        match refusal {
            Refusal::Malformed(_) => Some(Self::MALFORMED),
            Refusal::Misdirected(_) => Some(Self::HANDSHAKE),
            // A session that has ended, or was ended, is no attack.
            Refusal::TokenInvalid("token-expired" | "token-inactive") => None,
            Refusal::TokenInvalid(_) => Some(Self::TOKEN),
            Refusal::Limited { .. } => Some(Self::LIMITED),
            _ => None,
        }
    }

    /// A handshake that broke the protocol, or named nobody. A client that just went away has done neither.
    pub(crate) fn in_handshake(error: &std::io::Error) -> Option<Self> {
        (error.kind() == std::io::ErrorKind::InvalidData).then_some(Self::HANDSHAKE)
    }
}

/// A source that has done enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) address: IpAddr,
    pub(crate) cause: Cause,
    pub(crate) lasts: Duration,
}

/// The workers' side.
#[derive(Debug)]
pub(crate) struct Abuse {
    policy: Policy,
    reports: mpsc::Sender<Report>,
    metrics: GatewayMetrics,
}

impl Abuse {
    /// Both sides.
    pub(crate) fn new(config: &AbuseConfig, metrics: &GatewayMetrics) -> (Self, Feed) {
        let (reports, waiting) = mpsc::channel(MAX_WAITING);
        let feed = Feed::new(&config.agent, waiting, metrics.clone());
        let own = Self {
            policy: config.policy(),
            reports,
            metrics: metrics.clone(),
        };
        (own, feed)
    }

    /// Notes an offence; reports its source when it is enough. Never waits.
    pub(crate) fn note(
        &self,
        scores: &parking_lot::Mutex<Scores>,
        address: IpAddr,
        offence: Offence,
        now: Duration,
    ) {
        let address = address.to_canonical();
        // Our own components, and tests on this machine.
        if address.is_loopback() {
            return;
        }
        let verdict = scores
            .lock()
            .add(address, offence.points, now, &self.policy);
        let Some(lasts) = verdict else {
            return;
        };
        let report = Report {
            address,
            cause: offence.cause,
            lasts,
        };
        if self.reports.try_send(report).is_err() {
            self.metrics.report_failed();
        }
    }
}

#[cfg(test)]
mod tests;
