//! Names for the application: whatever name server it asks, the kernel leads the question here.
//!
//! Owns: the answers, over UDP (RFC 1035). A service is known by its name, alone or within the trust domain, and is where the
//! kernel will lead a connection to it; a name outside has an address that leads nowhere but to the egress gateway, which
//! resolves it itself. Must not: ask anybody else about a name of the outside; what an application wants to know leaves the
//! machine by no other way than its calls.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{DNSClass, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::control::State;
use crate::outbound::EGRESS;
use crate::snapshot::Snapshot;

/// Reserved and routed nowhere (RFC 1112 §4): stands for every server outside.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);
/// Seconds that an answer may be kept: endpoints move.
const TTL: u32 = 1;
/// Longest question over UDP (RFC 1035 §2.3.4, and what EDNS asks for commonly).
const MAX_QUESTION: usize = 1232;
/// Addresses in one answer: they fit 512 bytes.
const MAX_ADDRESSES: usize = 16;
/// Questions that are being answered. More wait in the socket, or are lost and asked again.
const AT_ONCE: usize = 64;
/// Looking up the address of a service that has no proxy.
const LOOK_UP: Duration = Duration::from_secs(1);

/// A listener that a process after us can bind as well, so that no question is lost while we are replaced.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// What does not change while the proxy runs.
pub(crate) struct Known {
    /// In which services are known by their names.
    pub(crate) domain: Box<str>,
    /// Names beside those of services that are looked up.
    pub(crate) hosts: Vec<String>,
}

/// Answers questions for ever, each beside the others: one that waits for the machine's name server keeps none waiting.
pub(crate) async fn serve(socket: UdpSocket, state: Arc<State>, known: Known) {
    let (socket, known) = (Arc::new(socket), Arc::new(known));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut buffer = [0; MAX_QUESTION];
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return; // nobody closes it
        };
        let received = socket.recv_from(&mut buffer).await;
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) => {
                // An answer that nobody was there for any more.
                tracing::debug!(%error, "a question for a name was lost");
                continue;
            }
        };
        let question = buffer.get(..length).unwrap_or_default().to_vec();
        let snapshot = state.snapshot.load_full();
        let (socket, known) = (Arc::clone(&socket), Arc::clone(&known));
        tokio::spawn(async move {
            let _place = place;
            if let Some(answer) = answer(&question, &snapshot, &known).await
                && let Err(error) = socket.send_to(&answer, from).await
            {
                tracing::debug!(%error, "an answer for a name was lost");
            }
        });
    }
}

/// The answer to a question; none for what is no question.
async fn answer(question: &[u8], snapshot: &Snapshot, known: &Known) -> Option<Vec<u8>> {
    let asked = Message::from_vec(question).ok()?;
    let metadata = &asked.metadata;
    if metadata.message_type != MessageType::Query {
        return None;
    }
    let mut reply = Message::response(metadata.id, metadata.op_code);
    reply.metadata.recursion_desired = metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    let outcome = match (metadata.op_code, asked.queries.as_slice()) {
        (OpCode::Query, [query]) => resolve(query, snapshot, known).await,
        (OpCode::Query, _) => Err(ResponseCode::FormErr),
        _ => Err(ResponseCode::NotImp),
    };
    reply.add_queries(asked.queries.iter().cloned());
    match outcome {
        Ok(records) => {
            reply.add_answers(records);
        }
        Err(code) => reply.metadata.response_code = code,
    }
    reply.to_vec().ok()
}

async fn resolve(
    query: &Query,
    snapshot: &Snapshot,
    known: &Known,
) -> Result<Vec<Record>, ResponseCode> {
    if query.query_class() != DNSClass::IN {
        return Err(ResponseCode::Refused);
    }
    let name = query.name().to_lowercase().to_ascii();
    let name = name.trim_end_matches('.');
    let within = name
        .strip_suffix(&*known.domain)
        .and_then(|rest| rest.strip_suffix('.'));
    let service = snapshot.services.get(within.unwrap_or(name));
    let addresses = match service {
        Some(service) => {
            let found = addresses_of(service).await;
            if found.is_empty() {
                // It exists and is served nowhere now: asked again, it may be.
                return Err(ResponseCode::ServFail);
            }
            found
        }
        None if known.hosts.iter().any(|host| host == name) => {
            // A name needs a port to be looked up; none is answered.
            look_up(&format!("{name}:0")).await
        }
        // A name with dots that is none of ours, for who may go outside at all.
        None if within.is_none()
            && name.contains('.')
            && snapshot.services.contains_key(EGRESS) =>
        {
            BTreeSet::from([OUTSIDE.into()])
        }
        None => return Err(ResponseCode::NXDomain),
    };
    let kind = query.query_type();
    let records = addresses.into_iter().filter_map(|ip| {
        let data = match (ip, kind) {
            (IpAddr::V4(ip), RecordType::A) => RData::A(ip.into()),
            (IpAddr::V6(ip), RecordType::AAAA) => RData::AAAA(ip.into()),
            _ => return None,
        };
        Some(Record::from_rdata(query.name().clone(), TTL, data))
    });
    Ok(records.take(MAX_ADDRESSES).collect())
}

/// Where the kernel knows the service.
async fn addresses_of(service: &crate::snapshot::Service) -> BTreeSet<IpAddr> {
    let endpoints = service.endpoints.iter();
    let mut found: BTreeSet<IpAddr> = endpoints.map(|endpoint| endpoint.address.ip()).collect();
    for name in &service.direct {
        found.extend(look_up(name).await);
    }
    found
}

