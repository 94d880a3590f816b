use std::sync::LazyLock;

use proptest::prelude::*;
use ringwall_mesh_api::v1::proxy_message::Message;

use super::super::policy::tests::{Signer, bundle};
use super::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("ringwall.local").unwrap()
}

/// One signer and its first versions, signed once: signing is what takes time here.
static SIGNED: LazyLock<(Signer, Vec<v1::SignedPolicy>)> = LazyLock::new(|| {
    let signer = Signer::new();
    let versions = 1..=40_u64;
    let signed = versions.map(|version| signer.sign(version, bundle(&format!("callee-{version}"))));
    let signed = signed.collect();
    (signer, signed)
});

fn machine() -> Machine {
    let mut machine = Machine::new(domain());
    machine.keys(SIGNED.0.keys());
    machine
}

fn service(name: &str, tier: &str) -> v1::Resource {
    v1::Resource {
        name: format!("service/{name}"),
        revision: 0,
        body: Some(Body::Service(v1::Service {
            name: name.into(),
            spiffe_id: format!("spiffe://ringwall.local/{name}"),
            tier: tier.into(),
            ..v1::Service::default()
        })),
    }
}

fn endpoints(name: &str, hosts: &[u8]) -> v1::Resource {
    let endpoints = hosts.iter().map(|host| v1::Endpoint {
        address: format!("10.0.0.{}:7106", u32::from(*host) + 1),
        port: 7106,
        ..v1::Endpoint::default()
    });
    v1::Resource {
        name: format!("endpoints/{name}"),
        revision: 0,
        body: Some(Body::Endpoints(v1::Endpoints {
            service: name.into(),
            endpoints: endpoints.collect(),
        })),
    }
}

fn policy(version: usize) -> v1::Resource {
    v1::Resource {
        name: POLICY.into(),
        revision: 0,
        body: Some(Body::Policy(SIGNED.1[version - 1].clone())),
    }
}

fn revocations(revision: u64) -> v1::Resource {
    v1::Resource {
        name: REVOCATIONS.into(),
        revision: 0,
        body: Some(Body::Revocations(v1::Revocations {
            revision,
            serials: vec![revision.to_be_bytes()[7..].to_vec()],
            ..v1::Revocations::default()
        })),
    }
}

fn snapshot(revision: u64, changed: Vec<v1::Resource>) -> v1::ConfigMessage {
    v1::ConfigMessage {
        nonce: revision,
        revision,
        snapshot: true,
        changed,
        ..v1::ConfigMessage::default()
    }
}

fn delta(revision: u64, changed: Vec<v1::Resource>) -> v1::ConfigMessage {
    v1::ConfigMessage {
        snapshot: false,
        ..snapshot(revision, changed)
    }
}

fn refusal(reply: &Reply) -> (&str, &str) {
    match &reply.answer {
        Message::Nack(nack) => (&nack.resource, &nack.reason),
        other => panic!("not refused: {other:?}"),
    }
}

fn is_ack(reply: &Reply) -> bool {
    matches!(reply.answer, Message::Ack(_))
}

fn hosts(machine: &Machine, name: &str) -> usize {
    machine.snapshot().services[name].endpoints.len()
}

#[test]
fn a_snapshot_and_deltas_become_services_with_their_endpoints() {
    let mut machine = machine();
    assert_eq!(machine.hello(), 0);
    let all = vec![
        endpoints("inventory", &[1]),
        service("inventory", "internal"),
        policy(1),
    ];
    let reply = machine.message(snapshot(5, all));
    assert!(is_ack(&reply) && reply.changed && !reply.reopen);
    assert_eq!(
        hosts(&machine, "inventory"),
        1,
        "endpoints may come before their service"
    );
    assert_eq!(machine.policy_version(), Some(1));
    machine.message(delta(6, vec![endpoints("inventory", &[1, 2])]));
    assert_eq!(hosts(&machine, "inventory"), 2);
    machine.message(delta(7, vec![service("inventory", "sensitive")]));
    assert_eq!(
        hosts(&machine, "inventory"),
        2,
        "a new service keeps its endpoints"
    );
    let mut removal = delta(8, Vec::new());
    removal.removed = vec!["endpoints/inventory".into(), "service/unknown".into()];
    assert!(is_ack(&machine.message(removal)));
    assert_eq!(hosts(&machine, "inventory"), 0);
    assert_eq!(machine.hello(), 8);
    let reply = machine.message(snapshot(9, vec![service("payments", "")]));
    assert!(reply.changed);
    let snapshot = machine.snapshot();
    assert_eq!(
        snapshot
            .services
            .keys()
            .map(|name| &**name)
            .collect::<Vec<_>>(),
        ["payments"]
    );
    assert!(snapshot.policy.is_some(), "silence takes no policy away");
}

