//! Pushed identities and revocation lists, over real handshakes.

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use ringwall_identity::authority::{Authority, Issued};
use rustls_pki_types::UnixTime;
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::fixture::{
    HOUR, Open, Workload, authority, certified, connect, id, material, now, write_identity,
};
use crate::{PeerPolicy, PeerSide, mesh_client_config, mesh_server_config};

fn svid(authority: &Authority, name: &str) -> Issued {
    authority.issue_svid(&id(name), &[], HOUR, now()).unwrap()
}

/// A list by `authority` that names these leaves.
fn crl(authority: &Authority, revoked: &[&Issued]) -> String {
    crl_until(authority, revoked, now() + 24 * HOUR)
}

fn crl_until(authority: &Authority, revoked: &[&Issued], next_update: OffsetDateTime) -> String {
    let key = KeyPair::from_pem(authority.key_pem()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(authority.cert_pem(), key).unwrap();
    let entry = |issued: &&Issued| {
        let leaf = certified(&issued.chain_pem, &issued.key_pem).cert[0].clone();
        let serial = webpki::EndEntityCert::try_from(&leaf)
            .unwrap()
            .serial()
            .to_vec();
        RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now() - HOUR,
            reason_code: None,
            invalidity_date: None,
        }
    };
    let list = CertificateRevocationListParams {
        this_update: now() - 2 * HOUR,
        next_update,
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).unwrap().pem().unwrap()
}

/// `gateway` calls `orders`; both are pushed.
struct Pushed {
    root: Authority,
    gateway: Issued,
    orders: Issued,
    client: Arc<IdentitySource>,
    server: Arc<IdentitySource>,
}

impl Pushed {
    fn new() -> Self {
        let root = authority("ringwall.local");
        let (gateway, orders) = (svid(&root, "gateway"), svid(&root, "orders"));
        let source =
            |issued| IdentitySource::from_material(material(issued, &[&root], &[])).unwrap();
        let (client, server) = (source(&gateway), source(&orders));
        Self {
            root,
            gateway,
            orders,
            client,
            server,
        }
    }

    fn server_knows(&self, crls: &[String]) {
        let orders = material(&self.orders, &[&self.root], crls);
        self.server.update(orders).unwrap();
    }

    fn client_knows(&self, crls: &[String]) {
        let gateway = material(&self.gateway, &[&self.root], crls);
        self.client.update(gateway).unwrap();
    }

    async fn call(&self) -> Result<Open, String> {
        let callers = PeerPolicy::AnyOf(vec![id("gateway")]);
        let server = mesh_server_config(&self.server, callers).unwrap();
        let client = mesh_client_config(&self.client, id("orders")).unwrap();
        connect(&server, &client, "127.0.0.1").await
    }
}

#[tokio::test]
async fn r33_pushed_identities_meet_and_rotate_without_a_gap() {
    let mesh = Pushed::new();
    let mut changes = mesh.server.subscribe();
    assert_eq!(
        mesh.call().await.unwrap().met.server_saw,
        Some(id("gateway"))
    );
    assert!(!changes.has_changed().unwrap());
    let next = mesh
        .root
        .issue_svid(&id("orders"), &[], 2 * HOUR, now())
        .unwrap();
    let first = mesh.server.not_after();
    mesh.server
        .update(material(&next, &[&mesh.root], &[]))
        .unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(*changes.borrow_and_update(), 1);
    assert!(mesh.server.not_after() > first);
    let open = mesh.call().await.unwrap();
    let leaf = open.client.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(leaf, certified(&next.chain_pem, &next.key_pem).cert[0]);
}

#[tokio::test]
async fn r53_a_push_for_another_workload_is_refused_and_the_last_good_one_serves() {
    let mesh = Pushed::new();
    let changes = mesh.server.subscribe();
    let payments = svid(&mesh.root, "payments");
    let refused = |material| mesh.server.update(material).unwrap_err().to_string();
    let why = refused(material(&payments, &[&mesh.root], &[]));
    assert!(
        why.contains("now names spiffe://ringwall.local/payments"),
        "{why}"
    );
    let mut mixed = material(&mesh.orders, &[&mesh.root], &[]);
    mixed.key = material(&payments, &[&mesh.root], &[]).key;
    assert!(refused(mixed).contains("is not the key of the certificate"));
    assert!(refused(material(&mesh.orders, &[], &[])).contains("no root"));
    let old = mesh
        .root
        .issue_svid(&id("orders"), &[], HOUR, now() - 2 * HOUR)
        .unwrap();
    assert!(refused(material(&old, &[&mesh.root], &[])).contains("expired"));
    let mut broken = material(&mesh.orders, &[&mesh.root], &[]);
    broken.crls = vec![CertificateRevocationListDer::from(vec![0x30, 0])];
    assert!(refused(broken).contains("a revocation list"));
    assert!(
        !changes.has_changed().unwrap(),
        "nothing of that was taken over"
    );
    assert!(mesh.call().await.is_ok());
}

#[tokio::test]
async fn r34_a_revoked_caller_is_refused() {
    let mesh = Pushed::new();
    mesh.server_knows(&[crl(&mesh.root, &[])]);
    assert!(mesh.call().await.is_ok(), "an empty list refuses nobody");
    mesh.server_knows(&[crl(&mesh.root, &[&mesh.orders])]);
    assert!(mesh.call().await.is_ok(), "another certificate is revoked");
    mesh.server_knows(&[crl(&mesh.root, &[&mesh.gateway])]);
    let why = mesh.call().await.err().unwrap();
    assert!(why.contains("Revoked"), "{why}");
}

