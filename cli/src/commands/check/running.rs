//! The mesh of a platform that runs: control plane, identities, certificates, proxies, data plane.
//!
//! Owns: what counts as good. Everything is asked just now, over mTLS, as the operator. A platform that
//! does not run has no findings here.

use futures_util::future::join_all;
use ringwall_identity::certificate;
use ringwall_identity::svid::validity_of;
use ringwall_mesh_api::v1::DescribeRequest;
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::finding::{Category, Finding};
use crate::cgroups::Tier;
use crate::commands::runtime;
use crate::commands::shield::Desk;
use crate::commands::up::NEEDS_KERNEL;
use crate::composition::OPERATOR;
use crate::error::CliError;
use crate::plane::Plane;
use crate::probe::Prober;
use crate::record::{ComponentRecord, Phase, Record};
use crate::state::StateDir;

/// An intermediate that ends sooner must be renewed now.
const INTERMEDIATE_LEFT: Duration = Duration::days(7);
/// File of a certificate in the folder of an identity.
const SVID: &str = "svid.pem";

/// Looks at everything that runs; one finding each.
pub(super) fn findings(state: &StateDir) -> Result<Vec<Finding>, CliError> {
    let running = Record::read(state)?.filter(|record| record.supervisor().is_alive());
    let meshed = running.filter(|record| record.has_mesh() && record.phase == Phase::Up);
    if meshed.is_none() {
        return Ok(Vec::new());
    }
    let own = operator(state, OffsetDateTime::now_utc());
    // Without it nobody can be asked anything.
    if !own.ok {
        return Ok(vec![own]);
    }
    let plane = Plane::of(state)?;
    let prober = Prober::load(state, &plane.record.trust_domain)?;
    runtime()?.block_on(Box::pin(async {
        // At once: who does not answer costs the limit of one question, however many they are.
        let components = plane.record.components.iter();
        let asked = components.map(|component| of_component(&plane, &prober, component));
        let (control_plane, components) = tokio::join!(control_plane(&plane), join_all(asked));
        let mut findings = vec![own];
        let tier = plane.record.interception.clone();
        let intercepts = tier.as_ref().is_some_and(|tier| tier.starts_with("full"));
        findings.extend(tier.map(|tier| Finding::good(Category::Interception, "tier", tier)));
        if intercepts {
            findings.extend(acceleration(&plane, &prober).await);
        }
        findings.extend(shield(&plane).await);
        findings.extend(control_plane);
        findings.extend(components.into_iter().flatten());
        Ok(findings)
    }))
}

/// The operator's own certificate, with which everything else is asked.
fn operator(state: &StateDir, now: OffsetDateTime) -> Finding {
    let file = state.identity(OPERATOR).join(SVID);
    let read = || -> Result<_, String> {
        let text = std::fs::read_to_string(&file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let chain = certificate::from_pem(&text).map_err(|error| error.to_string())?;
        let leaf = chain.first().ok_or("its file holds no certificate")?;
        let (_, not_after) = validity_of(leaf).map_err(|error| error.to_string())?;
        if not_after <= now {
            return Err(format!("it ended at {not_after}"));
        }
        Ok(chain)
    };
    lasting(
        OPERATOR,
        read(),
        now,
        "the supervisor renews it (in containers the provisioner): look at its output, or start it again",
    )
}

/// Whether bytes between applications and their proxies go from socket to socket, by the agent's word. Off is as good as
/// on: nothing but speed differs.
async fn acceleration(plane: &Plane, prober: &Prober) -> Option<Finding> {
    const SUBJECT: &str = "acceleration";
    let mut components = plane.record.components.iter();
    let agent = components.find(|one| one.identity.starts_with("agent/"))?;
    let asked = prober
        .metrics(&agent.identity, agent.admin.as_ref()?)
        .await
        .and_then(|text| acceleration_of(&text).ok_or_else(|| "it says nothing of it".to_owned()));
    Some(match asked {
        Ok(said) => Finding::good(Category::Interception, SUBJECT, said),
        Err(why) => {
            let detail = format!("unknown: {why}\n  fix: look at `ringwall logs agent`");
            Finding::bad(Category::Interception, SUBJECT, detail)
        }
    })
}

/// State and reason, from the row that is 1.
fn acceleration_of(metrics: &str) -> Option<String> {
    let mut rows = metrics.lines().filter_map(|line| {
        let labels = line.strip_prefix("kernel_acceleration{")?;
        labels.strip_suffix("} 1")
    });
    let labels = rows.next()?.strip_prefix("state=\"")?;
    let (state, reason) = labels.split_once("\",reason=\"")?;
    let reason = reason.strip_suffix('"')?;
    let reason = reason
        .replace("\\n", " ")
        .replace("\\\"", "\"")
        .replace("\\\\", "\\");
    Some(format!("{state}: {reason}"))
}

/// Whether the shield is at work, and why not. Off is good only where nobody has asked for it.
async fn shield(plane: &Plane) -> Option<Finding> {
    const CATEGORY: Category = Category::Interception;
    const SUBJECT: &str = "shield";
    plane.record.interception.as_ref()?;
    if let Some(why) = plane.record.shield.as_deref() {
        let said = format!("off: {why}");
        return Some(if why == NEEDS_KERNEL {
            Finding::bad(CATEGORY, SUBJECT, said)
        } else {
            Finding::good(CATEGORY, SUBJECT, said)
        });
    }
    let desk = Desk::of(plane).ok()?;
    Some(match desk.list(1).await {
        Ok(standing) if standing.missing.is_empty() => {
            Finding::good(CATEGORY, SUBJECT, standing.to_string())
        }
        Ok(standing) => Finding::bad(CATEGORY, SUBJECT, standing.to_string()),
        Err(error) => Finding::bad(CATEGORY, SUBJECT, error.to_string()),
    })
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
        let now = OffsetDateTime::now_utc();
        findings.push(lasting(name, served, now, "look at `ringwall logs agent`"));
    }
    findings
}

