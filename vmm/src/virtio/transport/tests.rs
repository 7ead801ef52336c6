use super::*;
use crate::virtio::driver::{Driver, READ};
use crate::virtio::handover::{self, QueueSlot};
use crate::virtio::queue::MAX_SIZE;

const ONE: u64 = 1 << 3;
const TWO: u64 = 1 << 4;
const WANTED: u64 = feature::TRANSPORT;

/// A device with two queues, of which feature ONE needs TWO.
fn device() -> (Driver, [QueueSlot; 2]) {
    let ((first, first_slot), (second, second_slot)) = (handover::queue(MAX_SIZE).unwrap(), handover::queue(64).unwrap());
    let parts = Parts {
        device_type: 4,
        class: 0x00_ff_00,
        features: ONE | TWO,
        requires: &[(ONE, TWO)],
        config: vec![1, 2, 3].into(),
        queues: vec![first, second],
    };
    (Driver::new(parts), [first_slot, second_slot])
}

fn running() -> (Driver, [QueueSlot; 2], [crate::virtio::driver::DriverQueue; 2]) {
    let (mut driver, mut slots) = device();
    driver.use_messages();
    assert!(driver.negotiate(WANTED));
    let queues = [driver.queue(0, 128), driver.queue(1, 64)];
    driver.ready();
    for slot in &mut slots {
        assert!(slot.update().unwrap());
        assert!(slot.active().is_some());
    }
    (driver, slots, queues)
}

#[test]
fn a_driver_finds_every_structure_by_its_capability() {
    let (mut driver, _slots) = device();
    let mut found = Vec::new();
    for (id, at) in driver.capabilities() {
        if id == CAPABILITY {
            let mut body = [0; 16];
            driver.device.config().read(at, &mut body);
            assert!(usize::from(body[2]) >= 16);
            found.push((
                body[3],
                u32::from_le_bytes(body[8..12].try_into().unwrap()),
                u32::from_le_bytes(body[12..].try_into().unwrap()),
            ));
        }
    }
    assert_eq!(found, [(1, 0, 0x3c), (2, 0x3000, 8), (3, 0x1000, 1), (4, 0x2000, 3), (5, 0, 0)]);
    assert_eq!(driver.device.config().u32_at(0), 0x1044_1af4);
    assert_eq!(driver.device.config().u32_at(8), 0x00ff_0001);
    assert!(driver.capability(0x11).is_some());
}

#[test]
fn the_device_agrees_only_to_what_it_offers() {
    let (mut driver, _slots) = device();
    assert!(driver.negotiate(WANTED | ONE | TWO));
    assert_eq!(driver.offered(), WANTED | ONE | TWO);
    assert!(!driver.negotiate(feature::EVENT_IDX), "a legacy driver");
    assert!(!driver.negotiate(WANTED | ONE), "a feature without the one it needs");
    driver.set_status(0);
    assert!(!driver.demand(WANTED | 1 << 50), "what was not offered");
    driver.set_status(0);
    assert!(driver.demand(WANTED | TWO));
    driver.demand(WANTED | TWO | ONE);
    driver.write(0x08, 0_u32.to_le_bytes());
    assert_eq!(u64::from(u32::from_le_bytes(driver.read(0x0c))) & ONE, 0, "what was agreed upon stays");
}

#[test]
fn the_queues_are_handed_over_when_the_driver_is_ready() {
    let (mut driver, mut slots) = device();
    assert!(driver.negotiate(WANTED));
    driver.queue(0, 16);
    assert!(!slots[0].update().unwrap());
    driver.ready();
    assert!(slots[0].update().unwrap());
    assert!(!slots[1].update().unwrap(), "a queue that the driver does not use");
    let active = slots[0].active().unwrap();
    assert_eq!((active.queue.size(), active.features), (16, WANTED));

    // The other may follow later (section 4.1.5.1.3 lets it), and is handed over then.
    driver.queue(1, 16);
    assert!(slots[1].update().unwrap());
}

#[test]
fn a_driver_that_is_ready_without_agreement_gets_nothing() {
    let (mut driver, mut slots) = device();
    driver.set_status(0);
    driver.queue(0, 16);
    driver.set_status(status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK);
    assert!(!slots[0].update().unwrap());
}

