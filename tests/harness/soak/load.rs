//! Who uses the platform during a soak: customers, a page that stays open, a connection to the database.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::Run;
use crate::person::Person;
use crate::stack::StackInfo;

/// What does not come within this is an error.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the last event may take.
const ANNOUNCED: Duration = Duration::from_secs(20);
/// Before a page that lost its stream asks again, as browsers do.
const RECONNECT: Duration = Duration::from_millis(500);
/// One of so many orders is followed by a look at the history and at the catalogue.
const LOOKS: u64 = 4;
const STREAM: &str = "/api/notifications/stream";

impl Run<'_> {
    pub(super) fn error(&self, what: impl Into<String>) {
        self.tally.borrow_mut().error(self.begun.elapsed(), what);
    }

    /// Counts a request with its time, or as an error.
    fn counted<T>(&self, what: &str, asked: Instant, outcome: Result<T>) -> Option<T> {
        let took = asked.elapsed();
        let mut tally = self.tally.borrow_mut();
        tally.requests += 1;
        match outcome {
            Ok(answer) => {
                tally.latencies.push(took);
                Some(answer)
            }
            Err(error) => {
                tally.error(self.begun.elapsed(), format!("{what}: {error:#}"));
                None
            }
        }
    }
}

/// Someone who orders one thing after the other.
pub(super) struct Customer<'a> {
    run: &'a Run<'a>,
    user: &'static str,
    person: Person,
    skus: Vec<String>,
}

impl<'a> Customer<'a> {
    pub(super) async fn enter(run: &'a Run<'a>, user: &'static str) -> Result<Self> {
        let person = Person::signed_in(run.stack, user).await?;
        let skus = person.skus().await?;
        Ok(Self {
            run,
            user,
            person,
            skus,
        })
    }

    pub(super) async fn order(self) {
        let run = self.run;
        let mut count = 0;
        for sku in self.skus.iter().cycle() {
            if run.is_done() {
                break;
            }
            let asked = Instant::now();
            let placed = in_time(self.place(sku)).await;
            if let Some(id) = run.counted("an order", asked, placed) {
                let mut tally = run.tally.borrow_mut();
                tally.orders += 1;
                if self.user == run.followed() {
                    tally.placed.insert(id);
                }
            }
            count += 1;
            if count % LOOKS == 0 {
                for path in ["/api/orders?limit=5", "/api/catalogue"] {
                    let asked = Instant::now();
                    let answer = in_time(self.person.api_json(Method::GET, path, None)).await;
                    run.counted(path, asked, answer);
                }
            }
            run.pause(run.plan.pause).await;
        }
    }

    /// One order, which must be placed; its id.
    async fn place(&self, sku: &str) -> Result<String> {
        let key = uuid::Uuid::new_v4().to_string();
        let (status, order) = self.person.order(sku, &key).await?;
        ensure!(
            status.is_success() && order["status"] == "placed",
            "{status}: {order}"
        );
        let id = order["id"].as_str().context("an order without an id")?;
        Ok(id.to_owned())
    }
}

/// An open page: every order of its user must be announced there, each once.
pub(super) struct Stream<'a> {
    run: &'a Run<'a>,
    person: Person,
    answer: reqwest::Response,
    last: Option<String>,
}

impl<'a> Stream<'a> {
    pub(super) async fn open(run: &'a Run<'a>, user: &str) -> Result<Self> {
        let person = Person::signed_in(run.stack, user).await?;
        let answer = listen(&person, None).await?;
        Ok(Self {
            run,
            person,
            answer,
            last: None,
        })
    }

    pub(super) async fn follow(mut self) {
        let run = self.run;
        let mut text = String::new();
        let mut until = None;
        loop {
            if run.is_done() {
                let until = *until.get_or_insert_with(|| Instant::now() + ANNOUNCED);
                let missing = run.unannounced();
                if missing.is_empty() || Instant::now() > until {
                    break;
                }
            }
            let next = tokio::time::timeout(RECONNECT, self.answer.chunk()).await;
            let Ok(next) = next else { continue };
            match next {
                Ok(Some(chunk)) => {
                    text.push_str(&String::from_utf8_lossy(&chunk));
                    while let Some((event, rest)) = text.split_once("\n\n") {
                        self.event(event);
                        text = rest.to_owned();
                    }
                    continue;
                }
                Ok(None) => run.tally.borrow_mut().stream.ended += 1,
                Err(_) => run.tally.borrow_mut().stream.cut += 1,
            }
            text.clear();
            self.again().await;
        }
        for id in run.unannounced() {
            run.error(format!("the order {id} was not announced"));
        }
    }

