//! One verdict from three: a policy model written apart, the decision function in user space, and the kernel.

#[path = "model.rs"]
mod model;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ringwall_ebpf_common::{
    Action, DirectKey, EdgeKey, Endpoint, Policy, PortKey, ServiceKey, Workload, decide,
};
use ringwall_ebpf_loader::{Attach, Bind, Enrolment, Kernel, Listener, Slice, Way, id_of};

use self::model::{Call, Draw, Model, Outcome, Transport};
use crate::world::tests;
use crate::world::{World, object};

tests!(
    equivalence_of_the_model_and_the_decision_function,
    equivalence_of_the_model_and_the_kernels_packets,
    equivalence_of_the_model_and_real_calls,
);

/// Generated flows; the issue asks for 100,000 of them.
const FLOWS: u32 = 150_000;
/// Calls of real sockets, each some tens of microseconds.
const CALLS: u32 = 3_000;

/// The lookups of a model, as the kernel's maps would answer them.
struct Tables {
    services: HashMap<ServiceKey, u32>,
    edges: HashSet<EdgeKey>,
    direct: HashSet<DirectKey>,
    ports: HashSet<PortKey>,
}

impl Policy for Tables {
    fn service(&self, key: &ServiceKey) -> Option<u32> {
        self.services.get(key).copied()
    }
    fn edge(&self, key: &EdgeKey) -> bool {
        self.edges.contains(key)
    }
    fn direct(&self, key: &DirectKey) -> bool {
        self.direct.contains(key)
    }
    fn port(&self, key: &PortKey) -> bool {
        self.ports.contains(key)
    }
}

fn tables(model: &Model) -> Tables {
    let workload = id_of(model::WORKLOAD);
    let service = |(name, at): &(String, SocketAddr)| {
        let Endpoint { address, port, .. } = Endpoint::from(*at);
        let key = ServiceKey {
            address: address.folded(),
            port: u32::from(port),
        };
        (key, id_of(name))
    };
    let direct = |at: &SocketAddr, protocol: u16| {
        let Endpoint { address, port, .. } = Endpoint::from(*at);
        DirectKey {
            workload,
            address,
            port,
            protocol,
        }
    };
    let tcp = model.direct.iter().map(|at| direct(at, 6));
    let udp = model.udp.iter().map(|at| direct(at, 17));
    Tables {
        services: model.services.iter().map(service).collect(),
        edges: model
            .edges
            .iter()
            .map(|name| EdgeKey {
                workload,
                service: id_of(name),
            })
            .collect(),
        direct: tcp.chain(udp).collect(),
        ports: model
            .ports
            .iter()
            .map(|port| PortKey {
                workload,
                port: *port,
                protocol: 6,
            })
            .collect(),
    }
}

fn workload(model: &Model) -> Workload {
    let endpoint = |at: Option<SocketAddr>| at.map_or(Endpoint::NONE, Endpoint::from);
    Workload {
        id: id_of(model::WORKLOAD),
        role: 1,
        flags: u8::from(model.narrow) * Workload::NARROW
            + u8::from(model.egress) * Workload::EGRESS,
        padding: 0,
        capture_4: endpoint(model.capture_4),
        capture_6: endpoint(model.capture_6),
        dns_4: endpoint(model.dns_4),
        dns_6: endpoint(model.dns_6),
    }
}

fn outcome(action: Action) -> Outcome {
    match action {
        Action::Deny => Outcome::Denied,
        Action::Pass | Action::Dial => Outcome::Passed,
        Action::Capture => Outcome::Captured,
        Action::Names => Outcome::Named,
        Action::Narrow => Outcome::Narrowed,
    }
}

fn decided(tables: &Tables, workload: &Workload, call: &Call) -> Outcome {
    let to = Endpoint::from(call.at);
    let number = call.transport.number();
    let verdict = match call.what {
        model::What::Connect => decide::connect(tables, Some(workload), number, call.six, to),
        model::What::Bind => decide::bind(tables, Some(workload), number, to),
        model::What::Packet => decide::packet(tables, Some(workload), number, to, None, || None),
    };
    outcome(verdict.action)
}

