//! Any interleaving of changes, answers, lost streams and restarts ends at the current state.
//!
//! Proxies are modelled by what the contract says of them: a message is applied whole or not at all, and the last good
//! state outlives streams and control planes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use ringwall_mesh_api::v1;

use super::super::endpoints::{LEASE, Proxy, Report, StreamId};
use super::super::session::{Answer, Session};
use super::super::world::{View, World};
use super::{edge, policy, service};

const WORKLOADS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    /// Endpoint of a service appears or leaves.
    Endpoint {
        service: usize,
        port: u16,
        ready: bool,
    },
    /// Which of the nine edges are declared; a new policy version comes with them.
    Edges(u16),
    Policy,
    Revocations,
    /// The message under way arrives, and its answer comes back.
    Deliver(usize),
    /// The message under way arrives, its answer is lost with the stream.
    DeliverAndCut(usize),
    Cut(usize),
    Connect(usize),
    /// The proxy's process begins again, without its state on disk.
    Forget(usize),
    /// Another control plane: nothing of the former one is known but what is stored.
    Restart,
    /// One lease later.
    Settle,
}

/// A proxy as ours behaves: it takes over what is good of a message, names the first thing that is not, and never goes
/// back by a delta.
#[derive(Default)]
struct Client {
    state: BTreeMap<String, v1::Resource>,
    /// Of the last message without a fault: what it says when it connects.
    revision: u64,
    /// Of the last message on this stream.
    seen: u64,
    stream: Option<Line>,
}

/// A stream with the message under way.
struct Line {
    session: Session,
    under_way: Option<(v1::ConfigMessage, Arc<View>)>,
    began_with: u64,
}

impl Client {
    /// Applies a message, or says what it refuses: policies whose version is a multiple of three.
    fn receive(&mut self, message: &v1::ConfigMessage) -> Result<(), String> {
        if !message.snapshot {
            assert!(self.seen != 0, "a delta, although nothing is known");
            assert!(
                message.base <= self.seen,
                "a delta that leaves something out"
            );
            assert!(message.revision >= self.seen, "a delta back in time");
        }
        self.seen = message.revision;
        let is_bad = |resource: &v1::Resource| matches!(&resource.body, Some(v1::resource::Body::Policy(policy)) if policy.version % 3 == 0);
        if message.snapshot {
            let kept = |name: &str| message.changed.iter().any(|resource| resource.name == name);
            self.state
                .retain(|name, _| kept(name) || name == "policy" || name == "revocations");
        }
        for name in &message.removed {
            self.state.remove(name);
        }
        for resource in message.changed.iter().filter(|resource| !is_bad(resource)) {
            self.state.insert(resource.name.clone(), resource.clone());
        }
        match message.changed.iter().any(is_bad) {
            true => Err("policy".to_owned()),
            false => {
                self.revision = message.revision;
                Ok(())
            }
        }
    }

    fn endpoints(&self) -> BTreeMap<&String, &v1::Resource> {
        let own = self.state.iter();
        own.filter(|(name, _)| name.starts_with("endpoints/"))
            .collect()
    }
}

struct Simulation {
    world: World,
    clients: Vec<Client>,
    edges: u16,
    policy: u64,
    lives: u64,
    settled: bool,
    streams: u64,
}

impl Simulation {
    fn new() -> Self {
        let mut simulation = Self {
            world: World::new(0),
            clients: WORKLOADS.iter().map(|_| Client::default()).collect(),
            edges: 0b111_111_111,
            policy: 1,
            lives: 0,
            settled: false,
            streams: 0,
        };
        simulation.restart();
        simulation
    }

    fn restart(&mut self) {
        self.lives += 1;
        self.world = World::new(self.lives << 32);
        self.world.set_services(WORKLOADS.map(service).into());
        self.world.set_revocations(v1::Revocations::default());
        self.push_policy();
        self.settled = false;
        self.clients
            .iter_mut()
            .for_each(|client| client.stream = None);
    }

