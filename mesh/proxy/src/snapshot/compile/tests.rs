use proptest::prelude::*;

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("ringwall.local").unwrap()
}

fn message() -> v1::Service {
    v1::Service {
        name: "inventory".into(),
        spiffe_id: "spiffe://ringwall.local/inventory".into(),
        ports: vec![
            v1::Port {
                number: 7106,
                protocol: 0,
            },
            v1::Port {
                number: 5432,
                protocol: v1::Protocol::Tcp.into(),
            },
        ],
        ..v1::Service::default()
    }
}

fn refused(change: impl FnOnce(&mut v1::Service)) -> String {
    let mut message = message();
    change(&mut message);
    service(&message, &domain()).unwrap_err()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let service = service(&message(), &domain()).unwrap();
    assert_eq!(service.ports[0].protocol, Protocol::Http);
    assert_eq!(service.ports[1].protocol, Protocol::Tcp);
    assert_eq!(service.traffic, TrafficPolicy::read(None).unwrap());
}

#[test]
fn what_is_out_of_bounds_is_refused_with_its_value() {
    assert!(refused(|s| s.name = "in/ventory".into()).contains("is not a name"));
    assert!(refused(|s| s.name = String::new()).contains("is not a name"));
    let other = refused(|s| s.spiffe_id = "spiffe://evil.example/inventory".into());
    assert!(other.contains("another trust domain"), "{other}");
    assert!(refused(|s| s.spiffe_id = "https://x".into()).contains("spiffe_id"));
    assert!(refused(|s| s.ports[0].number = 70_000).contains("70000 is not a port"));
    assert!(refused(|s| s.ports[0].number = 0).contains("0 is not a port"));
    assert!(refused(|s| s.ports[0].protocol = 9).contains("protocol 9"));
    assert!(refused(|s| s.ports[1].number = 7106).contains("stands twice"));
    assert!(refused(|s| s.direct = vec!["10.0.0.1".into()]).contains("direct address"));
    assert!(refused(|s| s.tier = "x".repeat(300)).contains("not a short text"));
    assert!(refused(|s| s.ports = vec![s.ports[0]; 65]).contains("more than 64"));
    let retries = v1::Retries {
        attempts: Some(11),
        ..Default::default()
    };
    let traffic = v1::TrafficPolicy {
        retries: Some(retries),
        ..Default::default()
    };
    let fault = refused(|s| s.traffic = Some(traffic));
    assert!(
        fault.contains("its traffic: retries.attempts is 11, expected 0 to 10"),
        "{fault}"
    );
}

fn at(address: &str) -> v1::Endpoint {
    v1::Endpoint {
        address: address.into(),
        port: 7106,
        zone: "local".into(),
        instance: "a".into(),
        ..v1::Endpoint::default()
    }
}

fn list(endpoints: Vec<v1::Endpoint>) -> v1::Endpoints {
    v1::Endpoints {
        service: "inventory".into(),
        endpoints,
    }
}

#[test]
fn endpoints_that_stay_keep_their_place() {
    let first = endpoints(&list(vec![at("10.0.0.1:7106"), at("10.0.0.2:7106")]), &[]).unwrap();
    assert_eq!(first[0].weight, 100, "unset");
    let second = endpoints(
        &list(vec![at("10.0.0.2:7106"), at("10.0.0.3:7106")]),
        &first,
    )
    .unwrap();
    assert!(Arc::ptr_eq(&first[1], &second[0]));
    for bad in [
        "10.0.0.1",
        "0.0.0.0:1",
        "10.0.0.1:0",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "a:1",
        "[::]:1",
    ] {
        assert!(endpoints(&list(vec![at(bad)]), &[]).is_err(), "{bad}");
    }
    let twice = vec![at("10.0.0.1:7106"), at("10.0.0.1:7106")];
    assert!(
        endpoints(&list(twice), &[])
            .unwrap_err()
            .contains("stands twice")
    );
}

#[test]
fn r28_an_endpoint_without_weight_gets_nothing() {
    let mut resting = at("10.0.0.1:7106");
    resting.weight = Some(0);
    let mut heavy = at("10.0.0.2:7106");
    heavy.weight = Some(u32::MAX);
    let seen = endpoints(&list(vec![resting, heavy]), &[]).unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].address, "10.0.0.2:7106".parse().unwrap());
    assert_eq!(seen[0].weight, 10_000);
}

#[test]
fn r34_revocations_are_read_from_lists_and_from_the_crl() {
    let message = v1::Revocations {
        revision: 3,
        serials: vec![vec![0, 0x80, 1]],
        spiffe_ids: vec!["spiffe://ringwall.local/orders".into()],
        spki_sha256: vec![vec![7; 32]],
        ..v1::Revocations::default()
    };
    let compiled = revocations(&message).unwrap();
    assert!(compiled.serials.contains(&vec![0x80, 1]));
    assert_eq!(compiled.revision, 3);
    let wrong = |change: fn(&mut v1::Revocations)| {
        let mut message = message.clone();
        change(&mut message);
        revocations(&message).unwrap_err()
    };
    assert!(wrong(|m| m.spki_sha256[0].truncate(31)).contains("31 bytes"));
    assert!(wrong(|m| m.serials[0] = vec![0]).contains("empty"));
    assert!(wrong(|m| m.serials[0] = vec![1; 22]).contains("22 bytes"));
    assert!(wrong(|m| m.spiffe_ids[0] = "orders".into()).contains("orders"));
    assert!(wrong(|m| m.crl = vec![0x30, 3, 1, 2, 3]).contains("CRL"));
}

proptest! {
    #[test]
    fn no_message_panics(
        name in ".{0,20}", id in ".{0,40}", numbers in proptest::collection::vec(any::<u32>(), 20),
        text in ".{0,30}", bytes in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let traffic = v1::TrafficPolicy {
            timeout_ms: Some(numbers[0]),
            routes: vec![v1::Route { method: Some(text.clone()), prefix: text.clone(), ..Default::default() }],
            ..Default::default()
        };
        let message = v1::Service {
            name, spiffe_id: id, traffic: Some(traffic), direct: vec![text.clone()],
            ports: vec![v1::Port { number: numbers[4], protocol: 1 }], ..Default::default()
        };
        let _ = service(&message, &domain());
        let _ = endpoints(&list(vec![at(&text)]), &[]);
        let _ = revocations(&v1::Revocations { crl: bytes.clone(), serials: vec![bytes], ..Default::default() });
    }
}
