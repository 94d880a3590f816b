//! From a bundle to what decisions need: everything is checked here, and all faults are told at once.
//!
//! Owns: the limits of a bundle and what may stand in it. Must not: run examples or decide.
//! Read next: `compile/names.rs` (do the names that a bundle uses exist), `decide.rs`.

mod edges;
mod names;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use cedar_policy::{
    Authorizer, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet,
    ResourceConstraint, RestrictedExpression, Schema, ValidationMode, Validator,
};

pub(super) use edges::EdgeTable;

use super::reads::{Mentions, Reads};
use super::{Bundle, Effect, ServiceFacts};
use crate::compile::{Named, PolicySource, name_policies, validation_faults};
use crate::error::{Fault, PolicyError};

const SCHEMA: &str = include_str!("../mesh.cedarschema");

/// Named limits of a bundle. A bundle is hostile until it has been read.
pub mod limits {
    /// JSON form, in bytes; signed, it is a third longer.
    pub const BUNDLE_BYTES: usize = 1024 * 1024;
    pub const EDGES: usize = 20_000;
    pub const SERVICES: usize = 5_000;
    pub const EXAMPLES: usize = 2_000;
    /// Policy texts, and bytes in each.
    pub const TEXTS: usize = 512;
    pub const TEXT_BYTES: usize = 64 * 1024;
    /// Policies in all texts.
    pub const POLICIES: usize = 2_000;
    /// Header fields that policies may read: each is copied for each decision.
    pub const HEADERS: usize = 32;
    /// Bytes of a name of any kind.
    pub const NAME_BYTES: usize = 128;
}

/// What a decision needs.
pub(super) struct Compiled {
    pub(super) edges: EdgeTable,
    pub(super) vocabulary: Vocabulary,
    /// Without the policies in `dry_run`.
    pub(super) enforced: Rules,
    /// With them; absent when there are none.
    pub(super) trial: Option<Rules>,
    pub(super) authorizer: Authorizer,
    pub(super) reads: Reads,
    pub(super) facts: BTreeMap<String, Facts>,
    pub(super) warnings: Vec<Fault>,
}

/// What is told about a policy.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) effect: Effect,
    pub(super) dry_run: bool,
}

/// Policies that decide together.
pub(super) struct Rules {
    pub(super) reads: Reads,
    policies: PolicySet,
    /// Those that can apply to a service, picked when it is first asked for: a proxy asks for its own one alone.
    by_callee: HashMap<Box<str>, OnceLock<PolicySet>>,
}

/// Entities that were built once: a decision only points at them.
pub(super) struct Vocabulary {
    pub(super) entities: Entities,
    pub(super) workloads: HashMap<Box<str>, EntityUid>,
    pub(super) services: HashMap<Box<str>, EntityUid>,
    pub(super) actions: HashMap<String, EntityUid>,
}

pub(super) fn compile(bundle: &Bundle) -> Result<Compiled, PolicyError> {
    let mut faults = names::sizes(bundle);
    if !faults.is_empty() {
        return Err(PolicyError::Policies(faults));
    }
    faults.extend(names::check(bundle));
    let sources: Vec<PolicySource> = bundle
        .policies
        .iter()
        .map(|(name, text)| PolicySource::new(name, text))
        .collect();
    let named = match name_policies(&sources) {
        Ok(named) => named,
        Err(PolicyError::Policies(more)) => {
            faults.extend(more);
            return Err(PolicyError::Policies(sorted(faults)));
        }
        Err(other) => return Err(other),
    };
    let mentions = mentions(&named)?;
    faults.extend(names::policies(bundle, &sources, &named, &mentions));
    if !faults.is_empty() {
        return Err(PolicyError::Policies(sorted(faults)));
    }
    let all = mentions
        .values()
        .fold(Reads::default(), |all, found| all.union(&found.reads));
    let schema = schema(&all)?;
    let result = Validator::new(schema.clone()).validate(&named.policies, ValidationMode::Strict);
    let faults = validation_faults(&result, &named, &sources);
    if !faults.is_empty() {
        return Err(PolicyError::Policies(faults));
    }
    let mut warnings: Vec<Fault> = result
        .validation_warnings()
        .map(|warning| named.fault(&sources, warning.policy_id(), warning))
        .collect();
    let edges = EdgeTable::of(bundle);
    warnings.extend(names::warnings(bundle, &sources, &named, &edges));

    let dry: HashSet<&str> = bundle.dry_run.iter().map(String::as_str).collect();
    let facts = facts(&sources, &named, &dry);
    let enforced = Rules::of(bundle, &named, &mentions, |id| !dry.contains(id))?;
    let trial = match dry.is_empty() {
        true => None,
        false => Some(Rules::of(bundle, &named, &mentions, |_| true)?),
    };
    Ok(Compiled {
        edges,
        vocabulary: Vocabulary::of(bundle, &schema)?,
        enforced,
        trial,
        authorizer: Authorizer::new(),
        reads: all,
        facts,
        warnings: sorted(warnings),
    })
}

fn sorted(mut faults: Vec<Fault>) -> Vec<Fault> {
    faults.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    faults
}

