//! Validation of an authorization request, whether it arrives by query or was pushed.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::redirect;
use crate::clients::Client;
use crate::config::clients::GrantName;
use crate::error::{Code, Error};
use crate::ids::{ClientId, Subject};
use crate::params::Params;
use crate::scopes::Scopes;
use crate::server::Server;
use crate::tokens;

const MAX_STATE: usize = 1024;
const MAX_NONCE: usize = 255;
const MAX_LOGIN_HINT: usize = 128;
/// Length of base64url(SHA-256): an S256 challenge (RFC 7636 §4.2).
const CHALLENGE_LENGTH: usize = 43;

/// A request whose every part has been checked against its client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuthorizationRequest {
    pub(crate) client_id: ClientId,
    pub(crate) redirect_uri: String,
    pub(crate) state: Option<String>,
    pub(crate) scopes: Scopes,
    pub(crate) audience: String,
    pub(crate) code_challenge: String,
    pub(crate) nonce: Option<String>,
    pub(crate) prompt: Prompt,
    pub(crate) max_age: Option<Duration>,
    pub(crate) login_hint: Option<String>,
    /// The user that an `id_token_hint` names; nobody else may be signed in silently.
    pub(crate) expected_user: Option<Subject>,
}

impl AuthorizationRequest {
    /// Where a response to this request goes.
    pub(crate) fn return_path(&self) -> ReturnPath {
        ReturnPath {
            redirect_uri: self.redirect_uri.clone(),
            state: self.state.clone(),
        }
    }
}

/// OpenID Connect Core §3.1.2.1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prompt {
    pub(crate) none: bool,
    /// `login` and `select_account`: the person enters credentials again.
    pub(crate) login: bool,
    pub(crate) consent: bool,
}

/// A redirect URI that is known to be the client's, and the client's state.
#[derive(Debug, Clone)]
pub(crate) struct ReturnPath {
    pub(crate) redirect_uri: String,
    pub(crate) state: Option<String>,
}

/// Why a request is refused, and to whom this may be said.
pub(crate) enum Invalid {
    /// Client and redirect URI do not belong together: only the person is told.
    Page(Error),
    /// The client is told through its redirect URI.
    Redirect {
        to: ReturnPath,
        code: Code,
        description: Cow<'static, str>,
    },
}

impl Invalid {
    /// The same refusal as a direct answer, for pushed requests (RFC 9126 §2.3).
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Page(error) => error,
            Self::Redirect {
                code, description, ..
            } => Error::Refused { code, description },
        }
    }
}

/// Checks every parameter; the order decides who learns of a failure.
pub(crate) fn validate(
    server: &Server,
    client: &Client,
    params: &Params,
) -> Result<AuthorizationRequest, Invalid> {
    let to = return_path(client, params)?;
    check(server, client, params, &to).map_err(|error| match error {
        Error::Refused { code, description } => Invalid::Redirect {
            to: to.clone(),
            code,
            description,
        },
        other => Invalid::Page(other),
    })
}

fn return_path(client: &Client, params: &Params) -> Result<ReturnPath, Invalid> {
    let page = |text| Invalid::Page(Error::refused(Code::InvalidRequest, text));
    if !client.declaration.may_use(GrantName::AuthorizationCode) {
        return Err(page("this application cannot sign people in"));
    }
    let redirect_uri = params
        .get("redirect_uri")
        .ok_or_else(|| page("the application did not say where to return to"))?;
    if !redirect::is_registered(&client.declaration, redirect_uri) {
        return Err(page("the return address is not one of this application"));
    }
    let state = params.get("state");
    if state.is_some_and(|s| s.len() > MAX_STATE) {
        return Err(page("the state of the application is too long"));
    }
    Ok(ReturnPath {
        redirect_uri: redirect_uri.to_owned(),
        state: state.map(str::to_owned),
    })
}

fn check(
    server: &Server,
    client: &Client,
    params: &Params,
    to: &ReturnPath,
) -> Result<AuthorizationRequest, Error> {
    check_unsupported(params)?;
    if params.require("response_type")? != "code" {
        return Err(Error::refused(
            Code::UnsupportedResponseType,
            "only code is served",
        ));
    }
    if params
        .get("response_mode")
        .is_some_and(|mode| mode != "query")
    {
        return Err(Error::refused(
            Code::InvalidRequest,
            "only response_mode query is served",
        ));
    }
    let audience = client.audience(params.get("resource")).ok_or_else(|| {
        Error::refused(
            Code::InvalidTarget,
            "the client is not registered for this audience",
        )
    })?;
    Ok(AuthorizationRequest {
        client_id: client.id().clone(),
        redirect_uri: to.redirect_uri.clone(),
        state: to.state.clone(),
        scopes: scopes(client, params)?,
        audience,
        code_challenge: code_challenge(params)?,
        nonce: bounded(params, "nonce", MAX_NONCE)?,
        prompt: prompt(params.get("prompt"))?,
        max_age: max_age(params.get("max_age"))?,
        login_hint: bounded(params, "login_hint", MAX_LOGIN_HINT)?,
        expected_user: expected_user(server, params)?,
    })
}

