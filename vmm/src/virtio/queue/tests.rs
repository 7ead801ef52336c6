use proptest::prelude::*;

use super::*;
use crate::virtio::driver::{Driver, DriverQueue, READ, WRITE};
use crate::virtio::{Parts, feature};

fn driver(features: u64) -> Driver {
    let parts = Parts {
        device_type: 1,
        class: 0,
        features: 0,
        requires: &[],
        config: crate::virtio::DeviceConfig::default(),
        queues: Vec::new(),
    };
    let mut driver = Driver::new(parts);
    driver.features = features;
    driver
}

fn pair(size: u16, features: u64) -> (Driver, DriverQueue, Queue) {
    let mut driver = driver(features);
    let there = DriverQueue::new(&mut driver, 0, size);
    let here = Queue::new(&driver.memory, &setup(&there), features & feature::EVENT_IDX != 0).unwrap();
    (driver, there, here)
}

fn setup(queue: &DriverQueue) -> QueueSetup {
    QueueSetup { size: queue.size, descriptors: queue.descriptors, available: queue.available, used: queue.used }
}

/// A head, and the addresses and lengths behind it.
type Popped = Option<(u16, Vec<(u64, usize, bool)>)>;

fn pop(queue: &mut Queue, memory: &GuestMemory) -> Result<Popped, QueueError> {
    let mut pieces = Vec::new();
    let head = queue.pop(memory, |piece| {
        pieces.push((piece.address.0, piece.slice.len(), piece.writable));
        Ok(())
    })?;
    Ok(head.map(|head| (head, pieces)))
}

#[test]
fn a_chain_comes_out_as_it_was_put_in() {
    let (driver, mut there, mut here) = pair(8, 0);
    let pieces = [(0x1000, 12, READ), (0x3000, 1500, READ), (0x5000, 1, WRITE)];
    let head = there.add(&pieces);
    assert_eq!(pop(&mut here, &driver.memory), Ok(Some((head, pieces.to_vec()))));
    assert_eq!(pop(&mut here, &driver.memory), Ok(None));
}

#[test]
fn an_indirect_chain_may_be_longer_than_the_ring() {
    let (driver, mut there, mut here) = pair(4, feature::INDIRECT_DESC);
    let pieces: Vec<_> = (0..MAX_CHAIN as u64).map(|n| (0x1000 + 16 * n, 16, WRITE)).collect();
    there.add_indirect(0x8_0000, &pieces);
    assert_eq!(pop(&mut here, &driver.memory).unwrap().unwrap().1, pieces);
}

#[test]
fn a_piece_may_cross_from_one_range_of_ram_into_the_next_but_not_into_a_gap() {
    let ranges = [(GuestAddress(0), 2 << 20), (GuestAddress(2 << 20), 1 << 20)];
    let mut driver = driver(0);
    let mut there = DriverQueue::new(&mut driver, 0, 8);
    let adjoining = GuestMemory::from_ranges(&ranges).unwrap();
    let mut here = Queue::new(&adjoining, &setup(&there), false).unwrap();
    // The rings are in another guest's memory here, so they are copied.
    there.add(&[((2 << 20) - 100, 300, READ)]);
    let mut rings = vec![0; 3 * 4096];
    driver.memory.read_slice(&mut rings, GuestAddress(there.descriptors)).unwrap();
    adjoining.write_slice(&rings, GuestAddress(there.descriptors)).unwrap();
    let pieces = pop(&mut here, &adjoining).unwrap().unwrap().1;
    assert_eq!(pieces, [((2 << 20) - 100, 100, READ), (2 << 20, 200, READ)]);

    let (driver, mut there, mut here) = pair(8, 0);
    there.add(&[((16 << 20) - 100, 300, READ)]);
    assert_eq!(pop(&mut here, &driver.memory), Err(QueueError::OutsideRam));
}

#[test]
fn what_is_completed_shows_all_at_once() {
    let (driver, mut there, mut here) = pair(8, 0);
    for n in 0..3 {
        there.add(&[(0x1000 * (n + 1), 64, WRITE)]);
    }
    let heads: Vec<u16> = (0..3).map(|_| pop(&mut here, &driver.memory).unwrap().unwrap().0).collect();
    for (written, head) in heads.iter().enumerate() {
        here.complete(&driver.memory, *head, u32::try_from(written).unwrap()).unwrap();
        assert_eq!(there.published(), 0);
    }
    assert_eq!(here.publish(&driver.memory), Ok(true));
    assert_eq!(there.published(), 3);
    let used: Vec<_> = std::iter::from_fn(|| there.take_used()).collect();
    assert_eq!(used, [(heads[0], 0), (heads[1], 1), (heads[2], 2)]);
    assert_eq!(here.publish(&driver.memory), Ok(false), "there is nothing new");
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    let (driver, mut there, mut here) = pair(8, 0);
    driver.memory.write_obj(1_u16, GuestAddress(there.available)).unwrap();
    there.add(&[(0x1000, 64, WRITE)]);
    let (head, _) = pop(&mut here, &driver.memory).unwrap().unwrap();
    here.complete(&driver.memory, head, 0).unwrap();
    assert_eq!(here.publish(&driver.memory), Ok(false));
}

