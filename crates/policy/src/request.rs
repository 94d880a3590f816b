//! What a decision is asked about.
//!
//! Owns: the plain types of a question, and their translation into Cedar entities.
//! Must not: decide. Read next: `engine.rs`.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A person, through a client.
    User {
        /// Subject of the token.
        sub: String,
        /// The client that acts for the user.
        client: String,
        /// Roles of the user.
        roles: Vec<String>,
        /// Scopes of the token.
        scopes: Vec<String>,
        /// Authentication context class, when the token says it (RFC 9470).
        acr: Option<String>,
    },
    /// A client that acts for itself (RFC 6749 §4.4).
    Client {
        /// The client id.
        id: String,
        /// Scopes of the token.
        scopes: Vec<String>,
    },
    /// A service of the mesh.
    Workload {
        /// Its verified SPIFFE id.
        spiffe_id: String,
    },
    /// Nobody proved an identity.
    Anonymous,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    /// A route of the gateway.
    Route {
        /// Its id in the configuration.
        id: String,
        /// The upstream service.
        service: String,
        /// The public host.
        host: String,
    },
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub principal: Principal,
    /// The action that the route declares for this method, for instance `order:place`.
    pub action: String,
    /// What is asked for.
    pub resource: Resource,
    /// A JSON object with attributes of `RequestContext` (see the schema); `{}` or `null` for none.
    pub context: serde_json::Value,
}

/// The names of the entity types, parsed once.
#[derive(Debug, Clone)]
pub(crate) struct EntityTypes {
    user: EntityTypeName,
    client: EntityTypeName,
    workload: EntityTypeName,
    anonymous: EntityTypeName,
    route: EntityTypeName,
}

impl EntityTypes {
    pub(crate) fn new() -> Result<Self, String> {
        let name = |name: &str| EntityTypeName::from_str(name).map_err(|error| error.to_string());
        Ok(Self {
            user: name("User")?,
            client: name("Client")?,
            workload: name("Workload")?,
            anonymous: name("Anonymous")?,
            route: name("Route")?,
        })
    }
}

impl Principal {
    pub(crate) fn entity(&self, types: &EntityTypes) -> Result<(EntityUid, Entity), String> {
        match self {
            Self::User {
                sub,
                client,
                roles,
                scopes,
                acr,
            } => {
                let mut attributes = vec![
                    ("sub", string(sub)),
                    ("client", string(client)),
                    ("roles", set(roles)),
                    ("scopes", set(scopes)),
                ];
                if let Some(acr) = acr {
                    attributes.push(("acr", string(acr)));
                }
                entity(&types.user, sub, attributes)
            }
            Self::Client { id, scopes } => entity(
                &types.client,
                id,
                vec![("id", string(id)), ("scopes", set(scopes))],
            ),
            Self::Workload { spiffe_id } => entity(
                &types.workload,
                spiffe_id,
                vec![("spiffe_id", string(spiffe_id))],
            ),
            Self::Anonymous => entity(&types.anonymous, "anonymous", vec![]),
        }
    }
}

impl Resource {
    pub(crate) fn entity(&self, types: &EntityTypes) -> Result<(EntityUid, Entity), String> {
        let Self::Route { id, service, host } = self;
        let attributes = vec![
            ("id", string(id)),
            ("service", string(service)),
            ("host", string(host)),
        ];
        entity(&types.route, id, attributes)
    }
}

fn entity(
    type_name: &EntityTypeName,
    id: &str,
    attributes: Vec<(&str, RestrictedExpression)>,
) -> Result<(EntityUid, Entity), String> {
    let uid = EntityUid::from_type_name_and_id(type_name.clone(), EntityId::new(id));
    let attributes: HashMap<String, RestrictedExpression> = attributes
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let entity =
        Entity::new(uid.clone(), attributes, HashSet::new()).map_err(|error| error.to_string())?;
    Ok((uid, entity))
}

fn string(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn set(values: &[String]) -> RestrictedExpression {
    RestrictedExpression::new_set(values.iter().map(|value| string(value)))
}
