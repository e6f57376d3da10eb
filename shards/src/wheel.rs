//! The timer wheel: one per shard, coarse ticks, lazily cancelled.
//!
//! Called by the shard loop, which says what a tick is (100 ms, say) and reads the clock. A token is the owner's word
//! for whose timer it is. Nothing is ever cancelled: the owner keeps the true deadline, may move it freely without
//! touching the wheel, and when the token comes out checks whether it is still due, or [renews](Wheel::advance_renewing)
//! it. So a session costs one timer however often its deadline moves.
//!
//! The wheel is hierarchical: level *k* has 64 slots of 64ᵏ ticks each, and a timer lies at the level of the highest
//! digit (base 64) in which its deadline and the present differ. When the present reaches a slot, its timers fire or move
//! to a lower level. Eleven levels cover all of `u64`, so there is no span to run out of. A single ring of slots would
//! be simpler, but each of its slots holds timers of later rounds too, and an idle shard would be woken for them at
//! nearly every tick; here a timer moves at most once per digit of its deadline.

#![forbid(unsafe_code)]
#![expect(clippy::indexing_slicing, reason = "slots are masked to 64, levels are < 11, list links lie in the arena")]

/// Bits of a tick that one level resolves.
const LEVEL_BITS: u32 = 6;
/// Slots per level: one bit each in [`Level::occupied`].
const SLOTS: usize = 1 << LEVEL_BITS;
/// Enough for every tick there is.
const LEVELS: usize = u64::BITS.div_ceil(LEVEL_BITS) as usize;
/// The end of a list.
const NIL: u32 = u32::MAX;

const _: () = assert!(SLOTS == u64::BITS as usize);

/// A shard's timers. `insert` is O(1); a timer moves at most once per level on its way out. Memory is that of the most
/// timers there ever were at once, 24 bytes each, and is reused.
pub struct Wheel {
    /// The tick up to which all has fired.
    now: u64,
    levels: [Level; LEVELS],
    timers: Vec<Timer>,
    /// The list of unused `timers`.
    free: u32,
    len: usize,
}

#[derive(Clone, Copy)]
struct Level {
    /// Bit *n*: `slots[n]` is not empty.
    occupied: u64,
    /// First timer of each slot's list. No slot before the present's is in use.
    slots: [u32; SLOTS],
}

struct Timer {
    deadline_tick: u64,
    token: u64,
    next: u32,
}

const _: () = assert!(size_of::<Timer>() == 24);

impl Wheel {
    /// An empty wheel at tick 0; the first [`Wheel::advance`] brings it to the present.
    pub fn new() -> Self {
        let level = Level { occupied: 0, slots: [NIL; SLOTS] };
        Self { now: 0, levels: [level; LEVELS], timers: Vec::new(), free: NIL, len: 0 }
    }

    /// Lets `token` come out of the first [`Wheel::advance`] to `deadline_tick` or later: the very next one, if that
    /// tick has passed.
    pub fn insert(&mut self, deadline_tick: u64, token: u64) {
        let timer = Timer { deadline_tick, token, next: NIL };
        let index = if self.free == NIL {
            self.timers.push(timer);
            u32::try_from(self.timers.len() - 1).expect("a few timers per session, and fewer than 2³² sessions")
        } else {
            let index = self.free;
            self.free = self.timers[index as usize].next;
            self.timers[index as usize] = timer;
            index
        };
        self.len += 1;
        self.place(index);
    }

    /// Moves the present to `now_tick`, and gives `each` the token of every timer due by then, earlier ticks first. The
    /// present never moves back: an earlier `now_tick` counts as the latest one seen.
    pub fn advance(&mut self, now_tick: u64, mut each: impl FnMut(u64)) {
        self.advance_renewing(now_tick, |token| {
            each(token);
            None
        });
    }

