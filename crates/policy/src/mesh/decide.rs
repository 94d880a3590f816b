//! The decision of a service proxy.
//!
//! Owns: the question to Cedar, built from what policies read alone, and the reading of its answer so that every doubt
//! denies. Must not: keep state between decisions.
//!
//! Entities (workloads, services, actions) were built with the bundle; a question only points at them, and what belongs
//! to the request stands in its context. Policies about other services are not looked at.

use cedar_policy::{
    Context, Decision, EntityUid, Request, Response, RestrictedExpression as Expression,
};
use http::{HeaderMap, header};

use super::compile::{Compiled, Rules};
use super::{MeshDecision, MeshOutcome, MeshRequest, Reads, UserFacts};

impl MeshDecision {
    /// A decision to which no policy has contributed.
    pub(super) fn plain(outcome: MeshOutcome) -> Self {
        Self {
            allowed: outcome == MeshOutcome::Permitted,
            outcome,
            reasons: Vec::new(),
            dry_run: None,
            dry_run_reasons: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn error(error: String) -> Self {
        Self {
            errors: vec![error],
            ..Self::plain(MeshOutcome::Error)
        }
    }

    fn of(response: &Response) -> Self {
        let diagnostics = response.diagnostics();
        let reasons = diagnostics.reason();
        let mut reasons: Vec<String> = reasons
            .map(|id| AsRef::<str>::as_ref(id).to_owned())
            .collect();
        reasons.sort_unstable();
        let errors: Vec<String> = diagnostics.errors().map(ToString::to_string).collect();
        // Cedar skips a policy that fails; were it a forbid, skipping it would allow.
        let outcome = if !errors.is_empty() {
            MeshOutcome::Error
        } else if response.decision() == Decision::Allow {
            MeshOutcome::Permitted
        } else if reasons.is_empty() {
            MeshOutcome::NoPermit
        } else {
            MeshOutcome::Forbidden
        };
        Self {
            reasons,
            errors,
            ..Self::plain(outcome)
        }
    }
}

impl Compiled {
    pub(super) fn decide(&self, request: &MeshRequest<'_>) -> MeshDecision {
        if !self
            .edges
            .allows(request.caller.path(), request.callee, request.port)
        {
            return MeshDecision::plain(MeshOutcome::NoEdge);
        }
        let mut decision = self.by(&self.enforced, request);
        if let Some(trial) = &self.trial {
            let trial = self.by(trial, request);
            if trial.allowed != decision.allowed {
                decision.dry_run = Some(trial.allowed);
                decision.dry_run_reasons = match trial.reasons.is_empty() {
                    true => trial.errors,
                    false => trial.reasons,
                };
            }
        }
        decision
    }

    fn by(&self, rules: &Rules, request: &MeshRequest<'_>) -> MeshDecision {
        let question = match self.question(request, &rules.reads) {
            Ok(question) => question,
            Err(error) => return MeshDecision::error(error),
        };
        let Some(resource) = question.resource() else {
            return MeshDecision::error("the question names no service".to_owned());
        };
        let policies = rules.about(request.callee, resource);
        let entities = &self.vocabulary.entities;
        MeshDecision::of(&self.authorizer.is_authorized(&question, policies, entities))
    }

    /// A question whose context has what `reads` names and nothing else.
    pub(super) fn question(
        &self,
        request: &MeshRequest<'_>,
        reads: &Reads,
    ) -> Result<Request, String> {
        let words = &self.vocabulary;
        let caller = request.caller.path();
        let principal = words.workloads.get(caller);
        let principal =
            principal.ok_or_else(|| format!("{caller} is no workload of the bundle"))?;
        let resource = words.services.get(request.callee);
        let resource = resource.ok_or_else(|| format!("{} is no service", request.callee))?;
        let action = self.action(request.method)?;
        let context = context(request, reads)?;
        // Built in the shape of the schema from checked parts, so it is not checked once more.
        Request::new(
            principal.clone(),
            action.clone(),
            resource.clone(),
            context,
            None,
        )
        .map_err(|error| error.to_string())
    }

    /// Methods are case-sensitive (RFC 9110 §9.1): `get` is none of ours. The names of the groups are no methods.
    fn action(&self, method: &str) -> Result<&EntityUid, String> {
        let actions = &self.vocabulary.actions;
        let known = match method {
            "read" | "write" | "other" => None,
            method => actions.get(method),
        };
        let action = known.or_else(|| actions.get("other"));
        action.ok_or_else(|| "the schema has no action".to_owned())
    }
}

fn context(request: &MeshRequest<'_>, reads: &Reads) -> Result<Context, String> {
    let text = |value: &str| Expression::new_string(value.to_owned());
    let mut pairs = Vec::with_capacity(5);
    if reads.method {
        pairs.push(("method".to_owned(), text(request.method)));
    }
    if reads.path {
        pairs.push(("path".to_owned(), text(request.path)));
    }
    if reads.port {
        pairs.push(("port".to_owned(), Expression::new_long(request.port.into())));
    }
    pairs.push((
        "headers".to_owned(),
        headers(request.headers, &reads.headers)?,
    ));
    if let (true, Some(user)) = (reads.user, request.user) {
        pairs.push(("user".to_owned(), claims(user)?));
    }
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

fn headers(fields: &HeaderMap, names: &[String]) -> Result<Expression, String> {
    let mut pairs = Vec::with_capacity(names.len());
    for name in names {
        if let Some(value) = field(fields, name)? {
            pairs.push((name.clone(), Expression::new_string(value)));
        }
    }
    Expression::new_record(pairs).map_err(|error| error.to_string())
}

/// The one value of a field. Two lines of it are two opinions: the policy would see one and the application perhaps the
/// other, so they are refused. Cookies may stand in several lines (RFC 9113 §8.2.3), which mean one.
fn field(fields: &HeaderMap, name: &str) -> Result<Option<String>, String> {
    let mut values = fields.get_all(name).iter().map(|value| {
        let value = value.to_str();
        value.map_err(|_| format!("the header field {name}, which a policy reads, is not ASCII"))
    });
    let Some(first) = values.next() else {
        return Ok(None);
    };
    let mut joined = first?.to_owned();
    for next in values {
        if name != header::COOKIE.as_str() {
            return Err(format!(
                "the header field {name}, which a policy reads, stands twice"
            ));
        }
        joined.push_str("; ");
        joined.push_str(next?);
    }
    Ok(Some(joined))
}

fn claims(user: &UserFacts) -> Result<Expression, String> {
    let text = |value: &String| Expression::new_string(value.clone());
    let set = |values: &[String]| Expression::new_set(values.iter().map(text));
    Expression::new_record([
        ("sub".to_owned(), text(&user.sub)),
        ("client".to_owned(), text(&user.client)),
        ("roles".to_owned(), set(&user.roles)),
        ("scopes".to_owned(), set(&user.scopes)),
    ])
    .map_err(|error| error.to_string())
}
