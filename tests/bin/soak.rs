//! R33 at length, on a platform of its own: prints the report of `e2e::soak` as one JSON object on stdout, and
//! progress on stderr. Exit code 1 when there was an error.
//!
//! Arguments: seconds that certificates live, seconds of load, customers. `cargo xtask soak` gives them.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::soak::{self, Plan, Report};
use e2e::stack::{Stack, cleanup};

/// Between two orders of a customer.
const PAUSE: Duration = Duration::from_millis(400);

fn main() -> ExitCode {
    ringwall_tls::install_crypto_provider();
    match run() {
        Ok(report) if report.errors == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Report> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |what: &'static str| -> Result<u64> {
        let text = arguments.next().context(what)?;
        text.parse().with_context(|| format!("{what}: {text}"))
    };
    let life = Duration::from_secs(number("seconds that certificates live")?);
    let plan = Plan {
        life,
        // A server's certificate lives for a minute at least.
        edge: life.max(Duration::from_secs(60)),
        length: Duration::from_secs(number("seconds of load")?),
        customers: usize::try_from(number("customers")?)?,
        pause: PAUSE,
    };
    cleanup::on_signals()?;
    let mut stack = Stack::start_as(Some(&plan.composition()?))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(Box::pin(soak::run(&stack.info, &plan)));
    if outcome.as_ref().map_or(true, |report| report.errors > 0) {
        eprintln!("its state is kept in {}", stack.keep_state().display());
    }
    stack.stop()?;
    let report = outcome?;
    let text = serde_json::to_string(&report)?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(report)
}
