//! The words that greet after `up`.

use std::fmt::Write as _;

use crate::composition::{Composition, Profile, Shown};
use crate::error::CliError;
use crate::output::table;
use crate::provision::secrets;
use crate::record::Record;
use crate::state::StateDir;

/// What `up` prints when everything is ready.
pub(in crate::commands) fn welcome(
    record: &Record,
    composition: &Composition,
    state: &StateDir,
) -> Result<String, CliError> {
    let rows: Vec<[String; 4]> = record
        .components
        .iter()
        .map(|component| {
            let health = component.condition.as_str().to_owned();
            let (name, address) = (component.name.clone(), component.address.to_string());
            [name, address, health, component.pid.to_string()]
        })
        .collect();
    let mut text = table(["component", "address", "health", "pid"], &rows);
    let _ = write!(text, "\n\n  {}\n", record.url);
    if let Some(interception) = &record.interception {
        let _ = writeln!(text, "\n  interception: {interception}");
    }
    if record.profile == Profile::Demo {
        let credentials = secrets::credentials(composition, state)?;
        let first = credentials
            .iter()
            .find_map(|credential| match &credential.whose {
                Shown::User(name) => Some((name, &credential.secret)),
                Shown::Client(_) => None,
            });
        if let Some((user, password)) = first {
            let _ = writeln!(text, "\n  sign in as {user} with {}", password.expose());
            let _ = writeln!(text, "  (others: ringwall status --credentials)");
        }
    }
    let bundle = record.ca_bundle.display();
    let issuer = &record.issuer;
    let _ = write!(
        text,
        "\n  Trust this machine's authority, once:\n    \
         curl      curl --cacert {bundle} {issuer}/.well-known/openid-configuration\n    \
         Chromium  mkdir -p ~/.pki/nssdb && certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n ringwall -i {bundle}\n    \
         Firefox   Settings → Privacy & Security → Certificates → View → Authorities → Import {bundle}\n    \
         system    sudo install -m 644 {bundle} /usr/local/share/ca-certificates/ringwall.crt && sudo update-ca-certificates\n\n  \
         Ctrl-C stops everything; so does `ringwall down`."
    );
    Ok(text)
}
