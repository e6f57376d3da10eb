//! How things that were found are told: as the store would have it, where the index knows all that is said of them.
#![expect(clippy::indexing_slicing, reason = "numbers come from the index itself")]

use plaza_core::iot::Generation;
use plaza_core::jid::JidRef;
use plaza_core::thing::wire;

use super::Telling;
use super::check::unordered;
use super::listing::{Index, SEPARATOR, Stored, stored};

/// Bytes of a thing that is told, with half a dozen tags: what is longer makes the answer grow.
const THING_BYTES: usize = 512;

impl Index {
    /// Writes things, up to those that fit, and whether there are some that do not. `None` if it takes the store: of some of
    /// them not all is here, or whose they are has to be said, which the first generation demands.
    pub(super) fn tell(&self, numbers: &[u32], telling: Telling) -> Option<(Vec<u8>, bool)> {
        let Telling { style, bytes_max } = telling;
        if style.generation == Generation::Xsf || numbers.iter().any(|&number| self.apart.contains(number)) {
            return None;
        }
        let mut out = Vec::with_capacity(bytes_max.min(numbers.len() * THING_BYTES));
        for &number in numbers {
            let Some(thing) = &self.things[number as usize] else { continue };
            let end = out.len();
            let mut parts = thing.who.split(SEPARATOR);
            let mut next = || parts.next().unwrap_or_default();
            let (jid, source, partition, id) = (next(), next(), next(), next());
            wire::begin_thing(&mut out, style, JidRef::from_normal(jid), [id, source, partition], None);
            for tag in stored(&thing.tags) {
                match tag {
                    Stored::Term(term) => {
                        let term = &self.terms[term as usize];
                        wire::text_tag(&mut out, &self.names[term.name as usize].text, &term.text);
                    }
                    Stored::Number { name, value } => {
                        wire::number_tag(&mut out, &self.names[name as usize].text, unordered(value));
                    }
                }
            }
            wire::end_thing(&mut out);
            if end > 0 && out.len() > bytes_max {
                out.truncate(end);
                return Some((out, true));
            }
        }
        Some((out, false))
    }
}
