//! What is gained, measured here and now: figures with and without, in turns, so that what disturbs one disturbs the other.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::shapes::Line;

/// The gain that is asked of a message there and back.
pub const WORTH: f64 = 1.5;
/// Less than this of any figure is a loss.
pub const NO_LOSS: f64 = 0.97;

/// What is measured first, and what `WORTH` is about.
pub const PING_PONG: &str = "ping-pong";

const ROUNDS: u32 = 7;
const EXCHANGES: usize = 2000;
const CONNECTIONS: u32 = 100;
const MESSAGE: [u8; 64] = [7; 64];

/// Times without it by times with it: 2.0 is twice as fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub name: &'static str,
    pub gain: f64,
}

/// Seconds that something takes.
type Measure = fn(&mut dyn Line) -> std::io::Result<f64>;

const MEASURES: [(&str, Measure); 4] = [
    (PING_PONG, ping_pong),
    ("4 KB writes", |line| stream(line, 4096, 2000)),
    ("64 KB writes", |line| stream(line, 65_536, 500)),
    ("short connections", short_connections),
];

/// Measures everything in turns; `switch` turns it on and off.
///
/// # Errors
/// What failed, in words.
pub fn measure(
    line: &mut dyn Line,
    mut switch: impl FnMut(bool) -> Result<(), String>,
) -> Result<Vec<Figure>, String> {
    let mut times: Vec<[Vec<f64>; 2]> = vec![Default::default(); MEASURES.len()];
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let on = (round + turn) % 2 == 1;
            switch(on)?;
            for ((name, measure), times) in MEASURES.iter().zip(&mut times) {
                let time = measure(line).map_err(|error| format!("measuring {name}: {error}"))?;
                let [without, with] = times;
                if on {
                    with.push(time)
                } else {
                    without.push(time)
                }
            }
        }
    }
    let figures = MEASURES.iter().zip(times);
    Ok(figures
        .map(|((name, _), [without, with])| Figure {
            name,
            gain: median(without) / median(with),
        })
        .collect())
}

fn median(mut list: Vec<f64>) -> f64 {
    list.sort_by(f64::total_cmp);
    list.get(list.len() / 2).copied().unwrap_or(f64::NAN)
}

fn pair(line: &mut dyn Line) -> std::io::Result<(TcpStream, TcpStream)> {
    let (client, server) = (line.dial()?, line.accept()?);
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    Ok((client, server))
}

/// The middle of the times of a message there and back.
fn ping_pong(line: &mut dyn Line) -> std::io::Result<f64> {
    let (mut client, mut server) = pair(line)?;
    let echo = thread::spawn(move || {
        let mut message = MESSAGE;
        while server.read_exact(&mut message).is_ok() && server.write_all(&message).is_ok() {}
    });
    let mut times = Vec::with_capacity(EXCHANGES);
    let mut message = MESSAGE;
    for _ in 0..EXCHANGES {
        let begin = Instant::now();
        client.write_all(&message)?;
        client.read_exact(&mut message)?;
        times.push(begin.elapsed().as_secs_f64());
    }
    client.shutdown(Shutdown::Both)?;
    let _ = echo.join();
    Ok(median(times))
}

/// Until the last byte has come.
fn stream(line: &mut dyn Line, length: usize, count: usize) -> std::io::Result<f64> {
    let (mut client, mut server) = pair(line)?;
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        let mut left = length * count;
        while left > 0 {
            match server.read(&mut buffer) {
                Ok(read) if read > 0 => left -= read,
                _ => break,
            }
        }
        left
    });
    let chunk = vec![7; length];
    let begin = Instant::now();
    for _ in 0..count {
        client.write_all(&chunk)?;
    }
    let left = reader.join().unwrap_or(1);
    if left > 0 {
        return Err(std::io::Error::other("bytes are missing"));
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// Each with one message there and back; the time of one.
fn short_connections(line: &mut dyn Line) -> std::io::Result<f64> {
    let mut spent = Duration::ZERO;
    for _ in 0..CONNECTIONS {
        let begin = Instant::now();
        let (mut client, mut server) = pair(line)?;
        let mut message = MESSAGE;
        client.write_all(&message)?;
        server.read_exact(&mut message)?;
        server.write_all(&message)?;
        client.read_exact(&mut message)?;
        drop((client, server));
        spent += begin.elapsed();
    }
    Ok((spent / CONNECTIONS).as_secs_f64())
}
