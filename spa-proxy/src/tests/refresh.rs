//! Refreshing: one flight, a lost answer, a refusal.

use std::time::Duration;

use http::StatusCode;

use super::fixture::Platform;

/// A platform whose access tokens are due for a refresh at once.
async fn short_lived() -> Platform {
    let platform = Platform::start().await;
    platform.authority.state.lock().expires_in = Some(5);
    platform
}

#[tokio::test]
async fn r18_fifty_parallel_calls_refresh_once() {
    let platform = short_lived().await;
    let browser = platform.signed_in().await;
    {
        let mut state = platform.authority.state.lock();
        state.expires_in = Some(300);
        state.refresh_delay = Duration::from_millis(100);
    }
    let calls = (0..50).map(|_| {
        let mut tab = platform.browser();
        tab.cookies.clone_from(&browser.cookies);
        async move { tab.get("/api/orders").await.status }
    });
    let statuses = futures_util::future::join_all(calls).await;
    assert!(
        statuses.iter().all(|status| *status == StatusCode::OK),
        "{statuses:?}"
    );
    assert_eq!(platform.authority.state.lock().refreshes, 1);
    assert_eq!(platform.api.seen.lock().len(), 50);
}

#[tokio::test]
async fn r18_a_refused_refresh_signs_out() {
    let platform = short_lived().await;
    let mut browser = platform.signed_in().await;
    platform.authority.state.lock().refresh_status = Some(StatusCode::BAD_REQUEST);
    assert_eq!(
        browser.get("/api/orders").await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(browser.get("/api/session").await.json()["signed_in"], false);
    assert!(platform.api.seen.lock().is_empty());
}

#[tokio::test]
async fn r18_a_refresh_without_an_answer_keeps_the_session() {
    let platform = short_lived().await;
    let mut browser = platform.signed_in().await;
    platform.authority.state.lock().refresh_status = Some(StatusCode::INTERNAL_SERVER_ERROR);
    for _attempt in 0..10 {
        let status = browser.get("/api/orders").await.status;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(
        platform.authority.state.lock().refreshes,
        1,
        "the others are turned away at once"
    );

    {
        let mut state = platform.authority.state.lock();
        state.refresh_status = None;
        state.expires_in = Some(300);
    }
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(browser.get("/api/orders").await.status, StatusCode::OK);
}

#[tokio::test]
async fn r18_a_refresh_survives_a_browser_that_hangs_up() {
    let platform = short_lived().await;
    let mut browser = platform.signed_in().await;
    {
        let mut state = platform.authority.state.lock();
        state.expires_in = Some(300);
        state.refresh_delay = Duration::from_millis(150);
    }
    let impatient = tokio::time::timeout(Duration::from_millis(50), browser.get("/api/orders"));
    assert!(impatient.await.is_err());
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(browser.get("/api/orders").await.status, StatusCode::OK);
    assert_eq!(platform.authority.state.lock().refreshes, 1);
}