    fn push_policy(&mut self) {
        let declared = (0..9).filter(|bit| self.edges & (1 << bit) != 0);
        let edges = declared.map(|bit| edge(WORKLOADS[bit / 3], WORKLOADS[bit % 3]));
        self.world.set_policy(policy(self.policy), edges.collect());
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Endpoint {
                service,
                port,
                ready,
            } => self.endpoint(service, port, ready),
            Step::Edges(edges) => {
                self.edges = edges;
                self.policy += 1;
                self.push_policy();
            }
            Step::Policy => {
                self.policy += 1;
                self.push_policy();
            }
            Step::Revocations => {
                let revision = self.world.revision();
                self.world.set_revocations(v1::Revocations {
                    revision,
                    ..v1::Revocations::default()
                });
            }
            Step::Deliver(client) => self.deliver(client, true)?,
            Step::DeliverAndCut(client) => {
                self.deliver(client, false)?;
                self.clients[client].stream = None;
            }
            Step::Cut(client) => self.clients[client].stream = None,
            Step::Connect(client) => self.connect(client),
            Step::Forget(client) => self.clients[client] = Client::default(),
            Step::Restart => self.restart(),
            Step::Settle => self.settled = true,
        }
        self.offer();
        Ok(())
    }

    fn endpoint(&mut self, service: usize, port: u16, ready: bool) {
        let proxy = Proxy {
            workload: WORKLOADS[service].into(),
            instance: format!("i{port}").into(),
            node: "n1".into(),
            zone: "z".into(),
        };
        let health = if ready {
            v1::Health::Ready
        } else {
            v1::Health::Draining
        };
        let report = v1::EndpointReport {
            address: format!("127.0.0.1:{port}"),
            port: 80,
            weight: Some(1),
            health: health.into(),
        };
        let report = Report::parse(&report, &[80]).unwrap();
        let stream = StreamId(service as u64 * 100 + u64::from(port));
        self.world.report(stream, &proxy, report).unwrap();
    }

    fn connect(&mut self, client: usize) {
        let began_with = self.clients[client].revision;
        let since = self.world.since(WORKLOADS[client], began_with);
        let session = Session::new(since, &self.world.view(WORKLOADS[client]));
        self.streams += 1;
        self.clients[client].seen = began_with;
        self.clients[client].stream = Some(Line {
            session,
            under_way: None,
            began_with,
        });
    }

    /// What each idle stream has to say goes under way.
    fn offer(&mut self) {
        for (client, name) in self.clients.iter_mut().zip(WORKLOADS) {
            let Some(line) = &mut client.stream else {
                continue;
            };
            let view = self.world.view(name);
            if let Some(message) = line.session.offer(&view, self.settled) {
                assert!(line.under_way.is_none(), "two messages under way");
                line.under_way = Some((message, view));
            }
        }
    }

    fn deliver(&mut self, client: usize, answered: bool) -> Result<(), TestCaseError> {
        let settled = self.settled;
        let client = &mut self.clients[client];
        let Some((message, view)) = client
            .stream
            .as_mut()
            .and_then(|line| line.under_way.take())
        else {
            return Ok(());
        };
        let before: BTreeMap<String, v1::Resource> = client
            .endpoints()
            .into_iter()
            .map(|(name, body)| (name.clone(), body.clone()))
            .collect();
        let verdict = client.receive(&message);
        let line = client.stream.as_ref().unwrap();
        if !settled && line.began_with >= (1 << 32) && !line.session_is_ours(self.lives) {
            prop_assert_eq!(
                client
                    .endpoints()
                    .into_iter()
                    .map(|(n, b)| (n.clone(), b.clone()))
                    .collect::<BTreeMap<_, _>>(),
                before,
                "endpoints were taken away before the others could come back"
            );
        }
        if verdict.is_ok() && message.snapshot {
            prop_assert_eq!(client.state.len(), view.items.len());
        }
        let line = client.stream.as_mut().unwrap();
        if answered {
            let answer = match &verdict {
                Ok(()) => line.session.ack(message.nonce),
                Err(resource) => line.session.nack(message.nonce, resource),
            };
            prop_assert!(
                !matches!(answer, Ok(Answer::Stale) | Err(_)),
                "{:?}",
                answer
            );
        }
        if verdict.is_ok() && message.revision == view.revision {
            // The whole state of that revision, nothing older and nothing more.
            let has: Vec<_> = client.state.values().collect();
            let wants: Vec<_> = view.items.iter().map(|item| &item.resource).collect();
            prop_assert_eq!(has, wants);
        }
        Ok(())
    }

    /// Everything heals: a policy that nobody refuses, all connected, all delivered.
    fn heal(&mut self) -> Result<(), TestCaseError> {
        self.settled = true;
        self.policy += 1 + u64::from((self.policy + 1).is_multiple_of(3));
        self.push_policy();
        for client in 0..WORKLOADS.len() {
            if self.clients[client].stream.is_none() {
                self.connect(client);
            }
        }
        for _ in 0..10 {
            self.offer();
            for client in 0..WORKLOADS.len() {
                self.deliver(client, true)?;
            }
        }
        self.offer();
        for (client, name) in self.clients.iter().zip(WORKLOADS) {
            prop_assert!(
                client.stream.as_ref().unwrap().under_way.is_none(),
                "it goes on and on"
            );
            let has: Vec<_> = client.state.values().cloned().collect();
            let view = self.world.view(name);
            let wants: Vec<_> = view
                .items
                .iter()
                .map(|item| item.resource.clone())
                .collect();
            prop_assert_eq!(has, wants, "{} has not converged", name);
            prop_assert_eq!(client.revision, view.revision);
        }
        Ok(())
    }
}

