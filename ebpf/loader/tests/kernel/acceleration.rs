//! Acceleration: shapes of traffic with and without it, the trial's verdict, the switch, and the second wall behind it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use ringwall_ebpf_loader::acceleration::gain;
use ringwall_ebpf_loader::acceleration::shapes::{DEADLINE, Line, Shape};
use ringwall_ebpf_loader::acceleration::trial::{Ground, Leg, Trial, run};
use ringwall_ebpf_loader::{Acceleration, Enrolment, Kernel, Reason};
use socket2::Socket;

use crate::capture::{dial, talk, talk_and_close};
use crate::world::tests;
use crate::world::{Helper, Pair, World, listener, object};

tests!(
    acceleration_off_leaves_every_shape_right,
    acceleration_on_is_refused_for_every_shape_that_is_not_right,
    acceleration_that_gains_nothing_is_refused,
    acceleration_trial_refuses_a_stall,
    acceleration_trial_refuses_a_blocking_read_that_returns_eagain,
    acceleration_takes_bytes_past_the_packets_by_both_families,
    acceleration_counts_what_goes_past_tcp,
    acceleration_turned_off_in_a_connection_loses_no_byte,
    acceleration_keeps_what_was_sent_with_the_syn_in_order,
    acceleration_ends_with_its_lease_when_the_agent_is_gone,
    acceleration_begins_anew_with_a_new_agent,
    escape_accelerated_connection_is_cut_when_its_edge_goes,
    escape_accelerated_connection_is_cut_when_its_workload_is_withdrawn,
    escape_direct_connection_between_workloads_is_never_accelerated,
);

const LONG: Duration = Duration::from_secs(60);
const SERVICE: &str = "10.99.0.1:8080";

/// In a helper: the verdict, then `SHAPE: right` or `SHAPE: what was seen` for each, separated by `|`.
pub(crate) fn shapes(switch: &str, slice: &str) -> io::Result<String> {
    let failed = |error: ringwall_ebpf_loader::Error| io::Error::other(error.to_string());
    let mut ground = Ground::new(&object(), Path::new(slice)).map_err(failed)?;
    ground.switch(switch == "on").map_err(failed)?;
    let mut trial = Trial::default();
    for leg in Leg::BOTH {
        ground.stand(leg).map_err(failed)?;
        run(&mut ground, &mut trial);
    }
    let mut words = vec![trial.verdict().to_string()];
    for (shape, seen) in &trial.shapes {
        let seen = seen.as_deref().unwrap_or("right");
        words.push(format!("{}: {seen}", shape.as_str()));
    }
    Ok(words.join("|"))
}

fn byte(at: usize) -> u8 {
    (at % 241) as u8
}

pub(crate) fn send_body(mut socket: &Socket, from: &str, length: &str) -> io::Result<String> {
    let (from, length): (usize, usize) = (from.parse().unwrap(), length.parse().unwrap());
    let body: Vec<u8> = (from..from + length).map(byte).collect();
    body.chunks(10_000)
        .try_for_each(|chunk| socket.write_all(chunk))?;
    Ok(String::new())
}

pub(crate) fn receive_body(mut socket: &Socket, from: &str, length: &str) -> io::Result<String> {
    let (from, length): (usize, usize) = (from.parse().unwrap(), length.parse().unwrap());
    let mut buffer = vec![0; 30_000];
    let mut come = 0;
    while come < length {
        let room = buffer.len().min(length - come);
        let read = socket.read(&mut buffer[..room])?;
        if read == 0 {
            return Err(io::Error::other(format!("ended after {come}")));
        }
        let part = buffer[..read].iter().enumerate();
        for (at, found) in part {
            if *found != byte(from + come + at) {
                return Err(io::Error::other(format!("another byte at {}", come + at)));
            }
        }
        come += read;
    }
    Ok(String::new())
}

