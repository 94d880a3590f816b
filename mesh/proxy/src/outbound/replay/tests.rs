use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderValue;
use http_body_util::BodyExt as _;
use proptest::prelude::*;

use super::*;

/// Frames at hand, and those that are pushed later.
#[derive(Debug, Clone, Default)]
struct Source(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    frames: VecDeque<Frame<Bytes>>,
    ended: bool,
    broken: bool,
    waker: Option<Waker>,
}

impl Source {
    fn of(chunks: &[Vec<u8>], trailers: bool) -> Self {
        let source = Self::default();
        for chunk in chunks {
            source.push(Frame::data(Bytes::copy_from_slice(chunk)));
        }
        if trailers {
            let mut map = HeaderMap::new();
            map.insert("x-sum", HeaderValue::from_static("7"));
            source.push(Frame::trailers(map));
        }
        source.0.lock().ended = true;
        source
    }

    fn push(&self, frame: Frame<Bytes>) {
        let mut inner = self.0.lock();
        inner.frames.push_back(frame);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    fn end(&self) {
        let mut inner = self.0.lock();
        inner.ended = true;
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let mut inner = self.0.lock();
        if let Some(frame) = inner.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if inner.broken {
            return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())));
        }
        if inner.ended {
            return Poll::Ready(None);
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

async fn take(body: &mut ReplayBody<Source>, frames: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..frames {
        match body.frame().await {
            Some(frame) => {
                if let Ok(data) = frame.expect("frame").into_data() {
                    bytes.extend_from_slice(&data);
                }
            }
            None => break,
        }
    }
    bytes
}

proptest! {
    /// Wherever a reading stops, the next one gives the whole message, while it is small.
    #[test]
    fn r30_every_reading_of_a_small_body_is_the_whole(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..2000), 0..20),
        trailers: bool,
        stops in proptest::collection::vec(0usize..25, 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let replay = Replay::new(Source::of(&chunks, trailers));
            for stop in stops {
                let mut reading = replay.read().unwrap();
                let seen = take(&mut reading, stop).await;
                assert!(chunks.concat().starts_with(&seen));
            }
            let whole = replay.read().unwrap().collect().await.unwrap();
            assert_eq!(whole.trailers().is_some(), trailers);
            assert_eq!(whole.to_bytes(), chunks.concat());
            assert!(replay.is_complete());
        });
    }
}

#[tokio::test]
async fn r30_a_large_body_streams_on_but_not_again() {
    let chunks: Vec<Vec<u8>> = (0..9).map(|n| vec![n; 8 * 1024]).collect();
    let replay = Replay::new(Source::of(&chunks, false));
    let mut reading = replay.read().unwrap();
    assert_eq!(take(&mut reading, 8).await.len(), LIMIT);
    assert!(replay.is_whole());
    let rest = take(&mut reading, 10).await;
    assert_eq!(rest, vec![8; 8 * 1024]);
    assert!(!replay.is_whole());
    assert!(replay.read().is_none());
    assert!(replay.shared.lock().kept.is_empty(), "and is not kept");
}

#[tokio::test]
async fn r30_a_body_of_many_frames_is_not_kept() {
    let chunks: Vec<Vec<u8>> = (0..MAX_FRAMES + 1).map(|_| vec![1]).collect();
    let replay = Replay::new(Source::of(&chunks, false));
    let mut reading = replay.read().unwrap();
    assert_eq!(take(&mut reading, 5000).await.len(), MAX_FRAMES + 1);
    assert!(replay.read().is_none());
}

#[tokio::test]
async fn r30_a_former_reading_gets_nothing_more_and_is_woken_to_learn_it() {
    let source = Source::default();
    source.push(Frame::data(Bytes::from_static(b"one")));
    let replay = Replay::new(source.clone());
    let mut first = replay.read().unwrap();
    assert_eq!(take(&mut first, 1).await, b"one");
    let told = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&told);
    let waiting = tokio::spawn(async move {
        let frame = first.frame().await;
        tell.store(true, Ordering::Relaxed);
        frame.is_some_and(|frame| frame.is_err())
    });
    tokio::task::yield_now().await;
    assert!(!told.load(Ordering::Relaxed));
    let second = replay.read().unwrap();
    assert!(waiting.await.unwrap());
    source.push(Frame::data(Bytes::from_static(b"two")));
    source.end();
    assert_eq!(second.collect().await.unwrap().to_bytes(), "onetwo");
}

#[tokio::test]
async fn r30_complete_bodies_may_be_read_side_by_side() {
    let replay = Replay::new(Source::of(&[b"abc".to_vec()], true));
    let mut first = replay.read().unwrap();
    assert!(!replay.is_complete());
    take(&mut first, 1).await;
    first.frame().await;
    let (mut one, mut two) = (replay.read().unwrap(), replay.read().unwrap());
    assert_eq!(take(&mut one, 1).await, b"abc");
    assert_eq!(take(&mut two, 1).await, b"abc");
    assert!(one.collect().await.unwrap().trailers().is_some());
    assert!(two.collect().await.unwrap().trailers().is_some());
}

#[tokio::test]
async fn r30_a_settled_body_is_no_longer_kept() {
    let source = Source::default();
    source.push(Frame::data(Bytes::from_static(b"one")));
    let replay = Replay::new(source.clone());
    let mut reading = replay.read().unwrap();
    assert_eq!(take(&mut reading, 1).await, b"one");
    replay.settle();
    source.push(Frame::data(Bytes::from_static(b"two")));
    source.end();
    assert_eq!(take(&mut reading, 1).await, b"two");
    assert!(replay.shared.lock().kept.is_empty());
    assert!(replay.read().is_none());
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_and_not_repeated() {
    let source = Source::default();
    source.0.lock().broken = true;
    let replay = Replay::new(source);
    let mut reading = replay.read().unwrap();
    assert!(reading.frame().await.unwrap().is_err());
    assert!(replay.read().is_none());
}

#[tokio::test]
async fn an_empty_body_ends_before_it_begins() {
    let replay = Replay::new(http_body_util::Empty::<Bytes>::new());
    assert!(replay.read().unwrap().is_end_stream());
    assert!(replay.is_complete());
}