    /// [`Wheel::advance`] whose `each` may give the token a new deadline. One that has passed by `now_tick` comes out of
    /// the next call, so that this one ends.
    pub fn advance_renewing(&mut self, now_tick: u64, mut each: impl FnMut(u64) -> Option<u64>) {
        let now_tick = now_tick.max(self.now);
        let mut renewed = NIL;
        while let Some((level, slot, start)) = self.next_slot()
            && start <= now_tick
        {
            self.now = start;
            let mut list = self.take(level, slot);
            while list != NIL {
                let index = list;
                let timer = &mut self.timers[index as usize];
                list = timer.next;
                if timer.deadline_tick > start {
                    self.place(index); // At a lower level: it shares this level's digit with the present now.
                    continue;
                }
                if let Some(deadline_tick) = each(timer.token) {
                    timer.deadline_tick = deadline_tick;
                    timer.next = renewed;
                    renewed = index;
                } else {
                    timer.next = self.free;
                    self.free = index;
                    self.len -= 1;
                }
            }
        }
        // No slot starts between the last one taken and `now_tick`, so every timer left still lies where it should.
        self.now = now_tick;
        while renewed != NIL {
            let index = renewed;
            renewed = self.timers[index as usize].next;
            self.place(index);
        }
    }

    /// The next tick at which [`Wheel::advance`] has something to do: never later than the earliest deadline (unless
    /// that has passed: then the present), but maybe earlier, when far timers have to move nearer. `None` if there are
    /// no timers.
    pub fn next_tick(&self) -> Option<u64> {
        self.next_slot().map(|(_, _, start)| start)
    }

    /// How many timers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts timer `index` into the slot where its deadline lies as seen from the present.
    fn place(&mut self, index: u32) {
        let timer = &mut self.timers[index as usize];
        let tick = timer.deadline_tick.max(self.now);
        // The lowest bits are set so that what is due at this very tick counts as differing in the lowest digit.
        let level = ((tick ^ self.now) | (SLOTS as u64 - 1)).ilog2() / LEVEL_BITS;
        let slot = (tick >> (level * LEVEL_BITS)) as usize % SLOTS;
        let level = &mut self.levels[level as usize];
        timer.next = level.slots[slot];
        level.slots[slot] = index;
        level.occupied |= 1 << slot;
    }

    /// Empties a slot, and gives its list.
    fn take(&mut self, level: usize, slot: usize) -> u32 {
        let level = &mut self.levels[level];
        level.occupied &= !(1 << slot);
        std::mem::replace(&mut level.slots[slot], NIL)
    }

    /// The first slot in use (level, slot) and the tick at which it starts. Timers of a lower level share more digits
    /// with the present, so that they are earlier than all of a higher one.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let (level, occupied) = (0..).zip(&self.levels).find_map(|(level, at)| {
            let used = at.occupied != 0;
            used.then_some((level, at.occupied))
        })?;
        let slot = occupied.trailing_zeros();
        let shift = level * LEVEL_BITS;
        let shared_digits = u64::MAX.checked_shl(shift + LEVEL_BITS).unwrap_or(0);
        Some((level as usize, slot as usize, (self.now & shared_digits) | (u64::from(slot) << shift)))
    }
}

impl Default for Wheel {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn fired(wheel: &mut Wheel, now_tick: u64) -> Vec<u64> {
        let mut tokens = Vec::new();
        wheel.advance(now_tick, |token| tokens.push(token));
        tokens
    }

