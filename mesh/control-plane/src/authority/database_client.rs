//! Our own client certificate for the PostgreSQL that keeps our state: issued to ourselves, so that
//! the control plane waits for nobody else to be certified.
//!
//! Owns: the files that `ringwall_store::postgres` reads at each connect, and their renewal.
//! Must not: be used for another role than the one in our configuration.

use std::path::PathBuf;
use std::time::Duration;

use ringwall_identity::Rotation;
use ringwall_identity::csr::{NewKey, Request};
use ringwall_store::postgres::PostgresConfig;
use time::OffsetDateTime;

use super::issuer::Material;
use super::own::SELF;
use super::{Authority, pem};
use crate::error::Error;
use crate::random;
use crate::store::model::{IssuedCertificate, Kind};

/// The certificate of our role.
pub(crate) struct DatabaseClient {
    directory: PathBuf,
    role: String,
    life: Duration,
    rotation: Rotation,
}

impl DatabaseClient {
    /// Issues the first one: before the store is there, so it is on record in the log alone.
    pub(crate) fn first(
        config: &PostgresConfig,
        material: &Material,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<Self, Error> {
        let mut client = Self {
            directory: config.tls.clone(),
            role: config.user.clone(),
            life,
            rotation: Rotation::new(now, now, 0.0),
        };
        client.issue(material, now)?;
        Ok(client)
    }

    fn issue(
        &mut self,
        material: &Material,
        now: OffsetDateTime,
    ) -> Result<(ringwall_identity::Serial, [u8; 32], OffsetDateTime), Error> {
        let new = NewKey::generate()?;
        let request = Request::from_der(&new.request)?;
        let certified = material
            .intermediate
            .certify_client(&request, &self.role, self.life, now)?;
        pem::write(
            &self.directory,
            [
                ("client.key", pem::key(&new.pkcs8)),
                ("client.pem", pem::certificates(&certified.chain)),
                ("bundle.pem", pem::certificates(&material.roots)),
            ],
        )?;
        let (not_before, not_after) = (certified.not_before, certified.not_after);
        self.rotation
            .renewed(not_before, not_after, random::jitter(), now);
        tracing::info!(
            target: "audit",
            event = "certificate_issued",
            kind = "database",
            role = self.role,
            serial = %certified.serial,
            not_after = %not_after,
            "our own client certificate issued"
        );
        Ok((certified.serial, certified.spki_sha256, not_after))
    }

    /// Renews for ever. The pool takes the new files at its next connect.
    pub(crate) async fn follow(
        mut self,
        authority: Authority,
        holder: ringwall_identity::SpiffeId,
    ) {
        let mut issuer = authority.issuer.subscribe();
        loop {
            let wait = self.rotation.next_check(authority.now());
            let asked = tokio::select! {
                () = tokio::time::sleep(wait) => false,
                Ok(()) = issuer.changed() => true,
            };
            let now = authority.now();
            if !asked && !self.rotation.due(now) {
                continue;
            }
            let material = authority.issuer.current();
            match self.issue(&material, now) {
                Ok((serial, spki, not_after)) => {
                    let issued = IssuedCertificate {
                        serial,
                        kind: Kind::Database,
                        holder: holder.clone(),
                        spki,
                        issued_at: now,
                        not_after,
                        by: SELF.to_owned(),
                        detail: format!("role {}", self.role),
                    };
                    // Without a store there is nothing to connect to; the log has it already.
                    if let Err(error) = authority.store.record_issued(&issued).await {
                        tracing::warn!(%error, "our own client certificate is not on record");
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "our own client certificate is not renewed; trying again");
                    self.rotation.failed(now);
                }
            }
        }
    }
}