#[test]
fn a_reset_is_not_finished_before_the_data_path_has_let_go() {
    let (mut driver, mut slots, _queues) = running();
    driver.set_status(0);
    assert_ne!(driver.status(), 0);
    driver.set_status(status::ACKNOWLEDGE);
    assert_eq!(driver.status() & status::DRIVER_OK, status::DRIVER_OK, "nothing begins before that");
    slots[0].update().unwrap();
    assert_ne!(driver.status(), 0);
    slots[1].update().unwrap();
    assert!(slots[1].active().is_none());
    assert_eq!(driver.status(), 0);
    assert_eq!(driver.read::<2>(0x1c), [0, 0], "the queues are off");

    assert!(driver.negotiate(WANTED));
    driver.queue(0, 32);
    driver.ready();
    slots[0].update().unwrap();
    assert_eq!(slots[0].active().unwrap().queue.size(), 32);
}

#[test]
fn a_reset_does_not_wait_for_a_data_path_that_is_gone() {
    let (mut driver, slots, _queues) = running();
    drop(slots);
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
    assert!(driver.negotiate(WANTED));
    driver.queue(0, 32);
    driver.ready();
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn the_data_path_learns_that_the_device_is_gone() {
    let (driver, [mut slot, _other], _queues) = running();
    drop(driver);
    assert_eq!(slot.update(), Err(handover::DeviceGone));
    assert!(slot.active().is_none());
    slot.kick().read().expect("and was woken to look");
}

#[test]
fn one_queue_is_reset_alone() {
    let (mut driver, mut slots, queues) = running();
    driver.write(0x16, 1_u16.to_le_bytes());
    driver.write(0x3a, 1_u16.to_le_bytes());
    assert_eq!(driver.read::<2>(0x3a), [1, 0], "still going on");
    assert_eq!(driver.read::<2>(0x1c), [0, 0]);
    driver.write(0x1c, 1_u16.to_le_bytes());
    assert!(!slots[0].update().unwrap());
    assert!(slots[1].update().unwrap());
    assert!(slots[1].active().is_none() && slots[0].active().is_some());
    assert_eq!(driver.read::<2>(0x3a), [0, 0]);
    assert_eq!(driver.read::<2>(0x18), [64, 0], "its size is the largest again");

    driver.enable(&queues[1]);
    assert!(slots[1].update().unwrap());
    assert!(slots[1].active().is_some());
    assert_eq!(driver.status() & status::NEEDS_RESET, 0);
}

#[test]
fn a_broken_driver_is_told_and_recovers_by_a_reset() {
    let (mut driver, mut slots, mut queues) = running();
    driver.write(0x10, 0_u16.to_le_bytes());
    let before = driver.routes[0].signals();
    slots[0].fail(QueueError::BrokenChain);
    assert!(driver.needs_reset());
    assert_eq!(driver.routes[0].signals(), before + 1);
    queues[0].add(&[(0x1000, 1, READ)]);
    driver.kick(&queues[0]);
    slots[0].update().unwrap();
    assert!(slots[0].active().is_none());

    driver.set_status(0);
    slots[1].update().unwrap();
    assert_eq!(driver.status(), 0);
}

#[test]
fn rings_outside_of_ram_are_told_when_the_driver_is_ready() {
    let (mut driver, mut slots) = device();
    assert!(driver.negotiate(WANTED));
    let mut queue = crate::virtio::driver::DriverQueue::new(&mut driver, 0, 16);
    queue.used = crate::memory::layout::PCI_MEMORY;
    driver.enable(&queue);
    driver.ready();
    assert!(driver.needs_reset());
    assert!(!slots[0].update().unwrap());
}

#[test]
fn a_queue_larger_than_its_maximum_is_refused() {
    let (mut driver, mut slots) = device();
    assert!(driver.negotiate(WANTED));
    driver.queue(1, 128);
    driver.ready();
    assert!(driver.needs_reset());
    assert!(!slots[1].update().unwrap());
}

#[test]
fn a_kick_is_an_eventfd_at_the_announced_place() {
    let (mut driver, slots, queues) = running();
    while slots[1].kick().read().is_ok() {}
    driver.kick(&queues[1]);
    assert_eq!(slots[1].kick().read().unwrap(), 1);
    let doorbells = driver.device.doorbells();
    let places: Vec<_> = doorbells.iter().map(|doorbell| (doorbell.bar, doorbell.offset)).collect();
    assert_eq!(places, [(0, 0x3000), (0, 0x3004)]);
    doorbells[1].event.write(1).unwrap();
    assert_eq!(slots[1].kick().read().unwrap(), 1);
    while slots[0].kick().read().is_ok() {}
    driver.write(0x3008, 2_u16.to_le_bytes());
    driver.write(0x3002, 0_u16.to_le_bytes());
    assert!(slots[0].kick().read().is_err() && slots[1].kick().read().is_err(), "no such queue");
}

#[test]
fn without_messages_the_line_is_asserted_until_the_register_is_read() {
    let (mut driver, mut slots) = device();
    assert!(driver.negotiate(WANTED));
    driver.queue(0, 16);
    driver.ready();
    slots[0].update().unwrap();
    slots[0].active().unwrap().interrupt.signal();
    assert!(driver.line.is_asserted());
    assert_eq!(driver.read::<1>(0x1000), [1]);
    assert!(!driver.line.is_asserted());
    assert_eq!(driver.read::<1>(0x1000), [0]);

    slots[0].active().unwrap().interrupt.signal();
    driver.device.config_write(4, &0x0400_u16.to_le_bytes());
    assert!(!driver.line.is_asserted(), "disabled in the command register");
    driver.device.config_write(4, &0_u16.to_le_bytes());
    assert!(driver.line.is_asserted());
    slots[0].fail(QueueError::JumpingIndex);
    assert_eq!(driver.read::<1>(0x1000), [3], "and the configuration has changed");
}

#[test]
fn a_vector_is_the_one_that_the_driver_chose() {
    let (mut driver, mut slots, _queues) = running();
    slots[1].active().unwrap().interrupt.signal();
    assert_eq!(driver.routes.iter().map(|route| route.signals()).collect::<Vec<_>>(), [0, 0, 1]);
    driver.write(0x16, 1_u16.to_le_bytes());
    driver.write(0x1a, 3_u16.to_le_bytes());
    assert_eq!(driver.read::<2>(0x1a), [0xff, 0xff], "there is no such vector");
    slots[1].active().unwrap().interrupt.signal();
    assert_eq!(driver.routes.iter().map(|route| route.signals()).sum::<u64>(), 1);
}

#[test]
fn the_configuration_can_be_read_without_mapping_anything() {
    let (mut driver, _slots) = device();
    let (_, at) = driver.capabilities().into_iter().rfind(|(id, _)| *id == CAPABILITY).unwrap();
    driver.device.config_write(at + CAP_OFFSET, &0x2001_u32.to_le_bytes());
    driver.device.config_write(at + CAP_LENGTH, &2_u32.to_le_bytes());
    let mut data = [0; 2];
    driver.device.config_read(at + CAP_DATA, &mut data);
    assert_eq!(data, [2, 3]);
    driver.device.config_write(at + CAP_OFFSET, &0x14_u32.to_le_bytes());
    driver.device.config_write(at + CAP_LENGTH, &1_u32.to_le_bytes());
    driver.device.config_write(at + CAP_DATA, &[status::ACKNOWLEDGE]);
    assert_eq!(driver.status(), status::ACKNOWLEDGE);
    // Beyond the range, or in another one, there is nothing.
    for (offset, len, bar) in [(0x7fff_u32, 4_u32, 0_u8), (u32::MAX, 1, 0), (0, 3, 0), (0, 1, 2)] {
        driver.device.config_write(at + CAP_BAR, &[bar]);
        driver.device.config_write(at + CAP_OFFSET, &offset.to_le_bytes());
        driver.device.config_write(at + CAP_LENGTH, &len.to_le_bytes());
        driver.device.config_write(at + CAP_DATA, &[0; 4]);
        driver.device.config_read(at + CAP_DATA, &mut [0; 4]);
    }
    assert_eq!(driver.status(), status::ACKNOWLEDGE);
}
