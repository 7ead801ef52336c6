//! What the guest receives: the receive ring as the engine's egress.
//!
//! The card takes no offloads: what it delivers, the guest may forward, and then nobody fills in checksums any more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use netstack::frame::{Checksum, ChunkMut, FrameMeta, FrameMut, Offloads};
use netstack::port::{Egress, Sent};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::filter::{self, NEEDED};
use super::interrupts::{DELAY_UNIT, Waits};
use super::register::{self, cause, rctl, rxcsum};
use super::shared::{Ring, Shared};
use super::statistics::Cast;
use crate::kick::Kick;
use crate::memory::GuestMemory;

/// Descriptors that one frame may be spread over.
const MAX_DESCRIPTORS: usize = 64;

/// The shortest frame, and the longest one without long packets enabled; both without their FCS, which has 4 bytes.
const MIN_FRAME: usize = 60;
const MAX_STANDARD_FRAME: usize = 1518;
const FCS: usize = 4;
const TAG: usize = 4;
const ADDRESSES: usize = 12;

/// The largest packet of a driver that has not enabled long ones.
const STANDARD_MTU: u16 = 1500;

/// Where the fields of a descriptor are: length, status.
const LENGTH: u64 = 8;
const STATUS: u64 = 12;

/// Status bits of a descriptor (manual, section 3.2.3.1).
mod bit {
    pub(super) const DD: u8 = 1 << 0;
    pub(super) const EOP: u8 = 1 << 1;
    pub(super) const IXSM: u8 = 1 << 2;
    pub(super) const VP: u8 = 1 << 3;
    pub(super) const TCPCS: u8 = 1 << 5;
    pub(super) const IPCS: u8 = 1 << 6;
}

#[derive(Debug)]
pub(super) struct E1000Egress {
    shared: Arc<Shared>,
    memory: GuestMemory,
    bell: Kick,
    mtu: u16,
    /// The ring as it was when it had no room.
    full: Option<(Ring, u32)>,
    /// Causes to be raised at the next flush.
    causes: u32,
    dropped: u64,
}

/// An access to the guest's memory that went elsewhere.
#[derive(Debug)]
struct OutsideRam;

/// The descriptors for one frame.
struct Room<'m> {
    chunks: [ChunkMut<'m>; MAX_DESCRIPTORS],
    used: usize,
    bytes: usize,
    /// The length of each descriptor's buffer, in their order; 0 for one that leads nowhere.
    buffers: [usize; MAX_DESCRIPTORS],
    descriptors: usize,
}

/// What is written into the last descriptor of a frame.
#[derive(Debug, Clone, Copy, Default)]
struct Verdict {
    status: u8,
    special: u16,
}

impl E1000Egress {
    /// Must be called within the runtime that will drive it.
    pub(super) fn new(shared: Arc<Shared>, memory: GuestMemory, mtu: u16) -> io::Result<Self> {
        let bell = Kick::watch(shared.receive.bell())?;
        Ok(Self { shared, memory, bell, mtu, full: None, causes: 0, dropped: 0 })
    }

    /// The ring, if the card may use it.
    fn ring(&self) -> Option<Ring> {
        self.shared.may_receive().then(|| self.shared.receive_ring()).filter(|ring| ring.available() > 0)
    }

