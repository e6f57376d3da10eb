//! What a message of the load carries, so that its receiver can tell who sent it, which one it is, when it was meant to
//! leave, and that no byte of it changed. Fixed width, printable, nothing that XML would escape.

use std::sync::LazyLock;

/// Bytes of a payload without filler: sender and receiver (8 each), sequence, send time and checksum (16 each), in
/// hexadecimal.
pub(crate) const PAYLOAD_BYTES_MIN: usize = 64;
/// Longest payload.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 60_000;
const SEALED: usize = 48;

/// Filler; a message starts somewhere in it by its sequence number, so that neighbours differ.
static FILLER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    b"the quick brown fox jumps over 1 lazy dog, and 20.5 C were read."
        .iter()
        .copied()
        .cycle()
        .take(PAYLOAD_BYTES_MAX + FILLER_PERIOD)
        .collect()
});
const FILLER_PERIOD: usize = 64;

/// The facts in a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Payload {
    /// Index of the sending session.
    pub sender: u32,
    /// Index of the session it is for.
    pub receiver: u32,
    /// Sequence number between the two, from 0.
    pub sequence: u64,
    /// When it was meant to leave, in ns of the run's clock.
    pub sent_ns: u64,
}

/// Why a payload cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Shorter than the fixed part.
    Short,
    /// A digit is not hexadecimal.
    Digits,
    /// The checksum does not fit.
    Checksum,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Short => "the payload was cut short",
            Self::Digits => "the payload's head is damaged",
            Self::Checksum => "the payload's checksum does not fit",
        })
    }
}

impl Payload {
    /// Appends the payload, `bytes` long ([`PAYLOAD_BYTES_MIN`] to [`PAYLOAD_BYTES_MAX`]).
    pub(crate) fn write(&self, out: &mut Vec<u8>, bytes: usize) {
        let mut head = [0; SEALED];
        for (field, value) in head.chunks_exact_mut(8).zip([
            u64::from(self.sender),
            u64::from(self.receiver),
            self.sequence >> 32,
            self.sequence & 0xffff_ffff,
            self.sent_ns >> 32,
            self.sent_ns & 0xffff_ffff,
        ]) {
            field.copy_from_slice(&hex(value as u32));
        }
        let start = self.sequence as usize % FILLER_PERIOD;
        let filler = FILLER.get(start..start + bytes.saturating_sub(PAYLOAD_BYTES_MIN)).unwrap_or_default();
        let sum = checksum(&head, filler);
        out.extend_from_slice(&head);
        out.extend_from_slice(&hex((sum >> 32) as u32));
        out.extend_from_slice(&hex(sum as u32));
        out.extend_from_slice(filler);
    }

    /// Reads and checks a payload.
    ///
    /// # Errors
    /// [`Damage`].
    pub(crate) fn read(text: &[u8]) -> Result<Self, Damage> {
        let (head, rest) = text.split_first_chunk::<SEALED>().ok_or(Damage::Short)?;
        let (sum, filler) = rest.split_first_chunk::<16>().ok_or(Damage::Short)?;
        if checksum(head, filler) != wide(sum).ok_or(Damage::Digits)? {
            return Err(Damage::Checksum);
        }
        let mut fields = head.chunks_exact(8).map(|digits| digits.try_into().ok().and_then(unhex));
        let mut next = || fields.next().flatten().map(u64::from).ok_or(Damage::Digits);
        Ok(Self {
            sender: next()? as u32,
            receiver: next()? as u32,
            sequence: next()? << 32 | next()?,
            sent_ns: next()? << 32 | next()?,
        })
    }
}

/// Appends two numbers as 32 hexadecimal digits: the `id` of a request.
pub(crate) fn write_id(out: &mut Vec<u8>, sequence: u64, sent_ns: u64) {
    for value in [sequence >> 32, sequence, sent_ns >> 32, sent_ns] {
        out.extend_from_slice(&hex(value as u32));
    }
}

/// Reads what [`write_id`] wrote: sequence and send time.
pub(crate) fn read_id(id: &[u8]) -> Option<(u64, u64)> {
    let (sequence, rest) = id.split_first_chunk::<16>()?;
    Some((wide(sequence)?, wide(rest.try_into().ok()?)?))
}

/// A checksum of an id as 8 hexadecimal digits: what a responder puts into its answer.
pub(crate) fn seal(id: &[u8]) -> [u8; 8] {
    let sum = checksum(&[0; SEALED], id);
    hex((sum ^ sum >> 32) as u32)
}

