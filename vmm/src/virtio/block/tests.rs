use std::io::Write;

use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::driver::{Driver, DriverQueue, READ, WRITE};
use crate::virtio::feature as common;

const SECTORS: usize = 64;
/// Where tests have the header, the data and the status.
const HEADER: u64 = 0x1000;
const DATA: u64 = 0x1_0000;
const STATUS: u64 = 0x2000;
/// The flag of zeros that may become a hole.
const UNMAP: u32 = 1;

/// A guest with a disk.
struct Guest {
    driver: Driver,
    queue: DriverQueue,
    worker: Worker<Block>,
    file: NamedTempFile,
}

impl Guest {
    fn new(read_only: bool) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        let contents: Vec<u8> = (0..SECTORS * 512).map(|n| (n / 512) as u8).collect();
        file.write_all(&contents).unwrap();
        let disk = Disk::open(file.path(), read_only).unwrap();
        let (parts, worker) = new(disk, "vda-of-the-test").unwrap();
        let mut driver = Driver::new(parts);
        assert!(driver.negotiate(common::TRANSPORT | feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES | feature::RO));
        let queue = driver.queue(0, 64);
        driver.ready();
        Self { driver, queue, worker, file }
    }

    /// Sends a request with these pieces of data, and returns its status and how many bytes were written.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, usize, bool)]) -> (u8, u32) {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.driver.memory.write_slice(&header, GuestAddress(HEADER)).unwrap();
        self.driver.memory.write_obj(0xff_u8, GuestAddress(STATUS)).unwrap();
        let mut chain = vec![(HEADER, 16, READ)];
        chain.extend(data);
        chain.push((STATUS, 1, WRITE));
        self.queue.add(&chain);
        self.driver.kick(&self.queue);
        self.worker.drain().unwrap();
        let (_, written) = self.queue.take_used().expect("the request is done");
        (self.driver.memory.read_obj(GuestAddress(STATUS)).unwrap(), written)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.driver.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.driver.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn contents(&self) -> Vec<u8> {
        std::fs::read(self.file.path()).unwrap()
    }
}

#[test]
fn sectors_are_read_into_scattered_buffers() {
    let mut guest = Guest::new(false);
    let pieces = [(DATA, 100, WRITE), (DATA + 0x1000, 412, WRITE), (DATA + 0x2000, 512, WRITE)];
    assert_eq!(guest.request(0, 5, &pieces), (0, 1025));
    assert_eq!(guest.get(DATA, 100), [5; 100]);
    assert_eq!(guest.get(DATA + 0x1000, 412), [5; 412]);
    assert_eq!(guest.get(DATA + 0x2000, 512), [6; 512]);
}

#[test]
fn a_write_is_in_the_file_when_it_is_acknowledged() {
    let mut guest = Guest::new(false);
    guest.put(DATA, &[0xaa; 1024]);
    assert_eq!(guest.request(1, 10, &[(DATA, 1000, READ), (DATA + 1000, 24, READ)]), (0, 1));
    let contents = guest.contents();
    assert_eq!(contents.len(), SECTORS * 512);
    assert_eq!(contents[10 * 512 - 1..][..1026], [&[9][..], &[0xaa; 1024], &[12]].concat());
    assert_eq!(guest.request(4, 0, &[]), (0, 1), "flush");
}

