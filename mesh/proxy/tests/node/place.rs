//! A machine: a network namespace, and a thread that lives in it.
//!
//! What the thread opens or starts is on that machine. The namespace has no name and ends with whatever is in it, so
//! nothing is left behind, however a test ends.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use nix::sched::{CloneFlags, unshare};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub(crate) struct Place {
    handle: Handle,
    /// Of its thread; the kernel finds the namespace by it.
    thread: i32,
    /// The thread ends when this is dropped.
    _stop: oneshot::Sender<()>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let (started, begun) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                started.send(Err(error)).unwrap();
                return;
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let thread = nix::unistd::gettid().as_raw();
            started
                .send(Ok((runtime.handle().clone(), thread)))
                .unwrap();
            // An error says that the sender is gone: that is how it ends.
            let _dropped = runtime.block_on(stopped);
        });
        let (handle, thread) = begun.recv().unwrap().unwrap_or_else(|error| {
            panic!("no network namespace ({error}): these tests need CAP_SYS_ADMIN, as root has it")
        });
        let place = Self {
            handle,
            thread,
            _stop: stop,
        };
        place.ip("link set lo up");
        place
    }

    /// Lays a cable from here to `other`. Its two ends are called `cable`.
    pub(crate) fn connect(&self, own: &str, other: &Self, their: &str) {
        self.ip(&format!(
            "link add cable type veth peer name cable netns {}",
            other.thread
        ));
        for (place, address) in [(self, own), (other, their)] {
            place.ip(&format!("addr add {address}/24 dev cable"));
            place.ip("link set cable up");
        }
    }

    /// Runs `ip` of iproute2 here.
    pub(crate) fn ip(&self, arguments: &str) {
        let mut command = Command::new("ip");
        command.args(arguments.split(' '));
        let output = self.run(async move { command.output() });
        let output = output.unwrap_or_else(|error| panic!("`ip` of iproute2 is needed: {error}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "ip {arguments}: {said}");
    }

    /// Starts a process here.
    pub(crate) fn start(&self, mut command: Command) -> Child {
        command.stdin(Stdio::null());
        let text = format!("{command:?}");
        self.run(async move { command.spawn() })
            .unwrap_or_else(|error| panic!("{text} does not start: {error}"))
    }

    /// Does something here and waits for it.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (sender, result) = mpsc::channel();
        self.handle.spawn(async move {
            // Whoever has stopped waiting has failed already.
            let _gone = sender.send(work.await);
        });
        result.recv().expect("what was done here has panicked")
    }

    /// Does something here meanwhile.
    pub(crate) fn meanwhile<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.handle.spawn(work)
    }
}
