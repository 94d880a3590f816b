//! A process before and after.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;

use ringwall_resident::shed_program;

/// Table whose address the loader writes at start, so that it stands among what must stay.
static NAMES: [&str; 3] = ["one", "two", "three"];

#[test]
fn the_program_is_given_back_and_goes_on() {
    let before = of_the_program();
    let given_back = shed_program().unwrap();
    let after = of_the_program();
    assert!(given_back > 0);
    assert!(after < before, "{after} KiB after, {before} KiB before");
    assert_eq!(std::hint::black_box(&NAMES).concat(), "onetwothree");
    let sorted = std::thread::spawn(|| {
        let mut list: Vec<u32> = (0..1000).rev().collect();
        list.sort_unstable();
        list
    });
    assert!(sorted.join().unwrap().is_sorted());
}

/// KiB of files that are in memory.
fn of_the_program() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssFile:"));
    line.unwrap().trim_end_matches("kB").trim().parse().unwrap()
}
