//! MSI-X (PCI Local Bus 3.0, section 6.8.2): a table of messages in a base address range, each of which can be masked.
//!
//! The vCPU side is [`Msix`]: the capability, the table and the pending bits. The data path holds [`MsixVector`]s and signals; what is
//! masked is remembered as pending and sent when the mask goes. The two share atomics only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::irq::{MsiMessage, MsiRoute};
use crate::pci::ConfigSpace;

/// The capability's identifier.
const CAPABILITY: u8 = 0x11;
/// Message control: on; all masked.
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// An entry of the table: address, data, vector control.
const ENTRY: u64 = 16;
/// Vector control: this one is masked.
const ENTRY_MASKED: u32 = 1;
/// The most that the capability can say.
const MAX_VECTORS: usize = 2048;

/// The MSI-X registers of a function.
#[derive(Debug)]
pub struct Msix {
    entries: Vec<Entry>,
    capability: u16,
    control: u16,
}

#[derive(Debug)]
struct Entry {
    words: [u32; 4],
    vector: MsixVector,
}

/// One vector, for the data path. Clones are the same vector.
#[derive(Debug, Clone)]
pub struct MsixVector(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    route: Arc<dyn MsiRoute>,
    masked: AtomicBool,
    pending: AtomicBool,
}

impl MsixVector {
    /// Interrupts the guest, now or when it lifts the mask.
    pub fn signal(&self) {
        if self.0.masked.load(Ordering::SeqCst) {
            self.0.pending.store(true, Ordering::SeqCst);
            // Lifted in between? Then whoever lifted it may have missed the bit.
            if self.0.masked.load(Ordering::SeqCst) || !self.0.pending.swap(false, Ordering::SeqCst) {
                return;
            }
        }
        self.0.route.signal();
    }

    fn set_masked(&self, masked: bool) {
        self.0.masked.store(masked, Ordering::SeqCst);
        if !masked && self.0.pending.swap(false, Ordering::SeqCst) {
            self.0.route.signal();
        }
    }
}

impl Msix {
    /// Gives a function MSI-X with one vector for each of `routes` (1 to 2048): adds the capability to `config`. The table lies at
    /// `table_offset` of register `table_bar` and takes 16 bytes a vector, the pending bits at `pending_offset` of `pending_bar` and take
    /// one bit a vector, in units of 8 bytes. Both offsets are multiples of 8.
    ///
    /// # Panics
    ///
    /// With no or too many routes: a mistake in a device.
    pub fn new(
        config: &mut ConfigSpace,
        routes: Vec<Arc<dyn MsiRoute>>,
        (table_bar, table_offset): (u8, u32),
        (pending_bar, pending_offset): (u8, u32),
    ) -> Self {
        assert!((1..=MAX_VECTORS).contains(&routes.len()), "no number of MSI-X vectors: {}", routes.len());
        let mut body = [0; 10];
        let size = u16::try_from(routes.len() - 1).unwrap_or_default();
        body[0..2].copy_from_slice(&size.to_le_bytes());
        body[2..6].copy_from_slice(&(table_offset | u32::from(table_bar)).to_le_bytes());
        body[6..10].copy_from_slice(&(pending_offset | u32::from(pending_bar)).to_le_bytes());
        let writable = (ENABLE | FUNCTION_MASK).to_le_bytes();
        let capability = config.add_capability(CAPABILITY, &body, &writable);
        let entry = |route| Entry {
            words: [0, 0, 0, ENTRY_MASKED],
            vector: MsixVector(Arc::new(Shared { route, masked: AtomicBool::new(true), pending: AtomicBool::new(false) })),
        };
        Self { entries: routes.into_iter().map(entry).collect(), capability, control: 0 }
    }

    /// Whether the guest uses it. If not, a device interrupts by its pin or not at all.
    pub fn is_enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Never: a function without vectors has no MSI-X.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The vector with that number, for a data path.
    pub fn vector(&self, number: u16) -> Option<MsixVector> {
        self.entries.get(usize::from(number)).map(|entry| entry.vector.clone())
    }

