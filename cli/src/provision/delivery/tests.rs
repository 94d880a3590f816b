//! A whole delivery into folders, and what the health check says of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use ringwall_secret::{SealKey, sealed};
use time::Duration as Span;

use super::*;
use crate::composition::Profile;
use crate::config::Source;
use crate::state::StateDir;

const SMALL: &str = include_str!("../../../testdata/small.yaml");

/// Volumes and state as the provisioner's container has them.
struct Place {
    _folder: tempfile::TempDir,
    composition: Composition,
    site: Site,
    run: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "{SMALL}\nengines: [{{ name: nats, profile: x }}, {{ name: away, profile: y }}]\n"
        );
        let name = "ringwall.yaml".to_owned();
        let composition = Composition::read(&Source { name, text }).unwrap();
        let (state, run) = (
            StateDir::new(folder.path().join("state")),
            folder.path().join("run"),
        );
        for volume in ["postgres", "inventory", "orders", "nats"] {
            fs::create_dir_all(run.join(volume)).unwrap();
        }
        Self {
            _folder: folder,
            composition,
            site: Site::containers(&state, &run),
            run,
        }
    }

    fn delivered() -> Self {
        let mut place = Self::new();
        check_volumes(&mut place.composition, &place.run).unwrap();
        place.deliver();
        place
    }

    fn deliver(&self) {
        self.site.state().create_own().unwrap();
        let choices = crate::provision::Choices::default();
        crate::provision::run(&self.composition, &self.site, Profile::Demo, &choices).unwrap();
    }

    fn complaint_in(&self, span: Span) -> Option<String> {
        complaint(
            &self.composition,
            &self.site,
            OffsetDateTime::now_utc() + span,
        )
    }
}

/// Every file below a folder, with its mode.
fn files_below(folder: &Path) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            for (below, mode) in files_below(&path) {
                found.insert(format!("{name}/{below}"), mode);
            }
        } else {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            found.insert(name, mode & 0o777);
        }
    }
    found
}

fn names(files: &BTreeMap<String, u32>) -> Vec<&str> {
    files.keys().map(String::as_str).collect()
}

#[test]
fn each_volume_holds_what_its_component_reads_and_nothing_else() {
    let place = Place::delivered();
    let below = |name: &str| files_below(&place.run.join(name));
    let orders = below("orders");
    assert_eq!(
        names(&orders),
        [
            "ca.pem",
            "config.yaml",
            // orders is this composition's public component.
            "edge/chain.pem",
            "edge/key.pem",
            "identity/bundle.pem",
            "identity/postgres/bundle.pem",
            "identity/postgres/client.key",
            "identity/postgres/client.pem",
            "identity/svid.key",
            "identity/svid.pem",
            "orders.seal-key",
            "orders.sealed",
        ]
    );
    assert_eq!(
        names(&below("inventory")),
        [
            "ca.pem",
            "config.yaml",
            "identity/bundle.pem",
            "identity/svid.key",
            "identity/svid.pem",
            "inventory.seal-key",
            "inventory.sealed",
        ]
    );
    assert_eq!(
        names(&below("postgres")),
        [
            "pg_hba.conf",
            "pg_ident.conf",
            "postgresql.conf",
            "roles.sql",
            "tls/bundle.pem",
            "tls/server.key",
            "tls/server.pem",
        ]
    );
    assert_eq!(
        names(&below("nats")),
        [
            "identity/bundle.pem",
            "identity/svid.key",
            "identity/svid.pem"
        ]
    );
    assert!(
        !place.run.join("away").exists(),
        "an engine that does not run"
    );
    for (name, mode) in orders {
        let private = !name.ends_with(".pem") || name.ends_with("key.pem");
        assert_eq!(mode, if private { 0o600 } else { 0o644 }, "{name}");
    }
}

