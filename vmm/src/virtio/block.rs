//! A disk (virtio 1.2, section 5.2) whose sectors are those of a raw file.
//!
//! What always holds:
//!
//! - A write is acknowledged after the kernel has it in the file; a flush, after it is on the medium (`fdatasync`). A driver that cannot
//!   ask for flushes has each write flushed before it is acknowledged.
//! - A request that goes beyond the end of the disk, or that the file refuses, fails alone. Only one without room for its status ends the
//!   device's work, since there is no place to say so.

mod disk;
mod request;

use std::io;

pub use disk::{Disk, DiskError};

use super::Parts;
use super::handover::{self, ActiveQueue};
use super::queue::{MAX_SIZE, QueueError};
use super::worker::{Service, Worker};
use request::Request;

/// The device type, and the class of a mass storage controller that is no other.
const DEVICE_TYPE: u16 = 2;
const CLASS: u32 = 0x01_80_00;

/// Bytes of a sector, in all that virtio says of disks.
pub const SECTOR: u64 = 512;

/// Bytes that the disk's identification has.
const ID_LEN: usize = 20;

/// Pieces of data in one request: a chain less header and status.
const MAX_SEGMENTS: u32 = MAX_SIZE as u32 - 2;

/// Ranges in one request to discard sectors or fill them with zeros, and sectors in each.
const MAX_RANGES: u32 = 16;
const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// Feature bits (section 5.2.3).
pub mod feature {
    /// The device says how many pieces a request may have.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The disk is read-only.
    pub const RO: u64 = 1 << 5;
    /// The device says which block size is best.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// The driver can ask for flushes.
    pub const FLUSH: u64 = 1 << 9;
    /// The driver can say that sectors are not needed any more.
    pub const DISCARD: u64 = 1 << 13;
    /// The driver can fill sectors with zeros without sending them.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// What serves the requests.
#[derive(Debug)]
pub struct Block {
    disk: Disk,
    id: [u8; ID_LEN],
    reported: bool,
}

/// Makes a disk: what its PCI function is made of, and its data path. `id` is what the guest can tell it by; 20 bytes of it count.
///
/// # Errors
///
/// When the kernel has no descriptors left.
pub fn new(disk: Disk, id: &str) -> io::Result<(Parts, Worker<Block>)> {
    let (control, slot) = handover::queue(MAX_SIZE)?;
    let more = if disk.is_read_only() { feature::RO } else { feature::DISCARD | feature::WRITE_ZEROES };
    let parts = Parts {
        device_type: DEVICE_TYPE,
        class: CLASS,
        features: feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | more,
        requires: &[],
        config: config(&disk).into(),
        queues: vec![control],
    };
    let mut bytes = [0; ID_LEN];
    for (place, byte) in bytes.iter_mut().zip(id.bytes()) {
        *place = byte;
    }
    Ok((parts, Worker::new(slot, Block { disk, id: bytes, reported: false })))
}

/// `struct virtio_blk_config` (section 5.2.4).
fn config(disk: &Disk) -> Vec<u8> {
    let mut space = vec![0; 60];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &disk.sectors().to_le_bytes());
    put(12, &MAX_SEGMENTS.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(34, &1_u16.to_le_bytes());
    // Discard: the longest range, the most ranges, and what they must be aligned to.
    put(36, &MAX_RANGE_SECTORS.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(44, &(4096 / SECTOR as u32).to_le_bytes());
    // The same of zeros, which may become holes.
    put(48, &MAX_RANGE_SECTORS.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    put(56, &[1]);
    space
}

impl Block {
    /// Says that the file has failed; once, since a guest can ask for the same as often as it likes.
    fn report(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.reported, true) {
            tracing::warn!(%error, "the file of a disk fails; its guest is told so, now and from now on");
        }
    }
}

impl Service for Block {
    fn serve(&mut self, active: &mut ActiveQueue) -> Result<bool, QueueError> {
        let ActiveQueue { queue, memory, features, .. } = active;
        let mut request = Request::default();
        let Some(head) = queue.pop(memory, |piece| request.add(piece))? else { return Ok(false) };
        let written = request.serve(self, *features & feature::FLUSH == 0)?;
        queue.complete(memory, head, written)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
