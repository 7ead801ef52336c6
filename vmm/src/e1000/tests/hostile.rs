//! What no driver should do: the card goes on, or says that it does not, and a reset makes it whole.

use super::*;
use crate::memory::layout;

fn broadcast(len: usize) -> Vec<u8> {
    frame_to([0xff; 6], len)
}

/// The card has stopped, shows it in every place, and works again after a reset.
fn failed_and_recovers(guest: &mut Guest, ingress: &mut dyn Ingress, egress: &mut dyn Egress) {
    assert_eq!(guest.get(STATUS) & status::LU, 0, "the link is down");
    assert_eq!(guest.get(ICR) & cause::LSC, cause::LSC);
    assert_eq!(guest.pci_status() & RECEIVED_MASTER_ABORT, RECEIVED_MASTER_ABORT);
    assert_eq!(send(egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Full);
    guest.transmit(&broadcast(60));
    assert!(frames(ingress).is_empty());

    guest.up_like_linux();
    assert_eq!(guest.get(STATUS) & status::LU, status::LU);
    assert_eq!(guest.pci_status() & RECEIVED_MASTER_ABORT, 0);
    guest.transmit(&broadcast(60));
    assert_eq!(frames(ingress).len(), 1);
    assert_eq!(send(egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Yes);
}

#[tokio::test]
async fn a_tail_outside_of_the_ring_brings_the_link_down() {
    for (register, tail) in [(TDT, RING), (TDT, 0xffff), (RDT, RING), (RDT, 0xffff)] {
        let (mut guest, port) = card();
        let (mut ingress, mut egress) = attach(port);
        guest.up_like_linux();
        guest.set(register, tail);
        assert!(frames(&mut *ingress).is_empty());
        failed_and_recovers(&mut guest, &mut *ingress, &mut *egress);
    }
}

#[tokio::test]
async fn what_is_not_ram_is_never_accessed() {
    // The card's own registers among it: a card that writes to itself.
    let places = [layout::PCI_MEMORY, layout::ECAM, layout::LOCAL_APIC, 16 << 20, (16 << 20) - 32, !0, 1 << 63];
    for place in places {
        let (mut guest, port) = card();
        let (mut ingress, mut egress) = attach(port);
        guest.up_like_linux();
        guest.descriptor(place, EOP | RS | 60, 0);
        guest.kick();
        assert!(frames(&mut *ingress).is_empty(), "{place:#x}");
        failed_and_recovers(&mut guest, &mut *ingress, &mut *egress);

        let at = RX_RING + 16 * u64::from(guest.next + 1);
        guest.memory.write_obj(place, GuestAddress(at)).unwrap();
        assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Full);
        failed_and_recovers(&mut guest, &mut *ingress, &mut *egress);

        for (low, high) in [(TDBAL, TDBAH), (RDBAL, RDBAH)] {
            guest.up_like_linux();
            guest.set(low, place as u32);
            guest.set(high, (place >> 32) as u32);
            guest.transmit(&broadcast(60));
            frames(&mut *ingress);
            // A ring that begins at the end of RAM has two descriptors.
            let mut sent = 0;
            while sent < 3 && send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()) == Sent::Yes {
                sent += 1;
            }
            if low == TDBAL && place == (16 << 20) - 32 {
                continue;
            }
            failed_and_recovers(&mut guest, &mut *ingress, &mut *egress);
        }
    }
}

#[tokio::test]
async fn indices_outside_of_a_ring_move_nothing() {
    for (register, value) in [(TDH, RING), (TDH, 0xffff), (RDH, RING), (RDH, 0xffff), (TDLEN, 0), (RDLEN, 0), (RDLEN, 128)] {
        let (mut guest, port) = card();
        let (mut ingress, mut egress) = attach(port);
        guest.up_like_linux();
        guest.set(register, value);
        guest.transmit(&broadcast(60));
        frames(&mut *ingress);
        for _ in 0..100 {
            send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default());
            egress.flush().unwrap();
        }
        assert!(guest.get(RDH) <= 0xffff && guest.get(TDH) <= 0xffff);
        guest.up_like_linux();
        guest.transmit(&broadcast(60));
        assert_eq!(frames(&mut *ingress).len(), 1, "{register:#x} {value}");
    }
}

