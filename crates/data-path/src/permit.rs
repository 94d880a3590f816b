//! A bound on how many there may be at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One of those that there may be; dropping it makes room.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Permit {
    /// `None` when `limit` are taken.
    #[must_use]
    pub fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        if taken.fetch_add(1, Ordering::Relaxed) < limit {
            return Some(Self(Arc::clone(taken)));
        }
        taken.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_the_limit_and_dropping_makes_room() {
        let taken = Arc::default();
        let first = Permit::take(&taken, 1);
        assert!(first.is_some() && Permit::take(&taken, 1).is_none());
        drop(first);
        assert!(Permit::take(&taken, 1).is_some());
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }
}
