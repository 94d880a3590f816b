//! Loads policies: parse, name, validate; every fault with its file and line.
//!
//! Owns: the embedded schema, the declared actions, and what a policy must look like (an `@id` that
//! is unique, no template). Must not: decide. Read next: `engine.rs`.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::{
    PolicyId, PolicySet, Schema, ValidationError, ValidationMode, ValidationResult, Validator,
};
use miette::Diagnostic;

use crate::error::{Fault, PolicyError};
use crate::nesting;

const SCHEMA: &str = include_str!("ringwall.cedarschema");

/// One policy text with the name that errors show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySource {
    /// File name, or the place in the configuration.
    pub name: String,
    /// Cedar policies.
    pub text: String,
}

impl PolicySource {
    /// Names a policy text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }
}

/// The group that an action belongs to: policies may say `action in Action::"read"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ActionClass {
    /// Safe methods (RFC 9110 §9.2.1).
    Read,
    /// Methods that change something.
    Write,
    /// Administration.
    Admin,
}

impl ActionClass {
    fn group(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// An action that a route declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionDecl {
    /// For instance `order:place`.
    pub name: String,
    /// Its group.
    pub class: ActionClass,
}

impl ActionDecl {
    /// Declares an action.
    pub fn new(name: impl Into<String>, class: ActionClass) -> Self {
        Self {
            name: name.into(),
            class,
        }
    }
}

/// Policies that passed every check, with what a decision needs.
pub(crate) struct Compiled {
    pub(crate) schema: Schema,
    pub(crate) policies: PolicySet,
    pub(crate) warnings: Vec<Fault>,
}

pub(crate) fn compile(
    sources: &[PolicySource],
    actions: &[ActionDecl],
) -> Result<Compiled, PolicyError> {
    let schema = schema(actions)?;
    let named = name_policies(sources)?;
    let validator = Validator::new(schema.clone());
    let result = validator.validate(&named.policies, ValidationMode::Strict);
    let faults = validation_faults(&result, &named, sources);
    if !faults.is_empty() {
        return Err(PolicyError::Policies(faults));
    }
    let warnings = result
        .validation_warnings()
        .map(|warning| named.fault(sources, warning.policy_id(), warning))
        .collect();
    Ok(Compiled {
        schema,
        policies: named.policies,
        warnings,
    })
}

/// The embedded schema and the declared actions that it does not already have.
fn schema(actions: &[ActionDecl]) -> Result<Schema, PolicyError> {
    let unusable = |error: &dyn std::fmt::Display| PolicyError::Schema(error.to_string());
    let (built_in, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| unusable(&error))?;
    let entities = built_in
        .action_entities()
        .map_err(|error| unusable(&error))?;
    let known: HashMap<String, Vec<String>> = built_in
        .actions()
        .map(|uid| {
            let groups = entities.ancestors(uid).into_iter().flatten();
            let groups = groups
                .map(|group| group.id().unescaped().to_owned())
                .collect();
            (uid.id().unescaped().to_owned(), groups)
        })
        .collect();

    let mut declared: BTreeMap<&str, ActionClass> = BTreeMap::new();
    for action in actions {
        check_action(action, &known)?;
        match declared.insert(&action.name, action.class) {
            Some(class) if class != action.class => {
                return Err(refuse_action(action, "it is declared in two classes"));
            }
            _ => {}
        }
    }
    let mut text = SCHEMA.to_owned();
    for (name, class) in declared {
        if !known.contains_key(name) {
            text.push_str(&format!(
                "action \"{name}\" in [\"{}\"] appliesTo {{
                    principal: [User, Client, Workload, Anonymous],
                    resource: [Route],
                    context: RequestContext,
                }};\n",
                class.group()
            ));
        }
    }
    let (schema, _) = Schema::from_cedarschema_str(&text).map_err(|error| unusable(&error))?;
    Ok(schema)
}

/// Names are written into the schema text, so their alphabet must not be able to leave a string.
fn check_action(
    action: &ActionDecl,
    known: &HashMap<String, Vec<String>>,
) -> Result<(), PolicyError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b":._-".contains(&b);
    if !(1..=64).contains(&action.name.len()) || !action.name.bytes().all(allowed) {
        return Err(refuse_action(
            action,
            "use 1 to 64 characters of a-z, 0-9, ':._-'",
        ));
    }
    match known.get(&action.name) {
        Some(groups) if groups.is_empty() => Err(refuse_action(
            action,
            "it is the name of a class; routes need an action of it",
        )),
        Some(groups) if !groups.iter().any(|group| group == action.class.group()) => {
            Err(refuse_action(action, "the schema has it in another class"))
        }
        _ => Ok(()),
    }
}

