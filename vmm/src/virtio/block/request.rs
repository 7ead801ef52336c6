//! One request of a disk's driver (virtio 1.2, section 5.2.6): header, data, status.
//!
//! Where one ends and the next begins has nothing to do with how the buffers are cut (section 2.7.4).

use std::io;

use vm_memory::{Bytes, VolatileSlice};

use super::{Block, Disk, ID_LEN, MAX_RANGE_SECTORS, MAX_RANGES, SECTOR};
use crate::virtio::queue::{Piece, QueueError};

/// Length of `struct virtio_blk_req` before the data: type, reserved, sector.
const HEADER: usize = 16;
/// Length of `struct virtio_blk_discard_write_zeroes`: sector, count, flags.
const RANGE: usize = 16;

mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// The flag of a range of zeros that may become a hole. There are no others.
const UNMAP: u32 = 1;

/// Why a request is not done.
#[derive(Debug)]
enum Failure {
    /// The driver wants what cannot be.
    Refused,
    /// There is no such request, or it has flags that do not exist.
    Unsupported,
    /// The file does not do it.
    File(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// The buffers of a request.
#[derive(Debug, Default)]
pub(super) struct Request<'m> {
    readable: Vec<VolatileSlice<'m, ()>>,
    writable: Vec<VolatileSlice<'m, ()>>,
}

impl<'m> Request<'m> {
    /// Adds a piece of the chain.
    pub(super) fn add(&mut self, piece: Piece<'m>) -> Result<(), QueueError> {
        if piece.writable {
            self.writable.push(piece.slice);
        } else if self.writable.is_empty() {
            self.readable.push(piece.slice);
        } else {
            // What is to be read comes first (section 2.7.4.2).
            return Err(QueueError::WrongBuffer);
        }
        Ok(())
    }

    /// Does what is asked for and writes the status. Returns how many bytes were written to the buffers.
    pub(super) fn serve(mut self, block: &mut Block, write_through: bool) -> Result<u32, QueueError> {
        let mut header = [0; HEADER];
        if take(&mut self.readable, &mut header) < HEADER {
            return Err(QueueError::WrongBuffer);
        }
        let status = self.take_status()?;
        let (code, written) = match self.execute(block, &header, write_through) {
            Ok(written) => (OK, written),
            Err(Failure::Refused) => (IO_ERROR, 0),
            Err(Failure::Unsupported) => (UNSUPPORTED, 0),
            Err(Failure::File(error)) => {
                block.report(&error);
                (IO_ERROR, 0)
            }
        };
        status.write_obj(code, 0).map_err(|_| QueueError::WrongBuffer)?;
        Ok(u32::try_from(written + 1).unwrap_or(u32::MAX))
    }

    /// The last byte that the device may write to.
    fn take_status(&mut self) -> Result<VolatileSlice<'m, ()>, QueueError> {
        let last = self.writable.pop().ok_or(QueueError::WrongBuffer)?;
        let (data, status) = last.split_at(last.len() - 1).map_err(|_| QueueError::WrongBuffer)?;
        if !data.is_empty() {
            self.writable.push(data);
        }
        Ok(status)
    }

    /// Returns how many bytes of data were written.
    fn execute(&mut self, block: &Block, header: &[u8; HEADER], write_through: bool) -> Result<usize, Failure> {
        let [a, b, c, d, _, _, _, _, sector @ ..] = *header;
        let sector = u64::from_le_bytes(sector);
        let disk = &block.disk;
        match u32::from_le_bytes([a, b, c, d]) {
            kind::IN => {
                let len = total(&self.writable);
                disk.read(range(disk.sectors(), sector, len)?, &self.writable)?;
                Ok(len)
            }
            kind::OUT => {
                let at = range(disk.sectors(), sector, total(&self.readable))?;
                refuse_if_read_only(disk)?;
                disk.write(at, &self.readable)?;
                if write_through {
                    disk.flush()?;
                }
                Ok(0)
            }
            kind::FLUSH => {
                disk.flush()?;
                Ok(0)
            }
            kind::GET_ID => {
                let mut id = &block.id[..];
                for slice in &self.writable {
                    let (now, later) = id.split_at(id.len().min(slice.len()));
                    slice.copy_from(now);
                    id = later;
                }
                Ok(ID_LEN - id.len())
            }
            which @ (kind::DISCARD | kind::WRITE_ZEROES) => {
                refuse_if_read_only(disk)?;
                let zeroes = which == kind::WRITE_ZEROES;
                for (at, len, unmap) in self.ranges(disk.sectors(), zeroes)? {
                    if zeroes { disk.zero(at, len, unmap)? } else { disk.discard(at, len)? }
                }
                if zeroes && write_through {
                    disk.flush()?;
                }
                Ok(0)
            }
            _ => Err(Failure::Unsupported),
        }
    }

    /// The ranges of a request to discard sectors or fill them with zeros, in bytes. All are good, or none is touched.
    fn ranges(&mut self, sectors: u64, zeroes: bool) -> Result<Vec<(u64, u64, bool)>, Failure> {
        let len = total(&self.readable);
        if len == 0 || !len.is_multiple_of(RANGE) || len / RANGE > MAX_RANGES as usize {
            return Err(Failure::Refused);
        }
        let mut ranges = Vec::with_capacity(len / RANGE);
        let mut bytes = [0; RANGE];
        while take(&mut self.readable, &mut bytes) == RANGE {
            let [sector @ .., a, b, c, d, e, f, g, h] = bytes;
            let (count, flags) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
            let known = if zeroes { UNMAP } else { 0 };
            if flags & !known != 0 {
                return Err(Failure::Unsupported);
            }
            if count > MAX_RANGE_SECTORS {
                return Err(Failure::Refused);
            }
            let len = u64::from(count) * SECTOR;
            let at = range(sectors, u64::from_le_bytes(sector), usize::try_from(len).map_err(|_| Failure::Refused)?)?;
            ranges.push((at, len, flags & UNMAP != 0));
        }
        Ok(ranges)
    }
}

const fn refuse_if_read_only(disk: &Disk) -> Result<(), Failure> {
    if disk.is_read_only() { Err(Failure::Refused) } else { Ok(()) }
}

/// Where `len` bytes from `sector` on begin, if they are whole sectors of the disk.
fn range(sectors: u64, sector: u64, len: usize) -> Result<u64, Failure> {
    let len = u64::try_from(len).map_err(|_| Failure::Refused)?;
    let fits = len.is_multiple_of(SECTOR) && sector.checked_add(len / SECTOR).is_some_and(|end| end <= sectors);
    if fits { Ok(sector * SECTOR) } else { Err(Failure::Refused) }
}

fn total(slices: &[VolatileSlice<'_, ()>]) -> usize {
    slices.iter().map(VolatileSlice::len).sum()
}

/// Copies bytes from the front of `slices` into `to` and removes them there; returns how many there were.
fn take(slices: &mut Vec<VolatileSlice<'_, ()>>, to: &mut [u8]) -> usize {
    let mut copied = 0;
    let mut used = 0;
    for slice in slices.iter_mut() {
        let len = slice.copy_to(&mut to[copied..]);
        copied += len;
        match slice.offset(len) {
            Ok(rest) if !rest.is_empty() => {
                *slice = rest;
                break;
            }
            _ => used += 1,
        }
        if copied == to.len() {
            break;
        }
    }
    slices.drain(..used);
    copied
}
