//! `ringwall token create`: a join token for an agent that is started by hand, such as on another node.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use ringwall_mesh_api::v1::CreateJoinTokenRequest;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{StateArgs, print_json, runtime};
use crate::error::CliError;
use crate::output::{Format, print, say};
use crate::plane::{Plane, refused};

#[derive(Args, Clone, Debug)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum TokenCommand {
    /// Make one; it is good once
    Create {
        /// The node that may join with it
        #[arg(long, value_name = "NAME", default_value = "local")]
        node: String,
        /// How long it may be used: at most a day
        #[arg(long, value_name = "MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1440))]
        minutes: u32,
        #[command(flatten)]
        state: StateArgs,
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
}

pub(super) fn run(args: &TokenArgs) -> Result<ExitCode, CliError> {
    let TokenCommand::Create {
        node,
        minutes,
        state,
        output,
    } = &args.command;
    let plane = Plane::of(&state.open()?)?;
    let life = Duration::from_secs(u64::from(*minutes) * 60);
    let request = CreateJoinTokenRequest {
        node: node.clone(),
        ttl_seconds: u32::try_from(life.as_secs()).unwrap_or(u32::MAX),
    };
    let token = runtime()?.block_on(async {
        let answer = plane.authority().await?.create_join_token(request).await;
        answer.map_err(|status| refused("making a join token", &status))
    })?;
    let token = token.into_inner();
    let until = OffsetDateTime::from_unix_timestamp(token.not_after).ok();
    let until = until.and_then(|until| until.format(&Rfc3339).ok());
    match output {
        Format::Json => {
            print_json(&json!({ "node": node, "token": token.token, "not_after": until }))?;
        }
        Format::Text => {
            say(&format!(
                "for node {node}, once, until {}",
                until.unwrap_or_default()
            ));
            print(&token.token)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