fn equivalence_of_the_model_and_the_decision_function() {
    let mut draw = Draw::new(1);
    let mut seen: HashMap<Outcome, u32> = HashMap::new();
    for round in 0..FLOWS / 500 {
        let model = Model::draw(&mut draw);
        let (tables, workload) = (tables(&model), workload(&model));
        for _ in 0..500 {
            let call = Call::draw(&mut draw, &model);
            let expected = model.judge(&call);
            let found = decided(&tables, &workload, &call);
            assert_eq!(found, expected, "round {round}: {call:?} under {model:?}");
            *seen.entry(expected).or_default() += 1;
        }
    }
    // A generator that never meets an outcome would prove nothing about it.
    for outcome in [
        Outcome::Denied,
        Outcome::Passed,
        Outcome::Captured,
        Outcome::Named,
        Outcome::Narrowed,
    ] {
        assert!(
            seen.get(&outcome).is_some_and(|count| *count > 500),
            "{seen:?}"
        );
    }
}

/// Enrols the workload of a model.
fn enrol(kernel: &mut Kernel, group: &Path, model: &Model) {
    kernel
        .enrol(&Enrolment {
            capture: Listener {
                v4: model.capture_4,
                v6: model.capture_6,
            },
            dns: Listener {
                v4: model.dns_4,
                v6: model.dns_6,
            },
            direct: &model.direct,
            udp: &model.udp,
            ports: &model.ports,
            bind: if model.narrow {
                Bind::Narrow
            } else {
                Bind::Refuse
            },
            egress: model.egress,
            ..Enrolment::app(model::WORKLOAD, group)
        })
        .unwrap();
    let addresses: Vec<(&str, [SocketAddr; 1])> = model
        .services
        .iter()
        .map(|(name, at)| (name.as_str(), [*at]))
        .collect();
    let services = addresses
        .iter()
        .map(|(name, list)| (*name, list.as_slice()));
    kernel.set_services(services).unwrap();
    let edges = model
        .edges
        .iter()
        .map(|name| (model::WORKLOAD, name.as_str()));
    kernel.set_edges(edges).unwrap();
}

fn equivalence_of_the_model_and_the_kernels_packets() {
    let world = World::new();
    let group = world.group("app-orders");
    let (pins, slice) = (world.pins.display(), world.slice.display());
    // From within the group: whose control group it is, the program sees from who runs it.
    let mut helper = crate::world::Helper::start(&group, "-");
    let words = helper.ok(&format!("equivalence {pins} {slice} {FLOWS}"));
    let denied: u32 = words[0].parse().unwrap();
    let passed: u32 = words[1].parse().unwrap();
    assert_eq!(denied + passed, FLOWS);
    assert!(denied > 1000 && passed > 1000, "{words:?}");
}

/// In a helper: BPF_PROG_TEST_RUN of the packet programs over generated packets. `DENIED PASSED`
pub(crate) fn rehearse(pins: &str, slice: &str, flows: &str) -> io::Result<String> {
    let place = Slice {
        path: PathBuf::from(slice),
        pins: PathBuf::from(pins),
        attach: Attach::Slice,
    };
    let group = place.path.join("ringwall-app-orders.slice");
    let mut kernel = Kernel::open(&object(), place)?;
    let mut draw = Draw::new(2);
    let (mut denied, mut passed) = (0_u32, 0_u32);
    let flows: u32 = flows.parse().map_err(io::Error::other)?;
    for _ in 0..flows / 1000 {
        let model = Model::draw(&mut draw);
        enrol(&mut kernel, &group, &model);
        for _ in 0..1000 {
            let call = Call::packet(&mut draw, &model);
            let expected = model.judge(&call) == Outcome::Passed;
            let way = if draw.chance(2) { Way::Out } else { Way::In };
            let found = kernel.rehearse(way, &frame(&call, way))?;
            if found != expected {
                return Err(io::Error::other(format!(
                    "{way:?} {call:?} {model:?}: {found}"
                )));
            }
            if found {
                passed += 1;
            } else {
                denied += 1;
            }
        }
    }
    Ok(format!("{denied} {passed}"))
}

