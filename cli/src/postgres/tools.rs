//! Which PostgreSQL binaries are used.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::CliError;

/// Debian keeps each major version in a folder of its own.
const VERSIONS: &str = "/usr/lib/postgresql";
/// `clientcert=verify-full`, SCRAM and TLS 1.3 as we use them are tested from here on.
const OLDEST: u32 = 15;

/// A folder with initdb, postgres and psql.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    folder: PathBuf,
    pub(crate) version: u32,
}

impl Tools {
    /// The newest version, or exactly the one that an existing cluster was made with.
    pub(crate) fn find(cluster: Option<&str>) -> Result<Self, CliError> {
        Self::choose(installed(Path::new(VERSIONS)), cluster)
    }

    /// Path of one of the programs.
    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn choose(installed: Vec<Self>, cluster: Option<&str>) -> Result<Self, CliError> {
        let wanted = cluster.and_then(|version| version.parse::<u32>().ok());
        let suits = |tools: &Self| match wanted {
            Some(version) => tools.version == version,
            None => tools.version >= OLDEST,
        };
        let version = wanted.unwrap_or(OLDEST);
        installed
            .into_iter()
            .filter(suits)
            .max_by_key(|tools| tools.version)
            .ok_or_else(|| CliError::ToolMissing {
                what: match wanted {
                    Some(version) => {
                        format!("PostgreSQL {version}, which the cluster was made with,")
                    }
                    None => format!("PostgreSQL ({OLDEST} or newer)"),
                },
                fix: format!(
                    "apt-get install -y --no-install-recommends postgresql-{version} \
                     (as root), or let `cargo xtask setup` do it"
                ),
            })
    }
}

fn installed(versions: &Path) -> Vec<Tools> {
    let folders = fs::read_dir(versions).into_iter().flatten().flatten();
    let versions = folders.filter_map(|entry| {
        let version = entry.file_name().to_string_lossy().parse().ok()?;
        let folder = entry.path().join("bin");
        let whole = ["initdb", "postgres", "psql"]
            .iter()
            .all(|name| folder.join(name).is_file());
        whole.then_some(Tools { folder, version })
    });
    versions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(versions: &[u32]) -> Vec<Tools> {
        versions
            .iter()
            .map(|&version| Tools {
                folder: PathBuf::new(),
                version,
            })
            .collect()
    }

    #[test]
    fn the_newest_is_used_and_a_cluster_keeps_its_own() {
        assert_eq!(
            Tools::choose(tools(&[15, 17, 16]), None).unwrap().version,
            17
        );
        assert_eq!(
            Tools::choose(tools(&[15, 17]), Some("15")).unwrap().version,
            15
        );
    }

    #[test]
    fn a_missing_server_names_the_command() {
        let error = Tools::choose(tools(&[13]), None).unwrap_err().to_string();
        assert!(
            error.contains("apt-get install -y --no-install-recommends postgresql-15"),
            "{error}"
        );
        let error = Tools::choose(tools(&[17]), Some("16"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("postgresql-16"), "{error}");
    }
}
