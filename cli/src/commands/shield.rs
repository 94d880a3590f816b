//! `ringwall shield`: whom the kernel drops at the gateway's interface.
//!
//! Owns: how networks and times are written and shown. The node's agent owns the list (docs/ebpf.md); every change stands in
//! its log with who asked for it. Must not: speak to the kernel.
//! Read next: `shield/desk.rs` (the agent's routes).

mod desk;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use ringwall_ebpf_common::Prefix;

use super::{StateArgs, print_json, runtime};
use crate::error::CliError;
use crate::output::{Format, ago, print, say, table};
use crate::state::StateDir;

pub(super) use desk::{Desk, Standing};

/// Longest denial that ends by itself.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

#[derive(Args, Clone, Debug)]
pub(super) struct ShieldArgs {
    #[command(flatten)]
    state: StateArgs,
    #[command(subcommand)]
    command: ShieldCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum ShieldCommand {
    /// Who is denied, why, and for how long
    List {
        /// Rows at most
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        max: u32,
        #[command(flatten)]
        shown: Shown,
    },
    /// Deny an address or a network
    Add {
        /// Such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/48
        network: Prefix,
        /// How long, such as 90s, 10m, 24h or 7d [default: until it is removed]
        #[arg(long = "for", value_name = "TIME", value_parser = time)]
        lasts: Option<Duration>,
        #[command(flatten)]
        shown: Shown,
    },
    /// Let it in again
    Rm {
        /// As it stands in the list
        network: Prefix,
        #[command(flatten)]
        shown: Shown,
    },
    /// Who is dropped most
    Top {
        /// Rows at most
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        max: u32,
        #[command(flatten)]
        shown: Shown,
    },
}

#[derive(Args, Clone, Copy, Debug)]
struct Shown {
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Asks the agent.
pub(super) fn run(args: &ShieldArgs) -> Result<ExitCode, CliError> {
    let state = args.state.open()?;
    runtime()?.block_on(answer(&state, &args.command))?;
    Ok(ExitCode::SUCCESS)
}

async fn answer(state: &StateDir, command: &ShieldCommand) -> Result<(), CliError> {
    let desk = Desk::find(state)?;
    match command {
        ShieldCommand::List { max, shown } => {
            let standing = desk.list(*max).await?;
            match shown.output {
                Format::Json => print_json(&serde_json::json!(standing)),
                Format::Text => {
                    tell(&standing);
                    print(&listed(&standing))
                }
            }
        }
        ShieldCommand::Add {
            network,
            lasts,
            shown,
        } => {
            let said = desk.add(*network, *lasts).await?;
            let until = match lasts {
                Some(lasts) => format!("for {}", ago(lasts.as_secs().cast_signed())),
                None => "until it is removed".to_owned(),
            };
            confirm(shown, &said, &format!("{network} is denied {until}"))
        }
        ShieldCommand::Rm { network, shown } => {
            let said = desk.remove(*network).await?;
            confirm(shown, &said, &format!("{network} is let in again"))
        }
        ShieldCommand::Top { max, shown } => {
            let talkers = desk.top(*max).await?;
            match shown.output {
                Format::Json => print_json(&serde_json::json!({ "talkers": talkers })),
                Format::Text => {
                    let rows = talkers.iter().map(|row| {
                        [
                            row.network.clone(),
                            row.reason.clone(),
                            row.dropped.to_string(),
                        ]
                    });
                    let rows: Vec<_> = rows.collect();
                    print(&table(["network", "reason", "dropped"], &rows))
                }
            }
        }
    }
}

fn confirm(shown: &Shown, said: &serde_json::Value, text: &str) -> Result<(), CliError> {
    match shown.output {
        Format::Json => print_json(said),
        Format::Text => print(text),
    }
}

/// What is no row, beside the rows.
fn tell(standing: &Standing) {
    for place in &standing.attached {
        say(&format!("at {} ({})", place.interface, place.mode));
    }
    for missing in &standing.missing {
        say(&format!("not at {}: {}", missing.interface, missing.why));
    }
    let rows = standing.denied.len();
    if standing.total > rows {
        say(&format!(
            "{rows} of {} are shown; --max shows more",
            standing.total
        ));
    }
}

fn listed(standing: &Standing) -> String {
    let time = |seconds: u64| ago(i64::try_from(seconds).unwrap_or(i64::MAX));
    let rows = standing.denied.iter().map(|row| {
        let left = row.seconds_left;
        [
            row.network.clone(),
            row.reason.clone(),
            time(row.seconds_denied),
            left.map_or("until removed".to_owned(), time),
            row.dropped.to_string(),
        ]
    });
    let rows: Vec<_> = rows.collect();
    table(["network", "reason", "since", "left", "dropped"], &rows)
}

/// `90s`, `10m`, `24h`, `7d`.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time from 1s to 365d, such as 90s, 10m, 24h or 7d");
    let (digits, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    // `parse` would take a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    match count.checked_mul(factor).map(Duration::from_secs) {
        Some(time) if plain && !time.is_zero() && time <= LONGEST => Ok(time),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        shield: ShieldArgs,
    }

    fn parse(words: &str) -> Result<ShieldCommand, String> {
        let words = std::iter::once("shield").chain(words.split(' '));
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(line.shield.command)
    }

    #[test]
    fn times_have_a_unit_and_a_limit() {
        assert_eq!(time("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(time("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(time("365d"), Ok(LONGEST));
        for wrong in [
            "",
            "m",
            "10",
            "0s",
            "+5m",
            "-5m",
            "1.5h",
            "366d",
            "10 m",
            "99999999999999999999d",
            "5µ",
        ] {
            assert!(time(wrong).unwrap_err().contains("such as"), "{wrong}");
        }
    }

    #[test]
    fn a_network_that_is_none_is_told_with_what_was_meant() {
        assert!(matches!(
            parse("add 192.0.2.0/24 --for 10m"),
            Ok(ShieldCommand::Add { lasts: Some(_), .. })
        ));
        assert!(matches!(
            parse("rm 2001:db8::/48 -o json"),
            Ok(ShieldCommand::Rm { .. })
        ));
        assert!(
            parse("add 10.1.0.0/8")
                .unwrap_err()
                .contains("write 10.0.0.0/8")
        );
        assert!(
            parse("add example.org")
                .unwrap_err()
                .contains("no IP address")
        );
        assert!(
            parse("add 192.0.2.7 --for ever")
                .unwrap_err()
                .contains("such as 90s")
        );
        assert!(parse("top --max 0").is_err());
    }

    #[test]
    fn rows_say_who_why_and_how_long() {
        let standing: Standing = serde_json::from_value(serde_json::json!({
            "attached": [{ "interface": "eth0", "mode": "driver", "reason": null }],
            "missing": [],
            "lists": [{ "list": "hosts of IPv4", "used": 1, "capacity": 100_000 }],
            "total": 2,
            "denied": [
                { "network": "192.0.2.7", "reason": "malformed", "seconds_left": 590, "seconds_denied": 10, "dropped": 7 },
                { "network": "2001:db8::/32", "reason": "operator", "seconds_left": null, "seconds_denied": 7300, "dropped": 0 },
            ],
        }))
        .unwrap();
        assert_eq!(
            listed(&standing),
            "network        reason     since  left           dropped\n\
             192.0.2.7      malformed  10 s   9 min          7\n\
             2001:db8::/32  operator   2 h    until removed  0"
        );
    }
}
