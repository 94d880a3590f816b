//! Data and queues that instances share: between workers, and between plugins with one `vm_id`.
//!
//! Owns: compare-and-swap, the bounds on both, and who is told of a new item. Must not: call a guest: it hands out whom to
//! call. Data lives as long as the process; it is no store.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::abi::Status;
use crate::instance::Instance;
use crate::spec::Limits;

/// All of it.
#[derive(Default)]
pub(crate) struct Shared {
    data: RwLock<HashMap<Arc<str>, Arc<VmData>>>,
    queues: RwLock<Queues>,
}

/// Shared data of one `vm_id`.
#[derive(Default)]
pub(crate) struct VmData {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    values: HashMap<Box<[u8]>, (Bytes, u32)>,
    bytes: usize,
    last_cas: u32,
}

#[derive(Default)]
struct Queues {
    by_name: HashMap<(Arc<str>, Box<[u8]>), u32>,
    by_id: HashMap<u32, Arc<Queue>>,
    last: AtomicU32,
}

struct Queue {
    items: Mutex<(VecDeque<Bytes>, usize)>,
    /// Who registered it, in order; the first that lives is told.
    registrants: Mutex<Vec<Weak<Instance>>>,
}

impl Shared {
    pub(crate) fn data(&self, vm_id: &Arc<str>) -> Arc<VmData> {
        if let Some(found) = self.data.read().get(vm_id) {
            return Arc::clone(found);
        }
        let mut data = self.data.write();
        Arc::clone(data.entry(Arc::clone(vm_id)).or_default())
    }

    /// Opens the queue, or makes it.
    pub(crate) fn register(
        &self,
        vm_id: &Arc<str>,
        name: &[u8],
        registrant: &Weak<Instance>,
        limits: &Limits,
    ) -> Result<u32, Status> {
        let key = (Arc::clone(vm_id), Box::from(name));
        let mut queues = self.queues.write();
        let known = queues.by_name.get(&key).copied();
        let id = match known {
            Some(id) => id,
            None => {
                let own = queues.by_name.keys().filter(|(owner, _)| owner == vm_id);
                if own.count() >= limits.queues {
                    return Err(Status::InternalFailure);
                }
                let id = queues.last.fetch_add(1, Ordering::Relaxed) + 1;
                queues.by_name.insert(key, id);
                let queue = Queue {
                    items: Mutex::default(),
                    registrants: Mutex::default(),
                };
                queues.by_id.insert(id, Arc::new(queue));
                id
            }
        };
        let queue = queues.by_id.get(&id).ok_or(Status::InternalFailure)?;
        let mut registrants = queue.registrants.lock();
        registrants.retain(|known| known.strong_count() > 0);
        if !registrants.iter().any(|known| known.ptr_eq(registrant)) {
            registrants.push(Weak::clone(registrant));
        }
        Ok(id)
    }

    pub(crate) fn resolve(&self, vm_id: &Arc<str>, name: &[u8]) -> Result<u32, Status> {
        let key = (Arc::clone(vm_id), Box::from(name));
        let queues = self.queues.read();
        queues.by_name.get(&key).copied().ok_or(Status::NotFound)
    }

    /// Adds an item and names the instance to tell.
    pub(crate) fn enqueue(
        &self,
        id: u32,
        item: Bytes,
        limits: &Limits,
    ) -> Result<Option<Arc<Instance>>, Status> {
        let queue = self.queue(id)?;
        let mut items = queue.items.lock();
        let bytes = items.1.saturating_add(item.len());
        if items.0.len() >= limits.queue_items || bytes > limits.queue_bytes {
            return Err(Status::InternalFailure);
        }
        items.1 = bytes;
        items.0.push_back(item);
        drop(items);
        let registrants = queue.registrants.lock();
        let mut alive = registrants.iter().filter_map(Weak::upgrade);
        Ok(alive.find(|instance| !instance.has_failed()))
    }

    pub(crate) fn dequeue(&self, id: u32) -> Result<Bytes, Status> {
        let queue = self.queue(id)?;
        let mut items = queue.items.lock();
        let item = items.0.pop_front().ok_or(Status::Empty)?;
        items.1 = items.1.saturating_sub(item.len());
        Ok(item)
    }

    fn queue(&self, id: u32) -> Result<Arc<Queue>, Status> {
        let queues = self.queues.read();
        queues.by_id.get(&id).cloned().ok_or(Status::NotFound)
    }
}

