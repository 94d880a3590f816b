//! `cases.yaml` as it is written: strict, every field named, nothing resolved.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::capabilities::Capabilities;
use crate::message::{Answer, Fields, GrpcAnswer, Message};
use crate::suite::{Expectation, ExpectedCall, ExpectedMessage, Script};
use crate::text::Text;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileForm {
    #[serde(default)]
    pub(crate) capabilities: Capabilities,
    /// Of every case that has none of its own.
    #[serde(default)]
    pub(crate) configuration: Option<Value>,
    #[serde(default)]
    pub(crate) clusters: BTreeMap<String, ClusterForm>,
    pub(crate) cases: Vec<Spanned<CaseForm>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaseForm {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) configuration: Option<Value>,
    /// The configuration as text, for what is no JSON.
    #[serde(default)]
    pub(crate) configuration_text: Option<String>,
    #[serde(default)]
    pub(crate) clusters: BTreeMap<String, ClusterForm>,
    /// A part of the log line that says why the configuration is refused.
    #[serde(default)]
    pub(crate) refused: Option<String>,
    #[serde(default)]
    pub(crate) steps: Vec<Spanned<StepForm>>,
    // A case of one step has it in itself.
    #[serde(default)]
    pub(crate) request: Option<RequestForm>,
    #[serde(default)]
    pub(crate) upstream: Option<AnswerForm>,
    #[serde(default)]
    pub(crate) expect: Option<ExpectForm>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepForm {
    #[serde(default)]
    pub(crate) after_ms: u64,
    pub(crate) request: RequestForm,
    #[serde(default)]
    pub(crate) upstream: AnswerForm,
    pub(crate) expect: ExpectForm,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RequestForm {
    method: Option<String>,
    path: Option<String>,
    authority: Option<String>,
    headers: Fields,
    body: Option<String>,
    body_base64: Option<String>,
    json: Option<Value>,
    repeat: Option<usize>,
    trailers: Fields,
    /// Address of the client.
    pub(crate) source: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AnswerForm {
    status: Option<u16>,
    headers: Fields,
    body: Option<String>,
    body_base64: Option<String>,
    json: Option<Value>,
    repeat: Option<usize>,
    grpc: Option<GrpcForm>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GrpcForm {
    status: u32,
    message: String,
    body: Option<String>,
    body_base64: Option<String>,
}

/// Answers of a cluster: the first that fits is given.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClusterForm {
    /// Nothing listens there.
    pub(crate) unreachable: bool,
    pub(crate) answers: Vec<ScriptForm>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ScriptForm {
    method: Option<String>,
    path: Option<Text>,
    headers: BTreeMap<String, Text>,
    body: Option<Text>,
    answer: AnswerForm,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectForm {
    client: ExpectedForm,
    #[serde(default)]
    upstream: Option<ExpectedForm>,
    #[serde(default)]
    callouts: Option<Vec<ExpectedCallForm>>,
    #[serde(default)]
    log: Vec<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ExpectedForm {
    /// Of the upstream: false when nothing may arrive there.
    reached: Option<bool>,
    status: Option<u16>,
    method: Option<String>,
    path: Option<Text>,
    headers: BTreeMap<String, Text>,
    absent: Vec<String>,
    body: Option<Text>,
    body_base64: Option<String>,
    json: Option<Value>,
    length: Option<usize>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedCallForm {
    cluster: String,
    #[serde(flatten)]
    message: ExpectedForm,
}

/// The one of the ways to write a body that is used.
fn body(
    text: Option<&String>,
    encoded: Option<&String>,
    json: Option<&Value>,
    repeat: Option<usize>,
) -> Result<Vec<u8>, String> {
    let once = match (text, encoded, json) {
        (None, None, None) => Vec::new(),
        (Some(text), None, None) => text.clone().into_bytes(),
        (None, Some(encoded), None) => decode(encoded)?,
        (None, None, Some(json)) => json.to_string().into_bytes(),
        _ => return Err("only one of body, body_base64 and json".to_owned()),
    };
    Ok(once.repeat(repeat.unwrap_or(1)))
}

fn decode(encoded: &str) -> Result<Vec<u8>, String> {
    STANDARD
        .decode(encoded.trim())
        .map_err(|error| format!("body_base64: {error}"))
}

impl RequestForm {
    pub(crate) fn resolve(&self) -> Result<Message, String> {
        let body = body(
            self.body.as_ref(),
            self.body_base64.as_ref(),
            self.json.as_ref(),
            self.repeat,
        )?;
        Ok(Message {
            method: self.method.clone().unwrap_or_else(|| "GET".to_owned()),
            path: self.path.clone().unwrap_or_else(|| "/".to_owned()),
            authority: self
                .authority
                .clone()
                .unwrap_or_else(|| "case.example".to_owned()),
            headers: self.headers.clone(),
            body,
            trailers: self.trailers.clone(),
        })
    }
}

impl AnswerForm {
    pub(crate) fn resolve(&self) -> Result<Answer, String> {
        let grpc = self.grpc.as_ref().map(GrpcForm::resolve).transpose()?;
        Ok(Answer {
            status: self.status.unwrap_or(200),
            headers: self.headers.clone(),
            body: body(
                self.body.as_ref(),
                self.body_base64.as_ref(),
                self.json.as_ref(),
                self.repeat,
            )?,
            grpc,
        })
    }
}

impl GrpcForm {
    fn resolve(&self) -> Result<GrpcAnswer, String> {
        Ok(GrpcAnswer {
            status: self.status,
            message: self.message.clone(),
            body: body(self.body.as_ref(), self.body_base64.as_ref(), None, None)?,
        })
    }
}

impl ScriptForm {
    pub(crate) fn resolve(&self) -> Result<Script, String> {
        let when = ExpectedMessage {
            method: self.method.clone(),
            path: self.path.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            ..ExpectedMessage::default()
        };
        let answer = self.answer.resolve()?;
        Ok(Script { when, answer })
    }
}

impl ExpectForm {
    pub(crate) fn resolve(&self) -> Result<Expectation, String> {
        let client = self.client.resolve()?;
        if client.status.is_none() {
            return Err("expect.client names no status".to_owned());
        }
        let upstream = self.upstream.as_ref();
        let callouts = self.callouts.as_ref().map(|calls| {
            let calls = calls.iter().map(|call| {
                Ok(ExpectedCall {
                    cluster: call.cluster.clone(),
                    message: call.message.resolve()?,
                })
            });
            calls.collect::<Result<Vec<_>, String>>()
        });
        Ok(Expectation {
            client,
            upstream: upstream.map(ExpectedForm::resolve).transpose()?,
            upstream_reached: upstream.map(|upstream| upstream.reached.unwrap_or(true)),
            callouts: callouts.transpose()?,
            log: self.log.clone(),
        })
    }
}

impl ExpectedForm {
    fn resolve(&self) -> Result<ExpectedMessage, String> {
        let encoded = self.body_base64.as_deref().map(decode).transpose()?;
        Ok(ExpectedMessage {
            status: self.status,
            method: self.method.clone(),
            path: self.path.clone(),
            headers: self.headers.clone(),
            absent: self.absent.clone(),
            body: self.body.clone(),
            bytes: encoded,
            json: self.json.clone(),
            length: self.length,
        })
    }
}
