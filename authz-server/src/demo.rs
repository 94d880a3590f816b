//! Identities of the demonstration: seeded at each start of the demo profile, refused by the
//! production profile.
//!
//! Their secrets come from the secret provider, where they were made at first start; none stands
//! in the code or in the configuration.

use ringwall_secret::SecretProvider;
use ringwall_token::{Algorithm, JwkSet, SigningKey};

use crate::audit::{Event, Kind};
use crate::clock::UnixTime;
use crate::config::clients::ClientDeclaration;
use crate::config::directory::{Demo, DemoUser};
use crate::error::Error;
use crate::passwords::Passwords;
use crate::random::sha256;
use crate::store::Store;
use crate::store::clients::StoredClient;
use crate::store::directory::UserSeed;

/// Brings the store in line with the declared demo identities.
pub(crate) async fn seed(
    demo: &Demo,
    store: &Store,
    secrets: &SecretProvider,
    passwords: &Passwords,
    now: UnixTime,
) -> Result<(), Error> {
    for user in &demo.users {
        seed_user(user, store, secrets, passwords, now).await?;
    }
    let declared = demo
        .users
        .iter()
        .map(|user| user.username.clone())
        .collect();
    store.keep_demo_users(declared).await?;
    let clients: Result<Vec<_>, _> = demo
        .clients
        .iter()
        .map(|client| stored_client(client.clone(), secrets))
        .collect();
    store.seed_clients(clients?).await?;
    let counts = format!("{} users, {} clients", demo.users.len(), demo.clients.len());
    store
        .audit(Event::new(Kind::Seeded).detail(counts), now)
        .await?;
    Ok(())
}

async fn seed_user(
    user: &DemoUser,
    store: &Store,
    secrets: &SecretProvider,
    passwords: &Passwords,
    now: UnixTime,
) -> Result<(), Error> {
    let password = secrets.get_string(&user.password_secret())?;
    let known = store
        .credentials(user.username.clone())
        .await?
        .map(|known| known.password_hash);
    let unchanged = match &known {
        Some(hash) => {
            passwords
                .verify(password.clone(), Some(hash.clone()))
                .await?
        }
        None => false,
    };
    let password_hash = match known {
        Some(hash) if unchanged => hash,
        _ => passwords.hash(password).await?,
    };
    let seed = UserSeed {
        username: user.username.clone(),
        name: user.name.clone(),
        email: user.email.clone(),
        password_hash,
        groups: user.groups.clone(),
    };
    Ok(store.seed_user(seed, now).await?)
}

fn stored_client(
    mut declaration: ClientDeclaration,
    secrets: &SecretProvider,
) -> Result<StoredClient, Error> {
    let secret_sha256 = if declaration.has_secret() {
        let secret = secrets.get_string(&declaration.secret_name())?;
        Some(sha256(secret.expose().as_bytes()).to_vec())
    } else {
        None
    };
    if let Some(name) = &declaration.key_secret {
        let pem = secrets.get_string(name)?;
        let key = SigningKey::from_pkcs8_pem(declaration.id.as_str(), Algorithm::Es256, &pem)?;
        let set = JwkSet {
            keys: vec![key.public_jwk()],
        };
        declaration.jwks = Some(serde_json::to_value(set)?);
    }
    Ok(StoredClient {
        declaration,
        secret_sha256,
    })
}