#[test]
fn header_data_and_status_may_be_cut_anywhere() {
    let mut guest = Guest::new(false);
    // All that is read in one piece, all that is written in another.
    let header = [&0_u32.to_le_bytes()[..], &[0; 4], &7_u64.to_le_bytes()].concat();
    guest.put(HEADER, &header);
    guest.queue.add(&[(HEADER, 3, READ), (HEADER + 3, 13, READ), (DATA, 513, WRITE)]);
    guest.worker.drain().unwrap();
    assert_eq!(guest.queue.take_used().map(|(_, len)| len), Some(513));
    assert_eq!(guest.get(DATA, 513), [&[7; 512][..], &[0]].concat());

    let header = [&1_u32.to_le_bytes()[..], &[0; 4], &8_u64.to_le_bytes(), &[0xbb; 512]].concat();
    guest.put(HEADER, &header);
    guest.queue.add(&[(HEADER, 528, READ), (STATUS, 1, WRITE)]);
    guest.worker.drain().unwrap();
    assert_eq!(guest.queue.take_used().map(|(_, len)| len), Some(1));
    assert_eq!(guest.contents()[8 * 512..][..512], [0xbb; 512]);
}

#[test]
fn nothing_beyond_the_end_is_touched() {
    let mut guest = Guest::new(false);
    let before = guest.contents();
    let last = SECTORS as u64 - 1;
    assert_eq!(guest.request(0, last, &[(DATA, 512, WRITE)]), (0, 513));
    for (sector, len) in [(last, 1024), (last + 1, 512), (u64::MAX, 512), (u64::MAX / 512, 1024), (0, 511), (0, 513)] {
        assert_eq!(guest.request(0, sector, &[(DATA, len, WRITE)]).0, 1, "read {sector} {len}");
        assert_eq!(guest.request(1, sector, &[(DATA, len, READ)]).0, 1, "write {sector} {len}");
    }
    assert!(guest.contents() == before);
}

#[test]
fn a_read_only_disk_is_not_written_to() {
    let mut guest = Guest::new(true);
    assert_eq!(guest.driver.features & (feature::RO | feature::DISCARD | feature::WRITE_ZEROES), feature::RO);
    let before = guest.contents();
    assert_eq!(guest.request(0, 0, &[(DATA, 512, WRITE)]).0, 0);
    assert_eq!(guest.request(1, 0, &[(DATA, 512, READ)]).0, 1);
    guest.put(DATA, &[0; 16]);
    guest.put(DATA + 8, &8_u32.to_le_bytes());
    assert_eq!(guest.request(11, 0, &[(DATA, 16, READ)]).0, 1);
    assert_eq!(guest.request(13, 0, &[(DATA, 16, READ)]).0, 1);
    assert!(guest.contents() == before);
}

#[test]
fn the_disk_says_who_it_is() {
    let mut guest = Guest::new(false);
    assert_eq!(guest.request(8, 0, &[(DATA, 20, WRITE)]), (0, 21));
    assert_eq!(guest.get(DATA, 20), b"vda-of-the-test\0\0\0\0\0");
    assert_eq!(guest.request(8, 0, &[(DATA, 5, WRITE)]), (0, 6));
}

