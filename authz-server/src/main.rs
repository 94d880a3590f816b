//! `ringwall-authz-server`: the OAuth 2.0 authorization server and OpenID provider of the platform.
//!
//! This file only hands over to the shell; [`app`] is the composition root and the place to read
//! next. Behaviour of each endpoint stands in the file that carries its name.

mod acl;
mod app;
mod audit;
mod authorize;
mod clients;
mod clock;
mod config;
mod consent;
mod cookies;
mod demo;
mod discovery;
mod error;
mod grants;
mod ids;
mod introspect;
mod keys;
mod login;
mod logout;
mod origin;
mod pages;
mod par;
mod params;
mod passwords;
mod random;
mod revoke;
mod scopes;
mod server;
mod sessions;
mod store;
mod throttle;
mod tokens;
mod userinfo;

#[cfg(test)]
mod flows;
#[cfg(test)]
mod testing;

fn main() -> std::process::ExitCode {
    ringwall_service::run::<config::Config, _, _>("authz-server", app::start)
}
