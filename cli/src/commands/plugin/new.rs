//! `ringwall plugin new`: the template under another name.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::template;
use crate::error::CliError;
use crate::output::{print, say};

#[derive(Args, Clone, Debug)]
pub(super) struct NewArgs {
    /// Name of the plugin and of its package
    name: String,
    /// Folder to make [default: the name, here]
    #[arg(long, value_name = "DIRECTORY")]
    path: Option<PathBuf>,
}

pub(super) fn run(args: &NewArgs) -> Result<ExitCode, CliError> {
    template::check_name(&args.name).map_err(|what| CliError::Plugin {
        what,
        fix: "choose another name, such as `my-filter`".into(),
    })?;
    let folder = args.path.clone().unwrap_or_else(|| (&args.name).into());
    // Fails where there is anything, a dangling link included.
    fs::create_dir(&folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => CliError::Exists {
            path: folder.clone(),
            fix: "name another folder: --path DIRECTORY",
        },
        _ => CliError::io("making", &folder, error),
    })?;
    for (path, text) in template::files(&args.name) {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| CliError::io("making", parent, error))?;
        }
        fs::write(&path, text).map_err(|error| CliError::io("writing", &path, error))?;
    }
    let shown = folder.display();
    say(&format!(
        "made {shown}; what it decides is in src/rules.rs, what must be seen in cases.yaml\n  next: cd {shown} && ringwall plugin test"
    ));
    print(&shown.to_string())?;
    Ok(ExitCode::SUCCESS)
}