    /// To be called after every configuration write of the function.
    pub fn configured(&mut self, config: &ConfigSpace) {
        let control = config.u16_at(self.capability + 2);
        if control == self.control {
            return;
        }
        self.control = control;
        for entry in &self.entries {
            // A masked entry may hold anything; what it holds is told when the mask goes.
            if !entry.is_masked(control) {
                entry.vector.0.route.program(entry.message());
            }
            entry.vector.set_masked(entry.is_masked(control));
        }
    }

    /// Forgets everything, as a reset of the function does. The configuration space is the caller's.
    pub fn reset(&mut self) {
        self.control = 0;
        for entry in &mut self.entries {
            entry.words = [0, 0, 0, ENTRY_MASKED];
            entry.vector.0.masked.store(true, Ordering::SeqCst);
            entry.vector.0.pending.store(false, Ordering::SeqCst);
        }
    }

    /// A read at `offset` of the table: 4 or 8 bytes, aligned; others read as 0.
    pub fn table_read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (at, word) in words(offset, data.len()).into_iter().flatten().zip(data.chunks_exact_mut(4)) {
            if let Some((entry, index)) = self.place(at) {
                word.copy_from_slice(&self.entries[entry].words[index].to_le_bytes());
            }
        }
    }

    /// A write at `offset` of the table: 4 or 8 bytes, aligned; others are ignored.
    pub fn table_write(&mut self, offset: u64, data: &[u8]) {
        for (at, word) in words(offset, data.len()).into_iter().flatten().zip(data.chunks_exact(4)) {
            let (Some((entry, index)), Ok(word)) = (self.place(at), word.try_into()) else { continue };
            let entry = &mut self.entries[entry];
            let word = u32::from_le_bytes(word);
            let before = entry.words[index];
            entry.words[index] = if index == 3 { word & ENTRY_MASKED } else { word };
            let masked = entry.is_masked(self.control);
            if !masked && (entry.words[index] != before || index == 3) {
                entry.vector.0.route.program(entry.message());
            }
            entry.vector.set_masked(masked);
        }
    }

    /// A read at `offset` of the pending bits: 4 or 8 bytes, aligned; others read as 0. Writes there do nothing.
    pub fn pending_read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (at, word) in words(offset, data.len()).into_iter().flatten().zip(data.chunks_exact_mut(4)) {
            let first = usize::try_from(at).unwrap_or(usize::MAX).saturating_mul(8);
            let bits = (0..32).filter(|bit| {
                self.entries.get(first.saturating_add(*bit)).is_some_and(|entry| entry.vector.0.pending.load(Ordering::SeqCst))
            });
            word.copy_from_slice(&bits.fold(0_u32, |word, bit| word | 1 << bit).to_le_bytes());
        }
    }

    fn place(&self, offset: u64) -> Option<(usize, usize)> {
        let entry = usize::try_from(offset / ENTRY).ok()?;
        let index = usize::try_from(offset % ENTRY / 4).ok()?;
        (entry < self.entries.len()).then_some((entry, index))
    }
}

impl Entry {
    fn is_masked(&self, control: u16) -> bool {
        control & ENABLE == 0 || control & FUNCTION_MASK != 0 || self.words[3] & ENTRY_MASKED != 0
    }

    fn message(&self) -> MsiMessage {
        MsiMessage { address: u64::from(self.words[1]) << 32 | u64::from(self.words[0]), data: self.words[2] }
    }
}