    /// Connects until there is a stream: the first refusal is an error as much as the last.
    async fn again(&mut self) {
        let run = self.run;
        loop {
            tokio::time::sleep(RECONNECT).await;
            let asked = Instant::now();
            let opened = in_time(listen(&self.person, self.last.as_deref())).await;
            if let Some(answer) = run.counted(STREAM, asked, opened) {
                self.answer = answer;
                return;
            }
            if run.is_done() {
                return;
            }
        }
    }

    fn event(&mut self, event: &str) {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let (Some(id), Some(data)) = (field("id: "), field("data: ")) else {
            return; // a heartbeat
        };
        self.last = Some(id.to_owned());
        let data: Value = serde_json::from_str(data).unwrap_or_default();
        let order = data["order_id"].as_str().unwrap_or_default().to_owned();
        let mut tally = self.run.tally.borrow_mut();
        tally.stream.events += 1;
        if !tally.announced.insert(order.clone()) {
            let at = self.run.begun.elapsed();
            tally.error(at, format!("the order {order} was announced twice"));
        }
    }
}

impl Run<'_> {
    /// Whose stream is followed.
    fn followed(&self) -> &'static str {
        "alice"
    }

    fn unannounced(&self) -> Vec<String> {
        let tally = self.tally.borrow();
        tally.placed.difference(&tally.announced).cloned().collect()
    }
}

async fn listen(person: &Person, last: Option<&str>) -> Result<reqwest::Response> {
    let mut request = person.request(Method::GET, STREAM)?;
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let answer = request.send().await.context("cannot open the stream")?;
    ensure!(answer.status().is_success(), "{}", answer.status());
    Ok(answer)
}

/// One connection to PostgreSQL through the proxy of orders, which carries it as opaque bytes: it must
/// outlive every certificate.
pub(super) struct Database<'a> {
    run: &'a Run<'a>,
    _psql: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl<'a> Database<'a> {
    pub(super) async fn open(run: &'a Run<'a>) -> Result<Self> {
        let mut psql = tokio::process::Command::new("psql")
            .args(["--no-password", "--no-psqlrc", "--quiet", "--tuples-only"])
            .args(["--no-align", &target(run.stack)?])
            .env(
                "PGPASSWORD",
                run.stack.secret("orders", "postgres-password")?,
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run psql: run `cargo xtask setup`")?;
        let answers = BufReader::new(psql.stdout.take().context("no output")?).lines();
        let mut database = Self {
            run,
            questions: psql.stdin.take().context("no input")?,
            _psql: psql,
            answers,
        };
        database.answer(0).await.context("the first question")?;
        Ok(database)
    }

    /// Asks until the end, or until the connection is lost.
    pub(super) async fn ask(mut self) {
        let mut number = 0;
        while !self.run.is_done() {
            number += 1;
            if let Err(error) = in_time(self.answer(number)).await {
                self.run
                    .error(format!("the connection to the database: {error:#}"));
                return;
            }
            self.run.tally.borrow_mut().database += 1;
            self.run.pause(Duration::from_secs(1)).await;
        }
    }

    async fn answer(&mut self, number: u64) -> Result<()> {
        let question = format!("select {number};\n");
        self.questions.write_all(question.as_bytes()).await?;
        let answer = self.answers.next_line().await?;
        ensure!(
            answer == Some(number.to_string()),
            "{answer:?} instead of {number}"
        );
        Ok(())
    }
}

/// Where the application of orders finds its database, with its certificate.
fn target(stack: &StackInfo) -> Result<String> {
    let file = stack.state_dir.join("config/orders-proxy.yaml");
    let value: Value = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
    let listen = value["outbound"]["tcp"][0]["listen"].as_str();
    let listen: std::net::SocketAddr = listen.context("no tcp listener")?.parse()?;
    let folder = stack.identity("orders").join("postgres");
    let folder = folder.to_str().context("not a UTF-8 path")?;
    Ok(format!(
        "host=postgres hostaddr={} port={} dbname=orders user=orders sslmode=verify-full \
         sslrootcert={folder}/bundle.pem sslcert={folder}/client.pem sslkey={folder}/client.key \
         connect_timeout=5",
        listen.ip(),
        listen.port(),
    ))
}

async fn in_time<T>(asked: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(outcome) => outcome,
        Err(_) => bail!("no answer within {PATIENCE:?}"),
    }
}
