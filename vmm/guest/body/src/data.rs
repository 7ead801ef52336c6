//! The bytes of a transfer, and the checksum that both ends compute for themselves.
//!
//! Download: the client sends how many bytes it wants, as 8 bytes; the server sends them, then their checksum. Upload: the client sends
//! what it likes and closes its half; the server answers with the count and the checksum. Numbers are big-endian.

/// Bytes that look random, word by word: what is lost, repeated or out of place shows in the checksum.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pattern {
    word: u64,
    /// Bytes of `word` that were used.
    used: usize,
}

impl Pattern {
    /// The next bytes of the pattern.
    pub fn fill(&mut self, mut to: &mut [u8]) {
        while self.used > 0 {
            let Some((first, others)) = to.split_first_mut() else { return };
            *first = self.word.to_le_bytes()[self.used];
            self.used = (self.used + 1) % 8;
            to = others;
        }
        let (words, rest) = to.as_chunks_mut::<8>();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        if !rest.is_empty() {
            self.used = rest.len();
            let word = self.next().to_le_bytes();
            rest.copy_from_slice(&word[..rest.len()]);
        }
    }

    /// One step of a linear congruential generator modulo 2^64 (the multiplier is Knuth's MMIX).
    fn next(&mut self) -> u64 {
        self.word = self.word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.word
    }
}

/// Fletcher's checksum over 64-bit words: it notices what is lost, repeated, changed or out of place, at the speed of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checksum {
    sum: u64,
    sum_of_sums: u64,
    /// The bytes of an incomplete word, and how many there are.
    rest: [u8; 8],
    rest_len: usize,
    count: u64,
}

impl Checksum {
    /// Takes the next bytes in.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.count += bytes.len() as u64;
        while self.rest_len > 0 {
            let Some((first, others)) = bytes.split_first() else { return };
            self.byte(*first);
            bytes = others;
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.byte(*byte);
        }
    }

    /// How many bytes there were.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The sum of all bytes so far.
    pub fn value(&self) -> u64 {
        let mut last = *self;
        if last.rest_len > 0 {
            last.rest[last.rest_len..].fill(0);
            last.word(u64::from_le_bytes(last.rest));
        }
        last.sum ^ last.sum_of_sums.rotate_left(32)
    }

    fn byte(&mut self, byte: u8) {
        self.rest[self.rest_len] = byte;
        self.rest_len += 1;
        if self.rest_len == self.rest.len() {
            self.rest_len = 0;
            self.word(u64::from_le_bytes(self.rest));
        }
    }

    fn word(&mut self, word: u64) {
        self.sum = self.sum.wrapping_add(word);
        self.sum_of_sums = self.sum_of_sums.rotate_left(1).wrapping_add(self.sum);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn pieces_of_any_length_give_the_same_bytes_and_the_same_sum() {
        let mut whole = vec![0; 1000];
        Pattern::default().fill(&mut whole);
        let mut sum = Checksum::default();
        sum.update(&whole);
        for piece in [1, 3, 7, 8, 9, 64, 333] {
            let (mut pattern, mut pieces, mut piecewise) = (Pattern::default(), Vec::new(), Checksum::default());
            while pieces.len() < whole.len() {
                let mut some = vec![0; piece.min(whole.len() - pieces.len())];
                pattern.fill(&mut some);
                piecewise.update(&some);
                pieces.extend(some);
            }
            assert_eq!(pieces, whole, "in pieces of {piece}");
            assert_eq!((piecewise.count(), piecewise.value()), (1000, sum.value()), "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_changed_or_out_of_place_is_noticed() {
        let mut bytes = vec![0; 256];
        Pattern::default().fill(&mut bytes);
        let value = |bytes: &[u8]| {
            let mut sum = Checksum::default();
            sum.update(bytes);
            sum.value()
        };
        let good = value(&bytes);
        let mut flipped = bytes.clone();
        flipped[100] ^= 1;
        let mut exchanged = bytes.clone();
        exchanged[..16].rotate_left(8);
        assert_ne!(value(&flipped), good);
        assert_ne!(value(&exchanged), good);
        assert_ne!(value(&bytes[..255]), good);
    }
}
