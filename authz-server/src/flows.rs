//! The server as clients and attackers see it: whole flows through the router, on a real database,
//! under a clock that the tests move. Names carry the requirement that they prove.

mod clients;
mod code;
mod exchange;
mod introspection;
mod login;
mod logout;
mod oidc;
mod races;
mod refresh;