#[tokio::test]
async fn a_frame_keeps_the_context_that_it_began_with() {
    let (mut guest, port) = card();
    let (mut ingress, _egress) = attach(port);
    guest.up_like_linux();
    guest.write(TX_BUFFERS, &broadcast(200));
    // Context, data, data, another context, and an end without bytes: once the way out of another machine.
    let context = |start: u64, at: u64| start << 32 | at << 40;
    guest.descriptor(context(34, 50), DEXT | TSE | IP | TCP, 54 << 8 | 1460 << 16);
    guest.descriptor(TX_BUFFERS, DATA | TSE | 100, 2 << 8);
    guest.descriptor(TX_BUFFERS + 100, DATA | TSE | 100, 0);
    guest.descriptor(context(0, 255), DEXT | TSE | RS, 255 << 8 | 0xffff << 16);
    guest.descriptor(TX_BUFFERS, DATA | TSE | EOP | RS, 0);
    guest.kick();
    let sent = frames(&mut *ingress);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].0.len(), sent[0].1.checksum), (200, Checksum::Partial { start: 34, offset: 16 }));
    assert!(guest.is_done(3) && guest.is_done(4), "in the order of the ring");
    // Nothing of it is left for the next one.
    guest.transmit(&broadcast(60));
    assert_eq!(frames(&mut *ingress), [(broadcast(60), FrameMeta::default())]);
}

#[tokio::test]
async fn segmentation_without_sizes_makes_progress_and_no_frames() {
    let (mut guest, port) = card();
    let (mut ingress, _egress) = attach(port);
    guest.up_like_linux();
    guest.write(TX_BUFFERS, &broadcast(3000));
    for (header_len, mss) in [(54, 0), (0, 1460), (255, 1), (53, 1460), (0, 0)] {
        guest.descriptor(34 << 32 | 50 << 40, DEXT | TSE | IP | TCP, header_len << 8 | mss << 16);
        let done = guest.tail;
        guest.descriptor(TX_BUFFERS, DATA | TSE | EOP | RS | 200, 3 << 8);
        guest.kick();
        assert!(frames(&mut *ingress).is_empty());
        assert!(guest.is_done(done));
    }
    assert_eq!(ingress.dropped(), 5);
    assert_eq!(guest.get(TDH), guest.tail);
    assert_eq!(guest.get(STATUS) & status::LU, status::LU, "a frame is lost, no more");
}

#[tokio::test]
async fn a_frame_without_end_takes_no_more_and_no_more_memory() {
    for (len, command) in [(2048, RS), (2048, 0), (0, RS), (1, RS)] {
        let (mut guest, port) = card();
        let (mut ingress, _egress) = attach(port);
        guest.up_like_linux();
        for _ in 0..50 {
            for _ in 0..RING - 1 {
                guest.descriptor(TX_BUFFERS, command | len, 0);
            }
            guest.kick();
            assert!(frames(&mut *ingress).is_empty());
            assert_eq!(guest.get(TDH), guest.tail);
        }
        guest.descriptor(TX_BUFFERS, EOP | RS | 60, 0);
        guest.kick();
        assert!(frames(&mut *ingress).is_empty());
        assert_eq!(ingress.dropped(), 1);
        guest.transmit(&broadcast(60));
        assert_eq!(frames(&mut *ingress).len(), 1);
    }
}

#[tokio::test]
async fn the_largest_ring_of_nothing_is_looked_at_in_portions() {
    let (mut guest, port) = card();
    let (mut ingress, _egress) = attach(port);
    guest.up_like_linux();
    // 65,528 descriptors, all zeros but for the last.
    guest.set(TDBAL, 0x40_0000);
    guest.set(TDLEN, 0xf_ff80);
    guest.write(TX_BUFFERS, &broadcast(60));
    guest.memory.write_obj(TX_BUFFERS, GuestAddress(0x40_0000 + 16 * 0xfff0)).unwrap();
    guest.memory.write_obj(EOP | RS | 60, GuestAddress(0x40_0000 + 16 * 0xfff0 + 8)).unwrap();
    guest.set(TDT, 0xfff1);
    let mut turns = 0;
    while frames(&mut *ingress).is_empty() {
        // It comes back by itself.
        std::future::poll_fn(|cx| ingress.poll_readable(cx)).await;
        turns += 1;
    }
    assert!(turns > 10);
}

#[tokio::test]
async fn buffers_that_lead_nowhere_hold_nothing() {
    let (mut guest, port) = card();
    let (_ingress, mut egress) = attach(port);
    guest.up_like_linux();
    for number in 0..u64::from(RING) {
        guest.memory.write_obj(0_u64, GuestAddress(RX_RING + 16 * number)).unwrap();
    }
    assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Full);
    guest.memory.write_obj(RX_BUFFERS, GuestAddress(RX_RING + 32)).unwrap();
    assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Yes);
    let filled: Vec<_> = std::iter::from_fn(|| guest.filled()).map(|(len, status, ..)| (len, status & 3)).collect();
    assert_eq!(filled, [(0, 1), (0, 1), (64, 3)]);
}