#[test]
fn a_driver_is_interrupted_at_the_element_it_asked_for() {
    let (driver, mut there, mut here) = pair(8, feature::EVENT_IDX);
    // It wants to hear of the third used element, then of the sixth.
    there.set_used_event(2);
    let mut notified = Vec::new();
    for round in 0..6 {
        there.add(&[(0x1000, 64, WRITE)]);
        let (head, _) = pop(&mut here, &driver.memory).unwrap().unwrap();
        here.complete(&driver.memory, head, 0).unwrap();
        notified.push(here.publish(&driver.memory).unwrap());
        if round == 3 {
            there.set_used_event(5);
        }
    }
    assert_eq!(notified, [false, false, true, false, false, true]);
}

#[test]
fn a_batch_that_passes_the_element_asked_for_interrupts_once() {
    let (driver, mut there, mut here) = pair(8, feature::EVENT_IDX);
    there.set_used_event(1);
    for _ in 0..4 {
        there.add(&[(0x1000, 64, WRITE)]);
        let (head, _) = pop(&mut here, &driver.memory).unwrap().unwrap();
        here.complete(&driver.memory, head, 0).unwrap();
    }
    assert_eq!(here.publish(&driver.memory), Ok(true));
    assert_eq!(here.publish(&driver.memory), Ok(false));
}

#[test]
fn notification_is_asked_for_at_the_next_buffer_and_a_race_is_noticed() {
    let (driver, mut there, mut here) = pair(8, feature::EVENT_IDX);
    there.add(&[(0x1000, 64, WRITE)]);
    pop(&mut here, &driver.memory).unwrap().unwrap();
    assert_eq!(here.enable_notification(&driver.memory), Ok(false));
    assert_eq!(there.available_event(), 1);
    there.add(&[(0x1000, 64, WRITE)]);
    assert_eq!(here.enable_notification(&driver.memory), Ok(true));
}

#[test]
fn indices_wrap_around() {
    let (driver, mut there, mut here) = pair(4, feature::EVENT_IDX);
    for round in 0..70_000_u32 {
        there.add(&[(0x1000, 64, WRITE)]);
        let (head, _) = pop(&mut here, &driver.memory).unwrap().unwrap();
        here.complete(&driver.memory, head, round).unwrap();
        here.publish(&driver.memory).unwrap();
        assert_eq!(there.take_used(), Some((head, round)));
    }
}

#[test]
fn rings_must_be_aligned_and_in_ram() {
    let (driver, there, _) = pair(8, 0);
    let good = setup(&there);
    let bad = [
        QueueSetup { size: 0, ..good },
        QueueSetup { size: 3, ..good },
        QueueSetup { size: MAX_SIZE * 2, ..good },
        QueueSetup { descriptors: good.descriptors + 8, ..good },
        QueueSetup { available: good.available + 1, ..good },
        QueueSetup { used: good.used + 2, ..good },
        QueueSetup { available: 0, ..good },
        QueueSetup { descriptors: (16 << 20) - 64, ..good },
        QueueSetup { available: 16 << 20, ..good },
        QueueSetup { used: (16 << 20) - 64, ..good },
        QueueSetup { used: !3, ..good },
        QueueSetup { descriptors: !15, ..good },
        // Where base addresses of PCI functions are.
        QueueSetup { descriptors: crate::memory::layout::PCI_MEMORY, ..good },
    ];
    for setup in bad {
        assert_eq!(Queue::new(&driver.memory, &setup, false).err(), Some(QueueError::Rings), "{setup:?}");
    }
}

#[test]
fn an_index_that_jumps_is_an_error() {
    let (driver, mut there, mut here) = pair(8, 0);
    there.set_available(9);
    assert_eq!(pop(&mut here, &driver.memory), Err(QueueError::JumpingIndex));

    let (driver, mut there, mut here) = pair(8, 0);
    there.set_available(0xffff);
    assert_eq!(pop(&mut here, &driver.memory), Err(QueueError::JumpingIndex));
}

