//! Message bodies: one boxed type, and the only way to read a whole one into memory.
//!
//! Owns: the limit on collected bodies. Must not: buffer without a named limit.

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};

/// Any error that a body can end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Any body.
pub type BoxBody = UnsyncBoxBody<Bytes, BoxError>;

/// Why a body could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More bytes than allowed; nothing beyond the limit was kept.
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    /// The connection failed or the framing was wrong.
    #[error("the body could not be read: {0}")]
    Read(#[source] BoxError),
}

/// Reads a whole body of at most `limit` bytes. A larger declared length is refused before reading.
pub async fn collect<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if usize::try_from(body.size_hint().lower()).map_or(true, |least| least > limit) {
        return Err(BodyError::TooLarge { limit });
    }
    match Box::pin(Limited::new(body, limit).collect()).await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if is_too_large(error.as_ref()) => Err(BodyError::TooLarge { limit }),
        Err(error) => Err(BodyError::Read(error)),
    }
}

/// A body that is already in memory.
pub fn full(bytes: impl Into<Bytes>) -> BoxBody {
    boxed(Full::new(bytes.into()))
}

/// No body.
pub fn empty() -> BoxBody {
    boxed(Empty::new())
}

/// Boxes a streaming body, such as one that is passed on.
pub fn boxed<B>(body: B) -> BoxBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Whether an error, or anything that caused it, is the limit of [`Limited`].
pub fn is_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| e.source()).any(|e| e.is::<LengthLimitError>())
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn a_body_within_the_limit_is_returned_whole() {
        assert_eq!(collect(full("12345"), 5).await.unwrap(), "12345");
        assert_eq!(collect(empty(), 0).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_larger_body_is_refused_with_its_limit() {
        let refused = collect(full("123456"), 5).await.unwrap_err();
        assert!(matches!(refused, BodyError::TooLarge { limit: 5 }));
    }

    #[tokio::test]
    async fn a_larger_body_of_unknown_length_is_refused() {
        let frames =
            (0..3).map(|_| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(b"123"))));
        let body = StreamBody::new(futures_stream(frames));
        let refused = collect(body, 8).await.unwrap_err();
        assert!(matches!(refused, BodyError::TooLarge { limit: 8 }));
    }

    #[tokio::test]
    async fn a_broken_body_is_a_read_error() {
        let frames = [Err::<http_body::Frame<Bytes>, BoxError>("reset".into())];
        let refused = collect(StreamBody::new(futures_stream(frames)), 8)
            .await
            .unwrap_err();
        assert!(matches!(refused, BodyError::Read(_)));
    }

    fn futures_stream<T, I>(items: I) -> impl futures_util::Stream<Item = T>
    where
        I: IntoIterator<Item = T>,
    {
        futures_util::stream::iter(items)
    }
}