#[test]
fn r57_endpoints_that_a_returning_control_plane_does_not_know_serve_until_it_has_settled() {
    let all = || vec![service("inventory", "1"), endpoints("inventory", &[1, 2])];
    let gone = || vec![service("inventory", "1"), endpoints("inventory", &[])];
    let without = || vec![service("inventory", "1")];
    for first in [
        delta(3, vec![endpoints("inventory", &[])]),
        snapshot(3, gone()),
        snapshot(3, without()),
    ] {
        let mut machine = machine();
        machine.hello();
        assert!(is_ack(&machine.message(snapshot(1, all()))));
        machine.hello();
        assert!(is_ack(&machine.message(first.clone())));
        assert_eq!(hosts(&machine, "inventory"), 2, "they may be on their way");
        let saved = machine.save();
        assert!(machine.settle());
        assert_eq!(hosts(&machine, "inventory"), 0, "they are not");
        assert!(!machine.settle());
        let said = |resource: &v1::Resource| resource.name == "endpoints/inventory";
        let said = saved.resources.iter().find(|resource| said(resource));
        let empty = endpoints("inventory", &[]).body;
        assert!(
            said.is_none_or(|said| said.body == empty),
            "kept is what was said"
        );

        // One that comes back ends the doubt, and so does another empty list: it is news.
        for (news, left) in [(&[7][..], 1), (&[], 0)] {
            let mut machine = machine_after(&all(), &first);
            let known = endpoints("inventory", news);
            assert!(is_ack(&machine.message(delta(4, vec![known]))));
            assert_eq!(hosts(&machine, "inventory"), left);
            assert!(machine.doubts.is_empty());
            assert!(!machine.settle());
        }
    }
    // On a stream that stands, gone is gone.
    let mut machine = machine_after(&all(), &delta(3, Vec::new()));
    let none = endpoints("inventory", &[]);
    machine.message(delta(4, vec![none]));
    assert_eq!(hosts(&machine, "inventory"), 0);
}

/// One that knew `before` when a new stream began with `first`.
fn machine_after(before: &[v1::Resource], first: &v1::ConfigMessage) -> Machine {
    let mut machine = machine();
    machine.hello();
    machine.message(snapshot(1, before.to_vec()));
    machine.hello();
    machine.message(first.clone());
    machine
}

#[test]
fn r31_what_is_bad_is_refused_and_the_last_good_serves() {
    let mut machine = machine();
    machine.hello();
    let good = vec![
        service("inventory", "internal"),
        endpoints("inventory", &[1]),
        policy(2),
    ];
    machine.message(snapshot(1, good));
    let mut bad = service("inventory", "internal");
    if let Some(Body::Service(service)) = &mut bad.body {
        service.spiffe_id = "spiffe://evil.example/inventory".into();
    }
    let reply = machine.message(delta(2, vec![bad, endpoints("inventory", &[1, 2])]));
    assert_eq!(refusal(&reply).0, "service/inventory");
    assert!(refusal(&reply).1.contains("another trust domain"));
    assert!(!reply.reopen);
    let state = machine.snapshot();
    assert_eq!(
        state.services["inventory"].identity.path(),
        "inventory",
        "the last good one"
    );
    assert_eq!(
        hosts(&machine, "inventory"),
        2,
        "and what is good beside it is taken over"
    );
    assert_eq!(machine.hello(), 1, "so that it is sent again");
    machine.message(delta(3, vec![policy(1)]));
    let mut forged = policy(3);
    if let Some(Body::Policy(signed)) = &mut forged.body {
        signed.jws.pop();
    }
    let reply = machine.message(delta(4, vec![forged]));
    assert_eq!(refusal(&reply).0, "policy");
    assert_eq!(machine.policy_version(), Some(2));
}

