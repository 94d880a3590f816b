//! The trial of this kernel: every shape on real sockets of a workload that is there for nothing else, then the gain.
//!
//! Owns: that workload (two control groups beside the platform's slice, programs and pins of its own), and the verdict. The
//! calling process is moved between the two groups, and may be left with threads that never end: give it one of its own.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;

use super::Acceleration;
use super::gain::{self, Figure, NO_LOSS, PING_PONG, WORTH};
use super::shapes::{DEADLINE, Line, Shape};
use crate::cgroup;
use crate::enrolment::{Enrolment, Listener};
use crate::error::{Error, Result};
use crate::kernel::{Attach, Kernel, Slice};

/// Where the application calls; nobody is there (RFC 5737).
pub(super) const NOWHERE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    9,
);
/// Longer than any trial.
const LEASE: Duration = Duration::from_secs(600);
const WORKLOAD: &str = "acceleration trial";

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// In the order of `Shape::ALL`, with what was seen instead.
    pub shapes: Vec<(Shape, Option<String>)>,
    /// None where a shape was not right.
    pub figures: Vec<Figure>,
}

impl Trial {
    /// On only where every shape is right, messages there and back gain what is asked for, and nothing loses.
    #[must_use]
    pub fn verdict(&self) -> Acceleration {
        let wrong: Vec<String> = self
            .shapes
            .iter()
            .filter_map(|(shape, seen)| Some(format!("{}: {}", shape.as_str(), seen.as_ref()?)))
            .collect();
        if !wrong.is_empty() {
            return Acceleration::Refused(format!(
                "on this kernel applications would notice it; {}",
                wrong.join("; ")
            ));
        }
        let missing = Shape::ALL.iter().any(|shape| {
            let mut tried = self.shapes.iter();
            !tried.any(|(other, _)| other == shape)
        });
        let exchange = self.figures.iter().find(|figure| figure.name == PING_PONG);
        let Some(exchange) = exchange.filter(|_| !missing) else {
            return Acceleration::Refused("the trial did not come to its end".into());
        };
        let shown: Vec<String> = self
            .figures
            .iter()
            .map(|figure| format!("{} {:.2}×", figure.name, figure.gain))
            .collect();
        let shown = shown.join(", ");
        // What is no number is no gain.
        let loses = |figure: &Figure| figure.gain.is_nan() || figure.gain < NO_LOSS;
        if exchange.gain.is_nan() || exchange.gain < WORTH || self.figures.iter().any(loses) {
            return Acceleration::Refused(format!(
                "it gains too little here: {shown}; asked for are {WORTH}× for {PING_PONG} and at least {NO_LOSS}× for the rest"
            ));
        }
        Acceleration::On(shown)
    }
}

/// Tries it, beside the slice. The agent's child is meant to call this.
pub fn try_out(object: &[u8], slice: &Path) -> Result<Trial> {
    let mut ground = Ground::new(object, slice)?;
    let mut trial = Trial::default();
    ground.switch(true)?;
    for leg in Leg::BOTH {
        ground.stand(leg)?;
        run(&mut ground, &mut trial);
    }
    if trial.shapes.iter().all(|(_, seen)| seen.is_none()) {
        ground.stand(Leg::Captured)?;
        trial.figures = ground.gain()?;
    }
    Ok(trial)
}

/// Runs every shape that has not failed yet.
pub fn run(line: &mut impl Line, trial: &mut Trial) {
    for shape in Shape::ALL {
        let before = trial.shapes.iter_mut().find(|(other, _)| *other == shape);
        if before.as_ref().is_some_and(|(_, seen)| seen.is_some()) {
            continue;
        }
        let seen = shape.run(line).err().map(|deviation| deviation.0);
        match before {
            Some((_, before)) => *before = seen,
            None => trial.shapes.push((shape, seen)),
        }
    }
}