/// Whether a chain lasts; renewal is due at half of its life.
fn lasting(
    name: &str,
    chain: Result<Vec<CertificateDer<'static>>, String>,
    now: OffsetDateTime,
    fix: &str,
) -> Finding {
    const CATEGORY: Category = Category::Certificates;
    let life = chain.and_then(|chain| {
        let leaf = chain.first().ok_or("it serves no certificate")?;
        validity_of(leaf).map_err(|error| error.to_string())
    });
    let (not_before, not_after) = match life {
        Ok(life) => life,
        Err(why) => return Finding::bad(CATEGORY, name, format!("{why}\n  fix: {fix}")),
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
        let detail = format!("{detail}: it should have been renewed\n  fix: {fix}");
        Finding::bad(CATEGORY, name, detail)
    }
}

#[cfg(test)]
mod tests {
    use ringwall_identity::authority::Authority;
    use ringwall_identity::{SpiffeId, TrustDomain};

    use super::*;

    #[test]
    fn acceleration_is_told_with_its_reason() {
        let text = "# TYPE kernel_acceleration gauge\nkernel_acceleration{state=\"off\",reason=\"old\"} 0\n\
             kernel_acceleration{state=\"refused\",reason=\"splice(2) \\\"stalls\\\"\"} 1\n";
        let said = acceleration_of(text);
        assert_eq!(said.as_deref(), Some("refused: splice(2) \"stalls\""));
        assert_eq!(acceleration_of("kernel_tier{tier=\"full\"} 1\n"), None);
    }

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
            let then = now + Duration::minutes(minutes);
            lasting("orders", Ok(chain.clone()), then, "look")
        };
        assert!(at(0).ok && at(35).ok);
        let late = at(50);
        assert!(
            !late.ok && late.detail.contains("should have been renewed"),
            "{}",
            late.detail
        );
        let refused = lasting("orders", Err("connection refused".into()), now, "look");
        assert!(!refused.ok && refused.hint.is_some());
    }

    #[test]
    fn an_operator_without_a_good_certificate_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_path_buf());
        let now = OffsetDateTime::now_utc();
        let absent = operator(&state, now);
        assert!(!absent.ok && absent.category == Category::Certificates);
        let domain = TrustDomain::parse("example.org").unwrap();
        let authority = Authority::generate(&domain, now - Duration::hours(2)).unwrap();
        let id = SpiffeId::workload(&domain, OPERATOR).unwrap();
        let hour = std::time::Duration::from_secs(3600);
        let issued = authority
            .issue_svid(&id, &[], hour, now - Duration::hours(2))
            .unwrap();
        std::fs::create_dir_all(state.identity(OPERATOR)).unwrap();
        std::fs::write(state.identity(OPERATOR).join(SVID), &issued.chain_pem).unwrap();
        let ended = operator(&state, now);
        assert!(
            !ended.ok && ended.detail.contains("it ended at"),
            "{}",
            ended.detail
        );
        assert!(operator(&state, now - Duration::minutes(110)).ok);
    }
}