/// The machine's own name server says it.
async fn look_up(name: &str) -> BTreeSet<IpAddr> {
    match timeout(LOOK_UP, tokio::net::lookup_host(name)).await {
        Ok(Ok(addresses)) => return addresses.map(|address| address.ip()).collect(),
        Ok(Err(error)) => tracing::debug!(name, %error, "no address of a service"),
        Err(_elapsed) => tracing::debug!(name, "no address of a service in time"),
    }
    BTreeSet::new()
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::Name;

    use super::*;

    use crate::resilience::fixture::{http, service};

    fn names() -> Known {
        Known {
            domain: "ringwall.local".into(),
            hosts: Vec::new(),
        }
    }

    fn snapshot(services: &[(&str, &[&str])]) -> Snapshot {
        let mut snapshot = Snapshot::empty();
        for (name, addresses) in services {
            let addresses: Vec<SocketAddr> =
                addresses.iter().map(|at| at.parse().unwrap()).collect();
            let service = Arc::new(service(name, http(7105), &addresses));
            snapshot.services.insert(Arc::clone(&service.name), service);
        }
        snapshot
    }

    async fn ask(snapshot: &Snapshot, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let answer = answer(&question.to_vec().unwrap(), snapshot, &names()).await;
        let answer = Message::from_vec(&answer.unwrap()).unwrap();
        assert_eq!(answer.metadata.id, 7);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        let data = answer.answers.iter().map(|record| record.data.to_string());
        (answer.metadata.response_code, data.collect())
    }

    #[tokio::test]
    async fn a_service_is_known_by_its_name() {
        let known = snapshot(&[(
            "orders",
            &["10.0.0.5:7105", "10.0.0.6:7105", "[fd00::5]:7105"],
        )]);
        let four = (
            ResponseCode::NoError,
            vec!["10.0.0.5".to_owned(), "10.0.0.6".to_owned()],
        );
        for name in ["orders.", "ORDERS.", "orders.ringwall.local."] {
            assert_eq!(ask(&known, name, RecordType::A).await, four, "{name}");
        }
        let six = (ResponseCode::NoError, vec!["fd00::5".to_owned()]);
        assert_eq!(ask(&known, "orders.", RecordType::AAAA).await, six);
        // No record of that kind is no error.
        let none = (ResponseCode::NoError, Vec::new());
        assert_eq!(ask(&known, "orders.", RecordType::TXT).await, none);
    }

    #[tokio::test]
    async fn attack_what_may_not_be_called_has_no_address() {
        let known = snapshot(&[("orders", &["10.0.0.5:7105"])]);
        let nobody = (ResponseCode::NXDomain, Vec::new());
        for name in [
            "payments.",
            "payments.ringwall.local.",
            "example.org.",
            "orders.example.org.",
        ] {
            assert_eq!(ask(&known, name, RecordType::A).await, nobody, "{name}");
        }
    }

    #[tokio::test]
    async fn what_is_outside_leads_to_the_egress_gateway_alone() {
        let known = snapshot(&[("egress", &["10.0.0.9:7109"])]);
        let outside = (ResponseCode::NoError, vec![OUTSIDE.to_string()]);
        assert_eq!(
            ask(&known, "rates.example.org.", RecordType::A).await,
            outside
        );
        let nobody = (ResponseCode::NXDomain, Vec::new());
        assert_eq!(
            ask(&known, "payments.ringwall.local.", RecordType::A).await,
            nobody
        );
        assert_eq!(ask(&known, "localhost.", RecordType::A).await, nobody);
    }

    #[tokio::test]
    async fn a_declared_host_is_looked_up_and_no_other_name() {
        let known = Known {
            hosts: vec!["localhost".to_owned()],
            ..names()
        };
        let asked = |name: &str| {
            let mut question = Message::new(7, MessageType::Query, OpCode::Query);
            question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
            question.to_vec().unwrap()
        };
        let snapshot = snapshot(&[]);
        let answer = async |name: &str| {
            let answer = answer(&asked(name), &snapshot, &known).await.unwrap();
            Message::from_vec(&answer).unwrap()
        };
        let found = answer("localhost.").await;
        assert_eq!(found.answers[0].data.to_string(), "127.0.0.1");
        let unknown = answer("localhost.localdomain.").await;
        assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
    }

    #[tokio::test]
    async fn a_service_that_is_served_nowhere_may_be_asked_again() {
        let known = snapshot(&[("orders", &[])]);
        assert_eq!(
            ask(&known, "orders.", RecordType::A).await.0,
            ResponseCode::ServFail
        );
    }

    #[tokio::test]
    async fn attack_what_is_no_question_has_no_answer() {
        let known = snapshot(&[]);
        assert_eq!(answer(b"", &known, &names()).await, None);
        assert_eq!(answer(&[0xff; 40], &known, &names()).await, None);
        let response = Message::response(1, OpCode::Query).to_vec().unwrap();
        assert_eq!(answer(&response, &known, &names()).await, None);
        let empty = Message::new(1, MessageType::Query, OpCode::Query)
            .to_vec()
            .unwrap();
        let refused = answer(&empty, &known, &names()).await.unwrap();
        let refused = Message::from_vec(&refused).unwrap();
        assert_eq!(refused.metadata.response_code, ResponseCode::FormErr);
    }
}