/// Bytes that TCP has had acknowledged: what went past it is not among them.
pub(crate) fn by_packets(socket: &Socket) -> io::Result<String> {
    // `struct tcp_info` as the kernel has it; libc's ends before.
    const ACKNOWLEDGED: usize = 120;
    let mut info = [0_u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: as many bytes are written as the length says.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes: [u8; 8] = info[ACKNOWLEDGED..ACKNOWLEDGED + 8].try_into().unwrap();
    // The SYN is one of them.
    Ok(u64::from_ne_bytes(bytes).saturating_sub(1).to_string())
}

/// A platform with one application, accelerated.
fn world() -> (World, Pair) {
    let mut world = World::new();
    let pair = world.pair("orders", |app| app.ports = &[17401]);
    world.services(&[("inventory", SERVICE), ("payments", "[fd00:99::1]:8443")]);
    world.kernel().accelerate(LONG).unwrap();
    (world, pair)
}

fn packets(helper: &mut Helper, socket: &str) -> u64 {
    helper.ok(&format!("by-packets {socket}"))[0]
        .parse()
        .unwrap()
}

/// The verdict, and the helper's words of each shape.
fn try_it(switch: &str) -> (String, Vec<String>) {
    let world = World::new();
    let mut helper = Helper::start_as("-", "-");
    let said = helper.ask(&format!(
        "try-acceleration {switch} {}",
        world.slice.display()
    ));
    let said = said.strip_prefix("ok ").unwrap_or_else(|| panic!("{said}"));
    let mut words = said.split('|').map(str::to_owned);
    (words.next().unwrap(), words.collect())
}

fn acceleration_off_leaves_every_shape_right() {
    let (_, shapes) = try_it("off");
    assert_eq!(shapes.len(), Shape::ALL.len());
    for shape in shapes {
        assert!(shape.ends_with(": right"), "{shape}");
    }
}

/// Whether this kernel is one that gets them right is not for this test to say; what the trial has seen decides.
fn acceleration_on_is_refused_for_every_shape_that_is_not_right() {
    let (verdict, shapes) = try_it("on");
    assert_eq!(shapes.len(), Shape::ALL.len());
    let wrong: Vec<&String> = shapes
        .iter()
        .filter(|shape| !shape.ends_with(": right"))
        .collect();
    // Without figures it is never on.
    assert!(verdict.starts_with("refused: "), "{verdict}");
    for shape in &wrong {
        assert!(verdict.contains(shape.as_str()), "{shape} in {verdict}");
    }
    assert_eq!(
        wrong.is_empty(),
        verdict.contains("did not come to its end")
    );
}

/// Connections without any program, which a fault is put into.
struct Faulty {
    listener: TcpListener,
    fault: Fault,
}

#[derive(PartialEq)]
enum Fault {
    None,
    /// What is sent comes nowhere.
    Stall,
    /// Reads give up at once.
    Again,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener, fault }
    }

    fn patient(&self, stream: TcpStream) -> TcpStream {
        let read = match self.fault {
            Fault::Again => Duration::from_millis(1),
            _ => DEADLINE,
        };
        stream.set_read_timeout(Some(read)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }
}

impl Line for Faulty {
    fn dial(&mut self) -> io::Result<TcpStream> {
        TcpStream::connect(self.listener.local_addr()?).map(|stream| self.patient(stream))
    }

    fn accept(&mut self) -> io::Result<TcpStream> {
        let (accepted, _) = self.listener.accept()?;
        if self.fault != Fault::Stall {
            return Ok(self.patient(accepted));
        }
        // The end of another connection, which nobody sends to; the right one stays open.
        std::mem::forget(accepted);
        let other = self.dial()?;
        std::mem::forget(self.listener.accept()?);
        Ok(other)
    }
}

/// One that is right in everything, and gains.
fn good() -> Trial {
    let figure = |name| gain::Figure { name, gain: 2.0 };
    let trial = Trial {
        shapes: Shape::ALL.map(|shape| (shape, None)).to_vec(),
        figures: vec![figure(gain::PING_PONG), figure("4 KB writes")],
    };
    assert!(matches!(trial.verdict(), Acceleration::On(_)));
    trial
}

fn refusal(trial: &Trial) -> String {
    match trial.verdict() {
        Acceleration::Refused(why) => why,
        other => panic!("{other}"),
    }
}

