//! Bodies of requests: read in time, and into a bounded amount of memory altogether, whoever sends them and however slowly.

use axum::body::Body;
use axum::http::StatusCode;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// An object has at most 3 MiB in a request to the API server; a review may hold it twice, and what else was asked.
const BODY: usize = 7 << 20;
/// All bodies together. Room is taken as the bytes come, so a request that only announces many takes none.
const ALL: usize = 48 << 20;
/// For reading one. The API server waits for at most 30 seconds.
const READ: Duration = Duration::from_secs(10);

pub struct Bodies {
    room: Arc<Semaphore>,
    within: Duration,
}

impl Default for Bodies {
    fn default() -> Self {
        Bodies { room: Arc::new(Semaphore::new(ALL)), within: READ }
    }
}

/// What a body takes, until it is dropped.
pub type Room = Option<OwnedSemaphorePermit>;

#[derive(Debug, thiserror::Error)]
pub enum Unread {
    #[error("the body has more than {} MiB", BODY >> 20)]
    TooLarge,
    #[error("the body did not come in time")]
    TooSlow,
    #[error("the body cannot be read: {0}")]
    Broken(#[from] axum::Error),
}

impl Unread {
    pub fn status(&self) -> StatusCode {
        match self {
            Unread::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Unread::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Unread::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl Bodies {
    pub async fn read(&self, body: Body) -> Result<(Vec<u8>, Room), Unread> {
        timeout(self.within, self.gather(body)).await.unwrap_or(Err(Unread::TooSlow))
    }

    async fn gather(&self, body: Body) -> Result<(Vec<u8>, Room), Unread> {
        let mut chunks = body.into_data_stream();
        let (mut all, mut room): (Vec<u8>, Room) = (Vec::new(), None);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            let size = u32::try_from(chunk.len()).ok().filter(|_| all.len() + chunk.len() <= BODY);
            let size = size.ok_or(Unread::TooLarge)?;
            // It is never closed.
            let more = self.room.clone().acquire_many_owned(size).await.map_err(|_| Unread::TooSlow)?;
            room = Some(match room.take() {
                Some(mut taken) => {
                    taken.merge(more);
                    taken
                }
                None => more,
            });
            all.extend_from_slice(&chunk);
        }
        Ok((all, room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use std::convert::Infallible;

    fn chunks(sizes: &[usize]) -> Body {
        let all: Vec<Result<Vec<u8>, Infallible>> = sizes.iter().map(|n| Ok(vec![b'x'; *n])).collect();
        Body::from_stream(stream::iter(all))
    }

    #[tokio::test]
    async fn a_body_takes_room_for_as_long_as_it_is_held() {
        let bodies = Bodies::default();
        let (body, room) = bodies.read(chunks(&[3, 0, 4])).await.expect("it is small");
        assert_eq!((body.len(), bodies.room.available_permits()), (7, ALL - 7));
        drop(room);
        assert_eq!(bodies.room.available_permits(), ALL);
    }

    #[tokio::test]
    async fn one_that_is_too_large_is_refused_and_takes_no_room() {
        let bodies = Bodies::default();
        let e = bodies.read(chunks(&[BODY, 1])).await.expect_err("it is too large");
        assert_eq!((e.status(), bodies.room.available_permits()), (StatusCode::PAYLOAD_TOO_LARGE, ALL));
        assert!(bodies.read(chunks(&[BODY])).await.is_ok());
    }

    #[tokio::test]
    async fn one_that_is_slow_gives_its_room_back_in_time() {
        let bodies = Bodies { within: Duration::from_millis(50), ..Bodies::default() };
        let begun = stream::iter([Ok::<_, Infallible>(vec![b'x'; 9])]);
        let e = bodies.read(Body::from_stream(begun.chain(stream::pending()))).await.expect_err("it never ends");
        assert_eq!((e.status(), bodies.room.available_permits()), (StatusCode::REQUEST_TIMEOUT, ALL));
    }
}
