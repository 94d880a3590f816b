use super::*;

fn edge(allow: &[&str]) -> Edge {
    Edge::off("no such interface", allow)
}

fn report(edge: &Edge, address: &str) -> Result<Outcome, EdgeError> {
    edge.report(
        address.parse().unwrap(),
        Cause::Malformed,
        Duration::from_secs(60),
    )
}

#[test]
fn a_gateway_denies_nobody_who_is_allowed_or_no_client() {
    let edge = edge(&["10.0.0.0/8", "2001:db8:1::7"]);
    for address in [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "fe80::1",
        "10.1.2.3",
        "::ffff:10.1.2.3",
        "2001:db8:1::7",
        // Its /64 is the allowed one's.
        "2001:db8:1::8",
    ] {
        assert!(
            matches!(report(&edge, address), Ok(Outcome::Exempt)),
            "{address}"
        );
    }
}

#[test]
fn without_the_shield_everything_says_why() {
    let edge = edge(&[]);
    let said = report(&edge, "192.0.2.7").unwrap_err().to_string();
    assert_eq!(said, "the shield is off: no such interface");
    assert!(edge.deny("192.0.2.0/24".parse().unwrap(), None).is_err());
    assert!(edge.top(1).is_err());
    assert!(edge.standing().is_err());
    edge.sweep();
}

#[test]
fn only_named_workloads_feed_it() {
    let edge = edge(&[]);
    assert!(edge.is_feeder("gateway"));
    assert!(!edge.is_feeder("orders") && !edge.is_feeder(""));
}

/// Its own calls to its public address come from there.
#[test]
fn attack_a_report_denies_no_address_of_this_machine() {
    let own: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter_map(|one| one.address?.as_sockaddr_in().map(|four| four.ip().into()))
        .collect();
    assert!(own.contains(&IpAddr::from([127, 0, 0, 1])), "{own:?}");
    let edge = edge(&[]);
    for address in own {
        assert!(is_own(Prefix::host(address)), "{address}");
        let said = report(&edge, &address.to_string());
        assert!(matches!(said, Ok(Outcome::Exempt)), "{address}");
    }
    assert!(is_own("127.0.0.0/8".parse().unwrap()), "one in a network");
    assert!(!is_own("203.0.113.9/32".parse().unwrap()));
    assert!(
        report(&edge, "203.0.113.9").is_err(),
        "it is off, not exempt"
    );
}
