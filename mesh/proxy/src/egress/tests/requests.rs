use http::HeaderValue;
use http_body_util::BodyExt as _;

use super::super::*;
use super::world::*;

const LOOPBACK: &str = r#"["127.0.0.2/32"]"#;

fn rules(port: u16, more: &str) -> String {
    format!(
        r#"[{{"name":"partner","callers":["orders"],"host":"api.partner.example","port":{port},"private":true{more}}}]"#
    )
}

#[tokio::test]
async fn r27_a_declared_request_goes_out_over_tls_in_its_server_s_version() {
    for alpn in ["h2", "http/1.1"] {
        let world = World::new().await;
        let upstream = world
            .server("127.0.0.2", &["api.partner.example"], alpn)
            .await;
        world.resolves("api.partner.example", &[&["127.0.0.2"]]);
        let (egress, _) = world.gateway(LOOPBACK, &rules(upstream.port(), ""));
        for _ in 0..3 {
            let (status, headers, text) =
                send(&egress, get("http://API.partner.example/v1?q=1")).await;
            assert_eq!((status, text.as_str()), (StatusCode::OK, "hello"), "{alpn}");
            assert!(
                !headers.contains_key("x-ringwall-user-context"),
                "nobody outside speaks for us"
            );
            assert!(!headers.contains_key("alt-svc"), "no way past this gateway");
            // The connection settles in a task of its own.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
        let requests = upstream.requests.lock();
        let Seen { uri, headers, .. } = &requests[0];
        let authority = format!("api.partner.example:{}", upstream.port());
        match alpn {
            "h2" => assert_eq!(uri.authority().unwrap().as_str(), authority),
            _ => assert_eq!(headers["host"], authority.as_str()),
        }
        assert_eq!(uri.path_and_query().unwrap(), "/v1?q=1");
        assert_eq!(upstream.connections(), 1, "{alpn}: connections are kept");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_costs_no_request() {
    let world = World::new().await;
    let upstream = world
        .server("127.0.0.2", &["api.partner.example"], "http/1.1")
        .await;
    world.resolves("api.partner.example", &[&["127.0.0.2"]]);
    let (egress, _) = world.gateway(LOOPBACK, &rules(upstream.port(), ""));
    for _ in 0..4 {
        let (status, _, text) = send(&egress, get("http://api.partner.example/last")).await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, "last"));
    }
}

#[tokio::test]
async fn r27_the_gateway_has_the_credential_and_the_workload_never_does() {
    let world = World::new().await;
    let upstream = world
        .server("127.0.0.2", &["api.partner.example"], "http/1.1")
        .await;
    world.resolves("api.partner.example", &[&["127.0.0.2"]]);
    let credential =
        r#","credential":{"header":"authorization","secret":"partner-key","prefix":"Bearer "}"#;
    let (egress, observer) = world.gateway(LOOPBACK, &rules(upstream.port(), credential));
    let mut request = get("http://api.partner.example/v1");
    for (name, value) in [
        ("authorization", "Bearer of-the-workload"),
        ("x-api-key", "inside"),
        ("x_api_key", "inside"),
        ("x-ringwall-user-context", "inside"),
        ("x-forwarded-for", "10.0.0.1"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("accept", "application/json"),
    ] {
        request
            .headers_mut()
            .append(name, HeaderValue::from_static(value));
    }
    let (status, headers, text) = send(&egress, request).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        !format!("{headers:?}{text}").contains(SECRET),
        "R69: nothing comes back"
    );
    let requests = upstream.requests.lock();
    let seen = &requests[0].headers;
    let mut names: Vec<&str> = seen.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["accept", "authorization", "host"],
        "nothing of the inside goes out"
    );
    assert_eq!(seen["authorization"], format!("Bearer {SECRET}").as_str());
    assert_eq!(seen.get_all("authorization").iter().count(), 1);
    assert!(kept(&observer).is_empty(), "allowed flows are not kept");
}

#[tokio::test]
async fn a_missing_secret_stops_the_start() {
    let world = World::new().await;
    let text = format!(
        r#"{{"roots":{:?},"rules":[{{"name":"x","callers":["orders"],"host":"a.example","credential":{{"header":"authorization","secret":"no-such"}}}}]}}"#,
        world.directory.path().join("roots.pem"),
    );
    let config: EgressConfig = serde_json::from_str(&text).unwrap();
    let secrets = ringwall_secret::SecretsConfig::File {
        directory: world.directory.path().to_owned(),
    };
    let secrets = Arc::new(SecretProvider::open(&secrets).unwrap());
    let error = Egress::open(&config, secrets, Observer::new("egress", &[]))
        .err()
        .unwrap();
    assert!(error.to_string().contains("no-such"), "{error}");
}

#[tokio::test]
async fn plaintext_goes_out_only_where_a_rule_says_so() {
    let world = World::new().await;
    let upstream = world.plain_server("127.0.0.2").await;
    world.resolves("api.partner.example", &[&["127.0.0.2"]]);
    let (egress, _) = world.gateway(LOOPBACK, &rules(upstream.port(), r#","tls":"none""#));
    let (status, _, text) = send(&egress, get("http://api.partner.example/v1")).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "hello"));
    let (egress, _) = world.gateway(LOOPBACK, &rules(upstream.port(), ""));
    let (status, ..) = send(&egress, get("http://api.partner.example/v1")).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn attack_trailers_carry_nothing_in_or_out() {
    let world = World::new().await;
    let upstream = world
        .server("127.0.0.2", &["api.partner.example"], "h2")
        .await;
    world.resolves("api.partner.example", &[&["127.0.0.2"]]);
    let (egress, _) = world.gateway(LOOPBACK, &rules(upstream.port(), ""));
    let request = get("http://api.partner.example/trailers");
    let response = egress.handle("orders", request).await;
    let answer = response.into_body().collect().await.unwrap();
    let names: Vec<_> = answer.trailers().unwrap().keys().collect();
    assert_eq!(names, ["grpc-status"]);
    let request = Request::post("http://api.partner.example/v1");
    let request = request.body(body::boxed(with_trailers())).unwrap();
    assert_eq!(send(&egress, request).await.0, StatusCode::OK);
    let requests = upstream.requests.lock();
    let Some(Seen { trailers, .. }) = requests.last() else {
        panic!("nothing arrived");
    };
    let names: Vec<_> = trailers.keys().collect();
    assert_eq!(names, ["grpc-status"]);
}