    fn try_send(
        &mut self,
        capacity: usize,
        fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>,
    ) -> Result<Sent, OutsideRam> {
        let shared = Arc::clone(&self.shared);
        let Some(_working) = shared.receive.enter(|| shared.may_receive()) else {
            self.full = None;
            return Ok(Sent::Full);
        };
        let ring = shared.receive_ring();
        let control = shared.get(register::RCTL);
        let fcs = if control & rctl::SECRC != 0 { 0 } else { FCS };
        let needed = capacity.max(MIN_FRAME) + fcs;
        let buffer = buffer_size(control);
        if needed > buffer * MAX_DESCRIPTORS.min(ring.len.saturating_sub(1) as usize) && ring.len > 0 {
            self.dropped += 1;
            return Ok(Sent::Declined);
        }
        let mut room = Room::new();
        if !room.find(&self.memory, &ring, buffer, needed)? {
            self.full = Some((ring, shared.resets()));
            return Ok(Sent::Full);
        }
        let mut whole = FrameMut::new(&mut room.chunks[..room.used]);
        let Some((len, meta)) = fill(&mut whole) else { return Ok(Sent::Declined) };
        let mut len = len.min(capacity);
        let mut head = [0; NEEDED];
        whole.copy_to(0, &mut head[..NEEDED.min(len)]);
        if !filter::accepts(&shared, &head) {
            return Ok(Sent::Yes);
        }
        let vlan = filter::vlan(&shared, &head);
        let longest = MAX_STANDARD_FRAME - TAG + if vlan.is_some() { TAG } else { 0 };
        if control & rctl::LPE == 0 && len > longest {
            shared.statistics.too_long();
            return Ok(Sent::Yes);
        }
        let mut verdict = Verdict { status: checksum_status(&shared, &meta), special: 0 };
        if let Some(tag) = vlan
            && filter::handles_tags(&shared)
        {
            len = strip_tag(&mut whole, len);
            verdict = Verdict { status: verdict.status | bit::VP, special: tag };
        }
        shared.statistics.receive(Cast::of(&head), len);
        let padded = len.max(MIN_FRAME);
        whole.copy_from(len, &[0; MIN_FRAME + FCS][..padded - len + fcs]);
        let next = write_back(&self.memory, &ring, &room, padded + fcs, verdict)?;
        shared.set(register::RDH, next);
        self.causes |= cause::RXT0;
        // Few are left: a half, a quarter or an eighth of the ring.
        let threshold = ring.len >> (1 + (control >> rctl::RDMTS_SHIFT & 3));
        if shared.receive_ring().available() <= threshold {
            self.causes |= cause::RXDMT0;
        }
        Ok(Sent::Yes)
    }
}

impl<'m> Room<'m> {
    const fn new() -> Self {
        Self {
            chunks: [const { ChunkMut::empty() }; MAX_DESCRIPTORS],
            used: 0,
            bytes: 0,
            buffers: [0; MAX_DESCRIPTORS],
            descriptors: 0,
        }
    }

    /// Finds descriptors whose buffers have `needed` bytes. Returns whether there are so many.
    fn find(&mut self, memory: &'m GuestMemory, ring: &Ring, buffer: usize, needed: usize) -> Result<bool, OutsideRam> {
        let mut index = ring.head;
        for _ in 0..ring.available() {
            let at = ring.address(index).ok_or(OutsideRam)?;
            let address = memory.read_obj::<u64>(GuestAddress(at)).map_err(|_| OutsideRam)?;
            let address = GuestAddress(u64::from_le(address));
            let Some(place) = self.buffers.get_mut(self.descriptors) else { return Ok(false) };
            self.descriptors += 1;
            // A descriptor without a buffer is used up and holds nothing.
            if address.0 != 0 {
                *place = buffer;
                for slice in memory.get_slices(address, buffer) {
                    let slice = slice.map_err(|_| OutsideRam)?;
                    let chunk = self.chunks.get_mut(self.used).ok_or(OutsideRam)?;
                    // SAFETY: the slice borrows the guest's memory, which stays mapped for at least 'm. Buffers of a well-behaved driver
                    // do not overlap, and those of another are no memory of ours.
                    *chunk = unsafe { ChunkMut::from_raw_parts(slice.ptr_guard_mut().as_ptr(), slice.len()) };
                    self.used += 1;
                }
                self.bytes += buffer;
            }
            if self.bytes >= needed {
                return Ok(true);
            }
            index = ring.after(index);
        }
        Ok(false)
    }
}

