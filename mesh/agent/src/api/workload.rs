//! The SPIFFE Workload API
//! (<https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md>).
//!
//! Owns: the five calls. Must not: answer one without the header that the standard demands.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use ringwall_mesh_api::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use ringwall_mesh_api::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
    SECURITY_HEADER, ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest,
    X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use tonic::{Request, Response, Status};

use crate::api::news::{News, Now};
use crate::api::{Caller, Shared};
use crate::error::AgentError;
use crate::jwt;
use crate::trust::Trust;

/// What the standard calls the Workload Endpoint's service.
pub(super) struct WorkloadApi {
    shared: Arc<Shared>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl WorkloadApi {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
        }
    }

    /// Who calls: first the header against request forgery (SPIFFE Workload Endpoint §5), then the
    /// kernel's answer.
    fn caller<T>(&self, request: &Request<T>, method: &'static str) -> Result<Caller, Status> {
        self.shared.metrics.called(method);
        let header = request.metadata().get(SECURITY_HEADER);
        if header.is_none_or(|value| value != "true") {
            self.shared.metrics.refused("no_security_header");
            return Err(Status::invalid_argument(format!(
                "the metadata {SECURITY_HEADER}: true is missing"
            )));
        }
        self.shared.caller(request)
    }

    fn follow<T, R>(
        &self,
        request: &Request<R>,
        method: &'static str,
        build: fn(&Now) -> T,
    ) -> Result<Response<Answers<T>>, Status>
    where
        T: Clone + PartialEq + Send + 'static,
    {
        let caller = self.caller(request, method)?;
        let news = News::new(&self.shared, caller, method)?;
        Ok(Response::new(Box::pin(news.stream(build))))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.follow(&request, "FetchX509SVID", x509_svid)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.follow(&request, "FetchX509Bundles", x509_bundles)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.follow(&request, "FetchJWTBundles", jwt_bundles)
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let caller = self.caller(&request, "FetchJWTSVID")?;
        let request = request.into_inner();
        jwt::check_audience(&request.audience).map_err(Status::invalid_argument)?;
        let trust = self.shared.trust()?;
        let registration = trust
            .workload(&caller.workload)
            .ok_or_else(|| Status::permission_denied(super::NO_IDENTITY))?;
        let id = registration.spiffe_id.clone();
        if !request.spiffe_id.is_empty() && request.spiffe_id != id {
            self.shared.metrics.refused("other_identity");
            return Err(Status::permission_denied(super::NO_IDENTITY));
        }
        let token = self.shared.jwt.get(&caller.workload, &request.audience);
        let token = token.await.map_err(|error| {
            tracing::warn!(workload = caller.workload, %error, "a JWT-SVID is not issued");
            match error {
                AgentError::Refused(why) => Status::permission_denied(why),
                other => Status::unavailable(other.to_string()),
            }
        })?;
        // The caller may have moved or ended meanwhile.
        self.shared.still(&caller)?;
        let svid = Jwtsvid {
            spiffe_id: id,
            svid: token.to_string(),
            hint: String::new(),
        };
        Ok(Response::new(JwtsvidResponse { svids: vec![svid] }))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.caller(&request, "ValidateJWTSVID")?;
        let request = request.into_inner();
        if request.audience.is_empty() || request.svid.is_empty() {
            return Err(Status::invalid_argument(
                "audience and svid must be specified",
            ));
        }
        let trust = self.shared.trust()?;
        let now = self.shared.clock.now();
        let (id, claims) = jwt::validate(&trust, &request.svid, &request.audience, now)
            .map_err(|why| Status::invalid_argument(format!("the JWT-SVID is not valid: {why}")))?;
        Ok(Response::new(ValidateJwtsvidResponse {
            spiffe_id: id.to_string(),
            claims: Some(structure(claims)),
        }))
    }
}

fn x509_svid(now: &Now) -> X509svidResponse {
    let svid = X509svid {
        spiffe_id: now.id.clone(),
        x509_svid: now.issued.chain.concat(),
        x509_svid_key: now.issued.key.to_vec(),
        bundle: now.trust.bundle().concat(),
        hint: String::new(),
    };
    X509svidResponse {
        svids: vec![svid],
        crl: now.trust.lists().to_vec(),
        federated_bundles: HashMap::new(),
    }
}

fn x509_bundles(now: &Now) -> X509BundlesResponse {
    X509BundlesResponse {
        crl: now.trust.lists().to_vec(),
        bundles: [(domain(&now.trust), now.trust.bundle().concat())].into(),
    }
}

fn jwt_bundles(now: &Now) -> JwtBundlesResponse {
    JwtBundlesResponse {
        bundles: [(domain(&now.trust), now.trust.jwt_keys().to_vec())].into(),
    }
}

fn domain(trust: &Trust) -> String {
    format!("spiffe://{}", trust.domain())
}

fn structure(object: serde_json::Map<String, serde_json::Value>) -> Struct {
    let fields = object.into_iter().map(|(name, json)| (name, value(json)));
    Struct {
        fields: fields.collect(),
    }
}

fn value(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(bool) => Kind::BoolValue(bool),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => Kind::ListValue(ListValue {
            values: items.into_iter().map(value).collect(),
        }),
        Json::Object(object) => Kind::StructValue(structure(object)),
    };
    Value { kind: Some(kind) }
}
