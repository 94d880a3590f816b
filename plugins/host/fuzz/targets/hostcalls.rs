//! Every host function with any arguments and any memory, in every callback of a whole exchange.
//!
//! The input is what the guest calls: its number and twelve arguments, in four bytes each (`tests/host/driver.rs`). The host
//! must not panic, the guest must not be lost, and what it holds must end with it.

#![no_main]
#![allow(clippy::unwrap_used, reason = "a fuzzer looks for what panics")]

#[path = "../../tests/host/driver.rs"]
mod driver;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/host/support.rs"]
mod support;

use std::sync::{Arc, OnceLock};

use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use ringwall_plugin_host::{
    CalloutBody, CalloutFuture, Callouts, Chain, Module, Plugin, Runtime, Worker,
};

/// Knows every cluster, and none of them answers.
struct Silent;

impl Callouts for Silent {
    fn knows(&self, _cluster: &str) -> bool {
        true
    }

    fn send(&self, _cluster: &str, _request: http::Request<CalloutBody>) -> CalloutFuture {
        Box::pin(std::future::pending())
    }
}

struct Ground {
    tokio: tokio::runtime::Runtime,
    runtime: Runtime,
    module: Module,
    worker: Worker,
}

fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let runtime = support::runtime();
        let module = support::load(&runtime, &driver::driver());
        let worker = {
            let _inside = tokio.enter();
            Worker::new(&runtime, Arc::new(Silent))
        };
        Ground {
            tokio,
            runtime,
            module,
            worker,
        }
    })
}

fuzz_target!(|calls: &[u8]| {
    let ground = ground();
    let mut spec = support::spec();
    spec.vm_configuration = bytes::Bytes::copy_from_slice(calls);
    spec.limits.log_lines_per_second = 0;
    let plugin = Plugin::new(&ground.module, spec).unwrap();
    ground.tokio.block_on(async {
        let stream = ground.worker.open(&Chain::new([plugin]), support::info());
        if let Ok(passed) = stream.request(support::request("some body")).await {
            let _ = passed.into_body().collect().await;
            if let Ok(answer) = stream.response(support::response("an answer")).await {
                let _ = answer.into_body().collect().await;
            }
        }
    });
    for kind in ["traps_total", "exits_total"] {
        assert_eq!(support::metric(&ground.runtime, kind), 0, "{kind}");
    }
});