#[tokio::test]
async fn r34_a_revoked_server_is_refused() {
    let mesh = Pushed::new();
    mesh.client_knows(&[crl(&mesh.root, &[&mesh.orders])]);
    let why = mesh.call().await.err().unwrap();
    assert!(why.contains("Revoked"), "{why}");
}

#[tokio::test]
async fn r34_an_outdated_list_still_refuses_and_a_forged_one_does_too() {
    let mesh = Pushed::new();
    mesh.server_knows(&[crl_until(&mesh.root, &[&mesh.gateway], now() - HOUR)]);
    let why = mesh.call().await.err().unwrap();
    assert!(why.contains("Revoked"), "{why}");
    // A list of another root says nothing about ours, even where serial numbers meet.
    let other = authority("ringwall.local");
    mesh.server_knows(&[crl(&other, &[&mesh.gateway])]);
    assert!(mesh.call().await.is_ok());
    // In the name of our root, but signed by somebody else: that is no time to trust anybody.
    let mut forged =
        CertificateRevocationListDer::from_pem_slice(crl(&mesh.root, &[&mesh.gateway]).as_bytes())
            .unwrap()
            .to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let mut orders = material(&mesh.orders, &[&mesh.root], &[]);
    orders.crls = vec![CertificateRevocationListDer::from(forged)];
    mesh.server.update(orders).unwrap();
    assert!(mesh.call().await.is_err());
}

#[tokio::test]
async fn r34_an_open_connection_can_be_verified_again() {
    let mesh = Pushed::new();
    let open = mesh.call().await.unwrap();
    let caller = open.server.get_ref().1.peer_certificates().unwrap();
    let server = open.client.get_ref().1.peer_certificates().unwrap();
    let now = UnixTime::now();
    let again = mesh.server.verify_peer(caller, PeerSide::Caller, now);
    assert_eq!(again.unwrap(), id("gateway"));
    assert!(
        mesh.client
            .verify_peer(server, PeerSide::Server, now)
            .is_ok()
    );
    mesh.server_knows(&[crl(&mesh.root, &[&mesh.gateway])]);
    assert!(
        mesh.server
            .verify_peer(caller, PeerSide::Caller, now)
            .is_err()
    );
    let later = UnixTime::since_unix_epoch(
        now.as_secs()
            .checked_add(7200)
            .map(Duration::from_secs)
            .unwrap(),
    );
    assert!(
        mesh.client
            .verify_peer(server, PeerSide::Server, later)
            .is_err()
    );
    assert!(mesh.client.verify_peer(&[], PeerSide::Server, now).is_err());
}

/// Its own clock is what it judges by: behind by as much as certificates are backdated, or ahead by what is left of them.
#[tokio::test]
async fn r33_a_verifier_s_clock_may_differ_by_what_certificates_allow_for() {
    let mesh = Pushed::new();
    let open = mesh.call().await.unwrap();
    let caller = open.server.get_ref().1.peer_certificates().unwrap();
    let server = open.client.get_ref().1.peer_certificates().unwrap();
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap();
    for (ahead, good) in [
        (-290, true),
        (-310, false),
        (300, true),
        (3590, true),
        (3610, false),
    ] {
        let seconds = u64::try_from(now + ahead).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let caller = mesh.server.verify_peer(caller, PeerSide::Caller, at);
        assert_eq!(caller.is_ok(), good, "{ahead} s ahead: {caller:?}");
        let server = mesh.client.verify_peer(server, PeerSide::Server, at);
        assert_eq!(server.is_ok(), good, "{ahead} s ahead: {server:?}");
    }
}

#[tokio::test]
async fn r34_a_list_among_the_files_is_read_when_it_appears() {
    let root = authority("ringwall.local");
    let gateway = svid(&root, "gateway");
    let orders = Workload::new(&root, &id("orders"), root.cert_pem());
    let client = IdentitySource::from_material(material(&gateway, &[&root], &[])).unwrap();
    let callers = PeerPolicy::AnyOf(vec![id("gateway")]);
    let server = mesh_server_config(&orders.source, callers).unwrap();
    let client = mesh_client_config(&client, id("orders")).unwrap();
    assert!(connect(&server, &client, "127.0.0.1").await.is_ok());
    std::fs::write(orders.dir.path().join("crl.pem"), crl(&root, &[&gateway])).unwrap();
    assert!(orders.source.reload().unwrap());
    let why = connect(&server, &client, "127.0.0.1").await.err().unwrap();
    assert!(why.contains("Revoked"), "{why}");
    std::fs::write(
        orders.dir.path().join("crl.pem"),
        "-----BEGIN X509 CRL-----\n",
    )
    .unwrap();
    assert!(orders.source.reload().is_err());
    assert!(
        connect(&server, &client, "127.0.0.1").await.is_err(),
        "the last good list counts"
    );
    std::fs::remove_file(orders.dir.path().join("crl.pem")).unwrap();
    write_identity(orders.dir.path(), &svid(&root, "orders"), root.cert_pem());
    assert!(orders.source.reload().unwrap());
    assert!(connect(&server, &client, "127.0.0.1").await.is_ok());
}
