//! Who may have a source denied.

use ringwall_mesh_api::v1::deny_reply::Outcome;
use ringwall_mesh_api::v1::edge_shield_client::EdgeShieldClient;
use ringwall_mesh_api::v1::{DenyReply, DenyRequest};

use super::*;

async fn deny(node: &Node, address: &str, cause: &str, seconds: u32) -> Result<DenyReply, Status> {
    let request = DenyRequest {
        address: address.to_owned(),
        cause: cause.to_owned(),
        seconds,
    };
    let mut client = EdgeShieldClient::new(node.channel());
    client.deny(request).await.map(tonic::Response::into_inner)
}

fn node(is: Option<&str>) -> Node {
    let edge = Arc::new(Edge::off("no such interface", &["10.0.0.0/8"]));
    Node::beside(&["gateway", "orders"], is, |_| {}, Some(edge))
}

#[tokio::test]
async fn attack_nobody_but_the_gateway_feeds_the_shield() {
    for (is, refused) in [
        (Some("orders"), "no_feeder"),
        // The kernel names the process, and nobody has said what it is.
        (None, "unattested"),
    ] {
        let node = node(is);
        let said = deny(&node, "192.0.2.7", "malformed", 60).await;
        assert_eq!(said.unwrap_err().code(), Code::PermissionDenied, "{is:?}");
        assert_eq!(node.metrics.refusals(refused), 1);
    }
}

#[tokio::test]
async fn a_gateway_is_told_what_came_of_its_word() {
    let node = node(Some("gateway"));
    let exempt = deny(&node, "10.1.2.3", "malformed", 60).await.unwrap();
    assert_eq!(exempt.outcome(), Outcome::Exempt);
    let off = deny(&node, "192.0.2.7", "malformed", 60).await.unwrap_err();
    assert_eq!(off.code(), Code::Unavailable);
    assert!(off.message().contains("no such interface"), "{off}");
    for (address, cause, seconds) in [
        ("192.0.2.0/24", "malformed", 60),
        ("192.0.2.7", "operator", 60),
        ("192.0.2.7", "malformed", 86_401),
    ] {
        let wrong = deny(&node, address, cause, seconds).await.unwrap_err();
        assert_eq!(wrong.code(), Code::InvalidArgument, "{address} {cause}");
    }
}

#[tokio::test]
async fn without_a_shield_there_is_no_such_call() {
    let node = Node::new(&["gateway"], Some("gateway"));
    let said = deny(&node, "192.0.2.7", "malformed", 60).await;
    assert_eq!(said.unwrap_err().code(), Code::Unimplemented);
}
