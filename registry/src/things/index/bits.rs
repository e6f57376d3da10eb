//! A set of small numbers, a bit for each.

/// A set of numbers below a bound. What lies beyond the bound is never in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// None of the numbers below `bound`.
    pub(super) fn none(bound: usize) -> Self {
        Self { words: vec![0; bound.div_ceil(64)] }
    }

    /// Puts a number in.
    pub(super) fn insert(&mut self, number: u32) {
        if let Some(word) = self.words.get_mut(number as usize / 64) {
            *word |= 1 << (number % 64);
        }
    }

    /// Leaves what is in both.
    pub(super) fn intersect(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= other;
        }
    }

    /// How many are in it.
    pub(super) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Those in it, the least first.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().enumerate().flat_map(|(index, &word)| ones(index, word))
    }

    /// Those in it but for the least `count`, which are skipped by whole words.
    pub(super) fn iter_behind(&self, count: usize) -> impl Iterator<Item = u32> {
        let (mut skipped, mut from) = (0, 0);
        for word in &self.words {
            let ones = word.count_ones() as usize;
            if skipped + ones > count {
                break;
            }
            skipped += ones;
            from += 1;
        }
        let words = self.words.iter().enumerate().skip(from);
        words.flat_map(|(index, &word)| ones(index, word)).skip(count - skipped)
    }
}

fn ones(index: usize, mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(index as u32 * 64 + bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_order_and_pages_of_them_too() {
        let numbers = [0, 1, 63, 64, 200, 255, 256, 300];
        let mut bits = Bits::none(301);
        for number in numbers.into_iter().chain([999]) {
            bits.insert(number);
        }
        assert_eq!(bits.iter().collect::<Vec<_>>(), numbers);
        assert_eq!(bits.count(), numbers.len());
        for behind in 0..=numbers.len() {
            assert_eq!(bits.iter_behind(behind).collect::<Vec<_>>(), numbers[behind..], "{behind}");
        }
        assert_eq!(bits.iter_behind(99).count(), 0);
        let mut other = Bits::none(301);
        [1, 2, 255].into_iter().for_each(|number| other.insert(number));
        bits.intersect(&other);
        assert_eq!(bits.iter().collect::<Vec<_>>(), [1, 255]);
    }
}
