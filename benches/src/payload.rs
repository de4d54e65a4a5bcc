//! What is published: a valid JSON value of any wanted size that names its flow and its place in it.
//!
//! `[1ffffsssssssssss,"xxx…"]`: a number of 16 digits (so that it has no leading zero and fits JavaScript's
//! integers), of which four are the flow and eleven the sequence. At 16 bytes it is the bare number. JSON, so that
//! every protocol can carry it as it is.

/// Flows a run may have.
pub const MAX_FLOWS: usize = 10_000;
/// Messages a flow may have.
pub const MAX_SEQUENCE: u64 = 100_000_000_000;
const DIGITS: usize = 16;

/// Which message a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Whose.
    pub flow: usize,
    /// Its place in the flow, from 0.
    pub sequence: u64,
}

/// The payloads of a run: all have the same size and differ only by their stamp.
#[derive(Debug, Clone)]
pub struct Shape {
    template: Vec<u8>,
    /// Where the digits stand.
    digits: usize,
}

impl Shape {
    /// Payloads of `size` bytes; `None` for a size that cannot be had: below 16, and 17 to 20.
    pub fn new(size: usize) -> Option<Self> {
        let number = "1".to_owned() + &"0".repeat(DIGITS - 1);
        match size {
            DIGITS => Some(Self { template: number.into(), digits: 0 }),
            21.. => {
                Some(Self { template: format!("[{number},\"{}\"]", "x".repeat(size - 21)).into(), digits: 1 })
            }
            _ => None,
        }
    }

    /// Bytes of a payload.
    pub fn size(&self) -> usize {
        self.template.len()
    }

    /// Where in a payload its digits stand; the rest is the same in all.
    pub fn digits(&self) -> std::ops::Range<usize> {
        self.digits..self.digits + DIGITS
    }

    /// A payload.
    pub fn payload(&self, stamp: Stamp) -> Vec<u8> {
        let mut payload = self.template.clone();
        payload[self.digits()].copy_from_slice(&stamp.digits());
        payload
    }

    /// Reads a payload's stamp. `None` where anything but the stamp differs from what was published.
    #[inline]
    pub fn read(&self, payload: &[u8]) -> Option<Stamp> {
        let (before, rest) = payload.split_at_checked(self.digits)?;
        let (digits, after) = rest.split_first_chunk::<DIGITS>()?;
        let same = before == &self.template[..self.digits] && after == &self.template[self.digits + DIGITS..];
        same.then(|| Stamp::from_digits(*digits)).flatten()
    }
}

impl Stamp {
    /// The digits that stand in a payload.
    pub fn digits(self) -> [u8; DIGITS] {
        let mut rest = (10_000 + self.flow as u64) * MAX_SEQUENCE + self.sequence % MAX_SEQUENCE;
        let mut digits = [b'0'; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit += (rest % 10) as u8;
            rest /= 10;
        }
        digits
    }

    #[inline]
    fn from_digits(digits: [u8; DIGITS]) -> Option<Self> {
        let [high, low] = [0, 8].map(|at| {
            let eight: [u8; 8] = std::array::from_fn(|i| digits[at + i]);
            eight_digits(u64::from_le_bytes(eight))
        });
        let number = high? * 100_000_000 + low?;
        // The first digit is 1.
        let flow = (number / MAX_SEQUENCE).checked_sub(10_000).filter(|&flow| flow < MAX_FLOWS as u64)?;
        Some(Self { flow: flow as usize, sequence: number % MAX_SEQUENCE })
    }
}

/// The number that eight ASCII digits stand for, the first in the lowest byte; `None` where one is no digit. All
/// eight at once, by adding neighbours pairwise: digit by digit this was a fifth of the generator's time.
#[inline]
fn eight_digits(ascii: u64) -> Option<u64> {
    const HIGH: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    // Adding 6 carries into the high half of a byte whose low half is beyond 9.
    let all_digits = ascii & HIGH == ZEROS && ascii.wrapping_add(0x0606_0606_0606_0606) & HIGH == ZEROS;
    let pairs = (ascii & !HIGH).wrapping_mul(10 << 8 | 1) >> 8 & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100 << 16 | 1) >> 16 & 0x0000_ffff_0000_ffff;
    let eight = fours.wrapping_mul(10_000 << 32 | 1) >> 32;
    all_digits.then_some(eight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_is_json_of_the_wanted_size_and_reads_back() {
        for size in [16, 21, 22, 128, 1024] {
            let shape = Shape::new(size).unwrap();
            for (flow, sequence) in [(0, 0), (7, 42), (MAX_FLOWS - 1, MAX_SEQUENCE - 1)] {
                let stamp = Stamp { flow, sequence };
                let payload = shape.payload(stamp);
                assert_eq!(payload.len(), size);
                assert!(serde_json::from_slice::<serde_json::Value>(&payload).is_ok());
                assert_eq!(shape.read(&payload), Some(stamp));
            }
        }
        assert!(Shape::new(15).is_none() && Shape::new(20).is_none());
    }

    #[test]
    fn a_payload_with_any_byte_changed_is_not_taken_for_the_same() {
        let shape = Shape::new(64).unwrap();
        let stamp = Stamp { flow: 3, sequence: 9 };
        let payload = shape.payload(stamp);
        for at in 0..payload.len() {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            assert_ne!(shape.read(&changed), Some(stamp), "byte {at}");
        }
        assert_eq!(shape.read(&payload[..63]), None);
    }
}
