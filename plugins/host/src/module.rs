//! A plugin's code: verified, compiled, and known to fit this host.
//!
//! Owns: the order of the checks. Nothing is compiled before its digest and its signature are right, and a module that this
//! host cannot run is refused here, with what is missing, not on the first request.
//! Must not: run guest code. Read next: `module/verify.rs`, `module/interface.rs`.

mod interface;
mod verify;

use std::sync::Arc;

use aws_lc_rs::digest;
use wasmtime::InstancePre;

use crate::abi::AbiVersion;
use crate::error::Error;
use crate::instance::Host;
use crate::runtime::{Runtime, RuntimeInner, text};

pub use self::interface::{Inspection, Needs, Producer};
pub use self::verify::{PublicKey, Verification};

/// The largest module that is looked at, in bytes. A plugin's own limit may be lower.
const MAX_MODULE: usize = 64 << 20;

/// A module ready to be instantiated. Clones are the same one.
#[derive(Clone)]
pub struct Module {
    pub(crate) inner: Arc<ModuleInner>,
}

pub(crate) struct ModuleInner {
    pub(crate) pre: InstancePre<Host>,
    pub(crate) runtime: Arc<RuntimeInner>,
    pub(crate) inspection: Inspection,
}

impl Module {
    /// Verifies, compiles (or takes from the cache) and checks a module, in binary or text format where the
    /// latter is enabled.
    pub fn load(
        runtime: &Runtime,
        bytes: &[u8],
        verification: &Verification,
    ) -> Result<Self, Error> {
        if bytes.len() > MAX_MODULE {
            return Err(Error::ModuleTooLarge {
                size: bytes.len(),
                limit: MAX_MODULE,
            });
        }
        let digest = digest::digest(&digest::SHA256, bytes);
        verification.check(bytes, digest.as_ref())?;
        let digest = hex::encode(digest);
        let inner = &runtime.inner;
        let cached = inner.cache.as_ref();
        let module = match cached.and_then(|cache| cache.load(&inner.engine, &digest)) {
            Some(module) => module,
            None => {
                let module = wasmtime::Module::from_binary(&inner.engine, bytes);
                let module = module.map_err(|error| Error::Compile(text(&error)))?;
                if let Some(cache) = cached {
                    cache.store(&digest, &module);
                }
                module
            }
        };
        let inspection = interface::inspect(&module, digest, bytes.len());
        interface::check(&module, &inspection)?;
        let pre = inner.linker.instantiate_pre(&module);
        Ok(Self {
            inner: Arc::new(ModuleInner {
                pre: pre.map_err(|error| Error::ImportType(text(&error)))?,
                runtime: Arc::clone(inner),
                inspection,
            }),
        })
    }

    /// What is in it.
    pub fn inspect(&self) -> &Inspection {
        &self.inner.inspection
    }

    /// What is in a module, whether or not this host can run it, for those who ask why.
    pub fn inspect_bytes(runtime: &Runtime, bytes: &[u8]) -> Result<Inspection, Error> {
        let module = wasmtime::Module::from_binary(&runtime.inner.engine, bytes);
        let module = module.map_err(|error| Error::Compile(text(&error)))?;
        let digest = hex::encode(digest::digest(&digest::SHA256, bytes));
        Ok(interface::inspect(&module, digest, bytes.len()))
    }

    /// What has made a module, as it says itself.
    pub fn producers(bytes: &[u8]) -> Vec<Producer> {
        interface::producers(bytes)
    }

    pub(crate) fn abi(&self) -> AbiVersion {
        self.inner.inspection.abi.unwrap_or(AbiVersion::V0_2_1)
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_tuple("Module");
        shown.field(&self.inner.inspection.digest).finish()
    }
}
