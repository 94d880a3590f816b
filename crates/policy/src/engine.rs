//! The decision.
//!
//! Owns: asking Cedar and reading its answer so that every doubt denies. Must not: keep state
//! between decisions. Read next: `request.rs`, `compile.rs`.

use std::collections::HashMap;

use cedar_policy::{
    Authorizer, Context, Decision as CedarDecision, Entities, Entity, EntityUid, PolicySet,
    Request as CedarRequest, Schema,
};

use crate::compile::{ActionDecl, PolicySource, compile};
use crate::error::{Fault, PolicyError};
use crate::request::{EntityTypes, Request};

/// How a decision came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// At least one policy permits and none forbids.
    Permitted,
    /// A policy forbids.
    Forbidden,
    /// No policy permits: the default.
    NoPermit,
    /// The question was malformed or a policy failed while it was evaluated.
    Error,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may go on.
    pub allowed: bool,
    /// How it came about.
    pub outcome: Outcome,
    /// The `@id`s of the policies that decided, sorted; empty for [`Outcome::NoPermit`].
    pub reasons: Vec<String>,
    /// What went wrong; not empty only for [`Outcome::Error`].
    pub errors: Vec<String>,
}

impl Decision {
    fn error(error: impl ToString) -> Self {
        let errors = vec![error.to_string()];
        Self {
            allowed: false,
            outcome: Outcome::Error,
            reasons: Vec::new(),
            errors,
        }
    }
}

/// Compiled policies. Immutable: a new policy set is a new engine, swapped in whole.
pub struct PolicyEngine {
    authorizer: Authorizer,
    schema: Schema,
    policies: PolicySet,
    /// Each action's entity carries its groups.
    actions: HashMap<String, (EntityUid, Entity)>,
    types: EntityTypes,
    warnings: Vec<Fault>,
}

impl PolicyEngine {
    /// Loads policies that use only the actions of the embedded schema.
    ///
    /// # Errors
    /// [`PolicyError::Policies`] with all faults; nothing is loaded then.
    pub fn compile(sources: &[PolicySource]) -> Result<Self, PolicyError> {
        Self::compile_with_actions(sources, &[])
    }

    /// Loads policies that may also use the actions that routes declare.
    ///
    /// A policy that names an action which is neither in the schema nor declared is a fault.
    ///
    /// # Errors
    /// [`PolicyError::Policies`] with all faults, [`PolicyError::Action`] for a bad declaration.
    pub fn compile_with_actions(
        sources: &[PolicySource],
        actions: &[ActionDecl],
    ) -> Result<Self, PolicyError> {
        let compiled = compile(sources, actions)?;
        let unusable = |error: &dyn std::fmt::Display| PolicyError::Schema(error.to_string());
        let entities = compiled
            .schema
            .action_entities()
            .map_err(|error| unusable(&error))?;
        let actions = entities
            .iter()
            .map(|entity| {
                (
                    entity.uid().id().unescaped().to_owned(),
                    (entity.uid(), entity.clone()),
                )
            })
            .collect();
        Ok(Self {
            authorizer: Authorizer::new(),
            schema: compiled.schema,
            policies: compiled.policies,
            actions,
            types: EntityTypes::new().map_err(PolicyError::Schema)?,
            warnings: compiled.warnings,
        })
    }

    /// Decides. Never fails: whatever is wrong with the question is a denial with its reason.
    #[must_use]
    pub fn decide(&self, request: &Request) -> Decision {
        match self.question(request) {
            Ok((question, entities)) => self.answer(&question, &entities),
            Err(error) => Decision::error(error),
        }
    }

    /// Policies that are valid but can never apply, or look like a mistake.
    #[must_use]
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }

    fn question(&self, request: &Request) -> Result<(CedarRequest, Entities), String> {
        let (action, action_entity) = self
            .actions
            .get(&request.action)
            .ok_or_else(|| format!("no route declares the action {:?}", request.action))?;
        let (principal, principal_entity) = request.principal.entity(&self.types)?;
        let (resource, resource_entity) = request.resource.entity(&self.types)?;
        let context = self.context(&request.context, action)?;
        // The schema checks types of principal, resource and context against the action.
        let question = CedarRequest::new(
            principal,
            action.clone(),
            resource,
            context,
            Some(&self.schema),
        )
        .map_err(|error| error.to_string())?;
        let entities = [principal_entity, resource_entity, action_entity.clone()];
        // Built by `request.rs` in the shape of the schema, so they are not checked once more.
        let entities =
            Entities::from_entities(entities, None).map_err(|error| error.to_string())?;
        Ok((question, entities))
    }

    fn context(&self, json: &serde_json::Value, action: &EntityUid) -> Result<Context, String> {
        match json {
            serde_json::Value::Null => Ok(Context::empty()),
            serde_json::Value::Object(map) if map.is_empty() => Ok(Context::empty()),
            json => Context::from_json_value(json.clone(), Some((&self.schema, action)))
                .map_err(|error| error.to_string()),
        }
    }

    fn answer(&self, question: &CedarRequest, entities: &Entities) -> Decision {
        let response = self
            .authorizer
            .is_authorized(question, &self.policies, entities);
        let diagnostics = response.diagnostics();
        let mut reasons: Vec<String> = diagnostics
            .reason()
            .map(|id| AsRef::<str>::as_ref(id).to_owned())
            .collect();
        reasons.sort_unstable();
        let errors: Vec<String> = diagnostics.errors().map(ToString::to_string).collect();
        // Cedar skips a policy that fails; were it a forbid, skipping it would allow.
        if !errors.is_empty() {
            return Decision {
                allowed: false,
                outcome: Outcome::Error,
                reasons,
                errors,
            };
        }
        let outcome = match response.decision() {
            CedarDecision::Allow => Outcome::Permitted,
            CedarDecision::Deny if reasons.is_empty() => Outcome::NoPermit,
            CedarDecision::Deny => Outcome::Forbidden,
        };
        Decision {
            allowed: outcome == Outcome::Permitted,
            outcome,
            reasons,
            errors,
        }
    }
}

#[cfg(test)]
mod tests;