fn wide(digits: &[u8; 16]) -> Option<u64> {
    let (high, low) = digits.split_first_chunk::<8>()?;
    Some(u64::from(unhex(*high)?) << 32 | u64::from(unhex(low.try_into().ok()?)?))
}

/// Eight lower-case digits at once: nibbles spread into bytes, then `0`–`9` or `a`–`f` added to each.
fn hex(value: u32) -> [u8; 8] {
    let mut spread = u64::from(value);
    spread = (spread << 16 | spread) & 0x0000_ffff_0000_ffff;
    spread = (spread << 8 | spread) & 0x00ff_00ff_00ff_00ff;
    spread = (spread << 4 | spread) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = (spread + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (spread + 0x3030_3030_3030_3030 + letters * 0x27).to_be_bytes()
}

fn unhex(digits: [u8; 8]) -> Option<u32> {
    let text = u64::from_be_bytes(digits);
    let letters = text >> 6 & 0x0101_0101_0101_0101;
    let mut value = (text & 0x0f0f_0f0f_0f0f_0f0f).wrapping_add(letters * 9) & 0x0f0f_0f0f_0f0f_0f0f;
    value = (value | value >> 4) & 0x00ff_00ff_00ff_00ff;
    value = (value | value >> 8) & 0x0000_ffff_0000_ffff;
    let value = (value | value >> 16) as u32;
    (hex(value) == digits).then_some(value)
}

/// Not cryptographic: catches swapped, lost and flipped bytes of an honest server.
fn checksum(head: &[u8; SEALED], tail: &[u8]) -> u64 {
    let mut sum = 0x9e37_79b9_7f4a_7c15 ^ tail.len() as u64;
    let mut mix = |word: u64| {
        sum = (sum ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        sum ^= sum >> 32;
    };
    for part in [head.as_slice(), tail] {
        let mut words = part.chunks_exact(8);
        for word in &mut words {
            mix(word.try_into().map_or(0, u64::from_le_bytes));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(words.remainder()) {
            *to = *from;
        }
        mix(u64::from_le_bytes(last));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Payload = Payload { sender: 7, receiver: 0xfeed, sequence: 1 << 33 | 5, sent_ns: u64::MAX - 3 };

    #[test]
    fn what_is_written_is_read_back_at_every_length() {
        for bytes in [64, 65, 71, 72, 200, 4096, PAYLOAD_BYTES_MAX] {
            let mut out = Vec::new();
            SAMPLE.write(&mut out, bytes);
            assert_eq!(out.len(), bytes);
            assert!(out.iter().all(|byte| byte.is_ascii() && !b"<&>'\"".contains(byte)));
            assert_eq!(Payload::read(&out), Ok(SAMPLE));
        }
    }

    #[test]
    fn any_flipped_or_lost_byte_is_noticed() {
        let mut out = Vec::new();
        SAMPLE.write(&mut out, 200);
        for at in 0..out.len() {
            let mut damaged = out.clone();
            damaged[at] ^= 1;
            assert!(Payload::read(&damaged).is_err(), "byte {at}");
            damaged = out.clone();
            damaged.remove(at);
            assert!(Payload::read(&damaged).is_err(), "without byte {at}");
        }
        assert_eq!(Payload::read(b"short"), Err(Damage::Short));
    }

    #[test]
    fn neighbours_differ_in_their_filler() {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        SAMPLE.write(&mut one, 200);
        Payload { sequence: SAMPLE.sequence + 1, ..SAMPLE }.write(&mut two, 200);
        assert_ne!(one[64..], two[64..]);
    }

    #[test]
    fn hexadecimal_is_what_the_standard_library_writes() {
        for value in [0, 1, 9, 10, 15, 0x0123_4567, 0x89ab_cdef, u32::MAX] {
            assert_eq!(hex(value), *format!("{value:08x}").as_bytes().first_chunk::<8>().unwrap());
            assert_eq!(unhex(hex(value)), Some(value));
        }
        for bad in [*b"0000000g", *b"0000000G", *b"000000A0", *b"        "] {
            assert_eq!(unhex(bad), None);
        }
    }

    #[test]
    fn a_request_id_comes_back() {
        let mut id = Vec::new();
        write_id(&mut id, 77, 1 << 40);
        assert_eq!(read_id(&id), Some((77, 1 << 40)));
        assert_eq!(read_id(b"bind"), None);
        assert_ne!(seal(&id), seal(b"other"));
    }
}
