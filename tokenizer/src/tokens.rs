//! What the tokenizer does: issue, redeem once, revoke, list, expire.
//!
//! Owns: the order of the checks. Must not: know HTTP, or answer before the write is durable.
//! Read next: `store.rs`.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use ringwall_identity::SpiffeId;
use ringwall_proto::WireToken;
use ringwall_proto::tokenizer::{
    RedeemRequest, Redeemed, SOURCE_TOKEN_TYPE, SourceTokenRequest, SourceTokenResponse,
    SourceTokenSummary, TOKEN_TYPE_NA, TokenMethod, TokenPath,
};
use ringwall_service::ConfigError;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::audit::Audit;
use crate::binding::{Binding, NewToken, TokenHash, generate};
use crate::config::{Config, SubjectConfig};
use crate::error::TokenizerError;
use crate::introspection::{Introspect, accept};
use crate::store::{Consumption, TokenStore};

/// Tells the time, so that tests need not wait.
pub(crate) type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// The configuration in the form that requests are checked against.
#[derive(Clone)]
pub(crate) struct Rules {
    subject: SubjectConfig,
    edges: Vec<Edge>,
    lifetime: Duration,
    max_outstanding: u32,
    keep: Duration,
}

#[derive(Clone)]
struct Edge {
    caller: SpiffeId,
    audience: SpiffeId,
    method: TokenMethod,
    path: TokenPath,
    scope: Option<String>,
}

impl Rules {
    pub(crate) fn new(config: &Config) -> Result<Self, ConfigError> {
        let edges = config.edges.iter().map(|edge| {
            Ok(Edge {
                caller: config.service.workload(edge.caller.as_str())?,
                audience: config.service.workload(edge.audience.as_str())?,
                method: edge.method,
                path: edge.path.clone(),
                scope: edge.scope.clone(),
            })
        });
        Ok(Self {
            subject: config.subject.clone(),
            edges: edges.collect::<Result<_, ConfigError>>()?,
            lifetime: config.lifetime,
            max_outstanding: config.max_outstanding,
            keep: config.keep,
        })
    }

    fn edge(&self, caller: &SpiffeId, request: &SourceTokenRequest) -> Option<&Edge> {
        self.edges.iter().find(|edge| {
            edge.caller == *caller
                && edge.audience.path() == request.audience.as_str()
                && edge.method == request.htm
                && edge.path == request.htu
        })
    }
}

/// The tokenizer itself; clones share everything.
#[derive(Clone)]
pub(crate) struct Tokenizer {
    rules: Arc<Rules>,
    store: TokenStore,
    introspection: Arc<dyn Introspect>,
    audit: Audit,
    clock: Clock,
}

impl Tokenizer {
    pub(crate) fn new(
        rules: Rules,
        store: TokenStore,
        introspection: Arc<dyn Introspect>,
        audit: Audit,
        clock: Clock,
    ) -> Self {
        Self {
            rules: Arc::new(rules),
            store,
            introspection,
            audit,
            clock,
        }
    }

    /// Issues a token for one request of `caller` on behalf of the subject token's user
    /// (RFC 8693 §2).
    pub(crate) async fn issue(
        &self,
        caller: &SpiffeId,
        request: SourceTokenRequest,
    ) -> Result<SourceTokenResponse, TokenizerError> {
        let audience = request.audience.clone();
        let issued = self.try_issue(caller, request).await;
        if let Err(error) = &issued {
            self.audit.issue_refused(caller, audience.as_str(), error);
        }
        issued
    }

    async fn try_issue(
        &self,
        caller: &SpiffeId,
        request: SourceTokenRequest,
    ) -> Result<SourceTokenResponse, TokenizerError> {
        request.validate()?;
        let edge = self
            .rules
            .edge(caller, &request)
            .ok_or(TokenizerError::EdgeUndeclared)?;
        let answer = self
            .introspection
            .introspect(&request.subject_token)
            .await?;
        let now = (self.clock)();
        let subject = accept(answer, &self.rules.subject, edge.scope.as_deref(), now)?;

        let end = now + self.rules.lifetime;
        let expires_at = subject
            .expires_at
            .map_or(end, |subject_end| subject_end.min(end));
        let expires_in = u32::try_from((expires_at - now).whole_seconds()).unwrap_or(0);
        if expires_in == 0 {
            return Err(TokenizerError::Subject("about to expire"));
        }
        let text = generate(&SystemRandom::new())?;
        let token = NewToken {
            id: Uuid::now_v7(),
            hash: TokenHash::of(&text),
            binding: Binding {
                caller: caller.clone(),
                audience: edge.audience.clone(),
                htm: request.htm,
                htu: request.htu,
                body_digest: request.body_digest,
            },
            user: subject.user,
            issued_at: now,
            expires_at,
        };
        self.store
            .issue(token.clone(), self.rules.max_outstanding)
            .await?;
        self.audit.issued(&token);
        Ok(SourceTokenResponse {
            access_token: text,
            issued_token_type: SOURCE_TOKEN_TYPE.to_owned(),
            token_type: TOKEN_TYPE_NA.to_owned(),
            expires_in,
        })
    }

    /// Spends a token. Of any number of attempts, in parallel or after a crash, at most one is
    /// answered with `Ok`; all others get the same refusal.
    pub(crate) async fn redeem(
        &self,
        audience: &SpiffeId,
        request: RedeemRequest,
    ) -> Result<Redeemed, TokenizerError> {
        let presented = Binding {
            caller: request.caller,
            audience: audience.clone(),
            htm: request.htm,
            htu: request.htu,
            body_digest: request.body_digest,
        };
        let hash = TokenHash::of(&request.token);
        match self
            .store
            .consume(hash, presented.clone(), (self.clock)())
            .await?
        {
            Consumption::Won {
                id,
                user,
                issued_at,
            } => {
                self.audit.redeemed(id, &presented, &user);
                Ok(Redeemed {
                    sub: user.sub,
                    client_id: user.client_id,
                    issued_at,
                })
            }
            Consumption::Refused { id, reason } => {
                self.audit.redeem_refused(id, &presented, reason);
                Err(TokenizerError::SourceToken)
            }
        }
    }

    /// Makes a token useless. Only its caller and its audience can; the answer never says whether
    /// there was such a token (RFC 7009 §2.2).
    pub(crate) async fn revoke(
        &self,
        peer: &SpiffeId,
        token: &WireToken,
    ) -> Result<(), TokenizerError> {
        let hash = TokenHash::of(token);
        if let Some(id) = self
            .store
            .revoke(hash, peer.clone(), (self.clock)())
            .await?
        {
            self.audit.revoked(id, peer);
        }
        Ok(())
    }

    /// The newest tokens of `caller`, without their text.
    pub(crate) async fn list(
        &self,
        caller: &SpiffeId,
    ) -> Result<Vec<SourceTokenSummary>, TokenizerError> {
        Ok(self.store.list(caller.clone(), (self.clock)()).await?)
    }

    /// Removes tokens that ended longer ago than they are kept. A removed token is unknown, and
    /// unknown tokens are refused: purging can never make one good again.
    pub(crate) async fn purge(&self) -> Result<(), TokenizerError> {
        let before = (self.clock)() - self.rules.keep;
        // In small steps, so that purging never holds up the requests behind it.
        while self.store.purge(before).await? {
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}
