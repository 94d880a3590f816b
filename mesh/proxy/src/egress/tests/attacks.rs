use http::Method;

use super::super::*;
use super::world::*;

/// One rule for everything that `orders` might ask of these hosts.
fn rules(hosts: &[&str], port: u16) -> String {
    let rules: Vec<String> = hosts
        .iter()
        .enumerate()
        .map(|(index, host)| {
            format!(
                r#"{{"name":"r{index}","callers":["orders"],"host":"{host}","port":{port},"private":true,"tls":"none"}}"#
            )
        })
        .collect();
    format!("[{}]", rules.join(","))
}

#[tokio::test]
async fn r27_attack_egress_to_an_undeclared_host_is_denied_and_logged() {
    let world = World::new().await;
    let outside = world.plain_server("127.0.0.2").await;
    world.resolves("evil.example", &[&["127.0.0.2"]]);
    let (egress, observer) = world.gateway(
        r#"["127.0.0.2/32"]"#,
        &rules(&["api.partner.example"], outside.port()),
    );
    let uri = format!("http://evil.example:{}/x?data=canary", outside.port());
    let (status, _, text) = send(&egress, get(&uri)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(
        text.contains("callers: [orders], host: \\\"evil.example\\\""),
        "{text}"
    );
    assert_eq!(outside.connections(), 0);
    assert_eq!(
        world.asked("evil.example"),
        0,
        "not even the name service hears of it"
    );
    let flows = kept(&observer);
    assert_eq!(flows.len(), 1);
    assert_eq!(
        (&*flows[0].caller, &*flows[0].callee, &*flows[0].path),
        ("orders", "evil.example", "/x")
    );
    assert_eq!(flows[0].verdict, Verdict::Denied);
    let allowed = get(&format!("http://api.partner.example:{}/", outside.port()));
    let (status, ..) = send_as(&egress, "payments", allowed).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "another workload's rule");
}

