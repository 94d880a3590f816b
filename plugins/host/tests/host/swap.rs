//! Versions: swap under load, refusal of bad ones, canaries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ringwall_plugin_host::{Chain, Error, NoCallouts, Plugin, Worker};

use crate::support::*;

/// Says its number in the request and in the response.
fn numbered(number: u32) -> Vec<u8> {
    guest(&format!(
        r#"{}
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
            (i32.store8 (i32.const 32) (i32.const {}))
            (drop (call $set_header (i32.const 2) (i32.const 8) (i32.const 8) (i32.const 32) (i32.const 1)))
            (i32.const 0))"#,
        on_request(&format!("(call $say (i32.const {number}))")),
        48 + number
    ))
}

async fn version(bed: &Bed) -> String {
    let request = bed.get().await.unwrap();
    request.headers()["x-status"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn r92_a_stream_ends_on_the_version_that_it_began_with() {
    let bed = Bed::new(&numbered(1));
    let stream = bed.open();
    let passed = stream.request(request("")).await.unwrap();
    assert_eq!(passed.headers()["x-status"], "01");
    bed.plugin
        .replace(&load(&bed.runtime, &numbered(2)), spec())
        .unwrap();
    assert_eq!(version(&bed).await, "02");
    assert_eq!(bed.metric("instances"), 2);
    let answer = stream.response(response("x")).await.unwrap();
    assert_eq!(answer.headers()["x-status"], "1");
    drop((stream, passed, answer));
    assert_eq!(
        bed.metric("instances"),
        1,
        "the old version is gone with its last stream"
    );
    assert_eq!(bed.metric("swaps_total"), 1);
}

#[tokio::test]
async fn r92_a_plugin_that_is_no_longer_named_leaves_with_its_last_stream() {
    let bed = Bed::new(&numbered(1));
    let plugin = Plugin::new(&load(&bed.runtime, &numbered(2)), spec()).unwrap();
    assert_eq!(bed.metric("instances"), 2);
    let stream = bed.worker.open(&Chain::new([plugin]), info());
    let passed = stream.request(request("")).await.unwrap();
    assert_eq!(bed.metric("instances"), 2, "the stream keeps its own");
    let answer = stream.response(response("x")).await.unwrap();
    assert_eq!(answer.headers()["x-status"], "2");
    drop((stream, passed, answer));
    assert_eq!(bed.metric("instances"), 1, "it is left in the worker");
}

#[tokio::test]
async fn r92_a_version_that_cannot_be_configured_changes_nothing() {
    let bed = Bed::new(&numbered(1));
    let bad = r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 0))"#;
    let module = load(&bed.runtime, &guest(bad));
    let refused = bed.plugin.replace(&module, spec());
    assert!(matches!(refused, Err(Error::Configuration { .. })));
    assert!(bed.plugin.canary(&module, spec(), 50).is_err());
    assert_eq!(version(&bed).await, "01");
    assert_eq!(bed.metric("instances"), 1);
    let mut renamed = spec();
    renamed.name = Arc::from("other");
    let refused = bed
        .plugin
        .replace(&load(&bed.runtime, &numbered(2)), renamed);
    assert!(matches!(refused, Err(Error::Name { .. })));
}

#[tokio::test]
async fn r92_a_canary_gets_its_share() {
    let bed = Bed::new(&numbered(1));
    let candidate = load(&bed.runtime, &numbered(2));
    for weight in [0, 1, 5, 33, 50, 100] {
        bed.plugin.canary(&candidate, spec(), weight).unwrap();
        let mut taken = 0;
        let mut longest = (0, 0);
        for _ in 0..200 {
            if version(&bed).await == "02" {
                taken += 1;
                longest.0 = 0;
            } else {
                longest.0 += 1;
                longest.1 = longest.1.max(longest.0);
            }
        }
        assert_eq!(taken, u32::from(weight) * 2, "{weight}%");
        if weight == 50 {
            assert!(longest.1 <= 2, "spread, not in one piece");
        }
    }
    assert!(matches!(
        bed.plugin.canary(&candidate, spec(), 101),
        Err(Error::Weight(101))
    ));
    bed.plugin.set_weight(0).unwrap();
    assert_eq!(version(&bed).await, "01");
    bed.plugin.promote().unwrap();
    assert_eq!(version(&bed).await, "02");
    assert!(matches!(bed.plugin.promote(), Err(Error::NoCandidate(_))));
    bed.plugin.canary(&candidate, spec(), 100).unwrap();
    bed.plugin.abandon().unwrap();
    assert!(matches!(
        bed.plugin.set_weight(5),
        Err(Error::NoCandidate(_))
    ));
}

/// Two workers serve without pause while versions come and go: each request and its response have the same version.
#[test]
fn r92_no_request_is_lost_or_half_filtered_while_versions_change() {
    const SWAPS: u32 = 40;
    let runtime = runtime();
    let plugin = Plugin::new(&load(&runtime, &numbered(1)), spec()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU32::new(0));
    let serve = || {
        let (runtime, plugin) = (runtime.clone(), Arc::clone(&plugin));
        let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
        std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            tokio.block_on(async {
                let worker = Worker::new(&runtime, Arc::new(NoCallouts));
                let chain = Chain::new([plugin]);
                while !stop.load(Ordering::Relaxed) {
                    let stream = worker.open(&chain, info());
                    let passed = stream
                        .request(request(""))
                        .await
                        .expect("a request is lost");
                    let before = passed.headers()["x-status"].to_str().unwrap().to_owned();
                    tokio::task::yield_now().await;
                    let answer = stream
                        .response(response("x"))
                        .await
                        .expect("a response is lost");
                    let after = answer.headers()["x-status"].to_str().unwrap();
                    assert_eq!(before, format!("0{after}"));
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        })
    };
    let threads = [serve(), serve()];
    let versions = [load(&runtime, &numbered(1)), load(&runtime, &numbered(2))];
    for swap in 0..SWAPS {
        let before = served.load(Ordering::Relaxed);
        plugin
            .replace(&versions[swap as usize % 2], spec())
            .unwrap();
        while served.load(Ordering::Relaxed) < before + 20 {
            assert!(threads.iter().all(|thread| !thread.is_finished()));
            std::thread::yield_now();
        }
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(metric(&runtime, "swaps_total"), u64::from(SWAPS));
    assert_eq!(metric(&runtime, "failed_closed_total"), 0);
    assert_eq!(
        metric(&runtime, "instances"),
        0,
        "nothing is left of any version"
    );
}
