//! A service proxy's end of the configuration stream, over a real connection.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ringwall_mesh_api::v1::configuration_client::ConfigurationClient;
use ringwall_mesh_api::v1::proxy_message::Message;
use ringwall_mesh_api::v1::{self, resource::Body};
use ringwall_policy::mesh::{JWS_TYPE, SignedBundle};
use ringwall_token::{VerifyingKeys, verify_bytes};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Caller, Running};

/// How long a proxy waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Proxy {
    to: mpsc::Sender<v1::ProxyMessage>,
    from: Streaming<v1::ConfigMessage>,
    /// What it has applied.
    pub(crate) has: BTreeMap<String, v1::Resource>,
    pub(crate) revision: u64,
}

impl Running {
    /// A proxy that has said Hello.
    pub(crate) async fn proxy(&self, caller: &Caller, node: &str) -> Result<Proxy, Status> {
        self.proxy_from(caller, node, 0).await
    }

    /// The same with a state of before.
    pub(crate) async fn proxy_from(
        &self,
        caller: &Caller,
        node: &str,
        revision: u64,
    ) -> Result<Proxy, Status> {
        let (to, messages) = mpsc::channel(64);
        let hello = v1::Hello {
            instance: format!("{node}-1"),
            node: node.to_owned(),
            zone: "z".to_owned(),
            revision,
        };
        send(&to, Message::Hello(hello)).await;
        let mut client = ConfigurationClient::new(self.channel(caller));
        let from = client.stream(ReceiverStream::new(messages)).await?;
        Ok(Proxy {
            to,
            from: from.into_inner(),
            has: BTreeMap::new(),
            revision,
        })
    }

    /// A proxy that has applied its snapshot.
    pub(crate) async fn connected(&self, caller: &Caller, node: &str) -> Proxy {
        let mut proxy = self.proxy(caller, node).await.unwrap();
        let first = proxy.apply().await;
        assert!(first.snapshot);
        proxy
    }

    /// A proxy that has applied its first message, as soon as this replica serves. After a crash its lease must end.
    pub(crate) async fn served(&self, caller: &Caller, node: &str, revision: u64) -> Proxy {
        let begun = Instant::now();
        loop {
            let mut proxy = self.proxy_from(caller, node, revision).await.unwrap();
            match proxy.try_apply().await {
                Ok(_) => return proxy,
                Err(status) => assert_eq!(status.code(), Code::Unavailable),
            }
            assert!(begun.elapsed() < Duration::from_secs(12), "nobody serves");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn send(to: &mpsc::Sender<v1::ProxyMessage>, message: Message) {
    let message = v1::ProxyMessage {
        message: Some(message),
    };
    to.send(message).await.unwrap();
}

impl Proxy {
    pub(crate) async fn send(&self, message: Message) {
        send(&self.to, message).await;
    }

    pub(crate) async fn report(&self, address: &str, port: u32, health: v1::Health) {
        let report = v1::EndpointReport {
            address: address.to_owned(),
            port,
            weight: Some(1),
            health: health.into(),
        };
        self.send(Message::Endpoint(report)).await;
    }

    pub(crate) async fn used(&self, policy: &str, permitted: u64) {
        let uses = vec![v1::PolicyUse {
            policy: policy.to_owned(),
            permitted,
            ..v1::PolicyUse::default()
        }];
        self.send(Message::Usage(v1::UsageReport { uses })).await;
    }

    pub(crate) async fn next(&mut self) -> v1::ConfigMessage {
        self.from.message().await.unwrap().unwrap()
    }

    /// Takes over the next message.
    pub(crate) async fn apply(&mut self) -> v1::ConfigMessage {
        let applied = tokio::time::timeout(PATIENCE, self.try_apply()).await;
        applied.expect("nothing was pushed").unwrap()
    }

    /// The same, where the stream may end in its place.
    pub(crate) async fn try_apply(&mut self) -> Result<v1::ConfigMessage, Status> {
        let next = self.from.message().await?;
        let message = next.ok_or_else(|| Status::cancelled("ended"))?;
        if message.snapshot {
            self.has.clear();
        }
        for name in &message.removed {
            self.has.remove(name);
        }
        for resource in &message.changed {
            self.has.insert(resource.name.clone(), resource.clone());
        }
        self.revision = message.revision;
        let nonce = message.nonce;
        self.send(Message::Ack(v1::Ack { nonce })).await;
        Ok(message)
    }

    /// Refuses the next message.
    pub(crate) async fn refuse(&mut self, resource: &str, reason: &str) -> v1::ConfigMessage {
        let message = self.next().await;
        let nack = v1::Nack {
            nonce: message.nonce,
            resource: resource.to_owned(),
            reason: reason.to_owned(),
        };
        self.send(Message::Nack(nack)).await;
        message
    }

    /// Takes over messages until the policy is `version`.
    pub(crate) async fn until_policy(&mut self, version: u64) {
        while self.policy().version < version {
            self.apply().await;
        }
    }

    pub(crate) fn policy(&self) -> &v1::SignedPolicy {
        match &self.has["policy"].body {
            Some(Body::Policy(policy)) => policy,
            other => panic!("{other:?}"),
        }
    }

    /// The policy, if it is signed by one of `keys`.
    pub(crate) fn bundle(&self, keys: &VerifyingKeys) -> SignedBundle {
        let verified = verify_bytes(&self.policy().jws, keys, JWS_TYPE, 4 << 20).unwrap();
        serde_json::from_slice(&verified.payload).unwrap()
    }

    /// Who may call whom, as far as it knows.
    pub(crate) fn edges(&self) -> Vec<(String, String)> {
        let Some(Body::Edges(edges)) = &self.has["edges"].body else {
            panic!("{:?}", self.has)
        };
        let edges = edges.edges.iter();
        edges
            .map(|edge| (edge.caller.clone(), edge.callee.clone()))
            .collect()
    }

    /// Addresses of a service that it may call.
    pub(crate) fn endpoints(&self, service: &str) -> Vec<&str> {
        match &self.has[&format!("endpoints/{service}")].body {
            Some(Body::Endpoints(all)) => all.endpoints.iter().map(|one| &*one.address).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// How the stream ends; messages before that are taken over.
    pub(crate) async fn end(&mut self) -> Code {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.from.message()).await;
            match next.expect("the stream is still open") {
                Ok(Some(message)) => {
                    let nonce = message.nonce;
                    let ack = v1::ProxyMessage {
                        message: Some(Message::Ack(v1::Ack { nonce })),
                    };
                    let _gone = self.to.send(ack).await;
                }
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    }

    /// Whether nothing comes for a while.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        let wait = Duration::from_millis(200);
        tokio::time::timeout(wait, self.from.message())
            .await
            .is_err()
    }
}
