//! What guests and the TFTP server say to each other, as far as it passes through here: see [`super::transfer`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use smoltcp::wire::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, UDP_HEADER_LEN};

use super::transfer::{CHECK, TftpAnswer, TftpRefusal, Transfer, TransferId};
use super::{Nat, Turn, after_error, deliver, send_datagram};
use crate::frame::{Chunk, ChunkMut, Frame, MAX_FRAME};
use crate::host::SendOptions;
use crate::stack::emit::Path;
use crate::stack::neighbour::Station;
use crate::stack::packet::Datagram;
use crate::stack::token::Owner;
use crate::stack::{Context, Shared};

/// The port that requests are sent to (RFC 1350 section 4).
const TFTP_PORT: u16 = 69;

/// The opcode and the number in front of a block.
const BLOCK_HEADER: usize = 4;

/// Bytes that the socket of a transfer should hold, as the kernel counts them: a window of 16 of the largest blocks.
const ROOM: usize = 16 * (80 << 10);

impl Nat {
    /// A guest's datagram to the gateway, if it belongs to a transfer. Returns whether it does.
    pub(super) fn pass_to_tftp_server(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        station: Station,
        (guest, remote): (SocketAddr, SocketAddr),
        datagram: &Datagram,
        frame: &Frame<'_>,
    ) -> bool {
        let Some(id) = self.transfers.find(station.port, guest) else { return false };
        let Some(transfer) = self.transfers.by_id(id) else { return false };
        let Some(peer) = transfer.peer.filter(|peer| remote == SocketAddr::new(transfer.gateway, peer.port())) else {
            return false;
        };
        transfer.station = station;
        transfer.used = cx.now;
        let (socket, service) = (transfer.socket, transfer.service);
        let Some(tftp) = cx.services.tftp() else { return false };
        if tftp.is_over(service) {
            // The last acknowledgement, once more. The port may be somebody else's by now.
            shared.counters.drop_no_flow += 1;
            return true;
        }
        let mut start = [0; BLOCK_HEADER];
        let len = frame.copy_to(datagram.payload_offset, &mut start).min(datagram.payload_len);
        if tftp.hears(service, &start[..len]) {
            self.transfers.remove(cx, id);
        } else {
            let _ = deliver(cx, shared, socket, peer, datagram, frame, SendOptions::default());
        }
        true
    }