impl VmData {
    /// The value and the number to swap it with.
    pub(crate) fn get(&self, key: &[u8]) -> Result<(Bytes, u32), Status> {
        let entries = self.entries.lock();
        entries.values.get(key).cloned().ok_or(Status::NotFound)
    }

    /// As in Envoy, the number is compared only where there is a value to swap.
    pub(crate) fn set(
        &self,
        key: &[u8],
        value: Bytes,
        cas: u32,
        limit: usize,
    ) -> Result<(), Status> {
        let mut entries = self.entries.lock();
        let known = entries.values.get(key);
        if let Some((_, current)) = known
            && cas != 0
            && cas != *current
        {
            return Err(Status::CasMismatch);
        }
        let before = known.map_or(0, |(value, _)| key.len() + value.len());
        let bytes = entries.bytes - before + key.len() + value.len();
        if bytes > limit {
            return Err(Status::InternalFailure);
        }
        // Zero means "do not compare", so it is never a value's number.
        let next = entries.last_cas.checked_add(1).unwrap_or(1);
        entries.last_cas = next;
        entries.bytes = bytes;
        entries.values.insert(key.into(), (value, next));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r90_a_swap_succeeds_once() {
        let data = VmData::default();
        let set = |value: &'static str, cas| data.set(b"k", Bytes::from(value), cas, 100);
        assert_eq!(data.get(b"k"), Err(Status::NotFound));
        assert_eq!(set("a", 7), Ok(())); // nothing to compare with
        let (value, cas) = data.get(b"k").unwrap();
        assert_eq!(value, "a");
        assert_ne!(cas, 0);
        assert_eq!(set("b", cas), Ok(()));
        assert_eq!(set("c", cas), Err(Status::CasMismatch));
        assert_eq!(data.get(b"k").unwrap().0, "b");
        assert_eq!(set("d", 0), Ok(()));
        assert_eq!(data.get(b"k").unwrap().0, "d");
    }

    #[test]
    fn r91_shared_data_is_bounded_in_bytes() {
        let data = VmData::default();
        assert_eq!(
            data.set(b"key", Bytes::from_static(b"1234567"), 0, 10),
            Ok(())
        );
        let seen = data.set(b"key", Bytes::from_static(b"12345678"), 0, 10);
        assert_eq!(seen, Err(Status::InternalFailure));
        assert_eq!(data.get(b"key").unwrap().0, "1234567");
        assert_eq!(data.set(b"key", Bytes::new(), 0, 10), Ok(()));
        assert_eq!(data.set(b"k2", Bytes::from_static(b"12345"), 0, 10), Ok(()));
    }

    #[test]
    fn r90_queues_are_found_by_name_and_first_in_first_out() {
        let (shared, limits) = (Shared::default(), Limits::default());
        let vm: Arc<str> = Arc::from("vm");
        let id = shared.register(&vm, b"q", &Weak::new(), &limits).unwrap();
        assert_eq!(shared.register(&vm, b"q", &Weak::new(), &limits), Ok(id));
        assert_eq!(shared.resolve(&vm, b"q"), Ok(id));
        assert_eq!(
            shared.resolve(&Arc::from("other"), b"q"),
            Err(Status::NotFound)
        );
        assert_eq!(shared.dequeue(id), Err(Status::Empty));
        for item in ["1", "2"] {
            assert!(shared.enqueue(id, item.into(), &limits).unwrap().is_none());
        }
        assert_eq!(shared.dequeue(id).unwrap(), "1");
        assert_eq!(shared.dequeue(id).unwrap(), "2");
        assert_eq!(shared.dequeue(id + 1), Err(Status::NotFound));
    }

    #[test]
    fn r91_queues_are_bounded_in_number_items_and_bytes() {
        let limits = Limits {
            queues: 1,
            queue_items: 2,
            queue_bytes: 10,
            ..Limits::default()
        };
        let (shared, vm) = (Shared::default(), Arc::from("vm"));
        let id = shared.register(&vm, b"q", &Weak::new(), &limits).unwrap();
        let second = shared.register(&vm, b"r", &Weak::new(), &limits);
        assert_eq!(second, Err(Status::InternalFailure));
        let add = |item: &'static str| shared.enqueue(id, item.into(), &limits).map(|_| ());
        assert_eq!(add("12345678901"), Err(Status::InternalFailure));
        assert_eq!(add("12345"), Ok(()));
        assert_eq!(add("12345"), Ok(()));
        assert_eq!(add(""), Err(Status::InternalFailure));
    }
}
