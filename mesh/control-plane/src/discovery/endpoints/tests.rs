use proptest::prelude::*;

use super::*;

fn proxy(workload: &str, instance: &str) -> Proxy {
    Proxy {
        workload: workload.into(),
        instance: instance.into(),
        node: "n1".into(),
        zone: "z1".into(),
    }
}

fn message(address: &str, health: v1::Health) -> v1::EndpointReport {
    v1::EndpointReport {
        address: address.into(),
        port: 80,
        weight: 0,
        health: health.into(),
    }
}

fn at(address: &str, health: v1::Health) -> Report {
    Report::parse(&message(address, health), &[80, 81]).unwrap()
}

fn seen(table: &Endpoints) -> Vec<String> {
    table
        .seen("orders")
        .into_iter()
        .map(|endpoint| endpoint.address)
        .collect()
}

const READY: v1::Health = v1::Health::Ready;
const A: &str = "127.0.0.1:1";
const B: &str = "127.0.0.1:2";
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn r28_only_ready_endpoints_are_seen_and_others_leave_at_once() {
    let mut table = Endpoints::default();
    let (one, orders) = (StreamId(1), proxy("orders", "i1"));
    assert!(
        !table
            .report(one, &orders, at(A, v1::Health::NotReady))
            .unwrap()
    );
    assert_eq!(seen(&table), [""; 0]);
    assert!(table.report(one, &orders, at(A, READY)).unwrap());
    assert!(
        !table.report(one, &orders, at(A, READY)).unwrap(),
        "nothing has changed"
    );
    assert_eq!(seen(&table), [A]);
    assert_eq!(table.seen("inventory"), []);
    let endpoint = table.seen("orders").remove(0);
    assert_eq!((endpoint.weight, endpoint.port), (1, 80));
    assert_eq!(
        (endpoint.zone.as_str(), endpoint.instance.as_str()),
        ("z1", "i1")
    );
    for health in [v1::Health::NotReady, v1::Health::Draining] {
        table.report(one, &orders, at(A, READY)).unwrap();
        assert!(table.report(one, &orders, at(A, health)).unwrap());
        assert_eq!(seen(&table), [""; 0], "{health:?}");
    }
}

#[test]
fn r28_a_lost_stream_leaves_a_lease() {
    let mut table = Endpoints::default();
    for (number, address) in [(1, A), (2, B)] {
        table
            .report(
                StreamId(number),
                &proxy("orders", &format!("i{number}")),
                at(address, READY),
            )
            .unwrap();
    }
    table.stream_ended(StreamId(1), SECOND);
    assert_eq!(seen(&table), [A, B]);
    assert_eq!(table.next_expiry(), Some(SECOND + LEASE));
    assert!(
        table
            .expire(SECOND + LEASE - Duration::from_millis(1))
            .is_empty()
    );
    assert_eq!(table.expire(SECOND + LEASE), ["orders".into()]);
    assert_eq!(seen(&table), [B]);
    assert_eq!((table.next_expiry(), table.counts()), (None, (1, 0)));
    // What was not seen has no lease.
    table
        .report(
            StreamId(2),
            &proxy("orders", "i2"),
            at(B, v1::Health::Draining),
        )
        .unwrap();
    table.stream_ended(StreamId(2), SECOND);
    assert_eq!(table.counts(), (0, 0));
}

#[test]
fn a_proxy_that_comes_back_takes_its_endpoint_over() {
    let orders = proxy("orders", "i1");
    let mut table = Endpoints::default();
    table.report(StreamId(1), &orders, at(A, READY)).unwrap();
    // The new stream may come before the old one is known to be lost.
    assert!(!table.report(StreamId(2), &orders, at(A, READY)).unwrap());
    table.stream_ended(StreamId(1), SECOND);
    assert!(table.expire(SECOND * 100).is_empty());
    assert_eq!(seen(&table), [A]);
    // The same within the lease; and a new process at the old address.
    table.stream_ended(StreamId(2), SECOND);
    table.report(StreamId(3), &orders, at(A, READY)).unwrap();
    table.stream_ended(StreamId(3), SECOND);
    assert!(
        table
            .report(StreamId(4), &proxy("orders", "i2"), at(A, READY))
            .unwrap()
    );
    assert!(table.expire(SECOND * 100).is_empty());
    // The same instance at another address has moved, and leaves nothing behind.
    table.stream_ended(StreamId(4), SECOND);
    assert!(
        table
            .report(StreamId(5), &proxy("orders", "i2"), at(B, READY))
            .unwrap()
    );
    assert_eq!((seen(&table), table.counts()), (vec![B.to_owned()], (1, 0)));
}

