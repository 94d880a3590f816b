//! `ringwall cert`: which certificates are in use, and taking one, or a whole identity, out of use.
//!
//! Owns: the words of the command line. The control plane decides and tells proxies, which end live
//! connections within a second.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use ringwall_identity::certificate::{serial_of, spki_sha256_of};
use ringwall_identity::svid::{Svid, validity_of};
use ringwall_mesh_api::v1::{DescribeRequest, RestoreRequest, RevokeRequest, revoke_request::What};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{StateArgs, print_json, runtime};
use crate::error::CliError;
use crate::output::{Format, print, say, table};
use crate::plane::{Plane, refused};

#[derive(Args, Clone, Debug)]
pub(super) struct CertArgs {
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum CertCommand {
    /// Authority, and the certificate that each component serves now
    Show {
        /// Only this component's
        component: Option<String>,
        #[command(flatten)]
        state: StateArgs,
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// Believe a workload, a certificate or a key no more; live connections end
    Revoke {
        #[command(flatten)]
        target: Target,
        /// Why, for the audit log
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Believe a workload again; certificates and keys stay revoked
    Restore {
        /// The workload, such as `orders`
        workload: String,
        #[command(flatten)]
        state: StateArgs,
    },
}

/// What is revoked.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
struct Target {
    /// A whole identity, such as `orders`
    workload: Option<String>,
    /// One certificate, by its number in hexadecimal (`ringwall cert show`)
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// Every certificate of one key, by the SHA-256 of its SubjectPublicKeyInfo in hexadecimal
    #[arg(long, value_name = "HEX")]
    key: Option<String>,
}

pub(super) fn run(args: &CertArgs) -> Result<ExitCode, CliError> {
    match &args.command {
        CertCommand::Show {
            component,
            state,
            output,
        } => {
            let plane = Plane::of(&state.open()?)?;
            runtime()?.block_on(Box::pin(show(&plane, component.as_deref(), *output)))
        }
        CertCommand::Revoke {
            target,
            reason,
            state,
        } => {
            let plane = Plane::of(&state.open()?)?;
            let request = RevokeRequest {
                what: Some(target.what(&plane)?),
                reason: reason.clone(),
            };
            runtime()?.block_on(async {
                let answer = plane.authority().await?.revoke(request).await;
                let answer = answer.map_err(|status| refused("revoking", &status))?;
                let revision = answer.into_inner().revision;
                say(&format!(
                    "revoked (revision {revision}): proxies end what is open within a second"
                ));
                Ok(ExitCode::SUCCESS)
            })
        }
        CertCommand::Restore { workload, state } => {
            let plane = Plane::of(&state.open()?)?;
            let request = RestoreRequest {
                spiffe_id: plane.id(workload)?.to_string(),
            };
            runtime()?.block_on(async {
                let answer = plane.authority().await?.restore(request).await;
                let answer = answer.map_err(|status| refused("restoring", &status))?;
                say(&format!(
                    "restored (revision {})",
                    answer.into_inner().revision
                ));
                Ok(ExitCode::SUCCESS)
            })
        }
    }
}

impl Target {
    fn what(&self, plane: &Plane) -> Result<What, CliError> {
        let bytes = |text: &String| {
            from_hex(text).ok_or_else(|| CliError::State {
                what: format!("`{text}` is no hexadecimal number"),
                fix: "copy it from `ringwall cert show`".into(),
            })
        };
        match (&self.workload, &self.serial, &self.key) {
            (Some(workload), _, _) => Ok(What::SpiffeId(plane.id(workload)?.to_string())),
            (_, Some(serial), _) => Ok(What::Serial(bytes(serial)?)),
            (_, _, Some(key)) => Ok(What::SpkiSha256(bytes(key)?)),
            _ => Err(CliError::internal("revoking", "nothing is named")),
        }
    }
}

async fn show(plane: &Plane, only: Option<&str>, output: Format) -> Result<ExitCode, CliError> {
    let mut authority = plane.authority().await?;
    let answer = authority.describe(DescribeRequest {}).await;
    let authority = answer.map_err(|status| refused("describing the authority", &status))?;
    let authority = authority.into_inner();
    if let Some(name) = only {
        plane.component(name)?;
    }
    let mut served = Vec::new();
    for component in &plane.record.components {
        let wanted = only.is_none_or(|name| component.name == name);
        if wanted && component.admin.is_some() {
            served.push(certificate(&component.name, plane.served(component).await));
        }
    }
    let ends = OffsetDateTime::from_unix_timestamp(authority.intermediate_not_after).ok();
    let json = json!({
        "authority": {
            "external_root": authority.external_root, "roots": authority.roots.len(),
            "intermediate_not_after": ends.and_then(time_text),
            "issued": authority.issued, "revoked": authority.revoked,
            "leader": authority.leader, "answered_by_leader": authority.is_leader,
        },
        "certificates": served,
    });
    match output {
        Format::Json => print_json(&json)?,
        Format::Text => print(&text(&json))?,
    }
    let whole = served.iter().all(|one| one["error"].is_null());
    Ok(if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One served certificate, or why there is none.
fn certificate(
    component: &str,
    chain: Result<Vec<rustls_pki_types::CertificateDer<'static>>, String>,
) -> Value {
    let read = chain.and_then(|chain| {
        let leaf = chain.first().ok_or("it serves none")?;
        let svid = Svid::from_der(leaf).map_err(|error| error.to_string())?;
        let serial = serial_of(leaf).map_err(|error| error.to_string())?;
        let key = spki_sha256_of(leaf).map_err(|error| error.to_string())?;
        let (not_before, _) = validity_of(leaf).map_err(|error| error.to_string())?;
        Ok(json!({
            "component": component, "spiffe_id": svid.id.to_string(),
            "not_before": time_text(not_before), "not_after": time_text(svid.not_after),
            "serial": to_hex(serial.as_bytes()), "key_sha256": to_hex(&key), "error": null,
        }))
    });
    read.unwrap_or_else(|error: String| json!({ "component": component, "error": error }))
}

fn text(json: &Value) -> String {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let rows: Vec<[String; 4]> = json["certificates"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            let end = if one["error"].is_null() {
                &one["not_after"]
            } else {
                &one["error"]
            };
            [&one["component"], &one["spiffe_id"], end, &one["serial"]].map(word)
        })
        .collect();
    let authority = &json["authority"];
    let root = if authority["external_root"] == true {
        "external"
    } else {
        "own"
    };
    format!(
        "{}\n\n{} root, intermediate until {}, {} issued, {} revoked, leader {}",
        table(["component", "identity", "until", "serial"], &rows),
        root,
        word(&authority["intermediate_not_after"]),
        authority["issued"],
        authority["revoked"],
        word(&authority["leader"]),
    )
}

fn time_text(time: OffsetDateTime) -> Option<String> {
    time.format(&Rfc3339).ok()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let text = text.replace(':', "");
    let even = !text.is_empty() && text.len().is_multiple_of(2);
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pairs = text.as_bytes().chunks(2);
    (even && digits)
        .then(|| {
            pairs
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                .collect()
        })
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_shown() {
        let bytes = [0, 1, 0xab, 0xff];
        assert_eq!(to_hex(&bytes), "0001abff");
        assert_eq!(from_hex("0001abff").as_deref(), Some(&bytes[..]));
        assert_eq!(from_hex("00:01:AB:ff").as_deref(), Some(&bytes[..]));
        for bad in ["", "0", "zz", "+1", "0x01"] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_component_that_serves_nothing_says_why() {
        let shown = certificate("orders", Err("connection refused".into()));
        assert_eq!(shown["error"], "connection refused");
    }
}
