//! Storage that belongs to a socket and goes with it.
//!
//! aya-ebpf's own type takes the socket from the context of address hooks alone; packets, options and the events of
//! TCP have theirs elsewhere.

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use core::ptr::{from_mut, from_ref, null, null_mut};

/// As the kernel reads definitions of maps: every field is a pointer to a type, or to an array as long as its value.
#[repr(C)]
pub struct SkStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the fields are never read; the loader replaces the whole by a map.
unsafe impl<T> Sync for SkStorage<T> {}

impl<T> SkStorage<T> {
    pub const fn new() -> Self {
        Self {
            r#type: null(),
            key: null(),
            value: null(),
            max_entries: null(),
            map_flags: null(),
        }
    }

    /// What is stored with the socket.
    ///
    /// # Safety
    /// `socket` is one that the verifier knows as a full socket, or null where it does not insist.
    #[inline(always)]
    pub unsafe fn get(&self, socket: *mut bpf_sock) -> Option<&mut T> {
        // SAFETY: the map is this one, the socket is the caller's; without a value nothing is made.
        unsafe {
            bpf_sk_storage_get(self.map(), socket.cast(), null_mut(), 0)
                .cast::<T>()
                .as_mut()
        }
    }

    /// Stores a value with the socket, in place of another one. False where there is no memory.
    ///
    /// # Safety
    /// As for `get`.
    #[inline(always)]
    pub unsafe fn put(&self, socket: *mut bpf_sock, mut value: T) -> bool
    where
        T: Copy,
    {
        let flags = BPF_SK_STORAGE_GET_F_CREATE as u64;
        // SAFETY: as above; the value is read before the call returns.
        let stored = unsafe {
            bpf_sk_storage_get(
                self.map(),
                socket.cast(),
                from_mut(&mut value).cast(),
                flags,
            )
            .cast::<T>()
            .as_mut()
        };
        match stored {
            Some(stored) => {
                *stored = value;
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    const fn map(&self) -> *mut core::ffi::c_void {
        from_ref(self).cast_mut().cast()
    }
}
