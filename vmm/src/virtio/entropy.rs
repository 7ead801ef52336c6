//! A source of entropy (virtio 1.2, section 5.4): random bytes of the host's kernel, so that a guest need not wait for its own.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

use super::handover::{self, ActiveQueue};
use super::queue::QueueError;
use super::worker::{Service, Worker};
use super::{DeviceConfig, Parts, handover::QueueSlot};

/// The device type, and the class of a device that is no other.
const DEVICE_TYPE: u16 = 4;
const CLASS: u32 = 0x00_ff_00;

/// Places in its ring.
const QUEUE_SIZE: u16 = 64;

/// Bytes that a request gets at most. A driver that wants more asks again.
const PORTION: usize = 4096;

/// What answers requests.
#[derive(Debug)]
pub struct Entropy;

/// Makes a source of entropy: what its PCI function is made of, and its data path.
///
/// # Errors
///
/// When the kernel has no descriptors left.
pub fn new() -> io::Result<(Parts, Worker<Entropy>)> {
    let (control, slot): (_, QueueSlot) = handover::queue(QUEUE_SIZE)?;
    let parts = Parts {
        device_type: DEVICE_TYPE,
        class: CLASS,
        features: 0,
        requires: &[],
        config: DeviceConfig::default(),
        queues: vec![control],
    };
    Ok((parts, Worker::new(slot, Entropy)))
}

impl Service for Entropy {
    fn serve(&mut self, active: &mut ActiveQueue) -> Result<bool, QueueError> {
        let ActiveQueue { queue, memory, .. } = active;
        let mut random = [0; PORTION];
        let mut left = fill(&mut random);
        let mut written = 0;
        let popped = queue.pop(memory, |piece| {
            if !piece.writable {
                return Err(QueueError::WrongBuffer);
            }
            let (now, later) = left.split_at(left.len().min(piece.slice.len()));
            piece.slice.copy_from(now);
            left = later;
            written += now.len();
            Ok(())
        })?;
        let Some(head) = popped else { return Ok(false) };
        if written == 0 {
            return Err(QueueError::WrongBuffer);
        }
        queue.complete(memory, head, u32::try_from(written).unwrap_or(u32::MAX))?;
        Ok(true)
    }
}

/// Fills the buffer with random bytes; returns those that the kernel had.
fn fill(buffer: &mut [u8]) -> &[u8] {
    let len = loop {
        match getrandom(&mut *buffer, GetRandomFlags::empty()) {
            Ok(len) => break len,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break 0,
        }
    };
    &buffer[..len]
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::virtio::driver::{Driver, READ, WRITE};
    use crate::virtio::feature;

    #[test]
    fn a_request_is_filled_with_bytes_that_differ() {
        let (parts, mut worker) = new().unwrap();
        let mut driver = Driver::new(parts);
        assert!(driver.negotiate(feature::TRANSPORT));
        let mut queue = driver.queue(0, 16);
        driver.ready();
        let mut seen = Vec::new();
        for _ in 0..2 {
            queue.add(&[(0x1000, 8, WRITE), (0x2000, 24, WRITE)]);
            driver.kick(&queue);
            worker.drain().unwrap();
            assert_eq!(queue.take_used().map(|(_, len)| len), Some(32));
            let mut bytes = [0; 24];
            driver.memory.read_slice(&mut bytes, GuestAddress(0x2000)).unwrap();
            seen.push(bytes);
        }
        assert_ne!(seen[0], seen[1]);
        assert_ne!(seen[0], [0; 24]);
    }

    #[test]
    fn a_large_request_gets_a_portion() {
        let (parts, mut worker) = new().unwrap();
        let mut driver = Driver::new(parts);
        assert!(driver.negotiate(feature::TRANSPORT));
        let mut queue = driver.queue(0, 16);
        driver.ready();
        queue.add(&[(0x1_0000, 1 << 20, WRITE)]);
        worker.drain().unwrap();
        assert_eq!(queue.take_used().map(|(_, len)| len), Some(PORTION as u32));
    }

    #[test]
    fn there_is_nothing_to_read_from_the_driver() {
        for piece in [(0x1000, 8, READ), (0x1000, 0, WRITE)] {
            let (parts, mut worker) = new().unwrap();
            let mut driver = Driver::new(parts);
            assert!(driver.negotiate(feature::TRANSPORT));
            let mut queue = driver.queue(0, 16);
            driver.ready();
            queue.add(&[piece]);
            worker.drain().unwrap();
            assert!(driver.needs_reset());
        }
    }

    #[tokio::test]
    async fn a_thread_serves_until_the_device_is_gone() {
        let (parts, worker) = new().unwrap();
        let mut driver = Driver::new(parts);
        let thread = worker.spawn("entropy".to_owned()).unwrap();
        driver.use_messages();
        assert!(driver.negotiate(feature::TRANSPORT));
        let mut queue = driver.queue(0, 16);
        driver.ready();
        for _ in 0..10 {
            queue.add(&[(0x1000, 8, WRITE)]);
            driver.kick(&queue);
            driver.routes[1].rings().await;
            assert_eq!(queue.take_used().map(|(_, len)| len), Some(8));
        }
        drop(driver);
        thread.join().unwrap();
    }
}
