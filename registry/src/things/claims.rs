//! Claims: which things a set of tags claims.
//!
//! [`Table::Claims`] has an entry for each thing that can be claimed, without a value: behind a hash of all that has to be
//! known of it, the thing's name. So a claim is one short scan, whether the thing is there or not. What an owner claimed has
//! one too, by the hash of the owner and the tags without the key, which is gone by then: who claims twice, claims the same.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::thing::{NodeName, Tag, TagValue};
use sha2::{Digest, Sha256};

use super::record::{put_name, read_name};
use super::{State, ThingRecord};
use crate::store::{Store, StoreError, Table};

/// Entries read of a claim that names a node: things that differ in nothing but their names.
const ALIKE_MAX: usize = 64;

/// The hash of tags, in whatever order and however their names are capitalised: numbers by their bits, strings as they are.
pub(super) fn tags_hash(tags: &[Tag]) -> [u8; 32] {
    let mut tags: Vec<_> = tags.iter().map(|tag| (tag.name.to_ascii_uppercase(), &tag.value)).collect();
    tags.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let mut hash = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for (name, value) in tags {
        put(name.as_bytes());
        match value {
            TagValue::Str(text) => {
                put(b"s");
                put(text.as_bytes());
            }
            TagValue::Num(number) => {
                put(b"n");
                put(&(number + 0.0).to_bits().to_le_bytes());
            }
        }
    }
    hash.finalize().into()
}

/// The hash of what claims a thing that is nobody's: the hash of its tags, and that of its key.
pub(super) fn first(tags: &[u8; 32], key: Option<&[u8; 32]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(if key.is_some() { b"k" } else { b"o" });
    hash.update(tags);
    hash.update(key.map_or(&[][..], |key| key.as_slice()));
    hash.finalize().into()
}

/// The hash of what claims a thing again.
pub(super) fn again(owner: JidRef<'_>, tags: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"a");
    hash.update(tags);
    hash.update(owner.bare().as_str().as_bytes());
    hash.finalize().into()
}

/// Key in [`Table::Claims`] under which a thing is to be found now; `None` if nothing claims it.
pub(super) fn entry(thing: &ThingRecord) -> Option<Vec<u8>> {
    let hash = match &thing.state {
        // Nothing is known of it: it was disowned, and has not registered anew.
        State::Unclaimed if thing.tags.is_empty() && thing.key.is_none() => return None,
        State::Unclaimed => first(&tags_hash(&thing.tags), thing.key.as_ref()),
        State::SelfOwned => return None,
        State::Claimed { owner, .. } => again(owner.as_jid(), thing.claim.as_ref()?),
    };
    let mut key = hash.to_vec();
    put_name(&mut key, thing.jid.as_jid(), &thing.node);
    Some(key)
}

/// The one thing that a hash claims, of those with that name if the claim names a node; `None` if there is none or several.
pub(super) async fn find<S: Store>(
    store: &S,
    hash: [u8; 32],
    node: &NodeName,
) -> Result<Option<(Jid, NodeName)>, StoreError> {
    let limit = if node.is_device() { 2 } else { ALIKE_MAX };
    let pairs = store.scan(Table::Claims, &hash, None, limit).await?;
    let things = pairs.iter().map(|(key, _)| read_name(key.get(hash.len()..).unwrap_or_default()));
    let things: Vec<_> = things.collect::<Result<_, _>>()?;
    let mut things = things.into_iter().filter(|(_, name)| node.is_device() || name == node);
    let found = things.next();
    Ok(if things.next().is_some() { None } else { found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, value: &str) -> Tag {
        Tag { name: name.into(), value: TagValue::Str(value.into()) }
    }

    fn number(name: &str, value: f64) -> Tag {
        Tag { name: name.into(), value: TagValue::Num(value) }
    }

    #[test]
    fn tags_are_the_same_in_any_order_and_no_others_are() {
        let hash = |tags: &[Tag]| tags_hash(tags);
        let set = hash(&[text("SN", "1"), number("V", 1.0)]);
        assert_eq!(set, hash(&[number("v", 1.0), text("Sn", "1")]));
        assert_eq!(hash(&[number("V", 0.0)]), hash(&[number("V", -0.0)]));
        for other in [
            vec![text("SN", "1")],
            vec![text("SN", "1"), number("V", 1.5)],
            vec![text("SN", "1"), text("V", "1")],
            vec![text("SN", "1"), number("W", 1.0)],
            vec![text("SN", "1 "), number("V", 1.0)],
            vec![text("SN", "a"), number("V", 1.0)],
            vec![text("SN", "1"), number("V", 1.0), text("X", "")],
            vec![text("SN1", ""), number("V", 1.0)],
            vec![],
        ] {
            assert_ne!(set, hash(&other), "{other:?}");
        }
        assert_ne!(hash(&[text("A", "a")]), hash(&[text("A", "A")]));
    }

    #[test]
    fn a_key_is_part_of_what_claims() {
        let owner = Jid::parse("owner@things.example").unwrap();
        let tags = tags_hash(&[text("SN", "1")]);
        let all = [first(&tags, None), first(&tags, Some(&[0; 32])), first(&tags, Some(&[1; 32]))];
        let again = again(owner.as_jid(), &tags);
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2] && !all.contains(&again));
    }
}