#[test]
fn discarded_sectors_are_zeros_or_as_before() {
    let mut guest = Guest::new(false);
    let range =
        |sector: u64, count: u32, flags: u32| [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat();
    guest.put(DATA, &[range(8, 8, 0), range(24, 8, 0)].concat());
    assert_eq!(guest.request(11, 0, &[(DATA, 32, READ)]), (0, 1));
    let contents = guest.contents();
    assert_eq!(contents.len(), SECTORS * 512);
    assert!(contents[8 * 512..16 * 512].iter().all(|byte| *byte == 0) || contents[8 * 512] == 8);
    assert_eq!((contents[8 * 512 - 1], contents[16 * 512], contents[23 * 512]), (7, 16, 23));
}

#[test]
fn zeros_are_written_without_being_sent() {
    for flags in [0, UNMAP] {
        let mut guest = Guest::new(false);
        let range = [&3_u64.to_le_bytes()[..], &5_u32.to_le_bytes(), &flags.to_le_bytes()].concat();
        guest.put(DATA, &range);
        assert_eq!(guest.request(13, 0, &[(DATA, 16, READ)]), (0, 1));
        let contents = guest.contents();
        assert_eq!(contents[3 * 512 - 1], 2);
        assert!(contents[3 * 512..8 * 512].iter().all(|byte| *byte == 0));
        assert_eq!(contents[8 * 512], 8);
    }
}
#[test]
fn ranges_that_make_no_sense_change_nothing() {
    let mut guest = Guest::new(false);
    let before = guest.contents();
    let range =
        |sector: u64, count: u32, flags: u32| [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat();
    let good = range(0, 8, 0);
    for (kind, bytes, status) in [
        (11, [good.clone(), range(60, 8, 0)].concat(), 1),
        (11, [good.clone(), range(u64::MAX, 8, 0)].concat(), 1),
        (11, range(0, 8, 1), 2),
        (13, range(0, 8, 2), 2),
        (13, range(0, u32::MAX, 0), 1),
        (11, good[..15].to_vec(), 1),
        (11, Vec::new(), 1),
        (11, good.repeat(17), 1),
    ] {
        guest.put(DATA, &bytes);
        assert_eq!(guest.request(kind, 0, &[(DATA, bytes.len(), READ)]).0, status, "{kind} {bytes:?}");
    }
    assert!(guest.contents() == before);
    assert_eq!(guest.request(99, 0, &[]).0, 2);
}

#[test]
fn a_request_without_room_for_its_status_ends_the_device() {
    for chain in [
        &[(HEADER, 15, READ), (STATUS, 1, WRITE)][..],
        &[(HEADER, 16, READ)],
        &[(HEADER, 16, READ), (STATUS, 0, WRITE)],
        &[(STATUS, 1, WRITE), (HEADER, 16, READ)],
    ] {
        let mut guest = Guest::new(false);
        guest.queue.add(chain);
        guest.worker.drain().unwrap();
        assert!(guest.driver.needs_reset(), "{chain:?}");
    }
}

#[test]
fn a_request_of_many_pieces_is_done_in_several_calls() {
    let mut guest = Guest::new(false);
    guest.put(HEADER, &[&1_u32.to_le_bytes()[..], &[0; 12]].concat());
    let data: Vec<u8> = (0..16384_u32).map(|n| (n % 251) as u8).collect();
    guest.put(DATA, &data);
    let mut chain = vec![(HEADER, 16, READ)];
    chain.extend((0..64 * 3).map(|n| (DATA + n * 85, 85, READ)));
    chain.push((DATA + 64 * 3 * 85, 64, READ));
    chain.push((STATUS, 1, WRITE));
    guest.queue.add_indirect(0x3000, &chain);
    guest.worker.drain().unwrap();
    assert!(guest.queue.take_used().is_some());
    assert_eq!(guest.get(STATUS, 1), [0]);
    assert!(guest.contents()[..16384] == data);
}

#[test]
fn a_file_that_becomes_shorter_fails_the_request_alone() {
    let mut guest = Guest::new(false);
    guest.file.as_file().set_len(512).unwrap();
    assert_eq!(guest.request(0, 10, &[(DATA, 512, WRITE)]).0, 1);
    assert_eq!(guest.request(0, 0, &[(DATA, 512, WRITE)]).0, 0);
}

#[test]
fn a_disk_has_one_writer() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(4096).unwrap();
    let first = Disk::open(file.path(), false).unwrap();
    assert!(matches!(Disk::open(file.path(), false), Err(DiskError::InUse(_))));
    assert!(matches!(Disk::open(file.path(), true), Err(DiskError::InUse(_))));
    drop(first);
    let _reader = Disk::open(file.path(), true).unwrap();
    Disk::open(file.path(), true).unwrap();
}

#[test]
fn a_file_that_cannot_be_a_disk_is_refused_in_words() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(1000).unwrap();
    let error = Disk::open(file.path(), false).unwrap_err().to_string();
    assert!(error.contains("1000 bytes") && error.contains("truncate"), "{error}");
    let error = Disk::open("/nonexistent/disk".as_ref(), false).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/disk") && error.contains("No such file"), "{error}");
}
