//! Keys and certificates of one measurement, made by openssl: nothing of them outlives it.
//!
//! Owns: an authority, the gateway's, the issuer's and the operator's workload certificates (SPIFFE X.509-SVIDs), an edge
//! certificate for `localhost`, an RSA key set and a token signed with it (RS256).

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::config::Config;

pub(super) const ISSUER: &str = "https://auth.localhost";
pub(super) const AUDIENCE: &str = "https://api.localhost";

/// Where everything lies.
pub(super) struct Material {
    pub(super) folder: PathBuf,
    /// The issuer's key set (RFC 7517).
    pub(super) jwks: String,
    /// An access token that the key set verifies.
    pub(super) token: String,
}

impl Material {
    pub(super) fn make(config: &Config, folder: &Path) -> Result<Self> {
        let maker = Maker::new(config, folder)?;
        maker.authority()?;
        maker.certificate("edge", "subjectAltName=DNS:localhost", "serverAuth")?;
        for name in ["gateway", "authz-server", "ringwall"] {
            let identity = format!("subjectAltName=URI:spiffe://ringwall.local/{name}");
            maker.certificate(name, &identity, "serverAuth,clientAuth")?;
        }
        maker.identity("gateway")?;
        let (jwks, token) = maker.token()?;
        fs::write(folder.join("jwks.json"), &jwks).context("writing the key set")?;
        Ok(Self {
            folder: folder.to_owned(),
            jwks,
            token,
        })
    }
}

/// A root, an intermediate below it (`intermediate.pem`, `intermediate.key`) and an SVID `NAME.pem`, `NAME.key` of each
/// workload.
pub(super) fn mesh(config: &Config, folder: &Path, workloads: &[&str]) -> Result<()> {
    let maker = Maker::new(config, folder)?;
    maker.authority()?;
    maker.signed(
        "intermediate",
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
         subjectAltName=URI:spiffe://ringwall.local\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n",
    )?;
    for name in workloads {
        let identity = format!("subjectAltName=URI:spiffe://ringwall.local/{name}");
        maker.certificate(name, &identity, "serverAuth,clientAuth")?;
    }
    Ok(())
}

/// A file that its owner alone reads.
pub(super) fn secret(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).context("writing a secret")?;
    private(path)
}

