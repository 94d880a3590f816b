//! The command line that all components share.

use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser};

/// Options of every component binary.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(version, about = None, long_about = None)]
pub struct Cli {
    /// Configuration file (YAML).
    #[arg(long, value_name = "FILE", required_unless_present = "schema")]
    config: Option<PathBuf>,
    /// Validate the configuration and exit: 0 when it is good, 78 when it is not.
    #[arg(long)]
    pub check: bool,
    /// Print the JSON Schema of the configuration and exit.
    #[arg(long, conflicts_with = "check")]
    pub schema: bool,
    /// Ask the running component whether it is ready and exit: 0 when it is, 1 with the reason when it
    /// is not, 78 when the configuration is not valid.
    #[arg(long, conflicts_with_all = ["check", "schema"])]
    pub health: bool,
    /// Drain and exit when standard input closes: a supervisor that dies takes us with it.
    #[arg(long)]
    pub exit_on_stdin_eof: bool,
}

impl Cli {
    /// Parses the process's arguments; prints help, version or a usage error by itself (exit code 2).
    pub fn parse_as(name: &'static str) -> Self {
        let matches = Self::command().name(name).bin_name(name).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The configuration file.
    pub fn config(&self) -> &std::path::Path {
        // clap has made sure that it is present whenever it is read.
        self.config
            .as_deref()
            .unwrap_or_else(|| std::path::Path::new(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_configuration_is_needed_except_for_the_schema() {
        assert!(Cli::try_parse_from(["x"]).is_err());
        assert!(Cli::try_parse_from(["x", "--schema"]).is_ok());
        assert!(
            Cli::try_parse_from(["x", "--config", "f", "--check"])
                .unwrap()
                .check
        );
        assert!(Cli::try_parse_from(["x", "--check", "--schema", "--config", "f"]).is_err());
        assert!(Cli::try_parse_from(["x", "--health"]).is_err());
        assert!(Cli::try_parse_from(["x", "--health", "--check", "--config", "f"]).is_err());
    }
}