/// The offsets of the 4-byte words of an access that is allowed.
fn words(offset: u64, len: usize) -> Option<impl Iterator<Item = u64>> {
    let aligned = matches!(len, 4 | 8) && offset.is_multiple_of(u64::try_from(len).ok()?);
    aligned.then(|| (0..8).step_by(4).take(len / 4).map(move |more| offset + more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::fake::FakeMsi;
    use crate::pci::Identity;

    struct Function {
        config: ConfigSpace,
        msix: Msix,
        routes: Vec<Arc<FakeMsi>>,
    }

    impl Function {
        fn new(vectors: usize) -> Self {
            let mut config = ConfigSpace::new(&Identity::default());
            let routes = FakeMsi::several(vectors);
            let given = routes.iter().map(|route| Arc::clone(route) as Arc<dyn MsiRoute>).collect();
            let msix = Msix::new(&mut config, given, (4, 0), (4, 0x800));
            Self { config, msix, routes }
        }

        fn control(&mut self, value: u16) {
            self.config.write(0x42, &value.to_le_bytes());
            self.msix.configured(&self.config);
        }

        fn entry(&mut self, number: u64, address: u64, data: u32, control: u32) {
            self.msix.table_write(number * 16, &address.to_le_bytes());
            self.msix.table_write(number * 16 + 8, &data.to_le_bytes());
            self.msix.table_write(number * 16 + 12, &control.to_le_bytes());
        }

        fn pending(&self) -> u64 {
            let mut bits = [0; 8];
            self.msix.pending_read(0, &mut bits);
            u64::from_le_bytes(bits)
        }
    }

    #[test]
    fn the_capability_says_where_everything_is() {
        let function = Function::new(3);
        assert_eq!(function.config.u16_at(0x42), 2);
        assert_eq!(function.config.u32_at(0x44), 4);
        assert_eq!(function.config.u32_at(0x48), 0x804);
    }

    #[test]
    fn a_vector_sends_the_message_that_the_guest_put_there() {
        let mut function = Function::new(2);
        function.control(ENABLE);
        function.entry(1, 0xfee0_1000, 0x4042, 0);
        assert_eq!(function.routes[1].message(), Some(MsiMessage { address: 0xfee0_1000, data: 0x4042 }));
        function.msix.vector(1).unwrap().signal();
        assert_eq!((function.routes[0].signals(), function.routes[1].signals()), (0, 1));
        let mut words = [0; 8];
        function.msix.table_read(16, &mut words);
        assert_eq!(u64::from_le_bytes(words), 0xfee0_1000);
    }

    #[test]
    fn what_is_masked_is_pending_until_the_mask_goes() {
        let mut function = Function::new(2);
        function.control(ENABLE | FUNCTION_MASK);
        function.entry(0, 0xfee0_0000, 0x40, 0);
        let vector = function.msix.vector(0).unwrap();
        vector.signal();
        vector.signal();
        assert_eq!((function.routes[0].signals(), function.pending()), (0, 1));
        function.control(ENABLE);
        assert_eq!((function.routes[0].signals(), function.pending()), (1, 0));

        function.msix.table_write(12, &1_u32.to_le_bytes());
        vector.signal();
        assert_eq!(function.pending(), 1);
        function.msix.table_write(12, &0_u32.to_le_bytes());
        assert_eq!((function.routes[0].signals(), function.pending()), (2, 0));
    }

    #[test]
    fn a_message_is_known_before_it_is_sent() {
        let mut function = Function::new(1);
        function.entry(0, 0xfee0_0000, 0x51, 0);
        function.msix.vector(0).unwrap().signal();
        assert_eq!(function.routes[0].message(), None, "not enabled yet");
        function.control(ENABLE);
        assert_eq!(function.routes[0].message(), Some(MsiMessage { address: 0xfee0_0000, data: 0x51 }));
        assert_eq!(function.routes[0].signals(), 1);
    }

    #[test]
    fn strange_accesses_do_nothing() {
        let mut function = Function::new(1);
        function.control(ENABLE);
        for (offset, len) in [(1, 4), (4, 8), (0, 1), (0, 2), (0, 16), (16, 4), (u64::MAX - 3, 4), (u64::MAX - 7, 8)] {
            let mut data = vec![0xff; len];
            function.msix.table_write(offset, &data);
            function.msix.table_read(offset, &mut data);
            function.msix.pending_read(offset, &mut data);
        }
        let mut data = [0xff; 8];
        function.msix.table_read(0, &mut data);
        assert_eq!(data, [0; 8]);
        assert!(function.msix.vector(1).is_none());
    }

    #[test]
    fn a_reset_forgets_everything() {
        let mut function = Function::new(1);
        function.control(ENABLE);
        function.entry(0, 0xfee0_0000, 0x40, 0);
        let vector = function.msix.vector(0).unwrap();
        function.msix.reset();
        vector.signal();
        assert_eq!(function.routes[0].signals(), 0);
        assert!(!function.msix.is_enabled());
    }
}
