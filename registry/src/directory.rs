//! What is true of the whole broker and known to every shard: capabilities that were verified (XEP-0115 v1.6.0 §5.4).
//!
//! Called by the shards when presence shows capabilities. Keys go in, owned values come out; no guard leaves a function.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dashmap::{DashMap, Entry};
use plaza_core::caps::{Info, Ver};

/// Nodes somebody wants to be told of, sorted: what XEP-0163's notifications are filtered by.
pub type Nodes = Arc<[Box<str>]>;

/// Bytes of nodes kept under one hash, with what each costs beside its name. Clients ask for some twenty; one that asks
/// for more than fits is asked again each time.
const NODES_BYTES_MAX: usize = 4_096;
/// A node's pointer, length and allocation.
const NODE_BYTES: usize = size_of::<Box<str>>() + 16;

/// Verified capabilities by their hash. An unverified hash never gets in, so nobody can speak for others.
#[derive(Debug)]
pub struct CapsCache {
    known: DashMap<Ver, Known>,
    /// How many are in `known` or about to be.
    count: AtomicUsize,
    entries_max: usize,
    is_sweeping: AtomicBool,
}

#[derive(Debug)]
struct Known {
    nodes: Nodes,
    /// Whether it was asked for since the last sweep.
    used: AtomicBool,
}

impl CapsCache {
    /// Hashes known at once: far more than there are versions of clients, and 16 MiB at the very most.
    pub const ENTRIES_MAX: usize = 4_096;

    /// An empty one for at most so many hashes. When it is full, those nobody asked for lately go.
    pub fn new(entries_max: usize) -> Self {
        Self { known: DashMap::new(), count: AtomicUsize::new(0), entries_max, is_sweeping: AtomicBool::new(false) }
    }

    /// The nodes that everybody who shows this hash wants to be told of; `None` if nobody was asked yet.
    pub fn get(&self, ver: Ver) -> Option<Nodes> {
        let known = self.known.get(&ver)?;
        // Relaxed, here and in the sweep: the flag guards nothing, and a use that is seen late costs one more question.
        known.used.store(true, Ordering::Relaxed);
        Some(Arc::clone(&known.nodes))
    }

    /// Takes the answer of an entity that showed this hash and gives the nodes it wants to be told of, which are kept for
    /// all who show it. `None` if the hash is not the answer's: then nothing is kept (§5.4, 3.9), and the answer, if it is
    /// believed at all, is true of that entity alone.
    pub fn learn(&self, ver: Ver, info: &Info) -> Option<Nodes> {
        if info.ver(ver.hash()) != ver {
            return None;
        }
        let nodes: Nodes = info.notified().into();
        let bytes: usize = nodes.iter().map(|node| node.len() + NODE_BYTES).sum();
        if bytes <= NODES_BYTES_MAX && self.reserve() {
            match self.known.entry(ver) {
                Entry::Vacant(place) => {
                    place.insert(Known { nodes: Arc::clone(&nodes), used: AtomicBool::new(false) });
                }
                // Another shard was told the same in the meantime.
                Entry::Occupied(_) => {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        Some(nodes)
    }

    /// How many hashes are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Takes a place, after a sweep if there is none.
    fn reserve(&self) -> bool {
        // Relaxed: the count guards no other memory, and only its bound must be exact.
        let take = || {
            let more = |count| (count < self.entries_max).then_some(count + 1);
            self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        };
        take() || (self.sweep() && take())
    }

    /// Forgets what nobody asked for since the last time. Whether it did: one shard sweeps at a time, the others go on.
    fn sweep(&self) -> bool {
        // Acquire pairs with the Release below: one sweep sees what the last one did.
        if self.is_sweeping.swap(true, Ordering::Acquire) {
            return false;
        }
        let mut forgotten = 0;
        self.known.retain(|_, known| {
            let used = known.used.swap(false, Ordering::Relaxed);
            forgotten += usize::from(!used);
            used
        });
        self.count.fetch_sub(forgotten, Ordering::Relaxed);
        self.is_sweeping.store(false, Ordering::Release);
        true
    }
}

impl Default for CapsCache {
    fn default() -> Self {
        Self::new(Self::ENTRIES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use plaza_core::caps::HashFunction;

    use super::*;

    fn info(features: &[&str]) -> Info {
        let mut features: Vec<_> = features.iter().map(|&feature| feature.to_owned()).collect();
        features.sort();
        Info { identities: Vec::new(), features, forms: Vec::new() }
    }

    fn numbered(number: usize) -> (Ver, Info) {
        let info = info(&[&format!("urn:{number}+notify")]);
        (info.ver(HashFunction::Sha256), info)
    }

    #[test]
    fn what_was_verified_is_known_by_its_hash() {
        let cache = CapsCache::default();
        let info = info(&["urn:b+notify", "urn:c", "urn:a+notify"]);
        for hash in [HashFunction::Sha1, HashFunction::Sha256] {
            let ver = info.ver(hash);
            assert_eq!(cache.get(ver), None);
            let nodes = cache.learn(ver, &info).unwrap();
            assert_eq!(nodes.iter().map(|node| &**node).collect::<Vec<_>>(), ["urn:a", "urn:b"]);
            assert_eq!(cache.get(ver), Some(nodes.clone()));
            assert_eq!(cache.learn(ver, &info), Some(nodes));
        }
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn what_does_not_fit_its_hash_is_not_kept() {
        let cache = CapsCache::default();
        let (shown, _) = numbered(1);
        let (_, answered) = numbered(2);
        assert_eq!(cache.learn(shown, &answered), None);
        assert_eq!(cache.get(shown), None);
        assert!(cache.is_empty());
    }

    #[test]
    fn too_many_nodes_are_told_and_not_kept() {
        let cache = CapsCache::default();
        let many: Vec<_> =
            (0..=NODES_BYTES_MAX / (NODE_BYTES + 3)).map(|number| format!("{number:03}+notify")).collect();
        let info = info(&many.iter().map(String::as_str).collect::<Vec<_>>());
        let ver = info.ver(HashFunction::Sha1);
        assert_eq!(cache.learn(ver, &info).map(|nodes| nodes.len()), Some(many.len()));
        assert_eq!(cache.get(ver), None);
    }

    #[test]
    fn when_it_is_full_those_in_use_stay() {
        let cache = CapsCache::new(10);
        let known: Vec<_> = (0..10).map(numbered).collect();
        for (ver, info) in &known {
            cache.learn(*ver, info).unwrap();
        }
        for (ver, _) in &known[..3] {
            cache.get(*ver).unwrap();
        }
        let (new, info) = numbered(10);
        assert!(cache.learn(new, &info).is_some());
        assert_eq!(cache.len(), 4);
        assert!(cache.get(new).is_some());
        assert_eq!(known.iter().filter(|(ver, _)| cache.get(*ver).is_some()).count(), 3);
    }

    #[test]
    fn the_bound_is_exact_with_many_threads() {
        let cache = CapsCache::new(50);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for number in 0..500 {
                        // Half of them are learnt by two threads.
                        let (ver, info) = numbered(number + 500 * (thread / 2));
                        assert!(cache.learn(ver, &info).is_some());
                        if number % 3 == 0 {
                            cache.get(ver);
                        }
                        assert!(cache.len() <= 50);
                    }
                });
            }
        });
        assert_eq!(cache.len(), cache.count.load(Ordering::Relaxed));
    }
}
