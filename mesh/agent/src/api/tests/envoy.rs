//! Secret discovery as Envoy uses it.

use prost::Message;
use ringwall_mesh_api::sds::secret_discovery_service_client::SecretDiscoveryServiceClient;
use ringwall_mesh_api::sds::{
    DataSource, DiscoveryRequest, DiscoveryResponse, SECRET_TYPE, Secret, data_source, secret,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

pub(super) fn asked(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: SECRET_TYPE.to_owned(),
        ..DiscoveryRequest::default()
    }
}

fn secrets(response: &DiscoveryResponse) -> Vec<Secret> {
    let decode = |any: &prost_types::Any| Secret::decode(any.value.as_slice()).unwrap();
    response.resources.iter().map(decode).collect()
}

fn text(source: &Option<DataSource>) -> String {
    match &source.as_ref().unwrap().specifier {
        Some(data_source::Specifier::InlineBytes(bytes)) => {
            String::from_utf8(bytes.clone()).unwrap()
        }
        _ => panic!("inline"),
    }
}

/// Envoy's side of a stream.
struct Envoy {
    say: mpsc::Sender<DiscoveryRequest>,
    hear: Streaming<DiscoveryResponse>,
}

impl Envoy {
    async fn connect(node: &Node, names: &[&str]) -> Self {
        let (say, requests) = mpsc::channel(4);
        say.send(asked(names)).await.unwrap();
        let mut client = SecretDiscoveryServiceClient::new(node.channel());
        let hear = client
            .stream_secrets(ReceiverStream::new(requests))
            .await
            .unwrap()
            .into_inner();
        Self { say, hear }
    }

    async fn next(&mut self) -> DiscoveryResponse {
        self.hear.message().await.unwrap().unwrap()
    }

    async fn ack(&self, names: &[&str], of: &DiscoveryResponse) {
        let mut request = asked(names);
        request.version_info.clone_from(&of.version_info);
        request.response_nonce.clone_from(&of.nonce);
        self.say.send(request).await.unwrap();
    }

    /// Nothing comes within a moment.
    async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(200), self.hear.message())
            .await
            .is_err()
    }
}

#[tokio::test]
async fn envoy_gets_certificate_and_roots_by_their_names() {
    let node = Node::new(&["orders"], Some("orders"));
    let own = id("orders").to_string();
    let names = [
        own.as_str(),
        "default",
        "spiffe://ringwall.local",
        "ROOTCA",
        "ALL",
    ];
    let mut envoy = Envoy::connect(&node, &names).await;
    let answer = envoy.next().await;
    let secrets = secrets(&answer);
    let seen: Vec<&str> = secrets.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(seen, names);
    for secret in &secrets {
        match secret.r#type.as_ref().unwrap() {
            secret::Type::TlsCertificate(pair) => {
                let chain = text(&pair.certificate_chain);
                assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
                assert!(text(&pair.private_key).contains("BEGIN PRIVATE KEY"));
            }
            secret::Type::ValidationContext(context) if secret.name == "ALL" => {
                let validator = context.custom_validator_config.as_ref().unwrap();
                assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
                assert!(context.trusted_ca.is_none());
            }
            secret::Type::ValidationContext(context) => {
                assert!(text(&context.trusted_ca).contains("BEGIN CERTIFICATE"));
                assert!(context.crl.is_none());
            }
        }
    }
    let mut client = SecretDiscoveryServiceClient::new(node.channel());
    let fetched = client
        .fetch_secrets(asked(&names))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(fetched.resources, answer.resources);
    let mut other = asked(&["default"]);
    other.type_url = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
    assert_eq!(
        client.fetch_secrets(other).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let many: Vec<&str> = std::iter::repeat_n("default", 17).collect();
    assert_eq!(
        client.fetch_secrets(asked(&many)).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn envoy_is_pushed_what_changes_and_not_what_it_has_refused() {
    let node = Node::new(&["orders"], Some("orders"));
    let mut envoy = Envoy::connect(&node, &["ROOTCA"]).await;
    let first = envoy.next().await;
    envoy.ack(&["ROOTCA"], &first).await;
    assert!(envoy.is_quiet().await, "an ACK is not answered");
    let root = node.plane.bundle().remove(0);
    node.take(
        node.plane
            .revoking(node.plane.trust(2, &["orders"]), &[&root]),
    );
    let second = envoy.next().await;
    assert_ne!(second.version_info, first.version_info);
    assert_ne!(second.nonce, first.nonce);
    let context = secrets(&second).remove(0).r#type.unwrap();
    let secret::Type::ValidationContext(context) = context else {
        panic!("roots");
    };
    assert!(text(&context.crl).contains("BEGIN X509 CRL"));
    assert!(context.only_verify_leaf_cert_crl);
    let mut nack = asked(&["ROOTCA"]);
    nack.version_info.clone_from(&first.version_info);
    nack.response_nonce.clone_from(&second.nonce);
    nack.error_detail = Some(ringwall_mesh_api::google::rpc::Status {
        code: 3,
        message: "no".into(),
        details: vec![],
    });
    envoy.say.send(nack).await.unwrap();
    assert!(envoy.is_quiet().await, "the same is not sent again");
    assert_eq!(node.metrics.refusals("sds_nack"), 1);
    // New registrations change nothing of what Envoy has asked for.
    node.take(
        node.plane
            .revoking(node.plane.trust(3, &["orders", "payments"]), &[&root]),
    );
    let other = Plane::new(&Wall::new());
    let mut both = node.plane.trust(4, &["orders"]);
    both.bundle.extend(other.bundle());
    node.take(both);
    let third = envoy.next().await;
    let text = format!("{:?}", secrets(&third));
    assert!(!text.contains("only_verify_leaf_cert_crl: true"));
    // An answer to an old response does not change the subscription.
    envoy.ack(&["default"], &first).await;
    assert!(envoy.is_quiet().await);
    // A new subscription is answered.
    envoy.ack(&["ROOTCA", "default"], &third).await;
    assert_eq!(envoy.next().await.resources.len(), 2);
}

#[tokio::test]
async fn envoy_that_asks_for_a_stranger_s_secret_loses_its_stream() {
    let node = Node::new(&["orders", "payments"], Some("orders"));
    let name = id("payments").to_string();
    let mut envoy = Envoy::connect(&node, &["default"]).await;
    let first = envoy.next().await;
    envoy.ack(&["default", &name], &first).await;
    let status = envoy.hear.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
