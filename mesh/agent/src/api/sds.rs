//! Envoy's secret discovery (SDS), state of the world
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>).
//!
//! Owns: the names of secrets, versions and nonces, and the pushes at rotation. Resource names are
//! those that SPIRE's users know: the caller's SPIFFE id or `default` for its certificate,
//! `spiffe://TRUST_DOMAIN` or `ROOTCA` for its roots, `ALL` for the SPIFFE validator.
//! Must not: name a secret of another workload. The header of the Workload API is not asked for, since
//! Envoy does not send it; no browser speaks to a unix socket.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt};
use prost::Message;
use prost_types::Any;
use ringwall_mesh_api::sds::secret_discovery_service_server::SecretDiscoveryService;
use ringwall_mesh_api::sds::{
    CertificateValidationContext, DataSource, DiscoveryRequest, DiscoveryResponse, SECRET_TYPE,
    SPIFFE_VALIDATOR_TYPE, Secret, SpiffeCertValidatorConfig, TlsCertificate, TrustDomain,
    TypedExtensionConfig, data_source, secret,
};
use tonic::{Request, Response, Status, Streaming};

use crate::api::Shared;
use crate::api::news::{News, Now};
use crate::pem;

/// The caller's certificate, without its name.
const DEFAULT: &str = "default";
/// The roots, without the trust domain's name.
const ROOTS: &str = "ROOTCA";
/// The roots for the SPIFFE validator.
const ALL: &str = "ALL";
/// Names that one stream may ask for.
const MAX_NAMES: usize = 16;
/// Longest text of a NACK that is logged.
const MAX_REASON_CHARS: usize = 200;

pub(super) struct Discovery {
    shared: Arc<Shared>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;

impl Discovery {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
        }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Discovery {
    type StreamSecretsStream = Answers;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Answers>, Status> {
        self.shared.metrics.called("StreamSecrets");
        let caller = self.shared.caller(&request)?;
        let news = News::new(&self.shared, caller, "StreamSecrets")?;
        let session = Session {
            requests: request.into_inner(),
            news,
            now: None,
            asked: Vec::new(),
            sent: None,
            number: 0,
            metrics: self.shared.metrics.clone(),
        };
        let answers = unfold(Some(session), |session| async {
            let mut session = session?;
            match Box::pin(session.next()).await {
                Ok(Some(response)) => Some((Ok(response), Some(session))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        self.shared.metrics.called("FetchSecrets");
        let caller = self.shared.caller(&request)?;
        let request = request.into_inner();
        check(&request)?;
        let mut news = News::new(&self.shared, caller, "FetchSecrets")?;
        let now = news.next().await?;
        let resources = resources(&now, &request.resource_names)?;
        Ok(Response::new(response(resources, 1)))
    }
}

/// One stream: what Envoy has asked for, and what it has been sent.
struct Session {
    requests: Streaming<DiscoveryRequest>,
    news: News,
    now: Option<Now>,
    asked: Vec<String>,
    /// The last answer's resources.
    sent: Option<Vec<Any>>,
    /// Of the last answer: version and nonce alike.
    number: u64,
    metrics: crate::metrics::Metrics,
}

impl Session {
    /// The next answer; none when Envoy has ended the stream.
    async fn next(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        loop {
            // Before anything is asked for, news are of no use.
            let interested = !self.asked.is_empty();
            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => self.take(request)?,
                    None => return Ok(None),
                },
                now = self.news.next(), if interested => self.now = Some(now?),
            }
            let Some(now) = self.now.as_ref().filter(|_| !self.asked.is_empty()) else {
                continue;
            };
            let resources = resources(now, &self.asked)?;
            if self.sent.as_ref() == Some(&resources) {
                continue;
            }
            self.number += 1;
            self.sent = Some(resources.clone());
            return Ok(Some(response(resources, self.number)));
        }
    }

    /// A subscription, an ACK or a NACK. After a NACK, Envoy keeps what it had; the same would only be
    /// refused again, so that nothing is sent until something changes.
    fn take(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        check(&request)?;
        if let Some(error) = &request.error_detail {
            let reason: String = error.message.chars().take(MAX_REASON_CHARS).collect();
            tracing::warn!(
                nonce = request.response_nonce,
                reason,
                "Envoy has refused its secrets"
            );
            self.metrics.refused("sds_nack");
        }
        // An answer to an earlier response says nothing about the present one.
        let stale =
            !request.response_nonce.is_empty() && request.response_nonce != self.number.to_string();
        if !stale {
            self.asked = request.resource_names;
        }
        Ok(())
    }
}

fn check(request: &DiscoveryRequest) -> Result<(), Status> {
    if !request.type_url.is_empty() && request.type_url != SECRET_TYPE {
        return Err(Status::invalid_argument(format!(
            "only {SECRET_TYPE} is served here"
        )));
    }
    if request.resource_names.len() > MAX_NAMES {
        return Err(Status::invalid_argument("more than 16 names"));
    }
    Ok(())
}

fn response(resources: Vec<Any>, number: u64) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: number.to_string(),
        resources,
        canary: false,
        type_url: SECRET_TYPE.to_owned(),
        nonce: number.to_string(),
    }
}

fn resources(now: &Now, names: &[String]) -> Result<Vec<Any>, Status> {
    names.iter().map(|name| resource(now, name)).collect()
}

fn resource(now: &Now, name: &str) -> Result<Any, Status> {
    let domain = format!("spiffe://{}", now.trust.domain());
    let kind = match name {
        name if name == now.id || name == DEFAULT => secret::Type::TlsCertificate(certificate(now)),
        name if name == domain || name == ROOTS => {
            let roots = inline(now.trust.bundle_pem().into_bytes());
            secret::Type::ValidationContext(validation(now, Some(roots), None))
        }
        ALL => secret::Type::ValidationContext(validation(now, None, Some(validator(now)))),
        _ => {
            return Err(Status::invalid_argument(
                "no secret of this name is this workload's",
            ));
        }
    };
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(kind),
    };
    Ok(Any {
        type_url: SECRET_TYPE.to_owned(),
        value: secret.encode_to_vec(),
    })
}