    #[test]
    fn a_timer_fires_at_its_tick_and_not_before() {
        for deadline in [1, 63, 64, 65, 4_095, 4_096, 262_144, 1 << 40, u64::MAX - 1, u64::MAX] {
            let mut wheel = Wheel::new();
            wheel.insert(deadline, 7);
            assert!(fired(&mut wheel, deadline - 1).is_empty(), "{deadline}");
            assert_eq!(wheel.next_tick(), Some(deadline));
            assert_eq!(fired(&mut wheel, deadline), [7], "{deadline}");
            assert_eq!((wheel.next_tick(), wheel.len()), (None, 0));
        }
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_the_next_advance() {
        let mut wheel = Wheel::new();
        assert!(fired(&mut wheel, 1_000).is_empty());
        wheel.insert(10, 1);
        wheel.insert(1_000, 2);
        assert_eq!(wheel.next_tick(), Some(1_000));
        let mut tokens = fired(&mut wheel, 900);
        tokens.sort_unstable();
        assert_eq!(tokens, [1, 2]);
    }

    #[test]
    fn a_renewal_into_the_past_waits_for_the_next_advance() {
        let mut wheel = Wheel::new();
        wheel.insert(5, 1);
        let mut calls = 0;
        wheel.advance_renewing(10, |_| {
            calls += 1;
            Some(7)
        });
        assert_eq!((calls, wheel.len(), wheel.next_tick()), (1, 1, Some(10)));
        assert_eq!(fired(&mut wheel, 10), [1]);
    }

    #[test]
    fn a_timer_wakes_an_idle_shard_at_most_once_per_digit_of_its_deadline() {
        let mut wheel = Wheel::new();
        assert!(fired(&mut wheel, 123_456_789).is_empty());
        wheel.insert(123_456_789 + 36_000, 1);
        let mut wake_ups = 0;
        while let Some(tick) = wheel.next_tick() {
            wheel.advance(tick, |_| ());
            wake_ups += 1;
        }
        assert!(wake_ups <= 5, "{wake_ups}");
    }

    #[test]
    fn memory_is_reused() {
        let mut wheel = Wheel::new();
        for tick in 0..10_000 {
            wheel.advance_renewing(tick, |token| (token % 2 == 0).then_some(tick + 70));
            if tick < 100 || wheel.len() < 100 {
                wheel.insert(tick + 300, tick);
            }
        }
        assert!(wheel.timers.len() <= 101, "{}", wheel.timers.len());
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Insert with a deadline so far from the present (before it, if negative).
        Insert(i64),
        Advance(u64),
        /// Advance to `next_tick`.
        Follow,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let near_and_far = || (0..40u32, any::<u64>()).prop_map(|(bits, n)| n & ((1 << bits) - 1));
        let step = prop_oneof![
            4 => near_and_far().prop_map(|ahead| Step::Insert(ahead as i64)),
            1 => (1..200i64).prop_map(|ago| Step::Insert(-ago)),
            2 => near_and_far().prop_map(Step::Advance),
            2 => Just(Step::Follow),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map(start in 0..1u64 << 50, steps in steps()) {
            let mut wheel = Wheel::new();
            wheel.advance(start, |_| ());
            // Effective deadline and token; the second time a token fires it is gone.
            let mut model: BTreeMap<(u64, u64), ()> = BTreeMap::new();
            let mut now = start;
            for (token, step) in (0..).zip(steps) {
                let target = match step {
                    Step::Insert(ahead) => {
                        let deadline = now.saturating_add_signed(ahead);
                        wheel.insert(deadline, token);
                        model.insert((deadline.max(now), token), ());
                        continue;
                    }
                    Step::Advance(ticks) => now + ticks,
                    Step::Follow => wheel.next_tick().unwrap_or(now),
                };
                let mut came_out = Vec::new();
                let renewal = |token: u64| token.is_multiple_of(3).then_some(target / 2 + token * 1_000 + target / 2);
                wheel.advance_renewing(target, |token| {
                    came_out.push(token);
                    renewal(token)
                });
                let later = model.split_off(&(target + 1, 0));
                let due: Vec<(u64, u64)> = std::mem::replace(&mut model, later).into_keys().collect();
                now = target;
                let deadline_of: BTreeMap<u64, u64> = due.iter().map(|&(deadline, token)| (token, deadline)).collect();
                prop_assert!(came_out.is_sorted_by_key(|token| deadline_of.get(token)), "earlier ticks first");
                came_out.sort_unstable();
                prop_assert_eq!(&came_out, &deadline_of.keys().copied().collect::<Vec<_>>());
                for token in came_out {
                    if let Some(deadline) = renewal(token) {
                        model.insert((deadline.max(now), token), ());
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                match (wheel.next_tick(), model.first_key_value()) {
                    (None, None) => {}
                    (Some(tick), Some((&(deadline, _), ()))) => prop_assert!(now <= tick && tick <= deadline),
                    (tick, first) => prop_assert!(false, "{:?} against {:?}", tick, first),
                }
            }
        }
    }
}
