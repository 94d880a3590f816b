//! What tests need: a whole server in a temporary directory under a clock that they move, a
//! browser, and the usual flows as one call each.

mod browser;
mod world;

pub(crate) use browser::{Browser, Reply};
pub(crate) use world::{
    API, CALLBACK, ISSUER, PASSWORD, SECRET, Tokens, World, authorize_path, basic, challenge,
    client_declaration, example_config, form, query_of,
};
