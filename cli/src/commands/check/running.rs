//! The mesh of a platform that runs: control plane, identities, certificates, proxies, data plane.
//!
//! Owns: what counts as good. Everything is asked just now, over mTLS, as the operator. A platform that
//! does not run has no findings here.

use ringwall_identity::svid::validity_of;
use ringwall_mesh_api::v1::DescribeRequest;
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::finding::{Category, Finding};
use crate::cgroups::Tier;
use crate::commands::runtime;
use crate::error::CliError;
use crate::plane::Plane;
use crate::probe::Prober;
use crate::record::{ComponentRecord, Phase, Record};
use crate::state::StateDir;

/// An intermediate that ends sooner must be renewed now.
const INTERMEDIATE_LEFT: Duration = Duration::days(7);

/// Looks at everything that runs; one finding each.
pub(super) fn findings(state: &StateDir) -> Result<Vec<Finding>, CliError> {
    let running = Record::read(state)?.filter(|record| record.supervisor().is_alive());
    let meshed = running.filter(|record| record.has_mesh() && record.phase == Phase::Up);
    if meshed.is_none() {
        return Ok(Vec::new());
    }
    let plane = Plane::of(state)?;
    let prober = Prober::load(state, &plane.record.trust_domain)?;
    runtime()?.block_on(Box::pin(async {
        let mut findings = control_plane(&plane).await;
        for component in &plane.record.components {
            findings.extend(of_component(&plane, &prober, component).await);
        }
        Ok(findings)
    }))
}

async fn control_plane(plane: &Plane) -> Vec<Finding> {
    const CATEGORY: Category = Category::ControlPlane;
    let asked = async {
        let mut authority = plane.authority().await.map_err(|error| error.to_string())?;
        let answer = authority.describe(DescribeRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| status.message().to_owned())
    };
    let answer = tokio::time::timeout(crate::plane::PATIENCE, asked).await;
    let authority = match answer.unwrap_or_else(|_| Err("no answer in time".into())) {
        Ok(authority) => authority,
        Err(why) => {
            let detail = format!(
                "does not answer: {why}\n  fix: proxies work on from what they know; look at `ringwall logs control-plane`"
            );
            return vec![Finding::bad(CATEGORY, "answer", detail)];
        }
    };
    let leader = match authority.leader.as_str() {
        "" => Finding::bad(
            CATEGORY,
            "leader",
            "nobody leads\n  fix: one replica takes over within seconds; if not, look at the store"
                .into(),
        ),
        leader => Finding::good(CATEGORY, "leader", leader.to_owned()),
    };
    let ends = OffsetDateTime::from_unix_timestamp(authority.intermediate_not_after);
    let left = ends.map_or(Duration::ZERO, |ends| ends - OffsetDateTime::now_utc());
    let detail = format!("the intermediate is good for {} days", left.whole_days());
    let intermediate = if left > INTERMEDIATE_LEFT {
        Finding::good(Category::Certificates, "intermediate", detail)
    } else {
        let fix = if authority.external_root {
            "give a new one: ringwall up --external-root …"
        } else {
            "the supervisor renews it by itself: look at its output"
        };
        Finding::bad(
            Category::Certificates,
            "intermediate",
            format!("{detail}\n  fix: {fix}"),
        )
    };
    let answer = Finding::good(
        CATEGORY,
        "answer",
        format!("{} certificates issued", authority.issued),
    );
    vec![answer, leader, intermediate]
}

async fn of_component(plane: &Plane, prober: &Prober, component: &ComponentRecord) -> Vec<Finding> {
    let Some(admin) = &component.admin else {
        return Vec::new();
    };
    let name = component.name.as_str();
    let mut findings = Vec::new();
    let ready = prober.ready(&component.identity, admin, None).await;
    let category = match (&component.before, component.identity.starts_with("agent/")) {
        (Some(_), _) => Category::Proxies,
        (None, true) => Category::Identity,
        (None, false) => Category::DataPlane,
    };
    let said = match (category, plane.record.attestation) {
        (Category::Identity, Some(Tier::Spawned)) => {
            "ready; workloads are recognised by the supervisor's word, since no control group can be made here"
        }
        (Category::Identity, _) => "ready; workloads are recognised by their control groups",
        (Category::DataPlane, _) => "answers over mTLS",
        _ => "ready, in step with the control plane",
    };
    findings.push(match ready {
        Ok(()) => Finding::good(category, name, said.to_owned()),
        Err(why) => {
            let detail = format!("not ready: {why}\n  fix: look at `ringwall logs {name}`");
            Finding::bad(category, name, detail)
        }
    });
    // The certificate of a proxy is its component's.
    if component.before.is_none() {
        let served = plane.served(component).await;
        findings.push(certificate(name, served, OffsetDateTime::now_utc()));
    }
    findings
}

/// Whether a served chain, which the handshake has verified, lasts; renewal is due at half of it.
fn certificate(
    name: &str,
    chain: Result<Vec<CertificateDer<'static>>, String>,
    now: OffsetDateTime,
) -> Finding {
    const CATEGORY: Category = Category::Certificates;
    let life = chain.and_then(|chain| {
        let leaf = chain.first().ok_or("it serves no certificate")?;
        validity_of(leaf).map_err(|error| error.to_string())
    });
    let (not_before, not_after) = match life {
        Ok(life) => life,
        Err(why) => {
            let detail = format!("{why}\n  fix: look at `ringwall logs agent`");
            return Finding::bad(CATEGORY, name, detail);
        }
    };
    let (whole, left) = (not_after - not_before, not_after - now);
    let detail = format!(
        "good for {} s of {} s",
        left.whole_seconds(),
        whole.whole_seconds()
    );
    // A third instead of half: renewals have jitter, and are tried again.
    if left * 3 >= whole {
        Finding::good(CATEGORY, name, detail)
    } else {
        let fix =
            "it should have been renewed: look at `ringwall logs agent` and at the control plane";
        Finding::bad(CATEGORY, name, format!("{detail}\n  fix: {fix}"))
    }
}

#[cfg(test)]
mod tests {
    use ringwall_identity::authority::Authority;
    use ringwall_identity::{SpiffeId, TrustDomain};

    use super::*;

    #[test]
    fn a_certificate_that_was_not_renewed_in_time_is_told() {
        let now = OffsetDateTime::now_utc();
        let domain = TrustDomain::parse("example.org").unwrap();
        let authority = Authority::generate(&domain, now).unwrap();
        let id = SpiffeId::workload(&domain, "orders").unwrap();
        let hour = std::time::Duration::from_secs(3600);
        let issued = authority.issue_svid(&id, &[], hour, now).unwrap();
        let chain = ringwall_identity::certificate::from_pem(&issued.chain_pem).unwrap();
        let at = |minutes| {
            certificate(
                "orders",
                Ok(chain.clone()),
                now + Duration::minutes(minutes),
            )
        };
        assert!(at(0).ok && at(35).ok);
        let late = at(50);
        assert!(
            !late.ok && late.detail.contains("should have been renewed"),
            "{}",
            late.detail
        );
        let refused = certificate("orders", Err("connection refused".into()), now);
        assert!(!refused.ok && refused.hint.is_some());
    }
}