#[tokio::test]
async fn attack_dns_rebinding_is_refused() {
    let world = World::new().await;
    let outside = world.plain_server("127.0.0.2").await;
    // The same port inside: what the attacker is after.
    let inside = tokio::net::TcpListener::bind(("127.0.0.1", outside.port()))
        .await
        .unwrap();
    world.resolves("rebind.example", &[&["127.0.0.2"], &["127.0.0.1"]]);
    let (egress, observer) = world.gateway(
        r#"["127.0.0.2/32"]"#,
        &rules(&["rebind.example"], outside.port()),
    );
    let (status, ..) = send(&egress, get("http://rebind.example/last")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        world.asked("rebind.example"),
        1,
        "checked and dialled: one and the same answer"
    );
    let (status, _, text) = send(&egress, get("http://rebind.example/last")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(world.asked("rebind.example"), 2);
    assert!(
        !text.contains("127.0.0.1"),
        "the answer does not map the network"
    );
    assert_eq!(&*kept(&observer)[0].reason, "egress-address");
    let knock = tokio::time::timeout(std::time::Duration::from_millis(50), inside.accept());
    assert!(knock.await.is_err(), "nobody came inside");
}

#[tokio::test]
async fn attack_a_forbidden_answer_among_good_ones_is_refused() {
    let world = World::new().await;
    let outside = world.plain_server("127.0.0.2").await;
    let (egress, _) = world.gateway(
        r#"["127.0.0.2/32"]"#,
        &rules(&["*.mixed.example"], outside.port()),
    );
    for (host, answers) in [
        ("a.mixed.example", &["127.0.0.2", "169.254.169.254"][..]),
        ("b.mixed.example", &["127.0.0.2", "fd00:ec2::254"]),
        ("c.mixed.example", &["127.0.0.2", "::ffff:127.0.0.1"]),
        ("d.mixed.example", &["127.0.0.2", "64:ff9b::7f00:1"]),
        ("e.mixed.example", &["0.0.0.0"]),
        ("f.mixed.example", &["::1"]),
    ] {
        world.resolves(host, &[answers]);
        let (status, ..) = send(&egress, get(&format!("http://{host}/"))).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{host}");
    }
    assert_eq!(outside.connections(), 0);
}

#[tokio::test]
async fn attack_metadata_is_refused_even_where_it_is_declared() {
    let world = World::new().await;
    world.resolves("metadata.example", &[&["169.254.169.254"]]);
    let networks = r#"["169.254.0.0/16","fd00::/8"]"#;
    let hosts = ["metadata.example", "169.254.169.254", "fd00:ec2::254"];
    let (egress, _) = world.gateway(networks, &rules(&hosts, 80));
    for uri in [
        "http://metadata.example/latest/meta-data/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
    ] {
        let (status, _, text) = send(&egress, get(uri)).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{uri}: {text}");
    }
}

#[tokio::test]
async fn attack_a_redirect_is_not_followed() {
    let world = World::new().await;
    let outside = world.plain_server("127.0.0.2").await;
    world.resolves("api.partner.example", &[&["127.0.0.2"]]);
    let (egress, _) = world.gateway(
        r#"["127.0.0.2/32"]"#,
        &rules(&["api.partner.example"], outside.port()),
    );
    let (status, headers, _) = send(&egress, get("http://api.partner.example/redirect")).await;
    assert_eq!(status, StatusCode::FOUND);
    assert_eq!(outside.requests.lock().len(), 1);
    let location = headers["location"].to_str().unwrap();
    let (status, ..) = send(&egress, get(location)).await;
    assert_eq!(
        status,
        StatusCode::FORBIDDEN,
        "a workload that follows it is asked again"
    );
}

#[tokio::test]
async fn attack_hosts_with_two_readings_are_refused() {
    let world = World::new().await;
    let (egress, _) = world.gateway(r#"["127.0.0.0/8"]"#, &rules(&["api.partner.example"], 80));
    for uri in [
        "http://api.partner.example@127.0.0.1/",
        "http://user:pass@api.partner.example/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://api.partner.example:0/",
        "ftp://api.partner.example/",
        "http://api.partner.example/a/../b",
        "http://api.partner.example/%2e%2e/b",
        "http://api.partner.example//b",
        "http://api.partner.example/a%2fb",
    ] {
        let (status, ..) = send(&egress, get(uri)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
    }
    for uri in [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://127.0.0.1./",
    ] {
        let (status, ..) = send(&egress, get(uri)).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{uri}");
    }
    for hosts in [
        &["evil.example"][..],
        &["api.partner.example", "api.partner.example"],
        &["\u{e9}"],
    ] {
        let mut request = get("http://api.partner.example/");
        for host in hosts {
            request.headers_mut().append("host", host.parse().unwrap());
        }
        let (status, ..) = send(&egress, request).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{hosts:?}");
    }
    let mut upgrade = get("http://api.partner.example/");
    upgrade
        .headers_mut()
        .insert("upgrade", "websocket".parse().unwrap());
    assert_eq!(send(&egress, upgrade).await.0, StatusCode::BAD_REQUEST);
    let mut trace = get("http://api.partner.example/");
    *trace.method_mut() = Method::TRACE;
    assert_eq!(send(&egress, trace).await.0, StatusCode::BAD_REQUEST);
    let (status, ..) = send(&egress, get("/no-host")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn attack_a_server_with_another_name_gets_no_request() {
    let world = World::new().await;
    let rogue = world
        .server("127.0.0.2", &["rogue.example"], "http/1.1")
        .await;
    world.resolves("api.partner.example", &[&["127.0.0.2"]]);
    let text = format!(
        r#"[{{"name":"partner","callers":["orders"],"host":"api.partner.example","port":{},"private":true,"credential":{{"header":"authorization","secret":"partner-key"}}}}]"#,
        rogue.port()
    );
    let (egress, observer) = world.gateway(r#"["127.0.0.2/32"]"#, &text);
    let (status, _, text) = send(&egress, get("http://api.partner.example/")).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(rogue.requests.lock().is_empty());
    assert!(!text.contains(SECRET));
    assert_eq!(&*kept(&observer)[0].reason, "egress-tls");
    let strangers = World::new().await;
    let stranger = strangers
        .server("127.0.0.2", &["api.partner.example"], "h2")
        .await;
    let text = format!(
        r#"[{{"name":"partner","callers":["orders"],"host":"api.partner.example","port":{},"private":true}}]"#,
        stranger.port()
    );
    let (egress, _) = world.gateway(r#"["127.0.0.2/32"]"#, &text);
    let (status, ..) = send(&egress, get("http://api.partner.example/")).await;
    assert_eq!(
        status,
        StatusCode::BAD_GATEWAY,
        "signed by roots that are not configured"
    );
    assert!(stranger.requests.lock().is_empty());
}

#[tokio::test]
async fn a_private_address_needs_a_rule_that_says_so() {
    let world = World::new().await;
    let corporate = world.plain_server("127.0.0.2").await;
    world.resolves("corporate.example", &[&["127.0.0.2"]]);
    let text = format!(
        r#"[{{"name":"x","callers":["orders"],"host":"corporate.example","port":{},"tls":"none"}}]"#,
        corporate.port()
    );
    let (egress, _) = world.gateway(r#"["127.0.0.2/32"]"#, &text);
    assert_eq!(
        send(&egress, get("http://corporate.example/")).await.0,
        StatusCode::FORBIDDEN
    );
    assert_eq!(corporate.connections(), 0);
    let (status, ..) = send(&egress, get("http://nowhere.example/")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}
