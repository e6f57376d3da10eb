//! Records: the compact binary form of facts in the store. Little-endian, a version byte in front, no padding.
//!
//! Pure. What does not decode to the last byte is [`StoreError::Corrupt`], never a guess.

use crate::store::StoreError;

/// Appends a number in 7-bit groups, the lowest first (LEB128): small ones take a byte.
pub(crate) fn put_count(out: &mut Vec<u8>, mut count: u64) {
    while count >= 0x80 {
        out.push((count & 0x7f) as u8 | 0x80);
        count >>= 7;
    }
    out.push(count as u8);
}

/// The bit, if it is on.
pub(crate) const fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

/// Appends bytes behind their count.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads a record front to back.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Opens a record, whose first byte must be the version.
    pub(crate) fn open(record: &'a [u8], version: u8) -> Result<Self, StoreError> {
        match record.split_first() {
            Some((&found, rest)) if found == version => Ok(Self { rest }),
            _ => Err(StoreError::Corrupt),
        }
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(StoreError::Corrupt)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next byte.
    pub(crate) fn u8(&mut self) -> Result<u8, StoreError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The next 64 bits.
    pub(crate) fn u64(&mut self) -> Result<u64, StoreError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number written by [`put_count`].
    pub(crate) fn count(&mut self) -> Result<u64, StoreError> {
        let mut count = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let group = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only.
            if (group << shift) >> shift != group {
                return Err(StoreError::Corrupt);
            }
            count |= group << shift;
            if byte < 0x80 {
                return Ok(count);
            }
        }
        Err(StoreError::Corrupt)
    }

    /// Bytes written by [`put_bytes`].
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], StoreError> {
        let len = usize::try_from(self.count()?).map_err(|_| StoreError::Corrupt)?;
        let (head, rest) = self.rest.split_at_checked(len).ok_or(StoreError::Corrupt)?;
        self.rest = rest;
        Ok(head)
    }

    /// Bytes written by [`put_bytes`] that are text.
    pub(crate) fn text(&mut self) -> Result<&'a str, StoreError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| StoreError::Corrupt)
    }

    /// All that is left, which ends the reading.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Ends the reading: nothing may be left.
    pub(crate) fn close(self) -> Result<(), StoreError> {
        if self.rest.is_empty() { Ok(()) } else { Err(StoreError::Corrupt) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_count_reads_back(count: u64) {
            let mut record = vec![1];
            put_count(&mut record, count);
            let mut reader = Reader::open(&record, 1).unwrap();
            prop_assert_eq!(reader.count(), Ok(count));
            prop_assert_eq!(reader.close(), Ok(()));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(record: Vec<u8>) {
            if let Ok(mut reader) = Reader::open(&record, 1) {
                while reader.text().is_ok() {}
            }
        }
    }

    #[test]
    fn another_version_is_corrupt() {
        assert_eq!(Reader::open(&[2, 0], 1).unwrap_err(), StoreError::Corrupt);
        assert_eq!(Reader::open(&[], 1).unwrap_err(), StoreError::Corrupt);
    }

    #[test]
    fn a_count_beyond_64_bits_is_corrupt() {
        let record = [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(Reader::open(&record, 1).unwrap().count(), Err(StoreError::Corrupt));
    }
}
