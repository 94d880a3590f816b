use super::*;
use crate::config::clients::Exchange;
use crate::testing;

type Change = fn(&mut Config);

fn refused(change: Change) -> String {
    let mut config = testing::example_config();
    change(&mut config);
    check(&config)
        .expect_err("the change must be refused")
        .to_string()
}

#[test]
fn the_example_is_valid() {
    check(&testing::example_config()).unwrap();
}

#[test]
fn r64_lifetimes_have_bounds() {
    let changes: [(&str, Change); 11] = [
        ("access_token", |c| {
            c.lifetimes.access_token = Duration::from_secs(901)
        }),
        ("access_token", |c| {
            c.lifetimes.access_token = Duration::from_millis(60_500)
        }),
        ("exchanged_token", |c| {
            c.lifetimes.exchanged_token = Duration::from_secs(301)
        }),
        ("id_token", |c| {
            c.lifetimes.id_token = Duration::from_secs(3600)
        }),
        ("refresh_family", |c| {
            c.lifetimes.refresh_family = Duration::from_secs(31 * DAY)
        }),
        ("refresh_retry", |c| {
            c.lifetimes.refresh_retry = Duration::from_secs(31)
        }),
        ("code", |c| c.lifetimes.code = Duration::from_secs(61)),
        ("pushed_request", |c| {
            c.lifetimes.pushed_request = Duration::from_secs(601)
        }),
        ("login_session", |c| {
            c.lifetimes.login_session = Duration::from_secs(DAY + 1)
        }),
        ("login_idle", |c| {
            c.lifetimes.login_idle = Duration::from_secs(13 * HOUR)
        }),
        ("keys.keep_for", |c| {
            c.keys.keep_for = Duration::from_secs(60)
        }),
    ];
    for (key, change) in changes {
        let text = refused(change);
        assert!(text.contains(key), "{text}");
    }
}

#[test]
fn r64_the_bound_and_the_fix_are_in_the_error() {
    let text = refused(|c| c.lifetimes.access_token = Duration::from_secs(HOUR));
    assert!(text.contains("1h") && text.contains("30s to 15m"), "{text}");
}

#[test]
fn the_issuer_is_an_https_origin() {
    for (text, change) in [
        (
            "http",
            (|c| c.issuer = Url::parse("http://auth.example").unwrap()) as Change,
        ),
        ("path", |c| {
            c.issuer = Url::parse("https://auth.example/x").unwrap()
        }),
        ("user", |c| {
            c.issuer = Url::parse("https://u@auth.example").unwrap()
        }),
    ] {
        assert!(refused(change).contains("issuer"), "{text}");
    }
}

#[test]
fn r06_a_client_with_the_ingress_identity_is_refused() {
    let text = refused(|c| {
        c.clients[0].tls_client_auth_san_uri = Some("spiffe://ringwall.local/gateway".to_owned());
    });
    assert!(text.contains("ingress"), "{text}");
}

#[test]
fn clients_that_contradict_themselves_are_refused() {
    let changes: [Change; 13] = [
        |c| c.clients[0].authentication.clear(),
        |c| c.clients[0].authentication.push(AuthenticationMethod::None),
        |c| {
            c.clients[0]
                .authentication
                .push(AuthenticationMethod::PrivateKeyJwt)
        },
        |c| c.clients[0].tls_client_auth_san_uri = None,
        |c| c.clients[0].redirect_uris.clear(),
        |c| {
            c.clients[0]
                .redirect_uris
                .push("http://app.example/".to_owned())
        },
        |c| {
            c.clients[0]
                .redirect_uris
                .push("http://127.0.0.1/cb".to_owned())
        },
        |c| {
            c.clients[0]
                .redirect_uris
                .push("https://APP.example/".to_owned())
        },
        |c| {
            c.clients[0]
                .redirect_uris
                .push("https://app.example/#x".to_owned())
        },
        |c| c.clients[0].audiences = vec!["unknown".to_owned()],
        |c| c.clients[0].grants.push(GrantName::TokenExchange),
        |c| {
            c.clients[1].exchange = Some(Exchange {
                subject_audiences: vec![],
                audiences: vec!["unknown".to_owned()],
            })
        },
        |c| c.clients.push(c.clients[0].clone()),
    ];
    for change in changes {
        assert!(refused(change).contains("clients"));
    }
}

#[test]
fn r08_legacy_grants_are_named() {
    let text = refused(|c| c.clients[0].grants.push(GrantName::Password));
    assert!(
        text.contains("spa-proxy") && text.contains("password"),
        "{text}"
    );
}

#[test]
fn unknown_groups_of_users_are_refused() {
    let text = refused(|c| {
        for user in c.demo.iter_mut().flat_map(|demo| &mut demo.users) {
            user.groups.push("ghosts".to_owned());
        }
    });
    assert!(text.contains("ghosts"), "{text}");
}
