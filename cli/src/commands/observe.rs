//! `ringwall observe`: what passes through the proxies, merged by time.
//!
//! Owns: which proxies are asked and in which order their records are shown. Progress, unreachable proxies and lost records
//! go to stderr. Without `--follow`, what the proxies have kept is shown: denials and errors. Allowed requests are seen live
//! only, since nothing is recorded while nobody looks.
//! Read next: `observe/stream.rs` (one proxy), `observe/merge.rs` (all of them), `observe/show.rs` (for people).

mod merge;
mod show;
pub(super) mod stream;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ringwall_http_io::Address;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{StateArgs, runtime};
use crate::error::CliError;
use crate::output::{Format, print, say};
use crate::probe::Prober;
use crate::record::Record;
use crate::state::StateDir;
use merge::Merge;
pub(super) use show::{clean, clock};
use stream::{News, Proxy, Query};

/// News of all proxies that wait to be shown.
const MAX_WAITING: usize = 4096;

#[derive(Args, Clone, Debug)]
pub(super) struct ObserveArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Only flows from or to this service
    #[arg(long, short, value_name = "NAME")]
    service: Option<String>,
    /// Only flows of this caller
    #[arg(long, value_name = "NAME")]
    caller: Option<String>,
    /// Only flows to this service
    #[arg(long, value_name = "NAME")]
    callee: Option<String>,
    /// Only flows that ended so
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
    /// Only this status (`404`), or this class (`5xx`)
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Only paths that begin so
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Go on with what happens from now on
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    proxies: ProxyArgs,
    /// For people, or one JSON object a line
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Verdict {
    Allowed,
    Denied,
    /// Allowed, and a policy in dry run would have denied it
    DryRunDenied,
    Error,
    /// Refused by the kernel, before a proxy saw it
    Dropped,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::DryRunDenied => "dry-run-denied",
            Self::Error => "error",
            Self::Dropped => "dropped",
        }
    }
}

/// Which proxies are asked.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ProxyArgs {
    /// Ask this proxy, which has the identity NAME, at this admin address [default: those of the running platform]
    #[arg(long = "proxy", value_name = "NAME=ADDRESS", value_parser = named)]
    proxies: Vec<Named>,
    /// Trust domain of the proxies that are named
    #[arg(
        long,
        value_name = "DOMAIN",
        default_value = "ringwall.local",
        requires = "proxies"
    )]
    trust_domain: String,
}

/// A proxy on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    name: String,
    address: Address,
}

fn named(text: &str) -> Result<Named, String> {
    let (name, address) = text
        .split_once('=')
        .ok_or("write NAME=ADDRESS, such as orders=127.0.0.1:7605")?;
    let address = address
        .parse::<Address>()
        .map_err(|error| error.to_string())?;
    Ok(Named {
        name: name.to_owned(),
        address,
    })
}

impl ProxyArgs {
    /// The proxies, and the operator that asks them.
    pub(super) fn find(&self, state: &StateDir) -> Result<(Vec<Proxy>, Prober), CliError> {
        if !self.proxies.is_empty() {
            let proxies = self.proxies.iter().map(|named| Proxy {
                name: named.name.clone(),
                identity: named.name.clone(),
                admin: named.address.clone(),
            });
            return Ok((proxies.collect(), Prober::load(state, &self.trust_domain)?));
        }
        let running = Record::read(state)?.filter(|record| record.supervisor().is_alive());
        let Some(record) = running else {
            return Err(CliError::NotRunning(state.root().to_path_buf()));
        };
        let prober = Prober::load(state, &record.trust_domain)?;
        Ok((of_record(&record), prober))
    }
}

/// Everything with an admin listener: which of them is a proxy, it says itself (`stream.rs`).
fn of_record(record: &Record) -> Vec<Proxy> {
    let components = record.components.iter().filter_map(|component| {
        Some(Proxy {
            name: component
                .before
                .clone()
                .unwrap_or_else(|| component.name.clone()),
            identity: component.identity.clone(),
            admin: component.admin.clone()?,
        })
    });
    let proxies: Vec<Proxy> = components.collect();
    let before = record
        .components
        .iter()
        .filter_map(|component| component.before.as_ref());
    let before: Vec<&String> = before.collect();
    // What has a proxy before it answers through that one, on an admin port of its own that knows no flows.
    let is_behind = |name: &str| before.iter().any(|other| *other == name);
    let pairs = record
        .components
        .iter()
        .filter(|component| component.admin.is_some())
        .zip(proxies);
    let asked =
        pairs.filter(|(component, _)| component.before.is_some() || !is_behind(&component.name));
    asked.map(|(_, proxy)| proxy).collect()
}

