//! What a decision of the mesh costs: `cargo run --release -p ringwall-policy --example mesh-decisions`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use ringwall_identity::SpiffeId;
use ringwall_policy::mesh::{Bundle, Edge, MeshPolicy, MeshRequest, ServiceFacts, UserFacts};

const SERVICES: usize = 100;
const ROUND: Duration = Duration::from_millis(300);

/// A hundred services, two policies for each and `general` that concern all of them.
fn bundle(general: usize) -> Bundle {
    let name = |number: usize| format!("service-{number}");
    let facts = ServiceFacts {
        owner: "team".into(),
        tier: "internal".into(),
        ports: vec![80],
    };
    let edges = (1..SERVICES).map(|number| Edge {
        caller: name(0),
        callee: name(number),
        ports: vec![],
    });
    let own = (1..SERVICES).map(|number| {
        let callee = name(number);
        format!(
            r#"@id("{callee}-reads") permit (principal == Workload::"service-0", action in Action::"read", resource == Service::"{callee}");
               @id("{callee}-writes") permit (principal, action == Action::"POST", resource == Service::"{callee}")
               when {{ context has user && context.user.roles.contains("customer") && context.path like "/v1/*" }};"#
        )
    });
    let rules = (0..general).map(|number| {
        format!(
            r#"@id("general-{number}") forbid (principal, action, resource)
               when {{ context.headers has "x-tenant" && context.headers["x-tenant"] == "tenant-{number}" }};"#
        )
    });
    Bundle {
        edges: edges.collect(),
        policies: BTreeMap::from([
            ("own".into(), own.collect()),
            ("all".into(), rules.collect()),
        ]),
        services: (0..SERVICES)
            .map(|number| (name(number), facts.clone()))
            .collect(),
        ..Bundle::default()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let caller = SpiffeId::parse("spiffe://ringwall.local/service-0")?;
    let headers = HeaderMap::from_iter([(
        http::HeaderName::from_static("x-tenant"),
        HeaderValue::from_static("acme"),
    )]);
    let user = UserFacts {
        sub: "alice".into(),
        client: "spa-proxy".into(),
        roles: vec!["customer".into()],
        scopes: vec!["orders:read".into(), "orders:write".into()],
    };
    for general in [0, 10, 50] {
        let started = Instant::now();
        let policy = MeshPolicy::compile(bundle(general))?;
        let compiled = started.elapsed();
        for (what, method, user) in [("read", "GET", None), ("write", "POST", Some(&user))] {
            let request = MeshRequest {
                caller: &caller,
                callee: "service-7",
                port: 80,
                method,
                path: "/v1/orders",
                headers: &headers,
                user,
            };
            let decision = policy.decide(&request);
            let (mut count, started) = (0_u32, Instant::now());
            while started.elapsed() < ROUND {
                for _ in 0..100 {
                    black_box(policy.decide(black_box(&request)));
                }
                count += 100;
            }
            let each = started.elapsed() / count;
            writeln!(
                std::io::stdout(),
                "{} own policies + {general} general: {what} {each:?} (allowed: {}), compiled in {compiled:?}",
                2 * (SERVICES - 1),
                decision.allowed
            )?;
        }
    }
    Ok(())
}
