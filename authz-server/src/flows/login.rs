//! Sign-in and consent as a person or an attacker meets them.

use std::time::Duration;

use http::StatusCode;

use crate::audit::Kind;
use crate::testing::{Browser, PASSWORD, Reply, World, authorize_path, query_of};

async fn login_page(world: &World, browser: &mut Browser) -> Reply {
    let _ = world;
    let reply = browser.get(&authorize_path(&[])).await;
    browser.follow(reply).await
}

async fn try_password(world: &World, browser: &mut Browser, name: &str, password: &str) -> Reply {
    let page = login_page(world, browser).await;
    browser
        .submit(
            &page,
            "/login",
            &[("username", name), ("password", password)],
        )
        .await
}

#[tokio::test]
async fn the_sign_in_page_is_accessible_and_cannot_be_framed() {
    let world = World::start().await;
    let page = login_page(&world, &mut world.browser()).await;
    assert_eq!(page.status, 200);
    let text = page.text();
    for part in [
        "<html lang=\"en\">",
        "<label for=\"username\">",
        "<label for=\"password\">",
        "autocomplete=\"current-password\"",
        "Ringwall Shop",
    ] {
        assert!(text.contains(part), "{part}");
    }
    assert!(!text.contains("<script") && !text.contains(PASSWORD));
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("frame-ancestors 'none'"));
    assert!(policy.contains("form-action 'self' https://app.localhost:8443;"));
    assert_eq!(page.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn static_files_are_cached_by_content() {
    let world = World::start().await;
    let path = crate::pages::stylesheet();
    let style = world.get(&path, &[]).await;
    assert_eq!(style.headers["content-type"], "text/css; charset=utf-8");
    assert!(
        style.headers["cache-control"]
            .to_str()
            .unwrap()
            .contains("immutable")
    );
    let etag = style.headers["etag"].to_str().unwrap();
    let again = world
        .get("/assets/style.css", &[("if-none-match", etag)])
        .await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);
    assert_eq!(world.get("/assets/../config.yaml", &[]).await.status, 404);
    assert_eq!(world.get("/assets/other.css", &[]).await.status, 404);
}

#[tokio::test]
async fn unknown_wrong_and_disabled_get_the_same_answer() {
    let world = World::start().await;
    world.server.store.set_disabled("mallory", true).await;
    let mut answers = Vec::new();
    for (name, password) in [
        ("alice", "wrong"),
        ("nobody", "wrong"),
        ("mallory", PASSWORD),
    ] {
        let reply = try_password(&world, &mut world.browser(), name, password).await;
        assert!(!reply.headers.contains_key("set-cookie"));
        // What differs is only what the request itself contains.
        let csrf = reply.field("/login", "csrf");
        let interaction = reply.field("/login", "interaction");
        let cancel = reply.field("/consent", "csrf");
        let text = reply
            .text()
            .replace(&csrf, "")
            .replace(&interaction, "")
            .replace(&cancel, "");
        answers.push((reply.status, text.replace(name, "NAME")));
    }
    assert_eq!(answers[0].0, StatusCode::FORBIDDEN);
    assert!(answers[0].1.contains("role=\"alert\""));
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
    assert_eq!(world.server.store.audit_events(Kind::SignInFailed).await, 3);
}