fn certificate(now: &Now) -> TlsCertificate {
    let chain = pem::encode(pem::CERTIFICATE, &now.issued.chain);
    let key = pem::encode(pem::PRIVATE_KEY, [now.issued.key.as_slice()]);
    TlsCertificate {
        certificate_chain: Some(inline(chain.as_bytes().to_vec())),
        private_key: Some(inline(key.as_bytes().to_vec())),
    }
}

fn validation(
    now: &Now,
    trusted_ca: Option<DataSource>,
    custom_validator_config: Option<TypedExtensionConfig>,
) -> CertificateValidationContext {
    let lists = now.trust.lists();
    let crl = (!lists.is_empty()).then(|| {
        let text = pem::encode(pem::CRL, lists);
        inline(text.as_bytes().to_vec())
    });
    CertificateValidationContext {
        trusted_ca,
        // The intermediates sign the lists; of the root there is none, and Envoy would ask for one.
        only_verify_leaf_cert_crl: crl.is_some(),
        crl,
        custom_validator_config,
    }
}

fn validator(now: &Now) -> TypedExtensionConfig {
    let config = SpiffeCertValidatorConfig {
        trust_domains: vec![TrustDomain {
            name: now.trust.domain().to_string(),
            trust_bundle: Some(inline(now.trust.bundle_pem().into_bytes())),
        }],
    };
    TypedExtensionConfig {
        name: "envoy.tls.cert_validator.spiffe".to_owned(),
        typed_config: Some(Any {
            type_url: SPIFFE_VALIDATOR_TYPE.to_owned(),
            value: config.encode_to_vec(),
        }),
    }
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(bytes)),
    }
}
