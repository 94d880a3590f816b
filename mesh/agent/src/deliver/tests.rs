//! Files as their readers see them, through rotation, new roots and outages.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use ringwall_tls::IdentitySource;
use ringwall_tls::postgres::PostgresTls;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::*;
use crate::config::Reload;
use crate::fixture::{HOUR, Plane, Wall, domain};
use crate::metrics::Metrics;
use crate::trust::Follower;

struct Node {
    plane: Arc<Plane>,
    follower: Follower,
    renewals: Arc<Renewals>,
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let wall = Wall::new();
        let plane = Arc::new(Plane::new(&wall));
        let folder = tempfile::tempdir().unwrap();
        let follower = Follower::open(&domain(), folder.path(), wall.clock());
        follower.take(plane.trust(1, &["orders"]));
        let issuer = Arc::new(Arc::clone(&plane));
        let renewals = Renewals::new(issuer, wall.clock(), Metrics::default());
        Self {
            plane,
            follower,
            renewals,
            folder,
        }
    }

    fn directory(&self) -> PathBuf {
        self.folder.path().join("orders")
    }

    fn keep(&self, delivery: Delivery) -> JoinHandle<()> {
        let trust = self.follower.subscribe();
        tokio::spawn(keep(delivery, Arc::clone(&self.renewals), trust))
    }
}

/// Waits until it holds; time is paused, so that this costs none.
async fn until(what: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never came true");
}

fn svid(directory: PathBuf) -> Delivery {
    Delivery::Svid {
        workload: "orders".into(),
        directory,
        owner: None,
    }
}

#[tokio::test(start_paused = true)]
async fn r33_an_svid_in_files_is_one_that_components_read_and_rotates() {
    let node = Node::new();
    let directory = node.directory();
    node.keep(svid(directory.clone()));
    until(|| IdentitySource::load(&directory).is_ok()).await;
    let source = IdentitySource::load(&directory).unwrap();
    assert_eq!(source.spiffe_id().path(), "orders");
    for file in ["svid.pem", "svid.key", "bundle.pem"] {
        let mode = std::fs::metadata(directory.join(file)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(std::fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
    let first = source.not_after();
    until(|| source.reload().is_ok_and(|fresh| fresh)).await;
    assert!(source.not_after() > first);
}

#[tokio::test(start_paused = true)]
async fn r34_a_list_comes_and_goes_and_new_roots_come_without_a_new_certificate() {
    let node = Node::new();
    let directory = node.directory();
    node.keep(svid(directory.clone()));
    until(|| directory.join("svid.pem").exists()).await;
    assert!(!directory.join("crl.pem").exists());
    let root = node.plane.bundle().remove(0);
    node.follower.take(
        node.plane
            .revoking(node.plane.trust(2, &["orders"]), &[&root]),
    );
    until(|| directory.join("crl.pem").exists()).await;
    assert!(IdentitySource::load(&directory).is_ok());
    let other = Plane::new(&Wall::new());
    let mut both = node.plane.trust(3, &["orders"]);
    both.bundle.extend(other.bundle());
    node.follower.take(both);
    until(|| !directory.join("crl.pem").exists()).await;
    let bundle = std::fs::read_to_string(directory.join("bundle.pem")).unwrap();
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(node.plane.count("svid"), 1);
}

#[tokio::test(start_paused = true)]
async fn r24_a_database_client_s_files_are_those_of_the_pool() {
    let node = Node::new();
    let directory = node.directory();
    node.keep(Delivery::DatabaseClient {
        workload: "orders".into(),
        role: "orders".into(),
        directory: directory.clone(),
        owner: None,
    });
    let files = PostgresTls::new(&directory);
    until(|| files.check().is_ok()).await;
    let first = files.not_after().unwrap();
    until(|| files.not_after().unwrap() > first).await;
    assert!(files.check().is_ok());
}

#[tokio::test]
async fn a_server_s_files_have_their_names_and_owner_and_the_server_is_told() {
    let node = Node::new();
    let directory = node.directory();
    let pid_file = node.folder.path().join("postmaster.pid");
    std::fs::write(&pid_file, format!("{}\n/data\n", std::process::id())).unwrap();
    let mut hang_up = signal(SignalKind::hangup()).unwrap();
    node.keep(Delivery::Server {
        workload: "orders".into(),
        dns: vec!["postgres".into()],
        ips: vec!["127.0.0.1".parse().unwrap()],
        directory: directory.clone(),
        chain: "chain.pem".into(),
        key: "key.pem".into(),
        bundle: None,
        owner: Some(Owner {
            uid: 65_534,
            gid: 65_534,
        }),
        reload: Some(Reload { sighup: pid_file }),
    });
    tokio::time::timeout(Duration::from_secs(10), hang_up.recv())
        .await
        .unwrap();
    for file in ["chain.pem", "key.pem"] {
        let meta = std::fs::metadata(directory.join(file)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (65_534, 65_534), "{file}");
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    }
    assert!(!directory.join("bundle.pem").exists());
    assert_eq!(std::fs::metadata(&directory).unwrap().uid(), 65_534);
}

#[tokio::test(start_paused = true)]
async fn r33_files_that_are_good_are_kept_at_a_restart_and_during_an_outage() {
    let node = Node::new();
    let directory = node.directory();
    let first = node.keep(svid(directory.clone()));
    until(|| directory.join("svid.pem").exists()).await;
    first.abort();
    let text = std::fs::read(directory.join("svid.pem")).unwrap();
    node.plane.is_away(true);
    node.keep(svid(directory.clone()));
    tokio::time::sleep(HOUR * 3 / 4).await;
    assert_eq!(std::fs::read(directory.join("svid.pem")).unwrap(), text);
    assert_eq!(node.plane.count("svid"), 1);
    node.plane.is_away(false);
    until(|| std::fs::read(directory.join("svid.pem")).unwrap() != text).await;
}

#[test]
fn only_a_process_id_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    assert!(files::hang_up(&file).is_err());
    // 0 and negative numbers are groups of processes, 1 is init.
    for text in ["", "0", "-1", "1", "postgres", "99999999999"] {
        std::fs::write(&file, text).unwrap();
        assert!(files::hang_up(&file).is_err(), "{text}");
    }
}