fn mentions(named: &Named) -> Result<BTreeMap<String, Mentions>, PolicyError> {
    let all = named.policies.policies().map(|policy| {
        let json = policy.to_json().map_err(unusable)?;
        Ok((id_of(policy), Mentions::of(&json)))
    });
    all.collect()
}

/// The schema for a bundle whose policies read these header fields.
fn schema(reads: &Reads) -> Result<Schema, PolicyError> {
    let fields = reads
        .headers
        .iter()
        .map(|name| format!("\"{name}\"?: String,"));
    let text = format!(
        "{SCHEMA}\ntype Headers = {{ {} }};\n",
        fields.collect::<String>()
    );
    let (schema, _) = Schema::from_cedarschema_str(&text).map_err(unusable)?;
    Ok(schema)
}

fn unusable(error: impl fmt::Display) -> PolicyError {
    PolicyError::Schema(error.to_string())
}

fn id_of(policy: &Policy) -> String {
    let id: &str = policy.id().as_ref();
    id.to_owned()
}

fn facts(sources: &[PolicySource], named: &Named, dry: &HashSet<&str>) -> BTreeMap<String, Facts> {
    let all = named.policies.policies().map(|policy| {
        let id = id_of(policy);
        let place = named.fault_of(sources, policy, String::new());
        let effect = match policy.effect() {
            cedar_policy::Effect::Permit => Effect::Permit,
            cedar_policy::Effect::Forbid => Effect::Forbid,
        };
        let dry_run = dry.contains(id.as_str());
        let (file, line) = (place.file, place.line);
        (
            id,
            Facts {
                file,
                line,
                effect,
                dry_run,
            },
        )
    });
    all.collect()
}

impl Compiled {
    pub(super) fn policy_ids(&self) -> Vec<&str> {
        self.facts.keys().map(String::as_str).collect()
    }

    pub(super) fn policy(&self, id: &str) -> Option<&Policy> {
        let all = self.trial.as_ref().unwrap_or(&self.enforced);
        all.policies.policy(&PolicyId::new(id))
    }
}

impl Rules {
    fn of(
        bundle: &Bundle,
        named: &Named,
        mentions: &BTreeMap<String, Mentions>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Self, PolicyError> {
        let mut policies = PolicySet::new();
        let mut reads = Reads::default();
        for policy in named.policies.policies() {
            let id = id_of(policy);
            if wanted(&id) {
                policies.add(policy.clone()).map_err(unusable)?;
                if let Some(found) = mentions.get(&id) {
                    reads = reads.union(&found.reads);
                }
            }
        }
        let names = bundle.services.keys();
        let by_callee = names
            .map(|name| (name.as_str().into(), OnceLock::new()))
            .collect();
        Ok(Self {
            reads,
            policies,
            by_callee,
        })
    }

    /// The policies that can apply when this service is called.
    pub(super) fn about(&self, callee: &str, uid: &EntityUid) -> &PolicySet {
        let Some(picked) = self.by_callee.get(callee) else {
            return &self.policies;
        };
        picked.get_or_init(|| {
            let mut set = PolicySet::new();
            let other = |policy: &Policy| {
                matches!(policy.resource_constraint(), ResourceConstraint::Eq(named) if named != *uid)
            };
            for policy in self.policies.policies().filter(|policy| !other(policy)) {
                if set.add(policy.clone()).is_err() {
                    return self.policies.clone();
                }
            }
            set
        })
    }
}

impl Vocabulary {
    fn of(bundle: &Bundle, schema: &Schema) -> Result<Self, PolicyError> {
        let workload = EntityTypeName::from_str("Workload").map_err(unusable)?;
        let service = EntityTypeName::from_str("Service").map_err(unusable)?;
        let action_entities = schema.action_entities().map_err(unusable)?;
        let mut entities: Vec<Entity> = action_entities.iter().cloned().collect();
        let actions = entities
            .iter()
            .map(|action| (action.uid().id().unescaped().to_owned(), action.uid()))
            .collect();
        let unknown = ServiceFacts::default();
        let callers = bundle.edges.iter().map(|edge| &edge.caller);
        let callers: HashSet<&String> = callers.chain(bundle.services.keys()).collect();
        let mut workloads = HashMap::new();
        for name in callers {
            let facts = bundle.services.get(name).unwrap_or(&unknown);
            let entity = entity(&workload, name, facts)?;
            workloads.insert(name.as_str().into(), entity.uid());
            entities.push(entity);
        }
        let mut services = HashMap::new();
        for (name, facts) in &bundle.services {
            let entity = entity(&service, name, facts)?;
            services.insert(name.as_str().into(), entity.uid());
            entities.push(entity);
        }
        Ok(Self {
            entities: Entities::from_entities(entities, Some(schema)).map_err(unusable)?,
            workloads,
            services,
            actions,
        })
    }
}

fn entity(kind: &EntityTypeName, name: &str, facts: &ServiceFacts) -> Result<Entity, PolicyError> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let attributes = HashMap::from([
        ("name".to_owned(), text(name)),
        ("owner".to_owned(), text(&facts.owner)),
        ("tier".to_owned(), text(&facts.tier)),
    ]);
    let uid = EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(name));
    Entity::new(uid, attributes, HashSet::new()).map_err(unusable)
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled")
            .field("policies", &self.facts.len())
            .field("reads", &self.reads)
            .finish_non_exhaustive()
    }
}
