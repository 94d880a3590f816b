//! Redirect URIs: compared as exact strings (RFC 9700 §2.1), with the one exception of native
//! applications, whose loopback port is chosen at run time (RFC 8252 §7.3).

use crate::config::clients::ClientDeclaration;

/// Whether `presented` is a redirect URI of the client.
pub(crate) fn is_registered(client: &ClientDeclaration, presented: &str) -> bool {
    client.redirect_uris.iter().any(|registered| {
        registered == presented || (client.native && differs_only_in_port(registered, presented))
    })
}

/// Loopback by address literal only: `localhost` may resolve elsewhere (RFC 8252 §8.3).
pub(crate) fn is_loopback(uri: &str) -> bool {
    split_loopback(uri).is_some()
}

fn differs_only_in_port(registered: &str, presented: &str) -> bool {
    match (split_loopback(registered), split_loopback(presented)) {
        (Some((host, path)), Some((other_host, other_path))) => {
            host == other_host && path == other_path
        }
        _ => false,
    }
}

/// Host and the rest of `http://<loopback literal>[:port]<rest>`; done on the text itself, so that
/// no parser's leniency (userinfo, escapes, case) decides.
fn split_loopback(uri: &str) -> Option<(&'static str, &str)> {
    for host in ["127.0.0.1", "[::1]"] {
        let Some(rest) = uri
            .strip_prefix("http://")
            .and_then(|r| r.strip_prefix(host))
        else {
            continue;
        };
        let Some(port_and_path) = rest.strip_prefix(':') else {
            return rest.starts_with('/').then_some((host, rest));
        };
        let (port, path) = port_and_path.split_at(port_and_path.find('/')?);
        let canonical = port
            .parse::<u16>()
            .is_ok_and(|p| p > 0 && p.to_string() == port);
        return canonical.then_some((host, path));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn native() -> ClientDeclaration {
        testing::client_declaration("demo-native", |c| {
            c.native = true;
            c.redirect_uris = vec!["http://127.0.0.1/callback".to_owned()];
        })
    }

    #[test]
    fn r07_only_the_port_of_a_loopback_redirect_may_vary() {
        let client = native();
        assert!(is_registered(&client, "http://127.0.0.1/callback"));
        assert!(is_registered(&client, "http://127.0.0.1:49152/callback"));
        for bad in [
            "http://127.0.0.1:49152/callback/",
            "http://127.0.0.1:49152/callback?x=1",
            "http://127.0.0.1:49152/callback#x",
            "http://127.0.0.1:49152/Callback",
            "http://127.0.0.1:0/callback",
            "http://127.0.0.1:080/callback",
            "http://127.0.0.1:+80/callback",
            "http://127.0.0.1:99999/callback",
            "http://127.0.0.1:/callback",
            "http://127.0.0.1:80@evil.example/callback",
            "http://127.0.0.1.evil.example/callback",
            "http://127.0.0.2:80/callback",
            "http://[::1]:80/callback",
            "http://localhost:80/callback",
            "https://127.0.0.1:80/callback",
            "HTTP://127.0.0.1/callback",
        ] {
            assert!(!is_registered(&client, bad), "{bad}");
        }
    }

    #[test]
    fn r07_web_redirects_match_as_exact_strings() {
        let client = testing::client_declaration("spa", |c| {
            c.redirect_uris = vec!["https://app.localhost:8443/auth/callback".to_owned()];
        });
        assert!(is_registered(
            &client,
            "https://app.localhost:8443/auth/callback"
        ));
        for bad in [
            "https://app.localhost:8443/auth/callback/",
            "https://app.localhost:8443/auth/callback?x",
            "https://app.localhost:8443/auth/callback#f",
            "https://app.localhost/auth/callback",
            "https://APP.localhost:8443/auth/callback",
            "https://app.localhost:8443/auth/%63allback",
            "https://app.localhost:8443/auth/../auth/callback",
            "https://app.localhost:8443@evil.example/auth/callback",
            "https://app.localhost:8443.evil.example/auth/callback",
            "http://app.localhost:8443/auth/callback",
            "",
        ] {
            assert!(!is_registered(&client, bad), "{bad}");
        }
    }

    #[test]
    fn a_web_client_gets_no_port_exception() {
        let client = testing::client_declaration("web", |c| {
            c.redirect_uris = vec!["http://127.0.0.1:8000/callback".to_owned()];
        });
        assert!(!is_registered(&client, "http://127.0.0.1:8001/callback"));
    }
}
