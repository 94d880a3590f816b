//! Our word to the agent about processes that we have started, where no control group says it.
//!
//! Owns: who is to be told of, and telling it until the agent has heard. An agent that was started
//! again has forgotten everything. Must not: speak of a process that is not our child.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::output::say;
use crate::processes::ProcessId;

/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// The processes of which the agent is told.
#[derive(Debug)]
pub(super) struct Words {
    socket: PathBuf,
    told: BTreeMap<String, (ProcessId, String)>,
}

#[derive(Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    error: Option<String>,
}

impl Words {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            told: BTreeMap::new(),
        }
    }

    /// Says that `process`, which is called `name`, is `workload`.
    pub(super) fn tell(&mut self, name: &str, process: ProcessId, workload: &str) {
        let entry = (process, workload.to_owned());
        self.told.insert(name.to_owned(), entry);
        self.send(process, workload);
    }

    /// Says it all again.
    pub(super) fn repeat(&self) {
        for (process, workload) in self.told.values() {
            self.send(*process, workload);
        }
    }

    /// Tries until the agent has heard or the process is gone.
    fn send(&self, process: ProcessId, workload: &str) {
        let (socket, workload) = (self.socket.clone(), workload.to_owned());
        tokio::spawn(async move {
            while process.is_alive() {
                match say_once(&socket, process, &workload).await {
                    Ok(answer) if answer.ok => return,
                    Ok(answer) => {
                        let why = answer.error.unwrap_or_default();
                        say(&format!(
                            "warning: the agent does not take {workload} (pid {}): {why}",
                            process.pid
                        ));
                        return;
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        });
    }
}

async fn say_once(
    socket: &std::path::Path,
    process: ProcessId,
    workload: &str,
) -> std::io::Result<Answer> {
    let (read, mut write) = UnixStream::connect(socket).await?.into_split();
    let ProcessId { pid, started } = process;
    let word = serde_json::json!({ "pid": pid, "started": started, "workload": workload });
    write.write_all(format!("{word}\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    serde_json::from_str(&line).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn an_agent_that_comes_later_or_again_hears_of_every_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let mut words = Words::new(path.clone());
        let own = ProcessId::own().unwrap();
        words.tell("orders-proxy", own, "orders");
        let listener = UnixListener::bind(&path).unwrap();
        for round in 0..2 {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            let mut line = String::new();
            BufReader::new(read).read_line(&mut line).await.unwrap();
            let word: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(word["pid"], own.pid);
            assert_eq!(word["started"], own.started);
            assert_eq!(word["workload"], "orders");
            write.write_all(b"{\"ok\":true}\n").await.unwrap();
            if round == 0 {
                words.repeat();
            }
        }
    }
}
