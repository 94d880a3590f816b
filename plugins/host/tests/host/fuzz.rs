//! Every host function with any arguments, in every callback.
//!
//! Owns: the arguments. What must hold: the host does not panic, the guest
//! does not trap, every status is one of the ABI's, and the next plugin is served.

use std::collections::HashSet;
use std::sync::Arc;

use http_body_util::BodyExt;
use proptest::prelude::*;
use ringwall_plugin_host::{
    Callback, CalloutBody, CalloutFuture, Callouts, Chain, LogLevel, Module, Observer, Plugin,
    Runtime, Worker,
};

use crate::driver::{WORDS, driver};
use crate::support::*;

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

/// Which statuses there were.
#[derive(Default)]
struct Statuses(parking_lot::Mutex<HashSet<u32>>);

impl Observer for Statuses {
    fn hostcall(&self, _: &str, _: &'static str, status: Option<u32>) {
        self.0.lock().extend(status);
    }

    fn refused(&self, _: &str, _: &str) {}

    fn callback(&self, _: &str, _: &Callback) {}

    fn log(&self, _: &str, _: LogLevel, _: &str) {}
}

fn argument() -> impl Strategy<Value = u32> {
    prop_oneof![
        0_u32..10,
        0_u32..1000,
        Just(8),              // the texts of the prelude
        65_000_u32..66_000,   // what was given to the guest
        131_050_u32..131_080, // the end of memory
        prop::sample::select(vec![u32::MAX, u32::MAX - 7, 0x8000_0000, 0x7fff_ffff]),
        any::<u32>(),
    ]
}

async fn exchange(runtime: &Runtime, worker: &Worker, module: &Module, calls: Vec<u8>) {
    let mut spec = spec();
    spec.vm_configuration = calls.into();
    spec.limits.log_lines_per_second = 0;
    let plugin = Plugin::new(module, spec).unwrap();
    let stream = worker.open(&Chain::new([plugin]), info());
    if let Ok(passed) = stream.request(request("some body")).await {
        let _ = passed.into_body().collect().await;
        if let Ok(answer) = stream.response(response("an answer")).await {
            let _ = answer.into_body().collect().await;
        }
    }
    drop(stream);
    for kind in [
        "traps_total",
        "timeouts_total",
        "hostcall_floods_total",
        "exits_total",
    ] {
        assert_eq!(metric(runtime, kind), 0, "{kind}");
    }
}

#[test]
fn r91_no_call_with_any_arguments_harms_the_host() {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    let tokio = tokio.unwrap();
    let runtime = runtime();
    let module = load(&runtime, &driver());
    let seen = Arc::new(Statuses::default());
    let worker = {
        let _inside = tokio.enter();
        let observer: Arc<dyn Observer> = seen.clone();
        Worker::observed(&runtime, Arc::new(Silent), Some(observer))
    };
    let call = (0_u32..1000, prop::collection::vec(argument(), WORDS - 1));
    let calls = prop::collection::vec(call, 1..8);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let done = runner.run(&calls, |calls| {
        let mut words = Vec::new();
        for (which, arguments) in calls {
            words.push(which);
            words.extend(arguments);
        }
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        tokio.block_on(exchange(&runtime, &worker, &module, bytes));
        Ok(())
    });
    done.unwrap();
    // The calls were made, and with all kinds of answers.
    for status in [0, 1, 2, 4, 6, 10] {
        assert!(seen.0.lock().contains(&status), "{status}");
    }
}
