//! R33 under load: certificates that live for a minute or less, and customers all the time.
//!
//! Owns: one run, short or long, and its report: every request that was not answered as it should be is
//! an error, and so are a certificate that was not replaced, an event that did not come and a process that
//! was started again. Must not: start the platform. Read next: `soak/load.rs` (what is asked),
//! `soak/watch.rs` (what is looked at meanwhile).

mod load;
mod tally;
mod watch;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::{join_all, try_join_all};

use crate::composition::{self, LIVES, NO_LIMITS};
use crate::stack::StackInfo;
use tally::Tally;
pub use tally::{Failure, Report};

/// How often a long run says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// What is run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Of the certificates of workloads.
    pub life: Duration,
    /// Of the public one and of the database server's, which live for a minute at least.
    pub edge: Duration,
    pub length: Duration,
    /// People who order one thing after the other, all at the same time.
    pub customers: usize,
    /// Between two orders of one of them.
    pub pause: Duration,
}

/// What all parts of a run see.
struct Run<'a> {
    stack: &'a StackInfo,
    plan: &'a Plan,
    begun: Instant,
    tally: RefCell<Tally>,
    done: Cell<bool>,
}

impl Plan {
    /// The composition that it needs.
    pub fn composition(&self) -> Result<String> {
        let (life, edge) = (self.life.as_secs(), self.edge.as_secs());
        let lives = format!("{{ workloads: {life}s, edge: {edge}s }}");
        let mut changes = NO_LIMITS.to_vec();
        changes.push((LIVES, &lives));
        composition::changed(&changes)
    }
}

/// Runs it on a platform that was started with the plan's composition.
pub async fn run(stack: &StackInfo, plan: &Plan) -> Result<Report> {
    let run = Run {
        stack,
        plan,
        begun: Instant::now(),
        tally: RefCell::default(),
        done: Cell::new(false),
    };
    // Whoever cannot even begin is no finding of a load.
    let customers: Vec<_> = (0..plan.customers)
        .map(|index| load::Customer::enter(&run, if index % 2 == 0 { "alice" } else { "bob" }))
        .collect();
    let customers = try_join_all(customers).await?;
    let stream = load::Stream::open(&run, "alice").await?;
    let database = load::Database::open(&run).await?;
    let ordering = customers.into_iter().map(load::Customer::order);
    let ((), _, (), (), watched) = tokio::join!(
        clock(&run),
        join_all(ordering),
        Box::pin(stream.follow()),
        Box::pin(database.ask()),
        Box::pin(watch::everything(&run)),
    );
    run.report(watched?)
}

impl Run<'_> {
    fn report(self, watched: watch::Watched) -> Result<Report> {
        let took = self.begun.elapsed();
        let plan = self.plan;
        let mut tally = self.tally.into_inner();
        watched.judge(plan, &mut tally);
        Ok(tally.report(plan, took, watched))
    }

    fn is_done(&self) -> bool {
        self.done.get()
    }

    /// Waits, but not beyond the end.
    async fn pause(&self, pause: Duration) {
        let left = self.plan.length.saturating_sub(self.begun.elapsed());
        tokio::time::sleep(pause.min(left)).await;
    }
}

/// Says how far it is, and when it is over.
async fn clock(run: &Run<'_>) {
    let length = run.plan.length;
    loop {
        let left = length.saturating_sub(run.begun.elapsed());
        if left.is_zero() {
            break;
        }
        tokio::time::sleep(left.min(PROGRESS)).await;
        let line = run.tally.borrow().progress();
        let at = run.begun.elapsed().as_secs();
        eprintln!("{at} s of {} s: {line}", length.as_secs());
    }
    run.done.set(true);
}