impl Line {
    /// Whether the proxy came with a state of this life.
    fn session_is_ours(&self, life: u64) -> bool {
        self.began_with >> 32 == life
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..WORKLOADS.len();
    let step = prop_oneof![
        4 => (client.clone(), 1_u16..4, any::<bool>())
            .prop_map(|(service, port, ready)| Step::Endpoint { service, port, ready }),
        2 => (0_u16..512).prop_map(Step::Edges),
        2 => Just(Step::Policy),
        1 => Just(Step::Revocations),
        8 => client.clone().prop_map(Step::Deliver),
        1 => client.clone().prop_map(Step::DeliverAndCut),
        2 => client.clone().prop_map(Step::Cut),
        4 => client.clone().prop_map(Step::Connect),
        1 => client.prop_map(Step::Forget),
        1 => Just(Step::Restart),
        1 => Just(Step::Settle),
    ];
    vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn r31_any_interleaving_converges_and_nothing_stale_is_applied(steps in steps()) {
        let mut simulation = Simulation::new();
        for step in &steps {
            simulation.step(step)?;
        }
        simulation.heal()?;
    }
}

fn simulate(steps: &[Step]) -> Simulation {
    let mut simulation = Simulation::new();
    for step in steps {
        simulation.step(step).unwrap();
    }
    simulation
}

#[test]
fn a_snapshot_first_and_deltas_from_then_on() {
    let mut simulation = simulate(&[Step::Connect(0)]);
    let first = simulation.clients[0]
        .stream
        .as_ref()
        .unwrap()
        .under_way
        .clone()
        .unwrap()
        .0;
    assert!(first.snapshot);
    let names: Vec<_> = first
        .changed
        .iter()
        .map(|resource| resource.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "edges",
            "endpoints/a",
            "endpoints/b",
            "endpoints/c",
            "policy",
            "revocations",
            "service/a",
            "service/b",
            "service/c"
        ]
    );
    simulation.step(&Step::Deliver(0)).unwrap();
    simulation
        .step(&Step::Endpoint {
            service: 1,
            port: 1,
            ready: true,
        })
        .unwrap();
    let second = simulation.clients[0]
        .stream
        .as_ref()
        .unwrap()
        .under_way
        .clone()
        .unwrap()
        .0;
    assert!(!second.snapshot && second.removed.is_empty());
    assert_eq!(second.changed.len(), 1);
    assert_eq!(second.changed[0].name, "endpoints/b");
}

#[test]
fn a_slow_proxy_gets_the_newest_state_and_no_queue() {
    let mut steps = vec![Step::Connect(0)];
    for port in 1..100 {
        steps.push(Step::Endpoint {
            service: 1,
            port,
            ready: true,
        });
    }
    steps.extend([Step::Deliver(0), Step::Deliver(0)]);
    let simulation = simulate(&steps);
    let line = simulation.clients[0].stream.as_ref().unwrap();
    assert!(line.under_way.is_none());
    let Some(v1::resource::Body::Endpoints(list)) =
        &simulation.clients[0].state["endpoints/b"].body
    else {
        panic!()
    };
    assert_eq!(list.endpoints.len(), 99);
}

