//! Whatever a plugin holds and lets go, nothing of a body is lost, doubled or reordered.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use proptest::prelude::*;
use ringwall_plugin_host::{BoxError, Chain};

use crate::support::*;

/// A body in pieces, each of which comes at the second asking.
struct Pieces {
    frames: VecDeque<Frame<Bytes>>,
    is_asked: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.is_asked = !self.is_asked;
        if self.is_asked {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.frames.pop_front().map(Ok))
    }
}

/// Holds or lets go as the bits of its VM configuration say, one bit for each callback; at the end it lets go.
const PATTERN: &str = r#"(global $bits (mut i32) (i32.const 0))
    (func $next (result i32) (local $bit i32)
        (local.set $bit (i32.and (global.get $bits) (i32.const 1)))
        (global.set $bits (i32.shr_u (global.get $bits) (i32.const 1)))
        (local.get $bit))
    (func (export "proxy_on_request_headers") (param i32 i32) (param $end i32) (result i32)
        (drop (call $get_buffer (i32.const 6) (i32.const 0) (i32.const 4) (global.get $p) (global.get $n)))
        (global.set $bits (i32.load (i32.load (global.get $p))))
        (i32.and (call $next) (i32.eqz (local.get $end))))
    (func (export "proxy_on_request_body") (param i32 i32) (param $end i32) (result i32)
        (i32.and (call $next) (i32.eqz (local.get $end))))"#;

async fn passed(pieces: &[Vec<u8>], has_trailers: bool, patterns: [u32; 2]) -> (Vec<u8>, bool) {
    let bed = Bed::new(&guest(""));
    let module = load(&bed.runtime, &guest(PATTERN));
    let plugins = patterns.map(|pattern| {
        let mut spec = spec();
        spec.vm_configuration = pattern.to_le_bytes().to_vec().into();
        ringwall_plugin_host::Plugin::new(&module, spec).unwrap()
    });
    let mut frames: VecDeque<_> = pieces
        .iter()
        .cloned()
        .map(|piece| Frame::data(piece.into()))
        .collect();
    if has_trailers {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-t", "1".parse().unwrap());
        frames.push_back(Frame::trailers(trailers));
    }
    let is_asked = false;
    let sent = Request::new(Pieces { frames, is_asked });
    let stream = bed.worker.open(&Chain::new(plugins), info());
    let request = stream.request(sent).await.unwrap();
    let collected = request.into_body().collect().await.unwrap();
    let has_trailers = collected.trailers().is_some();
    (collected.to_bytes().to_vec(), has_trailers)
}

#[test]
fn r90_no_pattern_of_pauses_changes_a_body() {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let pieces = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..8);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let done = runner.run(
        &(pieces, any::<bool>(), any::<[u32; 2]>()),
        |(pieces, trailers, patterns)| {
            let (body, had_trailers) = tokio.block_on(passed(&pieces, trailers, patterns));
            prop_assert_eq!(body, pieces.concat());
            prop_assert_eq!(had_trailers, trailers);
            Ok(())
        },
    );
    done.unwrap();
}