#[test]
fn a_component_gets_its_own_secrets_and_nobody_else_s() {
    let place = Place::delivered();
    let open = |whose: &str, key: &str| {
        let volume = place.site.written(whose);
        let key = SealKey::from_file(&place.site.written(key).seal_key).unwrap();
        sealed::read(&volume.sealed, &key, whose)
    };
    let of = |whose: &str| {
        let secrets = open(whose, whose).unwrap();
        secrets.into_keys().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        of("orders"),
        "api-key-inventory demo-password-alice postgres-password shared-by-orders"
    );
    assert_eq!(
        of("inventory"),
        "api-key-entries api-key-pepper shared-by-inventory"
    );
    assert!(open("orders", "inventory").is_err(), "the keys differ");
    let own = place.site.state();
    for name in ["orders", "inventory"] {
        let (_, key) = own.secrets(name);
        let key = fs::read(key).unwrap();
        for (other, volume) in [
            ("orders", "orders"),
            ("inventory", "inventory"),
            ("", "postgres"),
            ("", "nats"),
        ] {
            if other == name {
                continue;
            }
            for file in files_below(&place.run.join(volume)).keys() {
                let content = fs::read(place.run.join(volume).join(file)).unwrap();
                assert!(
                    !content.windows(key.len()).any(|part| part == key),
                    "{volume}/{file} holds the key of {name}"
                );
            }
        }
    }
}

#[test]
fn the_database_learns_a_verifier_and_never_the_password() {
    let place = Place::delivered();
    let script = || fs::read_to_string(place.run.join("postgres/roles.sql")).unwrap();
    let first = script();
    for line in [
        "\\set ON_ERROR_STOP on",
        "(SELECT FROM pg_roles WHERE rolname = 'orders') \\gexec",
        "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION",
        "PASSWORD 'SCRAM-SHA-256$4096:",
        "CREATE DATABASE \"orders\" OWNER \"orders\"",
        "REVOKE ALL ON DATABASE \"orders\" FROM PUBLIC;",
    ] {
        assert!(first.contains(line), "{line}: {first}");
    }
    let password = crate::postgres::password_of("orders", place.site.state()).unwrap();
    place.deliver();
    for text in [&first, &script()] {
        assert!(!text.contains(password.expose()), "{text}");
    }
    let kept = crate::postgres::password_of("orders", place.site.state()).unwrap();
    assert!(kept.ct_eq(password.expose().as_bytes()));
}

#[test]
fn a_volume_that_is_not_mounted_is_named_with_the_fix() {
    let mut place = Place::new();
    fs::remove_dir(place.run.join("orders")).unwrap();
    let error = check_volumes(&mut place.composition, &place.run).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("the volume `orders-run` is not mounted at "),
        "{text}"
    );
    assert!(text.contains("add `orders-run:"), "{text}");
    assert_eq!(error.code(), 78);
}

#[test]
fn a_volume_that_cannot_be_written_is_named_with_the_fix() {
    // A file system that is read-only for everybody, root included.
    let error = writable("orders", Path::new("/proc/self")).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("the volume `orders-run` at /proc/self cannot be written"),
        "{text}"
    );
    assert!(text.contains("docker compose down --volumes"), "{text}");
    assert_eq!(error.code(), 77);
}

#[test]
fn a_fresh_delivery_is_healthy_and_a_missing_file_is_named() {
    let place = Place::delivered();
    assert_eq!(place.complaint_in(Span::ZERO), None);
    for file in [
        "orders/config.yaml",
        "orders/orders.sealed",
        "orders/ca.pem",
        "orders/edge/key.pem",
        "orders/identity/postgres/client.key",
        "inventory/inventory.seal-key",
        "inventory/identity/bundle.pem",
        "postgres/roles.sql",
        "postgres/tls/server.pem",
        "nats/identity/svid.pem",
    ] {
        let path = place.run.join(file);
        let aside = place.run.join("aside");
        fs::rename(&path, &aside).unwrap();
        assert_eq!(
            place.complaint_in(Span::ZERO),
            Some(format!("{} is not delivered", path.display()))
        );
        fs::rename(&aside, &path).unwrap();
    }
}

#[test]
fn certificates_that_nobody_renews_are_told_after_a_grace() {
    let place = Place::delivered();
    // 1 h of life: due after 30 min, tolerated for 15 more.
    assert_eq!(place.complaint_in(Span::minutes(44)), None);
    let why = place.complaint_in(Span::minutes(46)).unwrap();
    assert!(why.contains("should have been renewed"), "{why}");
    assert!(why.contains("identity") || why.contains("tls"), "{why}");
}

#[test]
fn a_certificate_that_is_none_is_told() {
    let place = Place::delivered();
    let path = place.run.join("orders/edge/chain.pem");
    fs::write(&path, "nothing").unwrap();
    let why = place.complaint_in(Span::ZERO).unwrap();
    assert!(
        why.starts_with(&format!("{} cannot be read", path.display())),
        "{why}"
    );
}