/// An Ethernet frame whose peer is the call's address.
fn frame(call: &Call, way: Way) -> Vec<u8> {
    let mut frame = vec![0; 12];
    let (own, peer) = (40_000_u16.to_be_bytes(), call.at.port().to_be_bytes());
    let number = call.transport.number();
    match call.at.ip().to_canonical() {
        IpAddr::V4(peer_address) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, number, 0, 0]);
            let (own, peer) = ([127, 0, 0, 1], peer_address.octets());
            let (source, destination) = if way == Way::Out {
                (own, peer)
            } else {
                (peer, own)
            };
            frame.extend(source);
            frame.extend(destination);
        }
        IpAddr::V6(peer_address) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, number, 64]);
            let own = std::net::Ipv6Addr::LOCALHOST.octets();
            let peer = peer_address.octets();
            let (source, destination) = if way == Way::Out {
                (own, peer)
            } else {
                (peer, own)
            };
            frame.extend(source);
            frame.extend(destination);
        }
    }
    let (source, destination) = if way == Way::Out {
        (own, peer)
    } else {
        (peer, own)
    };
    frame.extend(source);
    frame.extend(destination);
    frame.extend([0; 16]);
    frame
}

fn equivalence_of_the_model_and_real_calls() {
    // In a network that leads nowhere, so that what may pass arrives nowhere.
    let mut network = crate::world::Helper::start_as("-", "-");
    network.ok("new-network");
    network.ok("run ip link set lo up");
    let mut world = World::new();
    let mut pair = world.pair_in("orders", &network.id().to_string(), |_| {});
    let mut draw = Draw::new(3);
    let group = pair.app_group.clone();
    for _ in 0..CALLS / 100 {
        let mut model = Model::draw(&mut draw);
        // Captured connections have somewhere to arrive.
        model.capture_4 = model.capture_4.map(|_| pair.capture.1);
        model.capture_6 = model.capture_6.map(|_| pair.capture_6.1);
        enrol(world.kernel(), &group, &model);
        for _ in 0..100 {
            let call = Call::real(&mut draw, &model);
            let expected = model.judge(&call);
            let found = real(&mut pair, &call, &model);
            assert_eq!(found, expected, "{call:?} under {model:?}");
        }
    }
}

/// What becomes of a call in the application.
fn real(pair: &mut crate::world::Pair, call: &Call, model: &Model) -> Outcome {
    if call.transport == Transport::Udp {
        let socket = pair
            .app
            .ok(&format!("udp {}", if call.six { 6 } else { 4 }))
            .remove(0);
        let answer = pair.app.ask(&format!("udp-connect {socket} {}", call.at));
        pair.app.ok(&format!("close {socket}"));
        // Whether it was redirected is not to be seen: that is what recvmsg and getpeername are for.
        return match (answer.as_str(), model.judge(call)) {
            ("err EPERM", _) => Outcome::Denied,
            (_, Outcome::Named) => Outcome::Named,
            _ => Outcome::Passed,
        };
    }
    let answer = pair.app.ask(&format!("connect {}", call.at));
    let Some(words) = answer.strip_prefix("ok ") else {
        return match answer.as_str() {
            "err EPERM" => Outcome::Denied,
            // Direct, to where nobody listens.
            _ => Outcome::Passed,
        };
    };
    let number = words.split(' ').next().unwrap().to_owned();
    pair.app.ok(&format!("close {number}"));
    let six_listener = call.six
        && model.capture_6.is_some()
        && (model.capture_4.is_none() || !matches!(call.at.ip().to_canonical(), IpAddr::V4(_)));
    let listener = if six_listener {
        &pair.capture_6.0
    } else {
        &pair.capture.0
    };
    let accepted = pair.proxy.ask(&format!("accept {listener}"));
    let accepted = accepted.strip_prefix("ok ");
    let accepted = accepted.unwrap_or_else(|| panic!("{call:?} under {model:?}: not accepted"));
    let accepted: Vec<&str> = accepted.split(' ').collect();
    pair.proxy.ok(&format!("close {}", accepted[0]));
    let original: SocketAddr = accepted[2].parse().unwrap();
    assert_eq!(
        (original.ip().to_canonical(), original.port()),
        (call.at.ip().to_canonical(), call.at.port())
    );
    Outcome::Captured
}
