//! Agents get what is declared for their node, and nobody else gets anything.

use ringwall_identity::csr::NewKey;
use ringwall_identity::svid::Svid;
use ringwall_mesh_api::v1::{
    IssueDatabaseClientRequest, IssueJwtSvidRequest, IssueServerRequest, IssueSvidRequest,
    RenewAgentRequest, WatchTrustRequest,
};
use ringwall_token::{JwkSet, VerifyingKeys, verify_bytes};
use std::time::Duration;
use time::OffsetDateTime;
use tonic::{Code, Status};

use crate::authority::audit_api::Line;
use crate::testing::{Caller, Running, Site, id};

fn csr() -> Vec<u8> {
    NewKey::generate().unwrap().request
}

fn svid(workload: &str) -> IssueSvidRequest {
    IssueSvidRequest {
        workload: workload.to_owned(),
        csr: csr(),
    }
}

fn jwt(workload: &str, audience: &[&str]) -> IssueJwtSvidRequest {
    IssueJwtSvidRequest {
        workload: workload.to_owned(),
        audience: audience.iter().map(ToString::to_string).collect(),
    }
}

fn database(workload: &str, role: &str) -> IssueDatabaseClientRequest {
    IssueDatabaseClientRequest {
        workload: workload.to_owned(),
        role: role.to_owned(),
        csr: csr(),
    }
}

fn server(workload: &str, dns: &[&str], ips: &[&str]) -> IssueServerRequest {
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    IssueServerRequest {
        workload: workload.to_owned(),
        dns_names: texts(dns),
        ip_addresses: texts(ips),
        csr: csr(),
    }
}

/// What each method of `Identity` answers to this caller.
async fn every_method(running: &Running, caller: &Caller) -> Vec<Result<(), Status>> {
    let mut client = running.identity(caller);
    let renew = RenewAgentRequest { csr: csr() };
    vec![
        client.renew_agent(renew).await.map(drop),
        client.issue_svid(svid("orders")).await.map(drop),
        client.issue_jwt_svid(jwt("orders", &["a"])).await.map(drop),
        client
            .issue_database_client(database("orders", "orders"))
            .await
            .map(drop),
        client
            .issue_server(server("orders", &["orders.localhost"], &[]))
            .await
            .map(drop),
        client.watch_trust(WatchTrustRequest {}).await.map(drop),
    ]
}

#[tokio::test]
async fn an_agent_gets_what_is_declared_for_its_workloads() {
    let site = Site::new();
    let running = site.start().await;
    let agent = site.join(&running, "local").await;
    let mut client = running.identity(&agent);

    let certificate = client
        .issue_svid(svid("orders"))
        .await
        .unwrap()
        .into_inner();
    let leaf = Svid::from_der(&certificate.chain[0]).unwrap();
    assert_eq!(leaf.id, id("orders"));
    assert!(leaf.not_after <= OffsetDateTime::now_utc() + time::Duration::HOUR);

    let role = client
        .issue_database_client(database("orders", "orders"))
        .await;
    assert!(Svid::from_der(&role.unwrap().into_inner().chain[0]).is_err());
    let named = server("orders", &["orders.localhost"], &["127.0.0.1"]);
    let named = client.issue_server(named).await.unwrap().into_inner();
    let life = named.not_after - OffsetDateTime::now_utc().unix_timestamp();
    assert!((86_000..=86_400).contains(&life), "{life}");
    assert!(
        every_method(&running, &agent)
            .await
            .iter()
            .all(Result::is_ok)
    );

    // All of it is on record, for the operator alone.
    let audit = |caller: Caller| {
        let tls = ringwall_tls::mesh_client_config(&caller.source, id("control-plane")).unwrap();
        let address = ringwall_http_io::Address::Ip(running.mesh);
        ringwall_http_io::Client::mesh(address, tls, ringwall_http_io::ClientLimits::default())
    };
    use ringwall_http_io::Transport;
    let asking = audit(site.caller("ringwall"));
    let answer = asking.get("/v1/audit?limit=50").send().await.unwrap();
    let body = ringwall_http_io::body::collect(answer.into_body(), 1 << 20).await;
    let lines: Vec<Line> = serde_json::from_slice(&body.unwrap()).unwrap();
    for event in [
        "join_token_created",
        "agent_issued",
        "svid_issued",
        "server_issued",
        "database_issued",
    ] {
        assert!(
            lines.iter().any(|line| line.event == event),
            "{event}: {lines:?}"
        );
    }
    let line = lines
        .iter()
        .find(|line| line.event == "svid_issued")
        .unwrap();
    assert_eq!(line.actor, id("agent/local").as_str());
    assert_eq!(line.subject, id("orders").as_str());
    assert!(line.serial.is_some());
    let refused = audit(agent).get("/v1/audit").send().await.unwrap();
    assert_eq!(refused.status(), 403);
    running.stop().await;
}