#[test]
fn attack_a_policy_or_a_revocation_of_the_past_is_refused() {
    let mut machine = machine();
    machine.hello();
    machine.message(snapshot(9, vec![policy(2), revocations(4)]));
    // A replica that is behind, or somebody who has recorded it.
    machine.hello();
    let reply = machine.message(snapshot(3, vec![policy(1), revocations(3)]));
    assert!(refusal(&reply).1.contains("is older than"));
    let state = machine.snapshot();
    assert_eq!(machine.policy_version(), Some(2));
    assert_eq!(state.revocations.revision, 4);
    let mut removal = delta(10, Vec::new());
    removal.removed = vec![POLICY.into(), REVOCATIONS.into()];
    assert!(
        refusal(&machine.message(removal))
            .1
            .contains("cannot be removed")
    );
    assert_eq!(machine.policy_version(), Some(2));
}

#[test]
fn a_delta_that_does_not_fit_asks_for_a_snapshot() {
    let mut machine = machine();
    assert_eq!(machine.hello(), 0);
    let reply = machine.message(delta(5, vec![service("inventory", "")]));
    assert!(reply.reopen && refusal(&reply).1.contains("nothing is known"));
    machine.hello();
    machine.message(snapshot(5, vec![service("inventory", "")]));
    for (revision, base) in [(8, 7), (4, 0)] {
        let mut message = delta(revision, vec![service("payments", "")]);
        message.base = base;
        let reply = machine.message(message);
        assert!(
            reply.reopen && !reply.changed,
            "revision {revision}, base {base}"
        );
        assert!(!machine.snapshot().services.contains_key("payments"));
        assert_eq!(machine.hello(), 0, "a snapshot is asked for");
        machine.message(snapshot(5, vec![service("inventory", "")]));
    }
    let mut message = delta(8, vec![service("payments", "")]);
    message.base = 5;
    assert!(is_ack(&machine.message(message)));
}

#[test]
fn a_policy_whose_key_comes_later_is_asked_for_again() {
    let mut machine = Machine::new(domain());
    machine.hello();
    let reply = machine.message(snapshot(1, vec![policy(1), service("inventory", "")]));
    assert_eq!(refusal(&reply).0, "policy");
    assert!(
        machine.snapshot().policy.is_none(),
        "nothing is believed without keys"
    );
    assert!(machine.keys(SIGNED.0.keys()), "the stream is opened anew");
    assert_eq!(machine.hello(), 0);
    machine.message(snapshot(1, vec![policy(1), service("inventory", "")]));
    assert_eq!(machine.policy_version(), Some(1));
    assert!(!machine.keys(SIGNED.0.keys()));
}

#[test]
fn odd_resources_are_named_in_the_answer() {
    let mut machine = machine();
    machine.hello();
    let nameless = v1::Resource {
        name: "policy".into(),
        ..v1::Resource::default()
    };
    let mut misnamed = service("inventory", "");
    misnamed.name = "service/payments".into();
    let mut elsewhere = service("inventory", "");
    elsewhere.name = "endpoints/inventory".into();
    let twice = service("inventory", "");
    for (resources, why) in [
        (vec![nameless], "no body"),
        (vec![misnamed], "does not fit"),
        (vec![elsewhere], "does not fit"),
        (vec![twice.clone(), twice], "stands twice"),
    ] {
        let reply = machine.message(snapshot(1, resources));
        assert!(refusal(&reply).1.contains(why), "{reply:?}");
    }
    let many = (0..=MAX_RESOURCES).map(|index| service(&format!("s{index}"), ""));
    let reply = machine.message(snapshot(2, many.collect()));
    assert!(refusal(&reply).1.contains("more than") && !reply.reopen);
}

