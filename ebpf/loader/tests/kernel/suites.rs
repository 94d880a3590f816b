//! Every test of this program, by the file that it stands in.

use crate::{
    acceleration, bind, capture, envoy, equivalence, escape, hosts, inbound, lifecycle, names,
    policy, shield, steering, wire,
};

/// A test and its name.
type Test = (&'static str, fn());

pub(crate) const ALL: [&[Test]; 15] = [
    capture::TESTS,
    envoy::TESTS,
    inbound::TESTS,
    names::TESTS,
    bind::TESTS,
    acceleration::TESTS,
    steering::TESTS,
    hosts::TESTS,
    policy::TESTS,
    escape::TESTS,
    lifecycle::TESTS,
    wire::TESTS,
    equivalence::TESTS,
    shield::TESTS,
    shield::lists::TESTS,
];