#[test]
fn r28_an_address_stays_while_its_process_is_replaced() {
    let (old, new) = (proxy("orders", "i1"), proxy("orders", "i2"));
    let mut table = Endpoints::default();
    let say = |table: &mut Endpoints, stream, who: &Proxy, health| {
        table.report(StreamId(stream), who, at(A, health)).unwrap();
        seen(table) == [A]
    };
    assert!(say(&mut table, 1, &old, READY));
    // The new process does not know yet whether it can serve, and takes nothing away.
    assert!(say(&mut table, 2, &new, v1::Health::NotReady));
    assert!(say(&mut table, 2, &new, READY));
    assert_eq!(table.seen("orders")[0].instance, "i2");
    // The former one speaks for itself alone, whatever it says.
    assert!(say(&mut table, 1, &old, READY));
    assert_eq!(table.seen("orders")[0].instance, "i2");
    assert!(say(&mut table, 1, &old, v1::Health::Draining));
    table.stream_ended(StreamId(1), SECOND);
    assert_eq!((seen(&table), table.counts()), (vec![A.to_owned()], (1, 0)));
    assert!(!say(&mut table, 2, &new, v1::Health::Draining));
    // Of a process that was killed nothing stays once its successor speaks.
    assert!(say(&mut table, 2, &new, READY));
    table.stream_ended(StreamId(2), SECOND);
    assert_eq!((seen(&table), table.counts()), (vec![A.to_owned()], (1, 1)));
    assert!(!say(&mut table, 3, &old, v1::Health::NotReady));
    assert_eq!(table.counts(), (1, 0));
}

#[test]
fn most_endpoints_lost_at_once_are_kept_longer() {
    let mut table = Endpoints::default();
    for number in 0..10 {
        let address = format!("127.0.0.1:{}", number + 1);
        table
            .report(
                StreamId(number),
                &proxy("orders", &format!("i{number}")),
                at(&address, READY),
            )
            .unwrap();
    }
    for number in 0..6 {
        table.stream_ended(StreamId(number), Duration::ZERO);
    }
    assert!(table.expire(LEASE).is_empty());
    assert_eq!(table.next_expiry(), Some(LONG_LEASE));
    // Two are back: what is still lost is lost for itself.
    for number in 0..2 {
        let address = format!("127.0.0.1:{}", number + 1);
        table
            .report(
                StreamId(number + 20),
                &proxy("orders", &format!("i{number}")),
                at(&address, READY),
            )
            .unwrap();
    }
    assert_eq!(table.expire(LEASE).len(), 1);
    assert_eq!(seen(&table).len(), 6);
}

#[test]
fn r28_reports_that_name_no_usable_endpoint_are_refused() {
    let parse = |report: v1::EndpointReport| Report::parse(&report, &[80]).unwrap_err();
    for address in [
        "",
        "localhost:80",
        "127.0.0.1",
        "127.0.0.1:0",
        "0.0.0.0:80",
        "[::]:80",
        "224.0.0.1:80",
        "[::ffff:0.0.0.0]:80",
    ] {
        assert!(
            matches!(parse(message(address, READY)), ReportError::Address(_)),
            "{address}"
        );
    }
    for port in [0, 81, 65_616] {
        assert_eq!(
            parse(v1::EndpointReport {
                port,
                ..message(A, READY)
            }),
            ReportError::Port(port)
        );
    }
    assert_eq!(
        parse(v1::EndpointReport {
            weight: 10_001,
            ..message(A, READY)
        }),
        ReportError::Weight
    );
    assert_eq!(
        parse(message(A, v1::Health::Unspecified)),
        ReportError::Health
    );
    assert_eq!(
        parse(v1::EndpointReport {
            health: 77,
            ..message(A, READY)
        }),
        ReportError::Health
    );
}

#[test]
fn a_stream_has_few_endpoints() {
    let mut table = Endpoints::default();
    let orders = proxy("orders", "i1");
    for port in 1..=8 {
        table
            .report(
                StreamId(1),
                &orders,
                at(&format!("127.0.0.1:{port}"), READY),
            )
            .unwrap();
    }
    assert_eq!(
        table.report(StreamId(1), &orders, at("127.0.0.1:9", READY)),
        Err(ReportError::TooMany)
    );
    table
        .report(StreamId(1), &orders, at("127.0.0.1:8", READY))
        .unwrap();
}

proptest! {
    /// Whatever happens, the counts are those of the table, and once everything is ended nothing stays.
    #[test]
    fn counts_hold_under_any_order(steps in proptest::collection::vec((0_u8..4, 0_u64..6, 1_u16..5, 0_u64..3), 0..200)) {
        let mut table = Endpoints::default();
        let mut now = Duration::ZERO;
        for (what, stream, port, instance) in steps {
            now += SECOND;
            let who = proxy("orders", &format!("i{instance}"));
            let address = format!("127.0.0.1:{port}");
            match what {
                0 => drop(table.report(StreamId(stream), &who, at(&address, READY))),
                1 => drop(table.report(StreamId(stream), &who, at(&address, v1::Health::NotReady))),
                2 => table.stream_ended(StreamId(stream), now),
                _ => drop(table.expire(now)),
            }
            let all = || table.services.values().flat_map(BTreeMap::values);
            let claims = || all().flat_map(|registered| &registered.claims);
            let lost = claims().filter(|claim| matches!(claim.held, Held::Lost(_))).count();
            prop_assert_eq!(table.counts(), (claims().count(), lost));
            prop_assert!(all().all(|registered| !registered.claims.is_empty()));
        }
        for stream in 0..6 {
            table.stream_ended(StreamId(stream), now);
        }
        table.expire(now + LONG_LEASE);
        prop_assert_eq!(table.counts(), (0, 0));
    }
}