fn refuse_action(action: &ActionDecl, rule: &'static str) -> PolicyError {
    PolicyError::Action {
        name: action.name.clone(),
        rule,
    }
}

/// All policies under their `@id`, and which source each came from.
pub(crate) struct Named {
    pub(crate) policies: PolicySet,
    origin: HashMap<PolicyId, usize>,
}

impl Named {
    /// A fault at the place where a policy begins.
    pub(crate) fn fault_of(
        &self,
        sources: &[PolicySource],
        policy: &cedar_policy::Policy,
        message: String,
    ) -> Fault {
        let source = self.origin.get(policy.id());
        let source = source.and_then(|&index| sources.get(index));
        let (file, text) = source.map_or(("?", ""), |s| (s.name.as_str(), s.text.as_str()));
        let offset = policy.as_ref().loc().map_or(0, |loc| loc.start());
        Fault {
            file: file.to_owned(),
            line: line_of(text, offset),
            message,
        }
    }

    pub(crate) fn fault(
        &self,
        sources: &[PolicySource],
        id: &PolicyId,
        problem: &(impl Diagnostic + ?Sized),
    ) -> Fault {
        let source = self.origin.get(id).and_then(|&index| sources.get(index));
        let (file, text) = source.map_or(("?", ""), |s| (s.name.as_str(), s.text.as_str()));
        fault(file, text, problem)
    }
}

pub(crate) fn name_policies(sources: &[PolicySource]) -> Result<Named, PolicyError> {
    let mut named = Named {
        policies: PolicySet::new(),
        origin: HashMap::new(),
    };
    let mut faults = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        if let Err(deep) = nesting::check(&source.text) {
            faults.push(Fault {
                file: source.name.clone(),
                line: line_of(&source.text, deep.offset),
                message: deep.rule.to_owned(),
            });
            continue;
        }
        let parsed: PolicySet = match source.text.parse() {
            Ok(parsed) => parsed,
            Err(errors) => {
                let errors: cedar_policy::ParseErrors = errors;
                faults.extend(errors.iter().map(|e| fault(&source.name, &source.text, e)));
                continue;
            }
        };
        let at = |offset: Option<usize>, message: String| Fault {
            file: source.name.clone(),
            line: line_of(&source.text, offset.unwrap_or(0)),
            message,
        };
        for template in parsed.templates() {
            let offset = template.as_ref().loc().map(|loc| loc.start());
            faults.push(at(
                offset,
                "templates are not accepted; write the policy out".to_owned(),
            ));
        }
        let mut policies: Vec<_> = parsed.policies().collect();
        policies.sort_by_key(|policy| policy.as_ref().loc().map(|loc| loc.start()));
        for policy in policies {
            let offset = policy.as_ref().loc().map(|loc| loc.start());
            let id = policy.annotation("id").unwrap_or_default();
            if id.is_empty() {
                let message = "the policy has no name; put @id(\"what-it-allows\") before it";
                faults.push(at(offset, message.to_owned()));
                continue;
            }
            let id = PolicyId::new(id);
            if let Some(&first) = named.origin.get(&id) {
                let first = sources.get(first).map_or("?", |s| s.name.as_str());
                faults.push(at(
                    offset,
                    format!("the @id {id} is already used in {first}"),
                ));
                continue;
            }
            if let Err(error) = named.policies.add(policy.new_id(id.clone())) {
                faults.push(at(offset, error.to_string()));
            }
            named.origin.insert(id, index);
        }
    }
    if faults.is_empty() {
        Ok(named)
    } else {
        Err(PolicyError::Policies(faults))
    }
}

pub(crate) fn validation_faults(
    result: &ValidationResult,
    named: &Named,
    sources: &[PolicySource],
) -> Vec<Fault> {
    let mut faults: Vec<Fault> = result
        .validation_errors()
        .map(|error: &ValidationError| named.fault(sources, error.policy_id(), error))
        .collect();
    faults.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    faults
}

fn fault(file: &str, text: &str, problem: &(impl Diagnostic + ?Sized)) -> Fault {
    let label = problem.labels().and_then(|mut labels| labels.next());
    let mut message = problem.to_string();
    if let Some(hint) = label.as_ref().and_then(|label| label.label()) {
        message.push_str(": ");
        message.push_str(hint);
    }
    if let Some(help) = problem.help() {
        message.push_str("; ");
        message.push_str(&help.to_string());
    }
    let line = line_of(text, label.map_or(0, |label| label.offset()));
    Fault {
        file: file.to_owned(),
        line,
        message,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}