#[test]
fn r57_a_saved_state_is_checked_again_when_it_is_read() {
    let mut first = machine();
    first.hello();
    let all = vec![
        service("inventory", ""),
        endpoints("inventory", &[1]),
        policy(2),
        revocations(1),
    ];
    first.message(snapshot(8, all));
    let saved = first.save();
    let (mut second, faults) = Machine::restore(domain(), saved.clone(), Some(SIGNED.0.keys()));
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!(same(&first), same(&second));
    assert_eq!(second.hello(), 8);
    let (offline, _) = Machine::restore(domain(), saved.clone(), None);
    assert_eq!(
        offline.policy_version(),
        Some(2),
        "with the keys that were saved"
    );
    let (strange, faults) = Machine::restore(domain(), saved.clone(), Some(Signer::new().keys()));
    assert_eq!(
        strange.policy_version(),
        None,
        "the trust domain's own keys count"
    );
    assert_eq!(faults.len(), 1);
    assert_eq!(strange.snapshot().services.len(), 1);
    let (mut late, _) = Machine::restore(domain(), saved.clone(), None);
    late.keys(Signer::new().keys());
    assert!(late.verify_again());
    assert!(late.snapshot().policy.is_none());
    let mut tampered = saved;
    for resource in &mut tampered.resources {
        if let Some(Body::Policy(signed)) = &mut resource.body {
            let at = signed.jws.find('.').unwrap() + 3;
            let letter = if &signed.jws[at..=at] == "A" {
                "B"
            } else {
                "A"
            };
            signed.jws.replace_range(at..=at, letter);
        }
    }
    let (tampered, faults) = Machine::restore(domain(), tampered, Some(SIGNED.0.keys()));
    assert!(tampered.snapshot().policy.is_none());
    assert_eq!(faults.len(), 1);
}

#[test]
fn attack_a_rollback_over_a_restart_is_refused() {
    let mut first = machine();
    first.hello();
    first.message(snapshot(8, vec![policy(3)]));
    let mut saved = first.save();
    saved.resources.clear();
    let (mut second, _) = Machine::restore(domain(), saved, Some(SIGNED.0.keys()));
    second.hello();
    let reply = second.message(snapshot(9, vec![policy(2)]));
    assert!(refusal(&reply).1.contains("older than 3"));
}

/// What a state says, without the revision.
fn same(machine: &Machine) -> String {
    let state = machine.snapshot();
    format!(
        "{:?} {:?} {:?} {:?}",
        state.services,
        machine.policy_version(),
        state.policy.is_some(),
        state.revocations
    )
}

/// The control plane of the property test: all that is true, with the revision of each change.
#[derive(Default)]
struct Server {
    revision: u64,
    policy: usize,
    resources: BTreeMap<String, v1::Resource>,
    removed: BTreeMap<String, u64>,
    /// What the client has acknowledged on this stream, and what it was sent.
    acknowledged: u64,
    past: Vec<v1::ConfigMessage>,
}

#[derive(Debug, Clone)]
enum Step {
    Service(u8, u8),
    Endpoints(u8, Vec<u8>),
    Remove(u8),
    Policy,
    Revoke,
    /// A message arrives.
    Deliver,
    /// A message arrives with a resource that is broken on the way out of the server.
    DeliverBroken,
    /// A message is lost with its stream.
    Lose,
    Reconnect,
    /// A replica that is behind answers with a snapshot of the past.
    Past(usize),
    /// The proxy is restarted and reads what it has saved.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..4_u8;
    prop_oneof![
        4 => (number.clone(), 0..3_u8).prop_map(|(name, tier)| Step::Service(name, tier)),
        4 => (number.clone(), proptest::collection::btree_set(0..6_u8, 0..4))
            .prop_map(|(name, hosts)| Step::Endpoints(name, hosts.into_iter().collect())),
        2 => number.prop_map(Step::Remove),
        1 => Just(Step::Policy),
        1 => Just(Step::Revoke),
        6 => Just(Step::Deliver),
        2 => Just(Step::DeliverBroken),
        1 => Just(Step::Lose),
        2 => Just(Step::Reconnect),
        1 => (0..8_usize).prop_map(Step::Past),
        1 => Just(Step::Restart),
    ]
}

