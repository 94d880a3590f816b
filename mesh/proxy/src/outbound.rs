//! The application's calls, on their way to other services.

mod attempts;
mod replay;