/// Takes away what a trial has left whose process was killed.
pub fn clean(slice: &Path, process: u32) -> Result<()> {
    let place = Place::of(slice, process);
    Kernel::remove(&place.pins)?;
    place.remove_groups();
    Ok(())
}

/// Which of a workload's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// From the application to its proxy.
    Captured,
    /// From the proxy to its application.
    Inbound,
}

impl Leg {
    pub const BOTH: [Self; 2] = [Self::Captured, Self::Inbound];
}

/// Groups and pins of a trial.
struct Place {
    top: PathBuf,
    pins: PathBuf,
}

impl Place {
    fn of(slice: &Path, process: u32) -> Self {
        let name = format!("ringwall-acceleration-{process}");
        Self {
            top: slice.parent().unwrap_or(slice).join(&name),
            pins: Path::new("/sys/fs/bpf").join(&name),
        }
    }

    fn groups(&self) -> [PathBuf; 2] {
        ["app", "proxy"].map(|side| self.top.join(side))
    }

    fn remove_groups(&self) {
        let groups = self.groups();
        let gone = || {
            let mut all = groups.iter().chain([&self.top]);
            all.all(|group| !group.exists() || fs::remove_dir(group).is_ok())
        };
        // A group goes when the kernel has seen its last process leave.
        let end = Instant::now() + Duration::from_secs(2);
        while !gone() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A workload whose application and proxy are this process.
pub struct Ground {
    /// None at the end alone.
    kernel: Option<Kernel>,
    place: Place,
    home: PathBuf,
    leg: Leg,
    capture: TcpListener,
    app: TcpListener,
}

impl Ground {
    /// The application dials its proxy; not accelerated.
    pub fn new(object: &[u8], slice: &Path) -> Result<Self> {
        let place = Place::of(slice, std::process::id());
        let home = cgroup::own(slice).map_err(failed("where this process is"))?;
        for group in [&place.top].into_iter().chain(&place.groups()) {
            fs::create_dir(group).map_err(failed("making a control group"))?;
        }
        let made = Self::within(object, &place);
        if made.is_err() {
            leave(&place, &home);
        }
        let (kernel, capture, app) = made?;
        Ok(Self {
            kernel: Some(kernel),
            place,
            home,
            leg: Leg::Captured,
            capture,
            app,
        })
    }

    fn within(object: &[u8], place: &Place) -> Result<(Kernel, TcpListener, TcpListener)> {
        let [app_group, proxy_group] = place.groups();
        let slice = Slice {
            path: place.top.clone(),
            pins: place.pins.clone(),
            attach: Attach::Slice,
        };
        let mut kernel = Kernel::open(object, slice)?;
        kernel.enrol(&Enrolment::proxy(WORKLOAD, &proxy_group))?;
        let enrolment = Enrolment {
            egress: true,
            ..Enrolment::app(WORKLOAD, &app_group)
        };
        kernel.enrol(&enrolment)?;
        cgroup::join(&proxy_group).map_err(failed("joining a control group"))?;
        let capture = listener()?;
        cgroup::join(&app_group).map_err(failed("joining a control group"))?;
        let app = listener()?;
        let at = |listener: &TcpListener| listener.local_addr().map_err(failed("an address"));
        let port = at(&app)?.port();
        kernel.enrol(&Enrolment {
            capture: Listener {
                v4: Some(at(&capture)?),
                v6: None,
            },
            ports: &[port],
            ..enrolment
        })?;
        Ok((kernel, capture, app))
    }

    /// Connections are these from now on.
    pub fn stand(&mut self, leg: Leg) -> Result<()> {
        let [app, proxy] = self.place.groups();
        let group = match leg {
            Leg::Captured => app,
            Leg::Inbound => proxy,
        };
        cgroup::join(&group).map_err(failed("joining a control group"))?;
        self.leg = leg;
        Ok(())
    }

    /// Turns it on or off.
    pub fn switch(&mut self, on: bool) -> Result<()> {
        match &mut self.kernel {
            Some(kernel) if on => kernel.accelerate(LEASE),
            Some(kernel) => kernel.decelerate(),
            None => Ok(()),
        }
    }

    /// Figures of connections with it by those without.
    pub fn gain(&mut self) -> Result<Vec<Figure>> {
        let Some(mut kernel) = self.kernel.take() else {
            return Ok(Vec::new());
        };
        let figures = gain::measure(self, |on| {
            let switched = if on {
                kernel.accelerate(LEASE)
            } else {
                kernel.decelerate()
            };
            switched.map_err(|error| error.to_string())
        });
        self.kernel = Some(kernel);
        figures.map_err(Error::NoAcceleration)
    }
}

impl Line for Ground {
    fn dial(&mut self) -> io::Result<TcpStream> {
        let to = match self.leg {
            Leg::Captured => NOWHERE,
            Leg::Inbound => self.app.local_addr()?,
        };
        patient(TcpStream::connect_timeout(&to, DEADLINE)?)
    }

    fn accept(&mut self) -> io::Result<TcpStream> {
        let listener = match self.leg {
            Leg::Captured => &self.capture,
            Leg::Inbound => &self.app,
        };
        patient(listener.accept()?.0)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.kernel = None;
        leave(&self.place, &self.home);
    }
}

fn leave(place: &Place, home: &Path) {
    // Whatever cannot be taken away is told by the next one that is made.
    let _ = cgroup::join(home);
    let _ = Kernel::remove(&place.pins);
    place.remove_groups();
}

/// Calls may block, but not for ever.
pub(super) fn patient(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// One whose accept does not block for ever.
pub(super) fn listener() -> Result<TcpListener> {
    let made = TcpListener::bind("127.0.0.1:0").and_then(|listener| {
        let seconds = i64::try_from(DEADLINE.as_secs()).map_err(io::Error::other)?;
        setsockopt(&listener, ReceiveTimeout, &TimeVal::new(seconds, 0))?;
        Ok(listener)
    });
    made.map_err(failed("listening on loopback"))
}

pub(super) fn failed(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Trial { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(gains: &[f64]) -> Trial {
        let names = [PING_PONG, "4 KB writes"];
        Trial {
            shapes: Shape::ALL.map(|shape| (shape, None)).to_vec(),
            figures: names
                .into_iter()
                .zip(gains)
                .map(|(name, gain)| Figure { name, gain: *gain })
                .collect(),
        }
    }

    #[test]
    fn it_is_on_where_all_is_right_and_the_gain_is_worth_it() {
        let on = trial(&[1.5, 0.97]).verdict();
        assert_eq!(
            on,
            Acceleration::On("ping-pong 1.50×, 4 KB writes 0.97×".into())
        );
    }

    #[test]
    fn too_little_gain_any_loss_and_what_is_no_number_are_refused() {
        for gains in [[1.49, 1.0], [2.0, 0.96], [f64::NAN, 1.0], [2.0, f64::NAN]] {
            let verdict = trial(&gains).verdict();
            assert!(
                matches!(&verdict, Acceleration::Refused(why) if why.contains("too little")),
                "{gains:?}"
            );
        }
    }

    #[test]
    fn each_shape_that_is_wrong_or_was_not_tried_is_refused() {
        for number in 0..Shape::ALL.len() {
            let mut wrong = trial(&[2.0, 1.0]);
            wrong.shapes[number].1 = Some("stalled".into());
            let verdict = wrong.verdict();
            let expected = format!("{}: stalled", Shape::ALL[number].as_str());
            assert!(
                matches!(&verdict, Acceleration::Refused(why) if why.contains(&expected)),
                "{verdict}"
            );
            let mut short = trial(&[2.0, 1.0]);
            short.shapes.remove(number);
            assert!(matches!(short.verdict(), Acceleration::Refused(_)));
        }
        assert!(matches!(trial(&[]).verdict(), Acceleration::Refused(_)));
    }
}
