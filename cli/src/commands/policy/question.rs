//! `ringwall policy explain`: one request, in the words of a case.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use ringwall_policy::mesh::administration::Question;
use ringwall_policy::mesh::{Example, Expect, ServiceFacts, UserFacts};

use super::desk::Desk;
use super::{code, show, tell};
use crate::error::CliError;
use crate::output::Format;
use crate::policy_file::{ask, port};

#[derive(Args, Clone, Debug)]
pub(super) struct ExplainArgs {
    /// Who asks, such as `gateway`
    from: String,
    /// Who is asked, such as `orders`
    to: String,
    /// What, such as "GET /v1/orders"; without it, whether it may connect
    ask: Option<String>,
    /// At this port [default: where services call it]
    #[arg(long, value_name = "PORT", conflicts_with = "admin")]
    port: Option<u16>,
    /// At its admin listener
    #[arg(long)]
    admin: bool,
    /// With this header field
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// For this user
    #[arg(long, value_name = "SUBJECT")]
    user: Option<String>,
    /// Who has this role
    #[arg(long, value_name = "NAME", requires = "user")]
    role: Vec<String>,
    /// Whose token has this scope
    #[arg(long, value_name = "NAME", requires = "user")]
    scope: Vec<String>,
    /// Who uses this client
    #[arg(long, value_name = "ID", requires = "user", default_value = "")]
    client: String,
    /// By this version of the policy [default: the active one]
    #[arg(long, value_name = "N")]
    version: Option<u64>,
}

pub(super) async fn explain(
    desk: &Desk,
    args: &ExplainArgs,
    output: Format,
) -> Result<ExitCode, CliError> {
    let services = desk.version(args.version).await?.bundle.services;
    let request = args.request(&services).map_err(|what| CliError::State {
        what,
        fix: "correct the command: ringwall policy explain --help".into(),
    })?;
    let question = Question {
        request,
        version: args.version,
    };
    let answer = desk.explain(&question).await?;
    tell(output, &answer, || show::answer(&question.request, &answer))?;
    Ok(code(answer.explanation.decision.allowed))
}

impl ExplainArgs {
    fn request(&self, services: &BTreeMap<String, ServiceFacts>) -> Result<Example, String> {
        let port = match self.port {
            Some(port) => port,
            None => port(services, &self.to, self.admin)?,
        };
        let (method, path) = self.ask.as_deref().map(ask).transpose()?.unzip();
        let headers = self.header.iter().map(|field| {
            let parted = field.split_once(':');
            let (name, value) = parted.ok_or_else(|| format!("`{field}` is no `NAME: VALUE`"))?;
            Ok((name.trim().to_lowercase(), value.trim().to_owned()))
        });
        let user = self.user.as_ref().map(|sub| UserFacts {
            sub: sub.clone(),
            client: self.client.clone(),
            roles: self.role.clone(),
            scopes: self.scope.clone(),
        });
        Ok(Example {
            name: "question".to_owned(),
            caller: self.from.clone(),
            callee: self.to.clone(),
            port,
            method,
            path,
            headers: headers.collect::<Result<_, String>>()?,
            user,
            // Not read: what is decided is the answer.
            expect: Expect::Allow,
        })
    }
}