#[tokio::test]
async fn r52_guessing_is_limited_per_account_also_for_unknown_ones() {
    let world = World::start_with(|config| config.login_limits.account = 3).await;
    for name in ["alice", "nobody"] {
        for n in 0..3 {
            let mut browser = world.browser();
            browser.address = format!("198.51.{n}.1");
            let reply = try_password(&world, &mut browser, name, "wrong").await;
            assert_eq!(reply.status, StatusCode::FORBIDDEN);
        }
        let reply = try_password(&world, &mut world.browser(), name, PASSWORD).await;
        assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS, "{name}");
        assert!(reply.headers.contains_key("retry-after"));
    }
    world.advance(Duration::from_secs(301));
    let reply = try_password(&world, &mut world.browser(), "alice", PASSWORD).await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn r52_spraying_from_one_address_is_limited() {
    let world = World::start_with(|config| config.login_limits.address = 3).await;
    for n in 0..3 {
        try_password(&world, &mut world.browser(), &format!("user{n}"), "wrong").await;
    }
    let reply = try_password(&world, &mut world.browser(), "alice", PASSWORD).await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    let mut elsewhere = world.browser();
    elsewhere.address = "203.0.113.9".to_owned();
    let reply = try_password(&world, &mut elsewhere, "alice", PASSWORD).await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn oversized_input_is_refused_without_work() {
    let world = World::start().await;
    let long = "x".repeat(300);
    let reply = try_password(&world, &mut world.browser(), "alice", &long).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    let reply = try_password(&world, &mut world.browser(), &long, PASSWORD).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn csrf_foreign_origins_and_wrong_tokens_are_refused() {
    let world = World::start().await;
    let credentials = [("username", "alice"), ("password", PASSWORD)];
    for origin in [Some("https://evil.example"), Some("null"), None] {
        let mut browser = world.browser();
        let page = login_page(&world, &mut browser).await;
        browser.origin = origin.map(str::to_owned);
        let reply = browser.submit(&page, "/login", &credentials).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{origin:?}");
        assert!(!reply.headers.contains_key("set-cookie"));
    }
    let mut browser = world.browser();
    let page = login_page(&world, &mut browser).await;
    let interaction = page.field("/login", "interaction");
    for csrf in ["", "wrong", &page.field("/consent", "csrf")] {
        let parts = [
            ("interaction", interaction.as_str()),
            ("csrf", csrf),
            credentials[0],
            credentials[1],
        ];
        assert_eq!(
            browser.post("/login", &parts).await.status,
            StatusCode::FORBIDDEN
        );
    }
}

#[tokio::test]
async fn an_interaction_belongs_to_the_browser_that_began_it() {
    let world = World::start().await;
    let mut victim = world.browser();
    let mut attacker = world.browser();
    let page = login_page(&world, &mut attacker).await;
    let parts = [
        ("interaction", page.field("/login", "interaction")),
        ("csrf", page.field("/login", "csrf")),
    ];
    // Login CSRF: the attacker's form in the victim's browser.
    let parts: Vec<(&str, &str)> = parts
        .iter()
        .map(|(n, v)| (*n, v.as_str()))
        .chain([("username", "mallory"), ("password", PASSWORD)])
        .collect();
    login_page(&world, &mut victim).await;
    let reply = victim.post("/login", &parts).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(!reply.headers.contains_key("set-cookie"));
}

#[tokio::test]
async fn session_fixation_does_not_work() {
    let world = World::start().await;
    let mut victim = world.browser();
    let page = login_page(&world, &mut victim).await;
    let planted = "0123456789012345678901234567890123456789012";
    let name = crate::cookies::SESSION_COOKIE;
    victim.cookies.insert(name.to_owned(), planted.to_owned());
    // The attacker shares every cookie of the time before the sign-in.
    let mut attacker = world.browser();
    attacker.cookies = victim.cookies.clone();
    let credentials = [("username", "alice"), ("password", PASSWORD)];
    let reply = victim.submit(&page, "/login", &credentials).await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER);
    assert_ne!(victim.cookies[name], planted);
    let resume = format!(
        "/authorize?interaction={}",
        page.field("/login", "interaction")
    );
    let reply = attacker.get(&resume).await;
    assert!(
        reply.location().unwrap().starts_with("/login"),
        "no code for the attacker"
    );
    let reply = victim.get(&resume).await;
    assert!(query_of(&reply.location().unwrap()).contains_key("code"));
}

#[tokio::test]
async fn each_sign_in_gets_a_new_cookie_and_the_old_one_is_dead() {
    let world = World::start().await;
    let mut browser = world.browser();
    world.code_in(&mut browser, "alice", &[]).await;
    let name = crate::cookies::SESSION_COOKIE;
    let first = browser.cookies[name].clone();
    world.advance(Duration::from_secs(5));
    let again = world
        .code_in(&mut browser, "alice", &[("prompt", "login")])
        .await;
    assert!(again.contains_key("code"));
    assert_ne!(browser.cookies[name], first);
    let mut old = world.browser();
    old.cookies.insert(name.to_owned(), first);
    let reply = old.get(&authorize_path(&[("prompt", "none")])).await;
    assert_eq!(
        query_of(&reply.location().unwrap())["error"],
        "login_required"
    );
}

#[tokio::test]
async fn duplicate_cookies_are_refused() {
    let world = World::start().await;
    let twice = "__Host-ringwall-sign-in=a; __Host-ringwall-sign-in=b";
    let reply = world.get(&authorize_path(&[]), &[("cookie", twice)]).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn sign_ins_end_by_idleness_and_by_age() {
    let world = World::start().await;
    let silent = [("prompt", "none")];
    let mut browser = world.browser();
    world.code_in(&mut browser, "alice", &[]).await;
    for _ in 0..11 {
        world.advance(Duration::from_secs(3600));
        assert!(
            world
                .code_in(&mut browser, "alice", &silent)
                .await
                .contains_key("code")
        );
    }
    world.advance(Duration::from_secs(3600));
    assert_eq!(
        world.code_in(&mut browser, "alice", &silent).await["error"],
        "login_required"
    );

    let mut idle = world.browser();
    world.code_in(&mut idle, "alice", &[]).await;
    world.advance(Duration::from_secs(2 * 3600));
    assert_eq!(
        world.code_in(&mut idle, "alice", &silent).await["error"],
        "login_required"
    );
}

#[tokio::test]
async fn cancelling_the_sign_in_goes_back_with_access_denied() {
    let world = World::start().await;
    let mut browser = world.browser();
    let page = login_page(&world, &mut browser).await;
    let reply = browser
        .submit(&page, "/consent", &[("decision", "deny")])
        .await;
    assert_eq!(
        query_of(&reply.location().unwrap())["error"],
        "access_denied"
    );
    let again = browser
        .submit(&page, "/consent", &[("decision", "deny")])
        .await;
    assert_eq!(again.status, StatusCode::BAD_REQUEST);
}

const SECOND: [(&str, &str); 3] = [
    ("client_id", "demo-second"),
    ("redirect_uri", "https://second.example/callback"),
    ("scope", "openid profile orders:read"),
];

async fn consent_page(world: &World, browser: &mut Browser, extra: &[(&str, &str)]) -> Reply {
    let parts: Vec<_> = SECOND.iter().chain(extra).copied().collect();
    let reply = browser.get(&authorize_path(&parts)).await;
    world.sign_in(browser, reply, "alice").await
}

#[tokio::test]
async fn consent_is_asked_once_per_client_and_scope() {
    let world = World::start().await;
    let mut browser = world.browser();
    let page = consent_page(&world, &mut browser, &[]).await;
    assert!(page.text().contains("Second shop") && page.text().contains("See your orders"));
    assert!(page.text().contains("second.example"));
    let reply = browser
        .submit(&page, "/consent", &[("decision", "allow")])
        .await;
    let done = browser.follow(reply).await;
    assert!(
        done.location()
            .unwrap()
            .starts_with("https://second.example/callback?code=")
    );

    let again = consent_page(&world, &mut browser, &[]).await;
    assert_eq!(again.status, StatusCode::SEE_OTHER, "remembered");
    let wider = consent_page(&world, &mut browser, &[("scope", "openid email")]).await;
    assert!(
        wider.text().contains("Allow access?"),
        "a new scope asks again"
    );
    let forced = consent_page(&world, &mut browser, &[("prompt", "consent")]).await;
    assert!(forced.text().contains("Allow access?"));
    let reply = browser
        .submit(&forced, "/consent", &[("decision", "allow")])
        .await;
    let done = browser.follow(reply).await;
    assert_eq!(
        done.status,
        StatusCode::SEE_OTHER,
        "prompt=consent is satisfied by consent"
    );
}

#[tokio::test]
async fn refused_consent_gives_no_code_and_is_not_remembered() {
    let world = World::start().await;
    let mut browser = world.browser();
    let page = consent_page(&world, &mut browser, &[]).await;
    let reply = browser
        .submit(&page, "/consent", &[("decision", "deny")])
        .await;
    let query = query_of(&reply.location().unwrap());
    assert_eq!(query["error"], "access_denied");
    assert_eq!(
        world.server.store.audit_events(Kind::ConsentDenied).await,
        1
    );
    let silent = consent_page(&world, &mut browser, &[("prompt", "none")]).await;
    assert_eq!(
        query_of(&silent.location().unwrap())["error"],
        "consent_required"
    );
}

#[tokio::test]
async fn consent_from_elsewhere_is_refused() {
    let world = World::start().await;
    let mut browser = world.browser();
    let page = consent_page(&world, &mut browser, &[]).await;
    browser.origin = Some("https://second.example".to_owned());
    let reply = browser
        .submit(&page, "/consent", &[("decision", "allow")])
        .await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_changed_password_of_a_demo_user_counts_after_a_restart() {
    let mut world = World::start().await;
    let path = world.directory.path().join("secrets/demo-password-alice");
    std::fs::write(path, "another password entirely").unwrap();
    world.restart().await;
    let old = try_password(&world, &mut world.browser(), "alice", PASSWORD).await;
    assert_eq!(old.status, StatusCode::FORBIDDEN);
    let new = try_password(
        &world,
        &mut world.browser(),
        "alice",
        "another password entirely",
    )
    .await;
    assert_eq!(new.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_demo_user_that_is_no_longer_declared_is_gone_with_everything() {
    let mut world = World::start().await;
    let tokens = world.tokens("alice", "openid orders:read").await;
    if let Some(demo) = &mut world.config.demo {
        demo.users.retain(|user| user.username != "alice");
    }
    world.restart().await;
    assert!(!world.is_active(&tokens.access).await);
    let reply = try_password(&world, &mut world.browser(), "alice", PASSWORD).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn demo_identities_are_counted_for_production_to_refuse() {
    let mut world = World::start().await;
    assert_eq!(world.server.store.demo_identities().await.unwrap(), 3 + 5);
    world.config.demo = None;
    world.restart().await;
    let found = world.server.store.demo_identities().await.unwrap();
    assert_eq!(found, 8, "the database remembers the demo profile");
}
