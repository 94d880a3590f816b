//! How many packets of denied sources the shield drops in a second of CPU time, beside nftables' sets of the same size.
//!
//! Two networks with a veth between them. The receiving end's NAPI is a thread of the kernel: what that thread takes is what
//! receiving and dropping costs, and nobody else's time is in it. Every source that sends is on the list, one after another
//! in no order. Prints one JSON object; `cargo xtask bench shield` makes the report of it.
//! Read next: `shield/traffic.rs` (who sends), `shield/subjects.rs` (who drops).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a measurement ends where anything is not as it should be"
)]

#[path = "shield/network.rs"]
mod network;
#[path = "shield/subjects.rs"]
mod subjects;
#[path = "shield/traffic.rs"]
mod traffic;

use std::time::Duration;

use network::Network;
use subjects::{SUBJECTS, Subject};
use traffic::Traffic;

/// Entries of each list.
const ENTRIES: u32 = 100_000;
/// Before each measurement, so that caches and the processor's clock have settled.
const WARM: Duration = Duration::from_millis(200);
/// How long the shield learns who sends.
const FLOOD: Duration = Duration::from_millis(3000);
const MEASURED: Duration = Duration::from_millis(1000);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<&String> = words
        .iter()
        .filter(|word| !word.starts_with("--"))
        .collect();
    let [object, rounds, only @ ..] = numbers.as_slice() else {
        panic!("OBJECT ROUNDS [WORD OF A SUBJECT]");
    };
    let object = std::fs::read(object).unwrap();
    let rounds: u32 = rounds.parse().unwrap();
    let network = Network::new();
    let mut rows = Vec::new();
    for round in 0..rounds {
        for traffic in Traffic::ALL {
            let chosen = SUBJECTS
                .iter()
                .filter(|subject| traffic == Traffic::Card || subject.is_of_addresses())
                .filter(|subject| only.iter().all(|word| subject.name.contains(word.as_str())));
            for subject in chosen {
                let rate = measure(&network, &object, subject, traffic);
                eprintln!(
                    "round {}: {}, {}: {rate:.0} packets in a CPU second",
                    round + 1,
                    traffic.name(),
                    subject.name
                );
                rows.push(format!(
                    "{{\"traffic\":\"{}\",\"subject\":\"{}\",\"rate\":{rate:.0}}}",
                    traffic.name(),
                    subject.name
                ));
            }
        }
    }
    println!("{{\"entries\":{ENTRIES},\"rows\":[{}]}}", rows.join(","));
}

/// Packets dropped in one second of the receiving thread's time.
fn measure(network: &Network, object: &[u8], subject: &Subject, traffic: Traffic) -> f64 {
    /// The kernel takes the programs of the subject before away when it has time, and makes a new thread then: that one was
    /// not looked at.
    const ATTEMPTS: usize = 5;
    for _ in 0..ATTEMPTS {
        let (frames, time) = measure_once(network, object, subject, traffic);
        if frames > 1000 && time > WARM / 20 {
            return frames as f64 / time.as_secs_f64();
        }
    }
    panic!("{}: nothing is dropped", subject.name);
}

fn measure_once(
    network: &Network,
    object: &[u8],
    subject: &Subject,
    traffic: Traffic,
) -> (u64, Duration) {
    let mut dropping = subject.start(network, object);
    let receiver = network.receiver(traffic.in_batches());
    if dropping.learns() {
        // As it is after the first seconds of a flood: hosts that were dropped often are known as such.
        traffic.start(network, FLOOD).join().unwrap();
        dropping.settle();
    }
    // Asking nftables takes long: it is done before and after. Meanwhile, what comes in is counted.
    let before = (dropping.drops(), network.received());
    let sending = traffic.start(network, WARM + MEASURED + WARM);
    std::thread::sleep(WARM);
    let (frames, time) = (network.received(), receiver.time());
    std::thread::sleep(MEASURED);
    let (frames, time) = (network.received() - frames, receiver.time() - time);
    sending.join().unwrap();
    std::thread::sleep(WARM);
    let received = network.received() - before.1;
    let dropped = dropping.drops() - before.0;
    assert!(
        received.abs_diff(dropped) <= 100 + received / 1000,
        "{}: {dropped} of {received} frames were dropped",
        subject.name
    );
    (frames, time)
}
