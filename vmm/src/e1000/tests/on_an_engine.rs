//! The card as a port of an engine, with a guest's TCP behind it.

use super::*;
use crate::guest_tcp::{self, Network, Nic};

impl Nic for Guest {
    fn send(&mut self, frame: &[u8], meta: FrameMeta) {
        // Each descriptor has room of its own, 64 KiB, so that frames of all lengths can be on their way.
        while self.clean != self.tail && self.is_done(self.clean) {
            self.clean = (self.clean + 1) % RING;
        }
        let mut frame = frame.to_vec();
        if let Some(gso) = meta.gso {
            // Linux leaves lengths and sums to the card.
            frame[16..18].fill(0);
            frame[24..26].fill(0);
            let sum = smoltcp::wire::checksum::combine(&[
                u16::from_be_bytes([frame[50], frame[51]]),
                !u16::try_from(frame.len() - 34).unwrap(),
            ]);
            frame[50..52].copy_from_slice(&sum.to_be_bytes());
            segmented(self, &frame, gso.size.into());
            return;
        }
        let at = TX_BUFFERS + 0x8_0000 + 4096 * u64::from(self.tail);
        self.write(at, &frame);
        self.descriptor(34 << 32 | 50 << 40, DEXT | TCP, 0);
        self.descriptor(at, DATA | EOP | RS | IFCS | frame.len() as u32, 2 << 8);
        self.kick();
    }

    fn receive(&mut self) -> Option<(Vec<u8>, FrameMeta)> {
        let number = self.next;
        let Some((len, status, errors, _)) = self.filled() else {
            // The handler of the interrupt.
            self.get(ICR);
            return None;
        };
        assert_eq!((status & 3, errors), (3, 0));
        let frame = self.buffer(number, len - 4);
        self.post(1);
        Some((frame, FrameMeta::default()))
    }

    fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.line)
    }
}

async fn guest_and_network() -> (Guest, Network) {
    let (mut guest, port) = card();
    let network = Network::with(port).await;
    guest.up_like_linux();
    (guest, network)
}

#[tokio::test]
async fn super_frames_of_the_guest_reach_a_server_of_the_host() {
    let (mut guest, network) = guest_and_network().await;
    guest_tcp::upload(&mut guest, 1_000_000, 60_000).await;
    network.shut_down().await;
}

#[tokio::test]
async fn the_host_fills_the_buffers_of_the_guest() {
    let (mut guest, network) = guest_and_network().await;
    let (longest, super_frames) = guest_tcp::download(&mut guest, 500_000).await;
    assert_eq!((longest, super_frames), (1460, false));
    network.shut_down().await;
}

#[tokio::test]
async fn linux_throttles_and_loses_nothing() {
    let (mut guest, network) = guest_and_network().await;
    // 20,000 interrupts a second, and what else Linux sets.
    guest.set(ITR, 195);
    guest.set(TIDV, 8);
    guest.set(TADV, 32);
    guest.set(RADV, 8);
    guest_tcp::upload(&mut guest, 300_000, 60_000).await;
    guest_tcp::download(&mut guest, 300_000).await;
    network.shut_down().await;
}

#[tokio::test]
async fn a_driver_may_come_again_after_a_reset() {
    let (mut guest, network) = guest_and_network().await;
    guest_tcp::download(&mut guest, 100_000).await;
    guest.up_like_linux();
    guest_tcp::upload(&mut guest, 100_000, 60_000).await;
    guest_tcp::download(&mut guest, 100_000).await;
    network.shut_down().await;
}
