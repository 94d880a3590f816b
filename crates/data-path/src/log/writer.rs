//! From workers to the log without waiting: each worker appends to its own buffer, one thread writes them out.
//!
//! Owns: the buffers, their bound, and the writing thread. A worker never wakes anybody and never blocks; when
//! the sink is slow and a buffer is full, lines are dropped and counted. Must not: format lines.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use thiserror::Error;
use time::OffsetDateTime;

/// Bytes that one worker may hold back.
const BUFFER_LIMIT: usize = 4 * 1024 * 1024;
/// How often the thread looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// Why the log cannot be written.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("open access log {path}: {source}")]
    Open {
        path: String,
        source: std::io::Error,
    },
    #[error("start the thread of the access log: {0}")]
    Thread(std::io::Error),
}

/// A worker's end of the log.
#[derive(Debug, Default)]
pub struct LogBuffer {
    lines: Mutex<Lines>,
    enabled: bool,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    stamp: Stamp,
}

/// The time stamp's text, rebuilt once a second.
#[derive(Debug, Default)]
struct Stamp {
    second: u64,
    text: String,
}

impl LogBuffer {
    pub fn new(enabled: bool) -> Self {
        Self {
            enabled,
            ..Self::default()
        }
    }

    /// Lets `line` append one line; skipped when the log is off or the buffer full.
    pub fn write(&self, line: impl FnOnce(&mut Vec<u8>, &str)) {
        if !self.enabled {
            return;
        }
        let mut lines = self.lines.lock();
        let Lines { bytes, stamp } = &mut *lines;
        if bytes.len() >= BUFFER_LIMIT {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        line(bytes, stamp.at(SystemTime::now()));
    }

    /// Lines dropped since the last call.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }

    /// Exchanges what was written so far for the empty `spare`.
    pub fn take(&self, spare: &mut Vec<u8>) {
        std::mem::swap(&mut self.lines.lock().bytes, spare);
    }
}

impl Stamp {
    /// RFC 3339 with milliseconds.
    fn at(&mut self, now: SystemTime) -> &str {
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        if since.as_secs() != self.second || self.text.is_empty() {
            self.second = since.as_secs();
            let at = OffsetDateTime::from_unix_timestamp(i64::try_from(self.second).unwrap_or(0))
                .unwrap_or(OffsetDateTime::UNIX_EPOCH);
            self.text = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.",
                at.year(),
                u8::from(at.month()),
                at.day(),
                at.hour(),
                at.minute(),
                at.second()
            );
        }
        self.text.truncate(20);
        let millis = since.subsec_millis();
        let digit = |value: u32| char::from_digit(value % 10, 10).unwrap_or('0');
        self.text
            .extend([digit(millis / 100), digit(millis / 10), digit(millis), 'Z']);
        &self.text
    }
}

/// The thread that writes; dropping it flushes and ends it.
#[derive(Debug)]
pub struct LogWriter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the thread over the buffers of all workers; `file` none means standard output.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not started.
    pub fn start(buffers: Vec<Arc<LogBuffer>>, file: Option<&Path>) -> Result<Self, LogError> {
        let sink: Box<dyn Write + Send> = match file {
            None => Box::new(std::io::stdout()),
            Some(path) => Box::new(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(|source| LogError::Open {
                        path: path.display().to_string(),
                        source,
                    })?,
            ),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&buffers, sink, &stopped))
            .map_err(LogError::Thread)?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the writer has nothing to add at this point.
            let _ended = thread.join();
        }
    }
}

fn write_all(buffers: &[Arc<LogBuffer>], mut sink: Box<dyn Write + Send>, stop: &AtomicBool) {
    let mut spare = Vec::new();
    loop {
        let last = stop.load(Ordering::Acquire);
        for buffer in buffers {
            buffer.take(&mut spare);
            if !spare.is_empty() {
                // A sink that fails loses these lines; the data path goes on.
                if sink.write_all(&spare).and_then(|()| sink.flush()).is_err() {
                    buffer.dropped.fetch_add(1, Ordering::Relaxed);
                }
                spare.clear();
                spare.shrink_to(BUFFER_LIMIT / 8);
            }
        }
        if last {
            return;
        }
        std::thread::park_timeout(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_the_file_and_a_full_buffer_drops_without_waiting() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("access.log");
        let buffer = Arc::new(LogBuffer::new(true));
        buffer.write(|out, _| out.resize(BUFFER_LIMIT, b'x'));
        buffer.write(|out, _| out.push(b'y'));
        assert_eq!(buffer.take_dropped(), 1);
        drop(LogWriter::start(vec![Arc::clone(&buffer)], Some(&path)).expect("writer"));
        assert_eq!(
            std::fs::metadata(&path).expect("file").len(),
            BUFFER_LIMIT as u64
        );
    }

    #[test]
    fn the_stamp_is_rfc_3339() {
        let mut stamp = Stamp::default();
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_792_000_000_007);
        assert_eq!(stamp.at(at), "2026-10-14T17:46:40.007Z");
        assert_eq!(
            stamp.at(at + Duration::from_millis(990)),
            "2026-10-14T17:46:40.997Z"
        );
    }
}