/// SHA-256 in hexadecimal digits.
pub(super) fn sha256(config: &Config, bytes: &[u8]) -> Result<String> {
    let openssl = config
        .tool("openssl")
        .context("openssl is missing: apt-get install -y openssl")?;
    let mut child = Command::new(openssl)
        .args(["dgst", "-sha256", "-r"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting openssl")?;
    child
        .stdin
        .take()
        .context("openssl takes no input")?
        .write_all(bytes)
        .context("writing to openssl")?;
    let output = child.wait_with_output().context("waiting for openssl")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let digest = text.split_whitespace().next();
    digest.map(str::to_owned).context("openssl said nothing")
}

struct Maker {
    openssl: PathBuf,
    folder: PathBuf,
}

impl Maker {
    fn new(config: &Config, folder: &Path) -> Result<Self> {
        let openssl = config
            .tool("openssl")
            .context("openssl is missing: apt-get install -y openssl")?;
        Ok(Self {
            openssl,
            folder: folder.to_owned(),
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = Command::new(&self.openssl)
            .current_dir(&self.folder)
            .args(arguments)
            .output()
            .context("starting openssl")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("openssl {} failed:\n{said}", arguments.join(" "));
        }
        Ok(output.stdout)
    }

    fn authority(&self) -> Result<()> {
        self.key("root")?;
        self.run(&[
            "req",
            "-x509",
            "-new",
            "-key",
            "root.key",
            "-out",
            "root.pem",
            "-days",
            "1",
            "-subj",
            "/CN=bench",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
            "-addext",
            "subjectAltName=URI:spiffe://ringwall.local",
        ])?;
        Ok(())
    }

    /// A P-256 key as PKCS#8, readable by its owner only.
    fn key(&self, name: &str) -> Result<()> {
        let file = format!("{name}.key");
        self.run(&[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            &file,
        ])?;
        private(&self.folder.join(file))
    }

    fn certificate(&self, name: &str, names: &str, usage: &str) -> Result<()> {
        self.signed(
            name,
            &format!(
                "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n{names}\n\
                 authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
            ),
        )
    }

    /// A key and a certificate that the root signs.
    fn signed(&self, name: &str, extensions: &str) -> Result<()> {
        self.key(name)?;
        let [key, request, chain, file] =
            ["key", "csr", "pem", "ext"].map(|ending| format!("{name}.{ending}"));
        fs::write(self.folder.join(&file), extensions).context("writing extensions")?;
        self.run(&[
            "req",
            "-new",
            "-key",
            &key,
            "-subj",
            &format!("/CN={name}"),
            "-out",
            &request,
        ])?;
        self.run(&[
            "x509", "-req", "-in", &request, "-CA", "root.pem", "-CAkey", "root.key", "-days", "1",
            "-extfile", &file, "-out", &chain,
        ])?;
        Ok(())
    }

    /// The directory that the shell reads: `svid.pem`, `svid.key`, `bundle.pem`.
    fn identity(&self, name: &str) -> Result<()> {
        let directory = self.folder.join("identity");
        fs::create_dir(&directory).context("making the identity directory")?;
        for (from, to) in [
            (format!("{name}.pem"), "svid.pem"),
            (format!("{name}.key"), "svid.key"),
            ("root.pem".to_owned(), "bundle.pem"),
        ] {
            fs::copy(self.folder.join(from), directory.join(to)).context("copying the identity")?;
        }
        private(&directory.join("svid.key"))?;
        let secrets = self.folder.join("secrets");
        fs::create_dir(&secrets).context("making the secrets directory")?;
        let secret = secrets.join("oauth-client-secret");
        fs::write(&secret, "unused").context("writing a secret")?;
        private(&secret)
    }

    /// A key set with one RSA-2048 key, and a token of RFC 9068 that it verifies.
    fn token(&self) -> Result<(String, String)> {
        self.run(&[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
            "rsa.key",
        ])?;
        let modulus = self.run(&["rsa", "-in", "rsa.key", "-noout", "-modulus"])?;
        let modulus = String::from_utf8_lossy(&modulus)
            .trim()
            .trim_start_matches("Modulus=")
            .to_owned();
        let modulus = base64url(&from_hex(&modulus)?);
        let jwks = format!(
            r#"{{"keys":[{{"kty":"RSA","kid":"bench","use":"sig","alg":"RS256","n":"{modulus}","e":"AQAB"}}]}}"#
        );
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .context("reading the clock")?;
        let ends = now + Duration::from_secs(6 * 3600);
        let header = base64url(br#"{"alg":"RS256","typ":"at+jwt","kid":"bench"}"#);
        let claims = format!(
            r#"{{"iss":"{ISSUER}","sub":"alice","aud":"{AUDIENCE}","exp":{},"iat":{},"jti":"1","client_id":"bench","scope":"orders:read","roles":["customer"]}}"#,
            ends.as_secs(),
            now.as_secs(),
        );
        let signed = format!("{header}.{}", base64url(claims.as_bytes()));
        fs::write(self.folder.join("signed"), &signed).context("writing the token")?;
        let signature = self.run(&["dgst", "-sha256", "-sign", "rsa.key", "signed"])?;
        Ok((jwks, format!("{signed}.{}", base64url(&signature))))
    }
}

fn private(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("closing a key file")
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
        })
        .collect::<Option<_>>()
        .context("reading a hexadecimal number")?;
    Ok(digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect())
}

/// RFC 4648 §5 without padding.
fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            let index = (bits >> (18 - 6 * place)) & 63;
            let letter = usize::try_from(index)
                .ok()
                .and_then(|index| LETTERS.get(index));
            let _ = write!(text, "{}", letter.map_or('A', |letter| char::from(*letter)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_that_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("\u{3ff}\u{3fe}", "z7_Pvg"),
        ] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(from_hex("00ff10").unwrap(), [0, 255, 16]);
        assert!(from_hex("0g").is_err());
    }
}