/// Shows flows until the proxies have nothing more, or until Ctrl-C.
pub(super) fn run(args: &ObserveArgs) -> Result<ExitCode, CliError> {
    let (proxies, prober) = args.proxies.find(&args.state.open()?)?;
    let query = Query::new("/observe")
        .with("service", args.service.as_deref())
        .with("caller", args.caller.as_deref())
        .with("callee", args.callee.as_deref())
        .with("verdict", args.verdict.map(Verdict::as_str))
        .with("status", args.status.as_deref())
        .with("path", args.path.as_deref())
        .with("follow", args.follow.then_some("true"));
    runtime()?.block_on(watch(proxies, prober, query, args))
}

async fn watch(
    proxies: Vec<Proxy>,
    prober: Prober,
    query: Query,
    args: &ObserveArgs,
) -> Result<ExitCode, CliError> {
    let (sender, mut news) = mpsc::channel(MAX_WAITING);
    for proxy in proxies {
        let (prober, query, sender) = (prober.clone(), query.clone(), sender.clone());
        tokio::spawn(stream::follow(proxy, prober, query, args.follow, sender));
    }
    drop(sender);
    let mut merge = Merge::new(if args.follow {
        merge::WINDOW
    } else {
        Duration::MAX
    });
    let mut tally = Tally::default();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let due = merge
            .due()
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            _ = &mut interrupted => break,
            () = sleep_until(due) => {}
            next = news.recv() => match next {
                Some(News::Record(record)) => merge.push(record, Instant::now()),
                Some(other) => tally.note(other, args.follow),
                None => break,
            },
        }
        for record in merge.ready(Instant::now()) {
            show_one(&record, args.output)?;
        }
    }
    for record in merge.rest() {
        show_one(&record, args.output)?;
    }
    tally.finish(args.follow)
}

fn show_one(record: &serde_json::Value, output: Format) -> Result<(), CliError> {
    match output {
        Format::Json => print(&record.to_string()),
        Format::Text => print(&show::flow(record)),
    }
}

/// Who answered, and what was lost.
#[derive(Debug, Default)]
pub(super) struct Tally {
    answered: Vec<String>,
    silent: Vec<String>,
    lost: u64,
}

impl Tally {
    pub(super) fn note(&mut self, news: News, follow: bool) {
        match news {
            News::Record(_) => {}
            News::Answers(name) => {
                if follow && !self.answered.contains(&name) {
                    say(&format!("watching {name}"));
                }
                self.silent.retain(|silent| *silent != name);
                if !self.answered.contains(&name) {
                    self.answered.push(name);
                }
            }
            News::Silent(name, why) => {
                if !self.silent.contains(&name) {
                    say(&format!("{name} cannot be watched: {why}"));
                    self.silent.push(name);
                }
            }
            News::Lost(name, count) => {
                say(&format!(
                    "{name}: {count} records were lost: they came faster than they were read"
                ));
                self.lost = self.lost.saturating_add(count);
            }
            News::NoProxy => {}
        }
    }

    /// An error when nobody answered.
    pub(super) fn finish(&self, follow: bool) -> Result<ExitCode, CliError> {
        if self.answered.is_empty() {
            return Err(CliError::State {
                what: "no proxy answered".into(),
                fix: "see which of them run: `ringwall status`".into(),
            });
        }
        if !follow {
            let count = self.answered.len();
            say(&format!(
                "{count} {} asked for kept denials and errors; `--follow` shows allowed flows as they happen",
                if count == 1 {
                    "proxy was"
                } else {
                    "proxies were"
                }
            ));
        }
        Ok(if self.silent.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_named_with_its_address() {
        let proxy = named("orders=127.0.0.1:7605").unwrap();
        assert_eq!(
            (proxy.name.as_str(), proxy.address.port()),
            ("orders", 7605)
        );
        assert!(named("orders").unwrap_err().contains("NAME=ADDRESS"));
        assert!(named("orders=127.0.0.1").is_err());
    }

    #[test]
    fn the_exit_code_says_who_did_not_answer() {
        let mut tally = Tally::default();
        assert_eq!(tally.finish(true).unwrap_err().code(), 78);
        tally.note(News::Answers("orders".into()), false);
        assert_eq!(
            format!("{:?}", tally.finish(true).unwrap()),
            format!("{:?}", ExitCode::SUCCESS)
        );
        tally.note(News::Silent("payments".into(), "refused".into()), false);
        assert_eq!(
            format!("{:?}", tally.finish(true).unwrap()),
            format!("{:?}", ExitCode::FAILURE)
        );
        tally.note(News::Answers("payments".into()), false);
        assert_eq!(
            format!("{:?}", tally.finish(true).unwrap()),
            format!("{:?}", ExitCode::SUCCESS)
        );
    }
}
