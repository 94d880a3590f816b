//! The connection around the state machine: streams that are opened again whenever they end.
//!
//! Owns: which replica is asked, the pauses between attempts, and what is reported besides: the own endpoint, and which
//! policies decided. While no control plane answers, everything stays as it was said last.
//! Must not: decide what a message means (`machine.rs`). Time is tokio's and chance a parameter, so that a simulation owns
//! both.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringwall_mesh_api::v1::proxy_message::Message;
use ringwall_mesh_api::v1::{self, configuration_client::ConfigurationClient};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{MissedTickBehavior, Sleep, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::machine::Machine;
use super::policy::Keys;
use super::saved::{Saved, SavedError, Store};
use super::{Settings, State};

/// Longest message of the control plane, in bytes: thousands of endpoints and the longest policy fit.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Messages to the control plane that wait for it. One that does not read has failed.
const MAX_WAITING: usize = 64;
/// From opening a stream to its first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// Pauses between attempts double from the first to the last of these; each is shortened by chance to no less than half.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// From a stream's first message until whoever was cut off together with us is back: their longest pause, and an attempt.
const SETTLE: Duration = Duration::from_secs(15);
/// Time between two reports of uses.
const USAGE: Duration = Duration::from_secs(10);
/// Changes within this time are saved together.
const SAVE_AFTER: Duration = Duration::from_secs(1);

/// One proxy's connection to the control plane.
pub(crate) struct Client {
    settings: Settings,
    state: Arc<State>,
    machine: Arc<Mutex<Machine>>,
    /// The policy in use was verified with saved keys.
    unconfirmed: bool,
    saving: Arc<Notify>,
}

/// How a stream ended.
#[derive(Debug)]
enum End {
    /// It was of use; the same replica may be asked again at once.
    Reopen,
    Failed(String),
}

impl Client {
    /// Reads the last good state and publishes it: from here on the proxy decides, with or without a control plane.
    pub(crate) fn open(settings: Settings, state: Arc<State>) -> Self {
        let keys = current_keys(&settings.keys);
        let unconfirmed = keys.is_none();
        let saved = settings.store.as_ref().map(Store::read).transpose();
        let machine = match saved.map(Option::flatten) {
            Ok(Some(saved)) => restored(&settings, saved, keys),
            Ok(None) => fresh(&settings, keys),
            Err(error) => {
                tracing::error!(%error, "the last good state is not used");
                fresh(&settings, keys)
            }
        };
        state.publish_machine(&machine);
        Self {
            settings,
            state,
            machine: Arc::new(Mutex::new(machine)),
            unconfirmed,
            saving: Arc::default(),
        }
    }

    /// What is known of the application behind this proxy; `Unspecified` until it has been asked once.
    pub(crate) fn health(&self) -> watch::Receiver<v1::Health> {
        self.settings.health.clone()
    }

    /// Follows the control plane until the process ends. `shutdown` is when the endpoint is to be taken out of use.
    pub(crate) async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let saver = self.settings.store.clone().map(|store| {
            let (machine, saving) = (Arc::clone(&self.machine), Arc::clone(&self.saving));
            tokio::spawn(save(store, machine, saving))
        });
        let saver = AbortOnDrop(saver);
        let draining = watch::Sender::new(false);
        let drain = async {
            shutdown.await;
            draining.send_replace(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = drain => {}
            () = self.follow(draining.subscribe()) => {}
        }
        drop(saver);
    }

    async fn follow(&mut self, draining: watch::Receiver<bool>) {
        let mut attempt = 0_u32;
        let mut replica = 0_usize;
        loop {
            let applied = self.state.subscribe();
            let end = self.stream(replica, draining.clone()).await;
            self.state.set_connected(false);
            if applied.has_changed().unwrap_or(false) {
                attempt = 0;
            }
            match end {
                End::Reopen => tracing::info!("the configuration stream is opened anew"),
                End::Failed(why) => {
                    replica = replica.wrapping_add(1);
                    tracing::warn!(
                        why,
                        attempt,
                        "no configuration stream; the last good state serves"
                    );
                }
            }
            sleep(pause(attempt, (self.settings.chance)())).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// One stream from its hello to its end.
    async fn stream(&mut self, replica: usize, mut draining: watch::Receiver<bool>) -> End {
        let Some(channel) = replica
            .checked_rem(self.settings.replicas.len())
            .and_then(|index| self.settings.replicas.get(index))
        else {
            return End::Failed("no control plane is declared".to_owned());
        };
        let (answers, mut messages) = match self.open_stream(channel.clone()).await {
            Ok(opened) => opened,
            Err(why) => return End::Failed(why),
        };
        // Our way to the control plane may lead through another address than the last time.
        let address = match &self.settings.endpoint {
            None => None,
            Some(served) => match served.place.address().await {
                Ok(address) => Some(address),
                Err(error) => return End::Failed(format!("no address to be dialled at: {error}")),
            },
        };
        let mut keys = self.settings.keys.clone();
        let mut health = self.settings.health.clone();
        health.mark_changed();
        let mut usage = interval(USAGE);
        usage.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut first = Some(Box::pin(sleep(FIRST_MESSAGE)));
        let mut settle: Option<Pin<Box<Sleep>>> = None;
        loop {
            let sent = tokio::select! {
                message = messages.message() => {
                    if first.take().is_some() {
                        settle = Some(Box::pin(sleep(SETTLE)));
                    }
                    match self.message(message, &answers) {
                        Ok(()) => Ok(()),
                        Err(end) => return end,
                    }
                }
                () = async { first.as_mut().expect("guarded by the condition").await }, if first.is_some() => {
                    return End::Failed(format!("no message within {FIRST_MESSAGE:?}"));
                }
                () = async { settle.as_mut().expect("guarded by the condition").await }, if settle.is_some() => {
                    settle = None;
                    self.settle();
                    Ok(())
                }
                Ok(()) = keys.changed() => match self.new_keys() {
                    true => return End::Reopen,
                    false => Ok(()),
                },
                Ok(()) = health.changed() => {
                    let health = *health.borrow_and_update();
                    self.report_endpoint(&answers, address, *draining.borrow(), health)
                }
                Ok(()) = draining.changed() => {
                    let health = *health.borrow();
                    self.report_usage(&answers).and_then(|()| self.report_endpoint(&answers, address, true, health))
                }
                _ = usage.tick() => self.report_usage(&answers),
            };
            if let Err(why) = sent {
                return End::Failed(why);
            }
        }
    }

    async fn open_stream(
        &mut self,
        channel: Channel,
    ) -> Result<(mpsc::Sender<v1::ProxyMessage>, Streaming<v1::ConfigMessage>), String> {
        let mut client = ConfigurationClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let (answers, outgoing) = mpsc::channel(MAX_WAITING);
        let hello = v1::Hello {
            instance: self.settings.instance.clone(),
            node: self.settings.node.clone(),
            zone: self.settings.zone.clone(),
            revision: self.machine.lock().hello(),
        };
        say(&answers, Message::Hello(hello))?;
        let opening = client.stream(ReceiverStream::new(outgoing));
        match timeout(FIRST_MESSAGE, opening).await {
            Ok(Ok(response)) => Ok((answers, response.into_inner())),
            Ok(Err(status)) => Err(describe(&status)),
            Err(_elapsed) => Err(format!("no answer within {FIRST_MESSAGE:?}")),
        }
    }

    fn message(
        &mut self,
        message: Result<Option<v1::ConfigMessage>, Status>,
        answers: &mpsc::Sender<v1::ProxyMessage>,
    ) -> Result<(), End> {
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => {
                return Err(End::Failed(
                    "the control plane has ended the stream".to_owned(),
                ));
            }
            Err(status) => return Err(End::Failed(describe(&status))),
        };
        let reply = {
            let mut machine = self.machine.lock();
            let reply = machine.message(message);
            if reply.changed {
                self.state.publish_machine(&machine);
            }
            reply
        };
        self.state.set_connected(true);
        self.saving.notify_one();
        if let Message::Nack(nack) = &reply.answer {
            tracing::error!(
                resource = nack.resource,
                reason = nack.reason,
                "the control plane sent what is refused; the last good state serves"
            );
        }
        // Said in any case, and then the stream may end.
        let said = say(answers, reply.answer);
        if reply.reopen {
            return Err(End::Reopen);
        }
        said.map_err(End::Failed)
    }

    /// Believes what was doubted so far.
    fn settle(&self) {
        let mut machine = self.machine.lock();
        if machine.settle() {
            tracing::info!("services whose endpoints did not come back have none any more");
            self.state.publish_machine(&machine);
        }
    }

    /// Takes over new keys; `true` when a stream with them may bring what was refused.
    fn new_keys(&mut self) -> bool {
        let Some(keys) = current_keys(&self.settings.keys) else {
            return false;
        };
        let mut machine = self.machine.lock();
        let mut again = machine.keys(keys);
        if std::mem::take(&mut self.unconfirmed) && machine.verify_again() {
            tracing::error!(
                "the saved policy is not signed by the trust domain: it is not used any more"
            );
            self.state.publish_machine(&machine);
            again = true;
        }
        self.saving.notify_one();
        again
    }

    fn report_endpoint(
        &self,
        answers: &mpsc::Sender<v1::ProxyMessage>,
        address: Option<SocketAddr>,
        draining: bool,
        health: v1::Health,
    ) -> Result<(), String> {
        let (Some(served), Some(address)) = (&self.settings.endpoint, address) else {
            return Ok(());
        };
        let health = match health {
            _ if draining => v1::Health::Draining,
            // Nothing is known yet, and the process that this one replaces may have said better.
            v1::Health::Unspecified => return Ok(()),
            known => known,
        };
        say(
            answers,
            Message::Endpoint(v1::EndpointReport {
                address: address.to_string(),
                port: u32::from(served.port),
                weight: served.weight,
                health: health.into(),
            }),
        )
    }

    fn report_usage(&self, answers: &mpsc::Sender<v1::ProxyMessage>) -> Result<(), String> {
        let Some(report) = self.state.usage.take() else {
            return Ok(());
        };
        let said = say(answers, Message::Usage(report.clone()));
        if said.is_err() {
            self.state.usage.put_back(&report);
        }
        said
    }
}

fn fresh(settings: &Settings, keys: Option<Keys>) -> Machine {
    let mut machine = Machine::new(settings.domain.clone());
    if let Some(keys) = keys {
        machine.keys(keys);
    }
    machine
}

fn restored(settings: &Settings, saved: Saved, keys: Option<Keys>) -> Machine {
    let (machine, faults) = Machine::restore(settings.domain.clone(), saved, keys);
    for fault in &faults {
        tracing::error!(fault, "a part of the last good state is not used");
    }
    tracing::info!(
        policy = machine.policy_version(),
        services = machine.snapshot().services.len(),
        "the last good state serves until the control plane answers"
    );
    machine
}

fn current_keys(keys: &watch::Receiver<Arc<[u8]>>) -> Option<Keys> {
    let json = Arc::clone(&keys.borrow());
    if json.is_empty() {
        return None;
    }
    Keys::parse(&json)
        .inspect_err(|error| tracing::error!(%error, "the JWT bundle is not used"))
        .ok()
}

/// Never waits: what the control plane does not take is a reason to leave it.
fn say(answers: &mpsc::Sender<v1::ProxyMessage>, message: Message) -> Result<(), String> {
    let message = v1::ProxyMessage {
        message: Some(message),
    };
    answers
        .try_send(message)
        .map_err(|_| "the control plane does not read".to_owned())
}

/// gRPC errors of a connection hide their cause in their sources.
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    format!("{:?}: {text}", status.code())
}

/// Half of the doubled pause is certain, the other half by chance: a thousand proxies do not come back at once.
fn pause(attempt: u32, chance: u64) -> Duration {
    let whole = FIRST_PAUSE
        .saturating_mul(1 << attempt.min(10))
        .min(LONGEST_PAUSE);
    let half = whole / 2;
    let permille = u32::try_from(chance % 1001).unwrap_or(0);
    half + half * permille / 1000
}

/// Saves what is in use whenever it has changed, at most once within [`SAVE_AFTER`].
async fn save(store: Store, machine: Arc<Mutex<Machine>>, saving: Arc<Notify>) {
    loop {
        saving.notified().await;
        sleep(SAVE_AFTER).await;
        let (store, machine) = (store.clone(), Arc::clone(&machine));
        let saved = tokio::task::spawn_blocking(move || -> Result<(), SavedError> {
            let saved = machine.lock().save();
            store.write(&saved)
        });
        match saved.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the last good state is not saved"),
            Err(error) => tracing::error!(%error, "the last good state is not saved"),
        }
    }
}

struct AbortOnDrop(Option<tokio::task::JoinHandle<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_grow_to_their_limit_and_differ(attempt in any::<u32>(), chance in any::<u64>()) {
            let pause = pause(attempt, chance);
            prop_assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE);
            if attempt >= 7 {
                prop_assert!(pause >= LONGEST_PAUSE / 2);
            }
        }
    }

    #[test]
    fn chance_spreads_the_pauses() {
        assert_ne!(pause(5, 3), pause(5, 800));
        assert_eq!(pause(0, 1000), FIRST_PAUSE);
    }
}
