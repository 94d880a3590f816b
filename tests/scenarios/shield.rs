//! The edge shield before the whole platform: who abuses the gateway is dropped at the interface for a while, an operator
//! sees and says who is denied, and nobody is denied who must not be.
//!
//! What the programs do with each kind of packet is in `ebpf/loader/tests/kernel/shield.rs`.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::edge;
use e2e::operator;
use e2e::outside::Outside;
use e2e::stack::StackInfo;
use futures_util::future::join_all;
use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long a dial may take that is answered, on a busy machine; a dropped SYN is repeated after a second.
const ANSWERED: Duration = Duration::from_secs(5);
/// How long is waited for an answer that must not come.
const DROPPED: Duration = Duration::from_millis(700);
/// From an act to what it leads to: the sweep after an interface has come back takes ten seconds.
const SOON: Duration = Duration::from_secs(30);
/// As `Stack::behind_a_shield` has it: of one source, connections at once, and for each second after that.
const BURST: usize = 100;
const PER_SECOND: u64 = 20;
/// Of whom nothing is ever said.
const HONEST: u8 = 0;

/// ATTACKS: abuse of the gateway leads to a denial by the kernel that ends by itself; floods of connections end before the
/// gateway; `ringwall shield` shows and changes all of it.
pub(super) async fn attack_abuse_ends_at_the_interface_until_it_is_forgiven(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let street = Street {
        stack: &stack,
        outside: stack.outside()?,
    };
    street.is_at_work().await?;
    street.abuse_is_denied_for_a_while().await?;
    street.nobody_of_this_machine_is_denied().await?;
    street.operators_deny_and_forgive().await?;
    street.a_flood_of_connections_is_limited().await?;
    street.a_dead_agent_lets_nobody_in().await?;
    street.a_missing_interface_is_told().await
}

struct Street<'a> {
    stack: &'a StackInfo,
    outside: &'a Outside,
}