fn acceleration_that_gains_nothing_is_refused() {
    let mut trial = good();
    trial.figures = gain::measure(&mut Faulty::new(Fault::None), |_| Ok(())).unwrap();
    let why = refusal(&trial);
    assert!(why.contains("gains too little"), "{why}");
}

fn acceleration_trial_refuses_a_stall() {
    let mut trial = good();
    trial.shapes.truncate(0);
    let begin = Instant::now();
    run(&mut Faulty::new(Fault::Stall), &mut trial);
    assert!(begin.elapsed() < DEADLINE * 3 * Shape::ALL.len() as u32);
    let why = refusal(&trial);
    for shape in [
        Shape::Bulk,
        Shape::HalfClose,
        Shape::Splice,
        Shape::BlockingReaders,
    ] {
        let told = trial.shapes.iter().find(|(other, _)| *other == shape);
        let told = told.unwrap().1.clone().unwrap();
        assert!(told.contains("stalled for"), "{told}");
        assert!(
            why.contains(&format!("{}: {told}", shape.as_str())),
            "{why}"
        );
    }
}

fn acceleration_trial_refuses_a_blocking_read_that_returns_eagain() {
    let mut trial = good();
    let told = Shape::BlockingReaders.run(&mut Pausing(Faulty::new(Fault::Again)));
    let told = told.unwrap_err().to_string();
    assert!(told.contains("returned EAGAIN after"), "{told}");
    trial.shapes[6].1 = Some(told.clone());
    let why = refusal(&trial);
    assert!(why.contains(&format!("blocking readers: {told}")), "{why}");
}

/// Its reads wait for longer than they may.
struct Pausing(Faulty);

impl Line for Pausing {
    fn dial(&mut self) -> io::Result<TcpStream> {
        self.0.dial()
    }

    fn accept(&mut self) -> io::Result<TcpStream> {
        let accepted = self.0.accept()?;
        // The answer comes through a thread that takes its time.
        let (mut slow, near) = (accepted, TcpListener::bind("127.0.0.1:0")?);
        let end = TcpStream::connect(near.local_addr()?)?;
        let (mut middle, _) = near.accept()?;
        thread::spawn(move || {
            let mut question = [0; 32];
            slow.set_read_timeout(Some(DEADLINE)).unwrap();
            slow.read_exact(&mut question).unwrap();
            thread::sleep(Duration::from_millis(50));
            middle.write_all(&question).unwrap();
        });
        Ok(self.0.patient(end))
    }
}

fn acceleration_takes_bytes_past_the_packets_by_both_families() {
    let (mut world, mut pair) = world();
    for (to, six) in [(SERVICE, false), ("[fd00:99::1]:8443", true)] {
        let (app, proxy, original) = dial(&mut pair, to, six);
        assert_eq!(original, to);
        talk(&mut pair, &app, &proxy);
        assert_eq!(packets(&mut pair.app, &app), 0);
        assert_eq!(packets(&mut pair.proxy, &proxy), 0);
    }
    // What the proxy dials.
    let (number, at) = listener(&mut pair.app, "127.0.0.1:17401");
    let dialled = pair.proxy.ok(&format!("connect {at}")).remove(0);
    let accepted = pair.app.ok(&format!("accept {number}")).remove(0);
    pair.proxy.ok(&format!("send {dialled} question"));
    assert_eq!(pair.app.ok(&format!("receive {accepted}")), ["question"]);
    assert_eq!(packets(&mut pair.proxy, &dialled), 0);
    // Off, the same goes by packets.
    world.kernel().decelerate().unwrap();
    let (app, proxy, _) = dial(&mut pair, SERVICE, false);
    pair.app.ok(&format!("send {app} question"));
    assert_eq!(pair.proxy.ok(&format!("receive {proxy}")), ["question"]);
    assert_eq!(packets(&mut pair.app, &app), 8);
}

