//! The backend for the browser: keeps the tokens that the single-page application must never see.
//!
//! Read next: [`app`] for the composition, `auth` for sign-in, `forward` for the API.

mod app;
mod assets;
mod auth;
mod authority;
mod browser;
mod config;
mod cookies;
mod error;
mod forward;
mod peers;
mod random;
mod sessions;
mod tokens;
mod traces;

#[cfg(test)]
mod tests;

fn main() -> std::process::ExitCode {
    ringwall_service::run::<config::Config, _, _>("spa-proxy", app::start)
}