fn check_unsupported(params: &Params) -> Result<(), Error> {
    if params.get("request").is_some() {
        return Err(Error::refused(
            Code::RequestNotSupported,
            "request objects are not served; push the request instead",
        ));
    }
    if params.get("registration").is_some() {
        return Err(Error::refused(
            Code::RegistrationNotSupported,
            "clients are registered by the operator",
        ));
    }
    Ok(())
}

/// PKCE is for every client, and S256 is its only method (RFC 9700 §2.1.1).
fn code_challenge(params: &Params) -> Result<String, Error> {
    let challenge = params.require("code_challenge")?;
    if params.get("code_challenge_method") != Some("S256") {
        return Err(Error::refused(
            Code::InvalidRequest,
            "code_challenge_method must be S256",
        ));
    }
    let well_formed = challenge.len() == CHALLENGE_LENGTH
        && challenge
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !well_formed {
        return Err(Error::refused(
            Code::InvalidRequest,
            "malformed code_challenge",
        ));
    }
    Ok(challenge.to_owned())
}

fn scopes(client: &Client, params: &Params) -> Result<Scopes, Error> {
    let scopes = Scopes::parse(params.require("scope")?)
        .ok_or_else(|| Error::refused(Code::InvalidScope, "malformed scope"))?;
    if scopes.is_empty() || !scopes.is_subset(&client.declaration.scopes) {
        return Err(Error::refused(
            Code::InvalidScope,
            "the client is not registered for this scope",
        ));
    }
    Ok(scopes)
}

fn prompt(text: Option<&str>) -> Result<Prompt, Error> {
    let mut prompt = Prompt::default();
    for value in text
        .unwrap_or_default()
        .split(' ')
        .filter(|v| !v.is_empty())
    {
        match value {
            "none" => prompt.none = true,
            "login" | "select_account" => prompt.login = true,
            "consent" => prompt.consent = true,
            _ => return Err(Error::refused(Code::InvalidRequest, "unknown prompt")),
        }
    }
    if prompt.none && (prompt.login || prompt.consent) {
        return Err(Error::refused(
            Code::InvalidRequest,
            "prompt none stands alone",
        ));
    }
    Ok(prompt)
}

fn max_age(text: Option<&str>) -> Result<Option<Duration>, Error> {
    text.map(|text| {
        text.parse::<u32>()
            .map(|seconds| Duration::from_secs(u64::from(seconds)))
            .map_err(|_| Error::refused(Code::InvalidRequest, "max_age is a number of seconds"))
    })
    .transpose()
}

fn bounded(params: &Params, name: &'static str, most: usize) -> Result<Option<String>, Error> {
    match params.get(name) {
        Some(value) if value.len() > most => Err(Error::refused_owned(
            Code::InvalidRequest,
            format!("the parameter {name} is too long"),
        )),
        value => Ok(value.map(str::to_owned)),
    }
}

fn expected_user(server: &Server, params: &Params) -> Result<Option<Subject>, Error> {
    let Some(hint) = params.get("id_token_hint") else {
        return Ok(None);
    };
    let hint = tokens::verify_hint(server, hint)
        .ok_or_else(|| Error::refused(Code::InvalidRequest, "the id_token_hint is not valid"))?;
    Ok(Some(Subject::new(hint.sub)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r44_prompt_none_stands_alone_and_unknown_values_are_refused() {
        assert!(prompt(Some("none")).unwrap().none);
        assert!(prompt(Some("login consent")).unwrap().consent);
        assert!(prompt(Some("none login")).is_err());
        assert!(prompt(Some("create")).is_err());
    }

    #[test]
    fn r44_max_age_is_a_number_of_seconds() {
        assert_eq!(max_age(Some("0")).unwrap(), Some(Duration::ZERO));
        assert!(max_age(Some("-1")).is_err());
        assert!(max_age(Some("1h")).is_err());
    }

    #[test]
    fn r07_plain_and_missing_challenges_are_refused() {
        let ok = "code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        let parse = |text: String| Params::parse(text.as_bytes()).unwrap();
        assert!(code_challenge(&parse(format!("{ok}&code_challenge_method=S256"))).is_ok());
        assert!(code_challenge(&parse(format!("{ok}&code_challenge_method=plain"))).is_err());
        assert!(code_challenge(&parse(ok.to_owned())).is_err());
        assert!(code_challenge(&parse("code_challenge_method=S256".to_owned())).is_err());
        let short = "code_challenge=abc&code_challenge_method=S256";
        assert!(code_challenge(&parse(short.to_owned())).is_err());
    }
}