/// Tells the driver of a frame of `len` bytes, FCS and all, that lies in the buffers of `room`. Returns the descriptor after it.
fn write_back(memory: &GuestMemory, ring: &Ring, room: &Room<'_>, len: usize, verdict: Verdict) -> Result<u32, OutsideRam> {
    let mut index = ring.head;
    let mut left = len;
    for buffer in &room.buffers[..room.descriptors] {
        let at = ring.address(index).ok_or(OutsideRam)?;
        let here = left.min(*buffer);
        left -= here;
        let last = left == 0;
        let Verdict { status, special } = if last { verdict } else { Verdict::default() };
        let status = status | bit::DD | if last { bit::EOP } else { 0 };
        // Length, checksum, status, errors, special; the status follows when all the rest is there.
        let [low, high] = u16::try_from(here).unwrap_or(u16::MAX).to_le_bytes();
        let [special_low, special_high] = special.to_le_bytes();
        let rest = [low, high, 0, 0, 0, 0, special_low, special_high];
        memory.write_slice(&rest, GuestAddress(at + LENGTH)).map_err(|_| OutsideRam)?;
        memory.store(status, GuestAddress(at + STATUS), Ordering::Release).map_err(|_| OutsideRam)?;
        index = ring.after(index);
        if last {
            break;
        }
    }
    Ok(index)
}

/// Bytes of each buffer.
const fn buffer_size(control: u32) -> usize {
    let size = 2048 >> (control >> rctl::BSIZE_SHIFT & 3);
    // The largest of the four does not exist sixteenfold.
    if control & rctl::BSEX != 0 && size < 2048 { size * 16 } else { size }
}

/// What the card says of the checksums: that they are right, if somebody vouches for them and the driver asks; else to look itself.
fn checksum_status(shared: &Shared, meta: &FrameMeta) -> u8 {
    if meta.checksum != Checksum::Verified {
        return bit::IXSM;
    }
    let control = shared.get(register::RXCSUM);
    let transport = if control & rxcsum::TUOFL != 0 { bit::TCPCS } else { 0 };
    let ip = if control & rxcsum::IPOFL != 0 { bit::IPCS } else { 0 };
    if transport | ip == 0 { bit::IXSM } else { transport | ip }
}

/// Takes the VLAN tag out of a frame of `len` bytes; returns its new length.
fn strip_tag(frame: &mut FrameMut<'_, '_>, len: usize) -> usize {
    let mut block = [0; 2048];
    let mut from = ADDRESSES + TAG;
    while from < len {
        let wanted = block.len().min(len - from);
        let copied = frame.copy_to(from, &mut block[..wanted]);
        if copied == 0 {
            break;
        }
        frame.copy_from(from - TAG, &block[..copied]);
        from += copied;
    }
    len.saturating_sub(TAG)
}

impl Egress for E1000Egress {
    fn mtu(&self) -> u16 {
        if self.shared.get(register::RCTL) & rctl::LPE != 0 { self.mtu } else { self.mtu.min(STANDARD_MTU) }
    }

    fn offloads(&self) -> Offloads {
        Offloads::NONE
    }

    fn send(&mut self, capacity: usize, fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>) -> Sent {
        self.try_send(capacity, fill).unwrap_or_else(|OutsideRam| {
            self.shared.fail("a receive ring or buffer lies outside of RAM");
            self.full = None;
            Sent::Full
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.shared.is_gone() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let causes = std::mem::take(&mut self.causes);
        if causes != 0 {
            let delay = self.shared.get(register::RDTR);
            let absolute = self.shared.get(register::RADV);
            let delay = if absolute == 0 { delay } else { delay.min(absolute) };
            // A ring that runs empty is told of at once. What waits is looked after before the task sleeps.
            let delay = if causes & cause::RXDMT0 != 0 { 0 } else { delay };
            let Waits(_) = self.shared.interrupts.raise(causes, u64::from(delay) * DELAY_UNIT);
        }
        Ok(())
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let changed = || self.ring().is_some_and(|ring| self.full != Some((ring, self.shared.resets())));
            if changed() || !self.shared.receive.wait(changed) {
                return Poll::Ready(());
            }
            ready!(self.bell.poll(cx));
        }
    }

    fn set_link(&mut self, up: bool) {
        self.shared.plug(up);
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}