#[test]
fn a_proxy_that_comes_back_gets_only_what_has_changed() {
    let simulation = simulate(&[
        Step::Connect(0),
        Step::Deliver(0),
        Step::Cut(0),
        Step::Endpoint {
            service: 2,
            port: 1,
            ready: true,
        },
        Step::Connect(0),
    ]);
    let (message, _) = simulation.clients[0]
        .stream
        .as_ref()
        .unwrap()
        .under_way
        .clone()
        .unwrap();
    assert!(!message.snapshot);
    assert_eq!(message.changed.len(), 1);
    // Edges that have changed meanwhile change what it sees: it gets everything.
    let simulation = simulate(&[
        Step::Connect(0),
        Step::Deliver(0),
        Step::Cut(0),
        Step::Edges(0b001),
        Step::Settle,
        Step::Connect(0),
    ]);
    let (message, view) = simulation.clients[0]
        .stream
        .as_ref()
        .unwrap()
        .under_way
        .clone()
        .unwrap();
    assert!(message.snapshot);
    assert_eq!(view.items.len(), 5);
}

#[test]
fn r31_a_refused_policy_is_held_back_and_the_rest_goes_on() {
    let mut simulation = simulate(&[
        Step::Connect(0),
        Step::Deliver(0),
        Step::Policy,
        Step::Deliver(0),
    ]);
    assert_eq!(simulation.policy, 2);
    // Version 3 is one that proxies refuse.
    for step in [
        Step::Policy,
        Step::Deliver(0),
        Step::Endpoint {
            service: 1,
            port: 1,
            ready: true,
        },
        Step::Deliver(0),
    ] {
        simulation.step(&step).unwrap();
    }
    let client = &simulation.clients[0];
    assert!(
        client.stream.as_ref().unwrap().under_way.is_none(),
        "it is not sent again and again"
    );
    let Some(v1::resource::Body::Policy(last_good)) = &client.state["policy"].body else {
        panic!()
    };
    assert_eq!(last_good.version, 2);
    assert_eq!(client.stream.as_ref().unwrap().session.policy(), 2);
    let Some(v1::resource::Body::Endpoints(list)) = &client.state["endpoints/b"].body else {
        panic!()
    };
    assert_eq!(list.endpoints.len(), 1);
    // Who comes back is offered it once more, for it may have learnt to read it.
    simulation.step(&Step::Cut(0)).unwrap();
    simulation.step(&Step::Connect(0)).unwrap();
    let (message, _) = simulation.clients[0]
        .stream
        .as_ref()
        .unwrap()
        .under_way
        .clone()
        .unwrap();
    assert!(
        message
            .changed
            .iter()
            .any(|resource| resource.name == "policy")
    );
}

#[test]
fn a_restart_empties_no_endpoint_list() {
    let up = |service, port| Step::Endpoint {
        service,
        port,
        ready: true,
    };
    let mut simulation = simulate(&[
        up(1, 1),
        Step::Connect(0),
        Step::Deliver(0),
        Step::Restart,
        Step::Policy,
        Step::Connect(0),
        Step::Deliver(0),
    ]);
    let listed = |simulation: &Simulation| match &simulation.clients[0].state["endpoints/b"].body {
        Some(v1::resource::Body::Endpoints(list)) => list.endpoints.len(),
        _ => panic!(),
    };
    // The new policy is there at once, the endpoint is still there.
    let Some(v1::resource::Body::Policy(policy)) = &simulation.clients[0].state["policy"].body
    else {
        panic!()
    };
    assert_eq!((policy.version, listed(&simulation)), (2, 1));
    // One lease later it is known who has come back: this one has not.
    for step in [Step::Settle, Step::Deliver(0)] {
        simulation.step(&step).unwrap();
    }
    assert_eq!(listed(&simulation), 0);
    assert!(LEASE <= Duration::from_secs(5));
}