impl Street<'_> {
    /// One request of a client: the head of the answer, or nothing where it is dropped.
    async fn asks(&self, client: Ipv4Addr, fields: &str, patience: Duration) -> Result<String> {
        let port = self.stack.public_address().port();
        let Some(tcp) = self.outside.dial(client, port, patience).await? else {
            return Ok(String::new());
        };
        let host = self.stack.app_host();
        let request =
            format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{fields}\r\n");
        let exchange = async {
            let mut stream = edge::tls_over(self.stack, &host, tcp).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            // A closing peer may skip close_notify.
            let _ = stream.read_to_end(&mut answer).await;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        // It may be denied in the middle of it.
        match tokio::time::timeout(patience, exchange).await {
            Ok(answer) => answer,
            Err(_) => Ok(String::new()),
        }
    }

    async fn is_served(&self, client: Ipv4Addr) -> Result<()> {
        let answer = self.asks(client, "", ANSWERED).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{client}: {answer:?}");
        Ok(())
    }

    async fn is_dropped(&self, client: Ipv4Addr) -> Result<()> {
        let port = self.stack.public_address().port();
        let dialled = self.outside.dial(client, port, DROPPED).await?;
        ensure!(dialled.is_none(), "{client} is answered");
        Ok(())
    }

    /// What `ringwall shield list` says of a network.
    async fn listed(&self, network: &str) -> Result<Option<Value>> {
        let words = ["shield", "list", "-o", "json"];
        let list = operator::command(self.stack, &words).await?.json()?;
        let rows = list["denied"].as_array().context("no list")?;
        let mut rows = rows.iter().filter(|row| row["network"] == network);
        Ok(rows.next().cloned())
    }

    async fn checked(&self) -> Result<Value> {
        let said = operator::check(self.stack, &["--mesh", "-o", "json"])
            .await?
            .json()?;
        let findings = said["findings"].as_array().context("no findings")?;
        let mut found = findings.iter().filter(|one| one["subject"] == "shield");
        found.next().cloned().context("nothing about the shield")
    }

    async fn is_at_work(&self) -> Result<()> {
        let found = self.checked().await?;
        let expected = format!("on at {} (driver)", self.outside.interface());
        let detail = found["detail"].as_str().unwrap_or_default();
        ensure!(
            found["ok"] == true && detail.starts_with(&expected),
            "{found}"
        );
        self.is_served(self.outside.client(HONEST)).await
    }

    /// The gateway's own signals, the agent's list, the kernel's drop, its end.
    async fn abuse_is_denied_for_a_while(&self) -> Result<()> {
        let smuggler = self.outside.client(1);
        let network = smuggler.to_string();
        self.is_served(smuggler).await?;
        let smuggled = "content-length: 4\r\ntransfer-encoding: chunked\r\n";
        let mut refused = 0;
        let row = loop {
            ensure!(refused < 100, "nobody denies {network}");
            let answer = self.asks(smuggler, smuggled, ANSWERED).await?;
            refused += u32::from(answer.starts_with("HTTP/1.1 400"));
            if let Some(row) = self.listed(&network).await? {
                break row;
            }
        };
        let denied = Instant::now();
        // Ten points for each, forty are enough: four of them at one worker.
        ensure!(refused >= 4, "denied after {refused} refusals");
        let left = row["seconds_left"].as_u64();
        ensure!(row["reason"] == "malformed", "{row}");
        ensure!(left.is_some_and(|left| left <= 5), "{row}");
        self.is_dropped(smuggler).await?;
        self.is_served(self.outside.client(HONEST)).await?;
        let top = operator::command(self.stack, &["shield", "top", "-o", "json"]).await?;
        let top = top.json()?;
        let talkers = top["talkers"].as_array().context("no talkers")?;
        let talker = talkers
            .iter()
            .find(|row| row["network"] == network.as_str());
        let dropped = talker.and_then(|row| row["dropped"].as_u64());
        ensure!(dropped.is_some_and(|dropped| dropped >= 1), "{top}");
        // It ends by itself: nobody removes it.
        while self.asks(smuggler, "", DROPPED).await?.is_empty() {
            ensure!(denied.elapsed() < SOON, "{network} is denied for ever");
        }
        ensure!(
            denied.elapsed() > Duration::from_secs(3),
            "{:?} of 5 s",
            denied.elapsed()
        );
        ensure!(self.listed(&network).await?.is_none(), "it has ended");
        Ok(())
    }

    /// Whatever comes from this machine is refused by the gateway and denied by nobody: from loopback and from its address.
    async fn nobody_of_this_machine_is_denied(&self) -> Result<()> {
        let host = self.stack.app_host();
        let smuggled = format!(
            "GET / HTTP/1.1\r\nhost: {host}\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        for _ in 0..20 {
            let answer = edge::raw_exchange(self.stack, &host, smuggled.as_bytes()).await?;
            ensure!(answer.starts_with("HTTP/1.1 400"), "{answer}");
            let near = (self.outside.near(), self.stack.public_address().port());
            let tcp = tokio::net::TcpStream::connect(near).await?;
            let mut stream = edge::tls_over(self.stack, &host, tcp).await?;
            stream.write_all(smuggled.as_bytes()).await?;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            ensure!(
                answer.starts_with(b"HTTP/1.1 400"),
                "this machine is dropped"
            );
        }
        let told = Instant::now();
        let exempt = loop {
            let log = self.stack.log("gateway")?;
            let own = format!("\"{}\"", self.outside.near());
            let mut lines = log.lines().filter(|line| line.contains(&own));
            if let Some(line) = lines.find(|line| line.contains("reported for abuse")) {
                break line.to_owned();
            }
            ensure!(told.elapsed() < SOON, "the gateway has not reported {own}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        ensure!(exempt.contains("EXEMPT"), "{exempt}");
        let words = ["shield", "list", "-o", "json"];
        let list = operator::command(self.stack, &words).await?.json()?;
        ensure!(list["denied"] == Value::Array(Vec::new()), "{list}");
        Ok(())
    }

    async fn operators_deny_and_forgive(&self) -> Result<()> {
        let other = self.outside.client(2);
        let network = other.to_string();
        let deny = ["shield", "add", network.as_str(), "--for", "10m"];
        let said = operator::command(self.stack, &deny).await?;
        ensure!(said.out.contains("is denied for"), "{said:?}");
        self.is_dropped(other).await?;
        self.is_served(self.outside.client(HONEST)).await?;
        let row = self.listed(&network).await?.context("not listed")?;
        ensure!(row["reason"] == "operator", "{row}");
        let words = ["shield", "list"];
        let table = operator::command(self.stack, &words).await?;
        ensure!(table.out.contains(&network), "{table:?}");
        let forgive = ["shield", "rm", network.as_str()];
        operator::command(self.stack, &forgive).await?;
        self.is_served(other).await?;
        let again = operator::said(self.stack, &forgive).await?;
        ensure!(
            again.code != Some(0) && again.err.contains("is not on the list"),
            "{again:?}"
        );
        let whole = operator::said(self.stack, &["shield", "add", "0.0.0.0/0"]).await?;
        ensure!(
            whole.code != Some(0) && whole.err.contains("wider than a /8"),
            "{whole:?}"
        );
        Ok(())
    }

    async fn a_flood_of_connections_is_limited(&self) -> Result<()> {
        let port = self.stack.public_address().port();
        let crowd = self.outside.client(3);
        let begun = Instant::now();
        let dials = (0..3 * BURST).map(|_| self.outside.dial(crowd, port, DROPPED));
        let opened = join_all(dials).await;
        let opened: Vec<_> = opened.into_iter().collect::<Result<_>>()?;
        let count = opened.iter().flatten().count();
        let later = PER_SECOND * (begun.elapsed().as_secs() + 1);
        let most = BURST + usize::try_from(later)?;
        ensure!(count <= most, "{count} of at most {most} connections");
        ensure!(count >= BURST / 2, "{count}: the burst is the source's");
        self.is_served(self.outside.client(HONEST)).await?;
        let top = operator::command(self.stack, &["shield", "top", "-o", "json"]).await?;
        let top = top.json()?;
        let talkers = top["talkers"].as_array().context("no talkers")?;
        ensure!(
            talkers.iter().any(|row| {
                row["network"] == crowd.to_string() && row["reason"] == "connection-rate"
            }),
            "{top}"
        );
        Ok(())
    }

    /// Its programs and its list are the kernel's; its successor takes them over.
    async fn a_dead_agent_lets_nobody_in(&self) -> Result<()> {
        let other = self.outside.client(4);
        let network = other.to_string();
        operator::command(self.stack, &["shield", "add", &network]).await?;
        self.is_dropped(other).await?;
        self.stack.kill("agent").await?;
        self.is_dropped(other).await?;
        let killed = Instant::now();
        while operator::said(self.stack, &["shield", "rm", &network])
            .await?
            .code
            != Some(0)
        {
            ensure!(killed.elapsed() < SOON, "no agent comes back");
        }
        self.is_served(other).await
    }

    /// The gateway serves on, `ringwall check` says what is missing, and what comes back is guarded again.
    async fn a_missing_interface_is_told(&self) -> Result<()> {
        let other = self.outside.client(5);
        let network = other.to_string();
        operator::command(self.stack, &["shield", "add", &network]).await?;
        self.outside.take_away()?;
        let gone = Instant::now();
        let found = loop {
            let found = self.checked().await?;
            if found["ok"] == false {
                break found;
            }
            ensure!(gone.elapsed() < SOON, "{found}");
        };
        let detail = found["detail"].as_str().unwrap_or_default();
        let expected = format!("not at {}", self.outside.interface());
        ensure!(detail.contains(&expected), "{found}");
        let client = edge::client(self.stack)?;
        let served = client.get(self.stack.app_url()).send().await?.status();
        ensure!(served == StatusCode::OK, "the gateway: {served}");
        self.outside.bring_back()?;
        let back = Instant::now();
        while self.checked().await?["ok"] == false {
            ensure!(back.elapsed() < SOON, "it is not guarded again");
        }
        self.is_dropped(other).await?;
        self.is_served(self.outside.client(HONEST)).await
    }
}