#[tokio::test]
async fn frames_of_impossible_lengths_are_dropped() {
    let (mut guest, port) = card();
    let (mut ingress, _egress) = attach(port);
    guest.up_like_linux();
    for len in [0, 1, 13] {
        guest.descriptor(TX_BUFFERS, EOP | RS | len, 0);
    }
    // 65,550 bytes, one more than there can be.
    guest.descriptor(TX_BUFFERS, DATA | 0xfff0, 0);
    guest.descriptor(TX_BUFFERS, DATA | EOP | RS | 30, 0);
    // A megabyte.
    guest.descriptor(TX_BUFFERS, DATA | EOP | RS | 0xf_ffff, 0);
    guest.kick();
    assert!(frames(&mut *ingress).is_empty());
    assert_eq!(ingress.dropped(), 5);
    assert!(guest.is_done(5));
}

#[tokio::test]
async fn a_card_that_loops_back_puts_nothing_on_the_link() {
    let (mut guest, port) = card();
    let (mut ingress, _egress) = attach(port);
    guest.up_like_linux();
    let control = guest.get(RCTL);
    guest.set(RCTL, control | 3 << 6);
    guest.transmit(&broadcast(60));
    assert!(frames(&mut *ingress).is_empty());
    assert_eq!(guest.filled(), None);
    assert!(guest.is_done(0));
}

#[tokio::test]
async fn a_card_that_is_no_bus_master_leaves_memory_alone() {
    let (mut guest, port) = card();
    let (mut ingress, mut egress) = attach(port);
    guest.up_like_linux();
    guest.card.config_write(4, &3_u16.to_le_bytes());
    guest.transmit(&broadcast(60));
    assert!(frames(&mut *ingress).is_empty());
    assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Full);
    while is_ready(|cx| ingress.poll_readable(cx)) {
        frames(&mut *ingress);
    }
    guest.enable();
    std::future::poll_fn(|cx| ingress.poll_readable(cx)).await;
    assert_eq!(frames(&mut *ingress).len(), 1);
    assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Yes);
}

#[test]
fn accesses_of_odd_sizes_and_places_find_nothing() {
    let (mut guest, _port) = card();
    guest.up_like_linux();
    let before: Vec<u32> = (0..0x6000).step_by(4).map(|register| guest.get(register)).collect();
    for bar in [MEMORY, PORTS, 2, 5] {
        for offset in [0, 1, 2, 3, 4, 0xbf, 0xc0, 0xc1, 0x100, 0x3818, 0x5ffe, MEMORY_SIZE - 1, MEMORY_SIZE, u64::MAX] {
            for len in [0, 1, 2, 3, 5, 8, 16, 64] {
                let mut data = vec![0xff; len];
                guest.card.bar_write(bar, offset, &data);
                guest.card.bar_read(bar, offset, &mut data);
                assert!(data.iter().all(|byte| *byte == 0));
            }
        }
    }
    let after: Vec<u32> = (0..0x6000).step_by(4).map(|register| guest.get(register)).collect();
    assert_eq!(before, after);
    // A port that leads to no register.
    for register in [1, 0x2_0000, u32::MAX, u32::MAX - 3] {
        guest.io(register, !0);
        let mut data = [0; 4];
        guest.card.bar_read(PORTS, IODATA, &mut data);
        assert_eq!(data, [0; 4]);
    }
}

#[tokio::test]
async fn the_driver_may_take_its_memory_back_at_any_time() {
    let (mut guest, port) = card();
    let (mut ingress, mut egress) = attach(port);
    // A vCPU resets the card over and over, and looks whether anything still moves afterwards.
    let vcpu = std::thread::spawn(move || {
        for round in 0..300_u32 {
            guest.up_like_linux();
            guest.write(TX_BUFFERS, &broadcast(60));
            for _ in 0..RING - 1 {
                guest.descriptor(TX_BUFFERS, EOP | RS | 60, 0);
            }
            guest.kick();
            if round % 2 == 0 {
                guest.set(CTRL, ctrl::RST);
            } else {
                guest.card.config_write(4, &0_u16.to_le_bytes());
            }
            // From here on the rings are the driver's again.
            let mark = [round as u8 | 0x80; 16 * RING as usize];
            guest.write(TX_RING, &mark);
            guest.write(RX_RING, &mark);
            std::thread::yield_now();
            for ring in [TX_RING, RX_RING] {
                assert_eq!(guest.read(ring, mark.len()), mark, "round {round}");
            }
        }
        guest
    });
    while !vcpu.is_finished() {
        ingress.receive(64, &mut |_| {}).unwrap();
        send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default());
        egress.flush().unwrap();
    }
    vcpu.join().expect("nothing moves");
}
