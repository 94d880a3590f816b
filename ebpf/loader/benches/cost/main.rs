//! What interception costs a connection: `cargo xtask bench ebpf` builds and starts this, and reports.
//!
//! `cost OBJECT ROUNDS` prints one JSON object: for each subject and figure, one sample a round. Subjects take turns within a
//! round, each in a network namespace of its own, so that no rule of the machine's weighs on one of them: no interception at
//! all, an nftables REDIRECT (what a mesh without eBPF does), our capture alone, capture with enforcement, and both with
//! acceleration. Client and
//! server have a core each. Next: `ground.rs` (groups and namespaces), `worker.rs` (what runs in them).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement ends where anything fails, and prints its report"
)]

mod ground;
mod rounds;
mod worker;

use std::path::Path;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Which cargo adds.
    let words = words.iter().filter(|word| *word != "--bench");
    let words: Vec<&str> = words.map(String::as_str).collect();
    match words.as_slice() {
        ["worker", core, group] => worker::run(core, group),
        [object, rounds] => {
            let samples = rounds::measure(Path::new(object), rounds.parse().unwrap());
            println!("{}", rounds::json(&samples));
        }
        _ => eprintln!("usage: cost OBJECT ROUNDS; see `cargo xtask bench ebpf`"),
    }
}
