//! The standard client of the Workload API in Rust, the `spiffe` crate.

use std::time::{Duration, Instant};

use spiffe::{TrustDomain, WorkloadApiClient, X509Source};

use crate::Test;
use crate::stack::{PATIENCE, Settings, Stack, runtime, unique};

pub(crate) const TESTS: &[Test] = &[
    (
        "r33_the_spiffe_crate_gets_svids_bundles_and_rotations",
        x509,
    ),
    ("r53_the_spiffe_crate_gets_and_validates_jwt_svids", jwt),
];

fn stack(orders: &str) -> (Stack, String) {
    let stack = Stack::start(&Settings {
        workloads: &[orders],
        svid_ttl_s: 10,
        ..Settings::default()
    });
    stack.vouch(std::process::id(), orders);
    let endpoint = format!("unix:{}", stack.socket().display());
    (stack, endpoint)
}

fn x509() {
    let orders = unique("orders");
    let (_stack, endpoint) = stack(&orders);
    runtime().block_on(async {
        let source = X509Source::builder()
            .endpoint(&endpoint)
            .build()
            .await
            .unwrap();
        let svid = source.svid().unwrap();
        assert_eq!(
            svid.spiffe_id().to_string(),
            format!("spiffe://ringwall.local/{orders}")
        );
        assert_eq!(svid.cert_chain().len(), 2);
        let domain = TrustDomain::new("ringwall.local").unwrap();
        let bundle = source.try_bundle_for_trust_domain(&domain).unwrap();
        assert_eq!(bundle.authorities().len(), 1);
        let mut updates = source.updated();
        tokio::time::timeout(PATIENCE, updates.changed())
            .await
            .unwrap()
            .unwrap();
        let next = source.svid().unwrap();
        assert_ne!(next.leaf(), svid.leaf());
        source.shutdown().await;
        let client = WorkloadApiClient::connect_to(&endpoint).await.unwrap();
        assert_eq!(client.fetch_all_x509_svids().await.unwrap().len(), 1);
        let bundles = client.fetch_x509_bundles().await.unwrap();
        assert!(bundles.get(&domain).is_some());
    });
}

fn jwt() {
    let orders = unique("orders");
    let (_stack, endpoint) = stack(&orders);
    runtime().block_on(async {
        let client = WorkloadApiClient::connect_to(&endpoint).await.unwrap();
        let begun = Instant::now();
        let svid = client.fetch_jwt_svid(["payments"], None).await.unwrap();
        assert_eq!(
            svid.spiffe_id().to_string(),
            format!("spiffe://ringwall.local/{orders}")
        );
        assert_eq!(svid.audience(), ["payments"]);
        let valid = client
            .validate_jwt_token("payments", svid.token())
            .await
            .unwrap();
        assert_eq!(valid.spiffe_id(), svid.spiffe_id());
        assert!(
            client
                .validate_jwt_token("inventory", svid.token())
                .await
                .is_err()
        );
        let domain = TrustDomain::new("ringwall.local").unwrap();
        let bundles = client.fetch_jwt_bundles().await.unwrap();
        let bundle = bundles.get(&domain).unwrap();
        assert!(bundle.find_jwt_authority(svid.key_id()).is_some());
        // Kept until half of its twenty seconds.
        let same = client.fetch_jwt_token(["payments"], None).await.unwrap();
        assert_eq!(same, svid.token());
        let renewed = async {
            while client.fetch_jwt_token(["payments"], None).await.unwrap() == svid.token() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(PATIENCE, renewed).await.unwrap();
        assert!(begun.elapsed() > Duration::from_secs(9), "at half of it");
    });
}