    /// A guest's datagram to the port for requests.
    pub(super) fn tftp_request(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        station: Station,
        (guest, remote): (SocketAddr, SocketAddr),
        message: Vec<u8>,
    ) {
        if let Some(id) = self.transfers.find(station.port, guest) {
            let Some(transfer) = self.transfers.by_id(id) else { return };
            let over = cx.services.tftp().is_none_or(|tftp| tftp.is_over(transfer.service));
            if transfer.request == message && !over {
                // Asked once more, because an answer is missing. One that was sent comes again by itself.
                if transfer.peer.is_none() {
                    let _ = cx.host.send_to(
                        transfer.socket,
                        transfer.opening.server,
                        &[Chunk::from(&transfer.opening.datagram[..])],
                        SendOptions::default(),
                    );
                }
                return;
            }
            self.transfers.remove(cx, id);
        }
        self.transfers.make_room(cx);
        let Some(tftp) = cx.services.tftp() else { return };
        let headers = if guest.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN } + UDP_HEADER_LEN + BLOCK_HEADER;
        let refusal = match tftp.request(&message, usize::from(cx.link.mtu(station.port)).saturating_sub(headers)) {
            Ok(service) => {
                shared.counters.tftp_transfers += 1;
                return self.begin(cx, shared, station, (guest, remote.ip()), service, message);
            }
            Err(refusal) => refusal,
        };
        let answer = match refusal {
            TftpRefusal::Nonsense => {
                shared.counters.tftp_refused += 1;
                return;
            }
            TftpRefusal::Refused(answer) => {
                shared.counters.tftp_refused += 1;
                answer
            }
            TftpRefusal::Busy(answer) => {
                shared.counters.tftp_limit_transfers += 1;
                answer
            }
        };
        let path = Path { station, router: shared.router_mac(remote.ip()), source: remote.ip(), destination: guest.ip() };
        send_datagram(cx, shared, &path, (remote.port(), guest.port()), &answer);
    }

    fn begin(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        station: Station,
        (guest, gateway): (SocketAddr, IpAddr),
        service: TransferId,
        request: Vec<u8>,
    ) {
        let (id, generation) = self.transfers.next();
        let owner = Owner::TftpTransfer { id, generation };
        let bound = cx.host.bind_datagram((Ipv4Addr::LOCALHOST, 0).into(), None, owner.token());
        let room = bound.as_ref().map_or(0, |(socket, _)| cx.host.receive_room(*socket, ROOM));
        let Some(tftp) = cx.services.tftp() else { return };
        let Ok((socket, client)) = bound else {
            // The guest asks again.
            shared.counters.udp_limit_host += 1;
            tftp.end(service);
            return;
        };
        let Some(opening) = tftp.start(service, client, room) else { return cx.host.close(socket) };
        let _ = cx.host.send_to(socket, opening.server, &[Chunk::from(&opening.datagram[..])], SendOptions::default());
        self.transfers.insert(Transfer {
            guest,
            station,
            gateway,
            socket,
            service,
            request,
            opening,
            peer: None,
            has_data: false,
            generation,
            used: cx.now,
            queued: false,
        });
        shared.wheel.set(cx.now + CHECK, owner);
    }

    /// Receives one datagram of a transfer that has no block yet.
    pub(super) fn receive_from_tftp_server(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) -> Turn {
        let Some(transfer) = self.transfers.by_id(id) else { return Turn::Done };
        let mut buffer = std::mem::take(&mut shared.scratch);
        buffer.resize(MAX_FRAME, 0);
        let received = cx.host.receive_from(transfer.socket, &mut [ChunkMut::from(&mut buffer[..])]);
        let turn = match received {
            Err(error) => after_error(&error),
            Ok(received) => {
                // Several at a time are from somebody who wants to be fast, which the server does not.
                let len = received.segment.map_or(received.len, usize::from).min(received.len);
                let message = buffer.get(..len).unwrap_or_default();
                let answer =
                    cx.services.tftp().map_or(TftpAnswer::Stranger, |tftp| tftp.answer(transfer.service, received.from, message));
                if !matches!(answer, TftpAnswer::Stranger | TftpAnswer::Refused(_)) {
                    transfer.peer = Some(received.from);
                }
                let (guest, gateway, station) = (transfer.guest, transfer.gateway, transfer.station);
                let path = Path { station, router: shared.router_mac(gateway), source: gateway, destination: guest.ip() };
                let port = received.from.port();
                let mut to_guest = |cx: &mut Context<'_>, port, message: &[u8]| {
                    send_datagram(cx, shared, &path, (port, guest.port()), message);
                };
                match answer {
                    TftpAnswer::Stranger => shared.counters.drop_filtered += 1,
                    TftpAnswer::ToGuest(message) => to_guest(cx, port, &message),
                    TftpAnswer::ToServer(message) => {
                        let _ =
                            cx.host.send_to(transfer.socket, received.from, &[Chunk::from(&message[..])], SendOptions::default());
                    }
                    TftpAnswer::Data => {
                        transfer.has_data = true;
                        to_guest(cx, port, message);
                    }
                    TftpAnswer::Refused(message) => {
                        to_guest(cx, TFTP_PORT, &message);
                        shared.counters.tftp_refused += 1;
                        self.transfers.remove(cx, id);
                    }
                }
                Turn::More
            }
        };
        shared.scratch = buffer;
        turn
    }

    /// It is time to look whether a transfer is over.
    pub(super) fn check_transfer(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32, generation: u32) {
        let Some(transfer) = self.transfers.get(id, generation) else { return };
        let over = cx.services.tftp().is_none_or(|tftp| tftp.is_over(transfer.service));
        if over || cx.now >= transfer.used + self.transfers.idle {
            self.transfers.remove(cx, id);
        } else {
            shared.wheel.set(cx.now + CHECK, Owner::TftpTransfer { id, generation });
        }
    }
}