#[tokio::test]
async fn attack_whoever_is_no_agent_gets_nothing() {
    let site = Site::new();
    let running = site.start().await;
    for name in [
        "orders",
        "ringwall",
        "control-plane",
        "agent",
        "agent/ghost",
        "agent/local/x",
        "agents/local",
    ] {
        let caller = site.caller(name);
        for (method, answer) in every_method(&running, &caller).await.iter().enumerate() {
            let code = answer.as_ref().unwrap_err().code();
            assert_eq!(code, Code::PermissionDenied, "{name}, method {method}");
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn attack_an_agent_gets_nothing_for_workloads_of_other_nodes() {
    let site = Site::new();
    let running = site.start().await;
    let agent = site.join(&running, "other").await;
    let mut client = running.identity(&agent);
    // Registered elsewhere, not registered at all, reserved, or no name: one answer.
    let mut texts = std::collections::HashSet::new();
    for name in [
        "orders",
        "ghost",
        "ringwall",
        "control-plane",
        "agent/other",
        "",
        "../orders",
    ] {
        let codes = [
            client.issue_svid(svid(name)).await.map(drop),
            client.issue_jwt_svid(jwt(name, &["a"])).await.map(drop),
            client
                .issue_database_client(database(name, "orders"))
                .await
                .map(drop),
            client
                .issue_server(server(name, &["orders.localhost"], &[]))
                .await
                .map(drop),
        ];
        for answer in codes {
            let status = answer.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "{name}");
            texts.insert(status.message().to_owned());
        }
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(client.issue_svid(svid("payments")).await.is_ok());
    running.stop().await;
}

#[tokio::test]
async fn roles_and_names_that_are_not_declared_are_refused() {
    let site = Site::new();
    let running = site.start().await;
    let agent = site.join(&running, "local").await;
    let mut client = running.identity(&agent);
    for role in ["postgres", "payments", "", "Orders"] {
        let refused = client.issue_database_client(database("orders", role)).await;
        assert_eq!(
            refused.unwrap_err().code(),
            Code::PermissionDenied,
            "{role}"
        );
    }
    for (dns, ips, code) in [
        (&["app.localhost"][..], &[][..], Code::PermissionDenied),
        (
            &["orders.localhost", "app.localhost"],
            &[],
            Code::PermissionDenied,
        ),
        (&["ORDERS.localhost"], &[], Code::PermissionDenied),
        (&["*.localhost"], &[], Code::PermissionDenied),
        (&[], &["127.0.0.2"], Code::PermissionDenied),
        (&[], &["orders.localhost"], Code::InvalidArgument),
        (&[], &[], Code::InvalidArgument),
    ] {
        let refused = client.issue_server(server("orders", dns, ips)).await;
        assert_eq!(refused.unwrap_err().code(), code, "{dns:?} {ips:?}");
    }
    for audience in [&[][..], &[""], &["x"; 17]] {
        let refused = client.issue_jwt_svid(jwt("orders", audience)).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
    let mut asked = svid("orders");
    asked.csr = b"nonsense".to_vec();
    let refused = client.issue_svid(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut asked = svid("orders");
    asked.csr = vec![0; 100_000];
    assert!(
        client.issue_svid(asked).await.is_err(),
        "larger than any request"
    );
    running.stop().await;
}

/// Issuing survives a crash: agents keep their SVIDs, tokens keep their keys.
#[tokio::test]
async fn issuing_survives_a_restart() {
    let site = Site::new();
    let running = site.start().await;
    let agent = site.join(&running, "local").await;
    let token = running
        .identity(&agent)
        .issue_jwt_svid(jwt("orders", &["payments"]))
        .await;
    let token = token.unwrap().into_inner();
    running.kill();

    let running = site.start().await;
    let mut client = running.identity(&agent);
    assert!(client.issue_svid(svid("orders")).await.is_ok());
    let mut trust = client
        .watch_trust(WatchTrustRequest {})
        .await
        .unwrap()
        .into_inner();
    let first = trust.message().await.unwrap().unwrap();
    let keys: JwkSet = serde_json::from_slice(&first.jwt_keys).unwrap();
    let keys = VerifyingKeys::from_jwks(&keys).unwrap();
    let verified = verify_bytes(&token.token, &keys, "JWT", 4096).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&verified.payload).unwrap();
    assert_eq!(claims["sub"], id("orders").as_str());
    assert_eq!(claims["aud"], serde_json::json!(["payments"]));
    assert_eq!(claims["exp"], token.not_after);
    assert_eq!(token.not_after - claims["iat"].as_i64().unwrap(), 300);
    running.stop().await;
}

/// What an agent is told: whole at first, and again when the registry or the intermediate changes.
#[tokio::test]
async fn an_agent_is_told_of_every_change() {
    let site = Site::new();
    let running = site.start().await;
    let agent = site.join(&running, "local").await;
    let mut client = running.identity(&agent);
    let mut trust = client
        .watch_trust(WatchTrustRequest {})
        .await
        .unwrap()
        .into_inner();
    let first = trust.message().await.unwrap().unwrap();
    assert_eq!(first.bundle, [site.roots()[0].to_vec()]);
    assert_eq!(first.registrations.len(), 1);
    let orders = &first.registrations[0];
    assert_eq!(orders.workload, "orders");
    assert_eq!(orders.spiffe_id, id("orders").as_str());
    assert_eq!(orders.database_roles, ["orders"]);
    assert!(!first.revocations.unwrap().crl.is_empty());

    let path = site.path().join("state.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        format!("{text}  - {{ name: newcomer, owner: x, nodes: [local] }}\n"),
    )
    .unwrap();
    let second = trust.message().await.unwrap().unwrap();
    assert!(second.revision > first.revision);
    assert_eq!(second.registrations.len(), 2);
    assert!(
        client.issue_svid(svid("newcomer")).await.is_ok(),
        "without a restart"
    );

    let next = site.next_intermediate();
    site.put_intermediate(&next);
    tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            let issued = client
                .issue_svid(svid("orders"))
                .await
                .unwrap()
                .into_inner();
            let issuer = ringwall_identity::certificate::serial_of(&issued.chain[1]).unwrap();
            if issuer == next.serial {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the new intermediate signs without a restart");
    // The last one signs the revocation lists of its certificates on.
    let lists = async {
        loop {
            let told = trust.message().await.unwrap().unwrap();
            let lists = told.revocations.unwrap().previous_crls;
            if !lists.is_empty() {
                return lists.len();
            }
        }
    };
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(5), lists).await,
        Ok(1)
    );
    // Whoever has a certificate of the old one is still believed.
    assert!(
        running
            .identity(&agent)
            .issue_svid(svid("orders"))
            .await
            .is_ok()
    );
    running.stop().await;
}