impl Server {
    fn set(&mut self, mut resource: v1::Resource) {
        self.revision += 1;
        resource.revision = self.revision;
        self.removed.remove(&resource.name);
        self.resources.insert(resource.name.clone(), resource);
    }

    fn remove(&mut self, name: String) {
        if self.resources.remove(&name).is_some() {
            self.revision += 1;
            self.removed.insert(name, self.revision);
        }
    }

    /// What the client lacks by what it has acknowledged.
    fn next(&mut self) -> v1::ConfigMessage {
        let known = self.acknowledged;
        let message = if known == 0 {
            snapshot(self.revision, self.resources.values().cloned().collect())
        } else {
            let newer = |resource: &&v1::Resource| resource.revision > known;
            let removed = self.removed.iter().filter(|(_, at)| **at > known);
            v1::ConfigMessage {
                base: known,
                removed: removed.map(|(name, _)| name.clone()).collect(),
                ..delta(
                    self.revision,
                    self.resources.values().filter(newer).cloned().collect(),
                )
            }
        };
        let whole = snapshot(self.revision, self.resources.values().cloned().collect());
        self.past.push(whole);
        message
    }

    fn deliver(&mut self, client: &mut Machine, message: v1::ConfigMessage) {
        let revision = message.revision;
        let reply = client.message(message);
        if reply.reopen {
            self.acknowledged = client.hello();
        } else if is_ack(&reply) {
            self.acknowledged = revision;
        }
    }

    fn step(&mut self, client: &mut Machine, step: Step) {
        match step {
            Step::Service(name, tier) => self.set(service(&format!("s{name}"), &tier.to_string())),
            Step::Endpoints(name, hosts) => self.set(endpoints(&format!("s{name}"), &hosts)),
            Step::Remove(name) => {
                self.remove(format!("service/s{name}"));
                self.remove(format!("endpoints/s{name}"));
            }
            Step::Policy if self.policy < SIGNED.1.len() => {
                self.policy += 1;
                self.set(policy(self.policy));
            }
            Step::Policy => {}
            Step::Revoke => self.set(revocations(self.revision + 1)),
            Step::Deliver => {
                let message = self.next();
                self.deliver(client, message);
            }
            Step::DeliverBroken => {
                let mut message = self.next();
                if let Some(resource) = message.changed.first_mut() {
                    resource.body = None;
                }
                self.deliver(client, message);
            }
            Step::Lose | Step::Reconnect => self.acknowledged = client.hello(),
            Step::Past(index) => {
                if let Some(message) = self.past.get(index).cloned() {
                    client.hello();
                    client.message(message);
                    self.acknowledged = client.hello();
                }
            }
            Step::Restart => {
                // What is kept is what was said, not what was doubted.
                client.settle();
                let (restored, faults) =
                    Machine::restore(domain(), client.save(), Some(SIGNED.0.keys()));
                assert!(faults.is_empty(), "{faults:?}");
                assert_eq!(same(client), same(&restored));
                *client = restored;
                self.acknowledged = client.hello();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_order_of_snapshots_deltas_faults_and_reconnects_converges(
        steps in proptest::collection::vec(step(), 0..60)
    ) {
        let mut server = Server::default();
        let mut client = machine();
        server.set(policy(1));
        server.policy = 1;
        server.set(revocations(1));
        server.acknowledged = client.hello();
        let mut newest = 0;
        for step in steps {
            server.step(&mut client, step);
            let version = client.policy_version().unwrap_or(0);
            prop_assert!(version >= newest, "a policy never goes back");
            newest = version;
        }
        // The network heals: at most a refusal, a snapshot, and the end.
        for _ in 0..3 {
            server.acknowledged = client.hello();
            let message = server.next();
            server.deliver(&mut client, message);
        }
        client.settle();
        let mut fresh = machine();
        fresh.hello();
        fresh.message(snapshot(server.revision, server.resources.values().cloned().collect()));
        prop_assert_eq!(same(&client), same(&fresh));
        prop_assert_eq!(client.snapshot().revision, server.revision);
    }
}