#[test]
fn no_more_chains_are_out_than_the_ring_has_places() {
    let (driver, mut there, mut here) = pair(4, 0);
    let head = there.add(&[(0x1000, 64, WRITE)]);
    for _ in 0..3 {
        there.offer(head);
    }
    for _ in 0..4 {
        assert!(pop(&mut here, &driver.memory).unwrap().is_some());
    }
    there.offer(head);
    assert_eq!(pop(&mut here, &driver.memory), Err(QueueError::JumpingIndex));
}

#[test]
fn a_chain_that_is_no_chain_is_an_error() {
    type Break = fn(&mut DriverQueue) -> u16;
    let breaks: [(&str, Break, QueueError); 8] = [
        (
            "a loop",
            |queue| {
                queue.descriptor(queue.descriptors, 0, (0x1000, 16), 1, 1);
                queue.descriptor(queue.descriptors, 1, (0x1000, 16), 1, 0);
                0
            },
            QueueError::BrokenChain,
        ),
        (
            "one that is its own next",
            |queue| {
                queue.descriptor(queue.descriptors, 0, (0x1000, 0), 1, 0);
                0
            },
            QueueError::BrokenChain,
        ),
        (
            "a next outside of the table",
            |queue| {
                queue.descriptor(queue.descriptors, 0, (0x1000, 16), 1, queue.size);
                0
            },
            QueueError::BrokenChain,
        ),
        ("a head outside of the table", |queue| queue.size, QueueError::BrokenChain),
        (
            "an indirect table in an indirect table",
            |queue| {
                queue.descriptor(0x8000, 0, (0x8000, 16), 4, 0);
                queue.descriptor(queue.descriptors, 0, (0x8000, 16), 4, 0);
                0
            },
            QueueError::BrokenChain,
        ),
        (
            "an indirect table of odd length",
            |queue| {
                queue.descriptor(queue.descriptors, 0, (0x8000, 24), 4, 0);
                0
            },
            QueueError::BrokenChain,
        ),
        (
            "an endless indirect table",
            |queue| {
                for n in 0..4096 {
                    queue.descriptor(0x1_0000, n, (0x1000, 0), 1, (n + 1) % 4096);
                }
                queue.descriptor(queue.descriptors, 0, (0x1_0000, 65536), 4, 0);
                0
            },
            QueueError::BrokenChain,
        ),
        (
            "a buffer at a base address of a function",
            |queue| {
                queue.descriptor(queue.descriptors, 0, (crate::memory::layout::PCI_MEMORY, 16), 0, 0);
                0
            },
            QueueError::OutsideRam,
        ),
    ];
    for (what, make, error) in breaks {
        let (driver, mut there, mut here) = pair(8, 0);
        let head = make(&mut there);
        there.offer(head);
        assert_eq!(pop(&mut here, &driver.memory), Err(error), "{what}");
    }
}

proptest! {
    /// Whatever is in the rings: each piece lies in RAM, and the work ends.
    #[test]
    fn nothing_in_the_rings_leads_out_of_ram(
        descriptors in prop::collection::vec((any_address(), any_len(), 0_u16..8, 0_u16..20), 16),
        heads in prop::collection::vec(0_u16..20, 16),
        available: u16,
    ) {
        let (driver, mut there, mut here) = pair(16, feature::EVENT_IDX);
        for (n, (address, len, flags, next)) in (0..).zip(descriptors) {
            there.descriptor(there.descriptors, n, (address, len), flags, next);
        }
        for head in heads {
            there.offer(head);
        }
        there.set_available(available % 20);
        for _ in 0..100 {
            match pop(&mut here, &driver.memory) {
                Ok(Some((head, pieces))) => {
                    prop_assert!(pieces.len() <= MAX_CHAIN + 1);
                    for (address, len, _) in pieces {
                        prop_assert!(driver.memory.check_range(GuestAddress(address), len));
                    }
                    here.complete(&driver.memory, head, 0).unwrap();
                    here.publish(&driver.memory).unwrap();
                }
                Ok(None) | Err(_) => return Ok(()),
            }
        }
        prop_assert!(false, "more chains than there are");
    }
}

fn any_address() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..1 << 20, (15_u64 << 20)..(17 << 20), Just(0xc000_0000), (1_u64 << 32)..(1 << 32) + (2 << 20), any::<u64>()]
}

fn any_len() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..64, (0_u32..64).prop_map(|n| n * 16), 0_u32..1 << 21, any::<u32>()]
}
