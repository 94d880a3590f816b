//! A real Chromium, driven over WebDriver.
//!
//! Owns: the chromedriver process, a profile of its own whose NSS database trusts the local
//! certificate authority, and screenshots of what a failing scenario saw.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::json;

use crate::options;
use crate::stack::StackInfo;

/// How long a page may take to show what a scenario waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// One browser window with an empty profile.
pub struct Browser {
    pub page: Client,
    driver: Child,
    home: tempfile::TempDir,
}

impl Browser {
    pub async fn open(stack: &StackInfo) -> Result<Self> {
        let home = tempfile::tempdir()?;
        trust(home.path(), &stack.ca_bundle())?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .env("HOME", home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start chromedriver: run `cargo xtask setup`")?;
        let page = match connect(port, home.path()).await {
            Ok(page) => page,
            Err(error) => {
                end(driver);
                return Err(error);
            }
        };
        Ok(Self { page, driver, home })
    }

    /// Waits for the element and clicks it.
    pub async fn click(&self, locator: Locator<'_>) -> Result<()> {
        let element = self.wait(locator).await?;
        element
            .click()
            .await
            .with_context(|| format!("cannot click {locator:?}"))
    }

    /// Waits for the button or link that a person would call `name`.
    pub async fn press(&self, name: &str) -> Result<()> {
        let path = format!(
            "//*[self::button or self::a][normalize-space(.)='{name}' or @aria-label='{name}']"
        );
        self.click(Locator::XPath(&path)).await
    }

    /// Waits for the element and types into it.
    pub async fn fill(&self, locator: Locator<'_>, text: &str) -> Result<()> {
        let element = self.wait(locator).await?;
        element
            .send_keys(text)
            .await
            .with_context(|| format!("cannot type into {locator:?}"))
    }

    /// Waits until `text` stands on the page.
    pub async fn sees(&self, text: &str) -> Result<()> {
        let path = format!("//body//*[contains(normalize-space(.), '{text}')]");
        self.wait(Locator::XPath(&path)).await.map(|_| ())
    }

    pub async fn wait(&self, locator: Locator<'_>) -> Result<fantoccini::elements::Element> {
        match self
            .page
            .wait()
            .at_most(PATIENCE)
            .for_element(locator)
            .await
        {
            Ok(element) => Ok(element),
            Err(error) => {
                let url = self.page.current_url().await?;
                let seen = self.text().await.unwrap_or_default();
                let shot = self.screenshot("missing-element").await;
                bail!(
                    "{locator:?} did not appear at {url} ({error}); screenshot {shot:?}; the page says: {seen}"
                )
            }
        }
    }

    /// The visible text of the page.
    pub async fn text(&self) -> Result<String> {
        Ok(self.page.find(Locator::Css("body")).await?.text().await?)
    }

    /// Keeps a picture of the page under the target directory and returns where it is.
    pub async fn screenshot(&self, name: &str) -> Result<PathBuf> {
        let folder = options::screenshots().context("the test lies in no target directory")?;
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{name}.png"));
        std::fs::write(&file, self.page.screenshot().await?)?;
        Ok(file)
    }

    /// Closes the window and ends the driver.
    pub async fn close(self) -> Result<()> {
        let Self { page, driver, home } = self;
        let closed = page.close().await;
        end(driver);
        drop(home);
        closed.context("the browser did not close")
    }
}

fn end(mut driver: Child) {
    // Already ended is as good as killed.
    let _ = driver.kill();
    let _ = driver.wait();
}

async fn connect(port: u16, home: &Path) -> Result<Client> {
    let mut capabilities = Capabilities::new();
    let flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // A page in the middle of an animation is not what a person reads.
        "--force-prefers-reduced-motion",
        "--window-size=1280,900",
    ];
    let profile = format!("--user-data-dir={}", home.join("profile").display());
    let flags: Vec<String> = flags
        .iter()
        .map(|flag| (*flag).to_owned())
        .chain([profile])
        .collect();
    capabilities.insert(
        "goog:chromeOptions".to_owned(),
        json!({ "args": flags, "binary": "/usr/bin/chromium" }),
    );
    capabilities.insert(
        "goog:loggingPrefs".to_owned(),
        json!({ "performance": "ALL" }),
    );
    let deadline = Instant::now() + PATIENCE;
    loop {
        let attempt = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities.clone())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await;
        match attempt {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("chromedriver gave no session");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Chromium on Linux trusts what the NSS database of its user trusts.
fn trust(home: &Path, authority: &Path) -> Result<()> {
    let database = home.join(".pki/nssdb");
    std::fs::create_dir_all(&database)?;
    let location = format!("sql:{}", database.display());
    let steps: [&[&str]; 2] = [
        &["-N", "--empty-password"],
        &["-A", "-n", "ringwall", "-t", "C,,", "-i"],
    ];
    for step in steps {
        let mut command = Command::new("certutil");
        command.args(["-d", &location]).args(step);
        if step.contains(&"-i") {
            command.arg(authority);
        }
        let output = command
            .output()
            .context("cannot run certutil: run `cargo xtask setup`")?;
        if !output.status.success() {
            bail!(
                "certutil failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    Ok(())
}