fn acceleration_counts_what_goes_past_tcp() {
    let (mut world, mut pair) = world();
    let (app, proxy, _) = dial(&mut pair, SERVICE, false);
    talk_and_close(&mut pair, &app, &proxy);
    let counters = world.kernel().counters().unwrap();
    let mut rows = counters.traffic.iter();
    let row = rows.find(|row| row.kind == "captured").unwrap();
    assert_eq!(row.sums.connections, 1);
    // SYN and FIN have numbers too, as without acceleration.
    let sums = (row.sums.sent_bytes, row.sums.received_bytes);
    assert_eq!(sums, (5 + 2, 7 + 1));
}

/// What has come to the other end's queue is read before what comes by packets afterwards; nothing is taken out of it.
fn acceleration_turned_off_in_a_connection_loses_no_byte() {
    const BEFORE: usize = 300_000;
    const AFTER: usize = 3_000_000;
    let (mut world, mut pair) = world();
    for round in 0..20_u64 {
        world.kernel().accelerate(LONG).unwrap();
        let (app, proxy, _) = dial(&mut pair, SERVICE, false);
        // Unread, when it is turned off.
        pair.app.ok(&format!("send-body {app} 0 {BEFORE}"));
        assert_eq!(packets(&mut pair.app, &app), 0);
        pair.app.say(&format!("send-body {app} {BEFORE} {AFTER}"));
        if round % 2 == 0 {
            pair.proxy
                .say(&format!("receive-body {proxy} 0 {}", BEFORE + AFTER));
            thread::sleep(Duration::from_micros(round * 100));
            world.kernel().decelerate().unwrap();
        } else {
            world.kernel().decelerate().unwrap();
            pair.proxy
                .say(&format!("receive-body {proxy} 0 {}", BEFORE + AFTER));
        }
        assert_eq!(pair.app.hear(), "ok");
        assert_eq!(pair.proxy.hear(), "ok", "round {round}");
        // It does not come back to a connection that has gone by packets.
        world.kernel().accelerate(LONG).unwrap();
        let before = packets(&mut pair.app, &app);
        pair.app.ok(&format!("send-body {app} 0 1000"));
        pair.proxy.ok(&format!("receive-body {proxy} 0 1000"));
        assert_eq!(packets(&mut pair.app, &app), before + 1000);
        pair.app.ok(&format!("close {app}"));
        pair.proxy.ok(&format!("close {proxy}"));
    }
}

fn acceleration_keeps_what_was_sent_with_the_syn_in_order() {
    let (_world, mut pair) = world();
    for _ in 0..50 {
        let app = pair.app.ok(&format!("fastopen {SERVICE} first")).remove(0);
        pair.app.ok(&format!("send {app} second"));
        let proxy = pair
            .proxy
            .ok(&format!("accept {}", pair.capture.0))
            .remove(0);
        let mut come = String::new();
        while come.len() < "firstsecond".len() {
            come.push_str(&pair.proxy.ok(&format!("receive {proxy}"))[0]);
        }
        assert_eq!(come, "firstsecond");
    }
}

fn acceleration_ends_with_its_lease_when_the_agent_is_gone() {
    let (mut world, mut pair) = world();
    let (app, proxy, _) = dial(&mut pair, SERVICE, false);
    world
        .kernel()
        .accelerate(Duration::from_millis(300))
        .unwrap();
    pair.app.ok(&format!("send {app} on"));
    assert_eq!(packets(&mut pair.app, &app), 0);
    world.kernel = None;
    thread::sleep(Duration::from_millis(400));
    pair.app.ok(&format!("send {app} off"));
    assert_eq!(pair.proxy.ok(&format!("receive {proxy}")), ["on"]);
    assert_eq!(pair.proxy.ok(&format!("receive {proxy}")), ["off"]);
    assert_eq!(packets(&mut pair.app, &app), 3);
}

