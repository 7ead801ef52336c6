//! An input read part by part.
//!
//! There is no input that cannot be read: what is past its end is zero. Whatever changes in one part leaves the others what they are,
//! unless it is a length, so that a fuzzer that changes a byte changes one thing.

/// What is left of an input.
#[derive(Debug, Clone)]
pub struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    /// The script that `input` is.
    pub const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// Whether everything was read.
    pub const fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes, the lower one first.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next four bytes, the lowest one first.
    pub fn word(&mut self) -> u32 {
        u32::from(self.half()) | u32::from(self.half()) << 16
    }

    /// The next eight bytes, the lowest one first.
    pub fn double(&mut self) -> u64 {
        u64::from(self.word()) | u64::from(self.word()) << 32
    }

    /// One of `choices`, which are not empty.
    pub fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// Bytes with their length before them, or fewer if there are no more.
    pub fn piece(&mut self) -> &'a [u8] {
        let len = usize::from(self.half());
        self.take(len)
    }

    /// Likewise, with a length of one byte, and so at most 255.
    pub fn short_piece(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte());
        self.take(len)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

/// A script while it is written, for seeds.
#[derive(Debug, Default, Clone)]
pub struct Draft(Vec<u8>);

impl Draft {
    /// Adds bytes as they are.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// Adds what [`Script::half`] reads.
    #[must_use]
    pub fn half(self, half: u16) -> Self {
        self.bytes(&half.to_le_bytes())
    }

    /// Adds what [`Script::word`] reads.
    #[must_use]
    pub fn word(self, word: u32) -> Self {
        self.bytes(&word.to_le_bytes())
    }

    /// Adds what [`Script::double`] reads.
    #[must_use]
    pub fn double(self, double: u64) -> Self {
        self.bytes(&double.to_le_bytes())
    }

    /// Adds what [`Script::piece`] reads; of more than 65,535 bytes, the first.
    #[must_use]
    pub fn piece(self, piece: &[u8]) -> Self {
        let len = u16::try_from(piece.len()).unwrap_or(u16::MAX);
        self.half(len).bytes(&piece[..usize::from(len)])
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}
