//! Random bundles and requests, decided by Cedar and by a model that shares no code with it.

use http::HeaderMap;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const METHODS: [&str; 4] = ["GET", "POST", "DELETE", "QUERY"];
const PATHS: [&str; 4] = ["/", "/v1", "/v1/x", "/v2"];
const PORTS: [u16; 3] = [80, 81, 82];
const TENANTS: [&str; 2] = ["acme", "evil"];
const ROLES: [&str; 2] = ["admin", "guest"];

/// A policy in the few words of the model.
#[derive(Debug, Clone)]
struct Rule {
    permit: bool,
    caller: Option<&'static str>,
    callee: Option<&'static str>,
    read_only: bool,
    prefix: Option<&'static str>,
    tenant: Option<&'static str>,
    role: Option<&'static str>,
    port: Option<u16>,
    dry_run: bool,
}

#[derive(Debug, Clone)]
struct Question {
    caller: &'static str,
    callee: &'static str,
    port: u16,
    method: &'static str,
    path: &'static str,
    tenant: Option<&'static str>,
    role: Option<&'static str>,
}

impl Rule {
    fn text(&self, number: usize) -> String {
        let effect = if self.permit { "permit" } else { "forbid" };
        let side = |name: &str, kind: &str, only: Option<&str>| {
            only.map_or(name.to_owned(), |id| format!("{name} == {kind}::\"{id}\""))
        };
        let mut conditions = vec!["true".to_owned()];
        if let Some(prefix) = self.prefix {
            conditions.push(format!("context.path like \"{prefix}*\""));
        }
        if let Some(tenant) = self.tenant {
            conditions.push(format!(
                "context.headers has \"x-tenant\" && context.headers[\"x-tenant\"] == \"{tenant}\""
            ));
        }
        if let Some(role) = self.role {
            conditions.push(format!(
                "context has user && context.user.roles.contains(\"{role}\")"
            ));
        }
        if let Some(port) = self.port {
            conditions.push(format!("context.port == {port}"));
        }
        format!(
            "@id(\"rule-{number}\") {effect} ({}, {}, {}) when {{ {} }};\n",
            side("principal", "Workload", self.caller),
            if self.read_only {
                "action in Action::\"read\""
            } else {
                "action"
            },
            side("resource", "Service", self.callee),
            conditions.join(" && ")
        )
    }

    fn applies(&self, question: &Question) -> bool {
        let matches = |only: Option<&str>, seen: &str| only.is_none_or(|only| only == seen);
        matches(self.caller, question.caller)
            && matches(self.callee, question.callee)
            && (!self.read_only || question.method == "GET")
            && self
                .prefix
                .is_none_or(|prefix| question.path.starts_with(prefix))
            && (self.tenant.is_none() || self.tenant == question.tenant)
            && (self.role.is_none() || self.role == question.role)
            && self.port.is_none_or(|port| port == question.port)
    }
}

fn declared(edges: &[Edge], question: &Question) -> bool {
    edges.iter().any(|edge| {
        edge.caller == question.caller
            && edge.callee == question.callee
            && PORTS.contains(&question.port)
            && (edge.ports.is_empty() || edge.ports.contains(&question.port))
    })
}

fn modelled(rules: &[Rule], question: &Question, with_dry_run: bool) -> bool {
    let mut active = rules
        .iter()
        .filter(|rule| with_dry_run || !rule.dry_run)
        .filter(|rule| rule.applies(question));
    let permits = active.clone().any(|rule| rule.permit);
    permits && active.all(|rule| rule.permit)
}

fn pick<T: Clone + std::fmt::Debug + 'static>(from: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(from)
}

fn edges() -> impl Strategy<Value = Vec<Edge>> {
    let edge = (pick(&NAMES), pick(&NAMES), vec(pick(&PORTS), 0..3));
    let edge = edge.prop_map(|(caller, callee, ports)| Edge {
        caller: caller.into(),
        callee: callee.into(),
        ports,
    });
    vec(edge, 0..10)
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let scope = (
        any::<bool>(),
        option::of(pick(&NAMES)),
        option::of(pick(&NAMES)),
        any::<bool>(),
    );
    let conditions = (
        option::weighted(0.3, pick(&PATHS)),
        option::weighted(0.3, pick(&TENANTS)),
        option::weighted(0.3, pick(&ROLES)),
        option::weighted(0.2, pick(&PORTS)),
        proptest::bool::weighted(0.2),
    );
    let rule = (scope, conditions).prop_map(
        |((permit, caller, callee, read_only), (prefix, tenant, role, port, dry_run))| Rule {
            permit,
            caller,
            callee,
            read_only,
            prefix,
            tenant,
            role,
            port,
            dry_run,
        },
    );
    vec(rule, 0..8)
}

fn questions() -> impl Strategy<Value = Vec<Question>> {
    let question = (
        // `x` is nobody, 443 no declared port.
        prop_oneof![9 => pick(&NAMES), 1 => Just("x")],
        prop_oneof![9 => pick(&NAMES), 1 => Just("x")],
        prop_oneof![9 => pick(&PORTS), 1 => Just(443)],
        pick(&METHODS),
        pick(&PATHS),
        option::of(pick(&TENANTS)),
        option::of(pick(&ROLES)),
    );
    let question =
        question.prop_map(
            |(caller, callee, port, method, path, tenant, role)| Question {
                caller,
                callee,
                port,
                method,
                path,
                tenant,
                role,
            },
        );
    vec(question, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn r50_cedar_decides_as_the_model_does(edges in edges(), rules in rules(), questions in questions()) {
        let facts = ServiceFacts { ports: PORTS.to_vec(), ..ServiceFacts::default() };
        let texts = rules.iter().enumerate().map(|(number, rule)| rule.text(number));
        let dry = rules.iter().enumerate().filter(|(_, rule)| rule.dry_run);
        let bundle = Bundle {
            edges: edges.clone(),
            policies: BTreeMap::from([("random".to_owned(), texts.collect())]),
            dry_run: dry.map(|(number, _)| format!("rule-{number}")).collect(),
            examples: Vec::new(),
            services: NAMES.iter().map(|name| ((*name).to_owned(), facts.clone())).collect(),
        };
        let policy = MeshPolicy::compile(bundle).unwrap();
        for question in &questions {
            let caller = SpiffeId::parse(&format!("spiffe://example/{}", question.caller)).unwrap();
            let mut headers = HeaderMap::new();
            if let Some(tenant) = question.tenant {
                headers.insert("x-tenant", tenant.parse().unwrap());
            }
            let user = question.role.map(|role| UserFacts { roles: vec![role.to_owned()], ..UserFacts::default() });
            let decision = policy.decide(&MeshRequest {
                caller: &caller,
                callee: question.callee,
                port: question.port,
                method: question.method,
                path: question.path,
                headers: &headers,
                user: user.as_ref(),
            });
            let edge = declared(&edges, question);
            let expected = edge && modelled(&rules, question, false);
            prop_assert_eq!(policy.allows_edge(question.caller, question.callee, question.port), edge);
            prop_assert_eq!(decision.allowed, expected, "{:?} {:?}", question, decision);
            prop_assert!(decision.allowed <= edge, "an undeclared edge was allowed");
            let trial = edge && modelled(&rules, question, true);
            prop_assert_eq!(decision.dry_run, (trial != expected).then_some(trial));
        }
    }
}