fn acceleration_begins_anew_with_a_new_agent() {
    let (mut world, mut pair) = world();
    let (app, proxy, _) = dial(&mut pair, SERVICE, false);
    pair.app.ok(&format!("send {app} on"));
    assert_eq!(packets(&mut pair.app, &app), 0);
    let place = world.place();
    world.kernel = Some(Kernel::open(&object(), place).unwrap());
    // It has not tried anything yet.
    pair.app.ok(&format!("send {app} off"));
    assert_eq!(pair.proxy.ok(&format!("receive {proxy}")), ["on"]);
    assert_eq!(pair.proxy.ok(&format!("receive {proxy}")), ["off"]);
    assert_eq!(packets(&mut pair.app, &app), 3);
    world.kernel().accelerate(LONG).unwrap();
    let (app, proxy, _) = dial(&mut pair, SERVICE, false);
    pair.app.ok(&format!("send {app} on"));
    assert_eq!(pair.proxy.ok(&format!("receive {proxy}")), ["on"]);
    assert_eq!(packets(&mut pair.app, &app), 0);
}

fn escape_accelerated_connection_is_cut_when_its_edge_goes() {
    let (mut world, mut pair) = world();
    for from_app in [true, false] {
        let (app, proxy, _) = dial(&mut pair, SERVICE, false);
        let ((sender, sent), (reader, read)) = if from_app {
            ((&mut pair.app, app), (&mut pair.proxy, proxy))
        } else {
            ((&mut pair.proxy, proxy), (&mut pair.app, app))
        };
        sender.ok(&format!("send {sent} before"));
        assert_eq!(reader.ok(&format!("receive {read}")), ["before"]);
        assert_eq!(packets(sender, &sent), 0, "it is accelerated");
        // Another edge goes along: whatever is taken away ends it.
        world.kernel().set_edges([("orders", "payments")]).unwrap();
        sender.ok(&format!("send {sent} after"));
        reader.refused(&format!("receive {read}"), "EAGAIN");
        let counters = world.kernel().counters().unwrap();
        assert!(counters.of(Reason::EdgeRemoved) > 0);
        // The edge again: TCP sends once more what was dropped.
        let edges = [("orders", "inventory"), ("orders", "payments")];
        world.kernel().set_edges(edges).unwrap();
        let again = (0..5).find_map(|_| {
            let answer = reader.ask(&format!("receive {read}"));
            answer.strip_prefix("ok ").map(str::to_owned)
        });
        assert_eq!(again.as_deref(), Some("after"));
    }
}

fn escape_accelerated_connection_is_cut_when_its_workload_is_withdrawn() {
    let (mut world, mut pair) = world();
    let (number, at) = listener(&mut pair.app, "127.0.0.1:17401");
    let dialled = pair.proxy.ok(&format!("connect {at}")).remove(0);
    let accepted = pair.app.ok(&format!("accept {number}")).remove(0);
    let (app, proxy, _) = dial(&mut pair, SERVICE, false);
    for (sent, read) in [(&app, &proxy), (&accepted, &dialled)] {
        pair.app.ok(&format!("send {sent} before"));
        assert_eq!(pair.proxy.ok(&format!("receive {read}")), ["before"]);
        assert_eq!(packets(&mut pair.app, sent), 0, "it is accelerated");
    }
    let group = pair.app_group.clone();
    world.kernel().withdraw(&group).unwrap();
    for (sent, read) in [(&app, &proxy), (&accepted, &dialled)] {
        pair.app.ask(&format!("send {sent} after"));
        pair.proxy.refused(&format!("receive {read}"), "EAGAIN");
    }
}

fn escape_direct_connection_between_workloads_is_never_accelerated() {
    let mut world = World::new();
    let group = world.group("proxy-other");
    let other = Enrolment::proxy("other", &group);
    world.kernel().enrol(&other).unwrap();
    let mut other = Helper::start(&group, "-");
    let (number, at) = listener(&mut other, "127.0.0.1:0");
    let mut pair = world.pair("orders", |app| app.direct = vec![at].leak());
    world.kernel().accelerate(LONG).unwrap();
    let app = pair.app.ok(&format!("connect {at}")).remove(0);
    let accepted = other.ok(&format!("accept {number}")).remove(0);
    pair.app.ok(&format!("send {app} plain"));
    assert_eq!(other.ok(&format!("receive {accepted}")), ["plain"]);
    assert_eq!(packets(&mut pair.app, &app), 5);
}
