use parking_lot::Mutex;
use ringwall_service::Metrics;

use super::*;

fn config() -> AbuseConfig {
    serde_json::from_str(r#"{"agent":"/nowhere/agent.sock"}"#).unwrap()
}

/// So many offences of one source.
async fn offend(address: &str, offence: Offence, times: u32) -> (Vec<Report>, GatewayMetrics) {
    let metrics = GatewayMetrics::register(&Metrics::default());
    let (reports, mut waiting) = mpsc::channel(2);
    let abuse = Abuse {
        policy: config().policy(),
        reports,
        metrics: metrics.clone(),
    };
    let scores = Mutex::new(Scores::default());
    let address = address.parse().unwrap();
    for _ in 0..times {
        abuse.note(&scores, address, offence, Duration::from_secs(1));
    }
    drop(abuse);
    let mut seen = Vec::new();
    while let Some(report) = waiting.recv().await {
        seen.push(report);
    }
    (seen, metrics)
}

#[tokio::test]
async fn attack_smuggler_is_reported_after_twenty_requests() {
    let (reports, _) = offend("192.0.2.7", Offence::MALFORMED, 19).await;
    assert!(reports.is_empty());
    let (reports, _) = offend("::ffff:192.0.2.7", Offence::MALFORMED, 20).await;
    let expected = Report {
        address: "192.0.2.7".parse().unwrap(),
        cause: Cause::Malformed,
        lasts: Duration::from_secs(60),
    };
    assert_eq!(reports, [expected]);
}

#[tokio::test]
async fn loopback_is_never_reported() {
    for address in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
        let (reports, _) = offend(address, Offence::MALFORMED, 1000).await;
        assert!(reports.is_empty(), "{address}");
    }
}

#[tokio::test]
async fn a_full_queue_is_counted_and_never_waited_for() {
    let (reports, metrics) = offend("192.0.2.7", Offence::MALFORMED, 100).await;
    assert_eq!(reports.len(), 2);
    assert_eq!(metrics.failed_reports(), 3);
}

#[tokio::test]
async fn an_agent_that_is_away_costs_a_count() {
    let metrics = GatewayMetrics::register(&Metrics::default());
    let (abuse, feed) = Abuse::new(&config(), &metrics);
    let scores = Mutex::new(Scores::default());
    let address = "192.0.2.7".parse().unwrap();
    for _ in 0..20 {
        abuse.note(&scores, address, Offence::MALFORMED, Duration::ZERO);
    }
    drop(abuse);
    feed.run().await;
    assert_eq!(metrics.failed_reports(), 1);
}

#[test]
fn only_what_no_honest_client_does_is_an_offence() {
    let of = Offence::in_refusal;
    assert_eq!(of(&Refusal::Malformed("x")), Some(Offence::MALFORMED));
    assert_eq!(
        of(&Refusal::TokenInvalid("token-signature")),
        Some(Offence::TOKEN)
    );
    assert_eq!(of(&Refusal::TokenInvalid("token-expired")), None);
    for honest in [
        Refusal::NoRoute,
        Refusal::TokenMissing,
        Refusal::BodyTooLarge,
        Refusal::UpstreamTimeout,
        Refusal::Denied("policy".into()),
        Refusal::AuthUnavailable("away".into()),
        Refusal::Internal("ours".into()),
    ] {
        assert_eq!(of(&honest), None, "{honest:?}");
    }
    let gone = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    assert_eq!(Offence::in_handshake(&gone), None);
    let broken = std::io::Error::from(std::io::ErrorKind::InvalidData);
    assert_eq!(Offence::in_handshake(&broken), Some(Offence::HANDSHAKE));
}

#[test]
fn a_configuration_that_denies_for_one_mistake_is_refused() {
    assert!(config().validate().is_ok());
    let said = |change: fn(&mut AbuseConfig)| {
        let mut changed = config();
        change(&mut changed);
        changed.validate().unwrap_err().to_string()
    };
    assert!(said(|abuse| abuse.threshold = 9).contains("threshold: 200"));
    assert!(said(|abuse| abuse.agent = "agent.sock".into()).contains("whole path"));
    assert!(said(|abuse| abuse.half_life = Duration::ZERO).contains("half_life: 30s"));
    assert!(said(|abuse| abuse.first = Duration::ZERO).contains("first: 1m"));
    assert!(said(|abuse| abuse.longest = Duration::from_secs(90_000)).contains("longest: 24h"));
    assert!(said(|abuse| abuse.first = Duration::from_secs(90_000)).contains("first: 1m"));
}
