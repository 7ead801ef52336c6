//! TCP segments: what a guest's header said, and writing ours (RFC 9293 section 3.1).

use etherparse::{TcpHeaderSlice, TcpOptionElement};
use smoltcp::wire::{IpProtocol, TCP_HEADER_LEN, TcpControl, TcpOption, TcpPacket, TcpSeqNumber};

use super::seq::Seq;
use crate::frame::{FrameMeta, FrameMut, Gso, GsoKind, Offloads};
use crate::stack::emit::{HOP_LIMIT, MAX_HEADERS, Path, TransportSum};

/// The largest window scale that may be used (RFC 7323 section 2.3).
pub(crate) const MAX_WINDOW_SCALE: u8 = 14;

/// A segment from a guest: its header, and where its payload lies in the frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) seq: Seq,
    pub(crate) ack: Option<Seq>,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    pub(crate) window: u16,
    pub(crate) mss: Option<u16>,
    pub(crate) window_scale: Option<u8>,
    pub(crate) payload_offset: usize,
    pub(crate) payload_len: usize,
}

impl Segment {
    pub(crate) fn of(header: &TcpHeaderSlice<'_>, payload_offset: usize, payload_len: usize) -> Self {
        let mut segment = Self {
            source_port: header.source_port(),
            destination_port: header.destination_port(),
            seq: Seq(header.sequence_number()),
            ack: header.ack().then(|| Seq(header.acknowledgment_number())),
            syn: header.syn(),
            fin: header.fin(),
            rst: header.rst(),
            window: header.window_size(),
            mss: None,
            window_scale: None,
            payload_offset,
            payload_len,
        };
        if segment.syn {
            // Options behind one that contradicts itself are not read.
            for option in header.options_iterator().map_while(Result::ok) {
                match option {
                    TcpOptionElement::MaximumSegmentSize(mss) => segment.mss = Some(mss),
                    TcpOptionElement::WindowScale(scale) => segment.window_scale = Some(scale.min(MAX_WINDOW_SCALE)),
                    _ => {}
                }
            }
        }
        segment
    }

    /// Sequence numbers that it takes up.
    pub(crate) fn len(&self) -> u32 {
        // A payload is shorter than a frame.
        u32::try_from(self.payload_len).unwrap_or(0) + u32::from(self.syn) + u32::from(self.fin)
    }
}

/// The header of a segment to a guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) seq: Seq,
    pub(crate) ack: Option<Seq>,
    pub(crate) control: TcpControl,
    /// As on the wire: scaled.
    pub(crate) window: u16,
    /// Maximum segment size and window scale, on a SYN.
    pub(crate) options: Option<SynOptions>,
}

/// Options of a SYN.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SynOptions {
    pub(crate) mss: u16,
    pub(crate) window_scale: Option<u8>,
}

impl Header {
    /// Its length in bytes.
    pub(crate) const fn len(&self) -> usize {
        match self.options {
            None => TCP_HEADER_LEN,
            Some(SynOptions { window_scale: None, .. }) => TCP_HEADER_LEN + 4,
            Some(SynOptions { window_scale: Some(_), .. }) => TCP_HEADER_LEN + 8,
        }
    }

    /// Writes the headers of a frame whose payload of `payload` bytes already lies behind them, to be cut into segments of `mss` bytes
    /// if it is longer, and says what the frame has become.
    pub(crate) fn finish(
        &self,
        room: &mut FrameMut<'_, '_>,
        path: &Path,
        payload: usize,
        mss: usize,
        offloads: &Offloads,
    ) -> (usize, FrameMeta) {
        let (start, header_len) = (path.header_len(), self.len());
        let mut headers = [0; MAX_HEADERS];
        path.emit(&mut headers, IpProtocol::Tcp, HOP_LIMIT, header_len + payload);
        self.emit(&mut headers[start..start + header_len]);
        room.copy_from(0, &headers[..start + header_len]);

        let len = start + header_len + payload;
        let sum = TransportSum { start, offset: 16, pseudo_header: path.pseudo_header(IpProtocol::Tcp, header_len + payload) };
        let checksum = sum.fill(room, len, offloads);
        let gso = (payload > mss).then(|| Gso {
            kind: if path.destination.is_ipv4() { GsoKind::TcpV4 } else { GsoKind::TcpV6 },
            size: u16::try_from(mss).unwrap_or(u16::MAX),
            ecn: false,
        });
        (len, FrameMeta { checksum, gso })
    }

    fn emit(&self, buffer: &mut [u8]) {
        let mut tcp = TcpPacket::new_unchecked(buffer);
        tcp.set_src_port(self.source_port);
        tcp.set_dst_port(self.destination_port);
        tcp.set_seq_number(TcpSeqNumber(self.seq.0.cast_signed()));
        tcp.set_ack_number(TcpSeqNumber(self.ack.unwrap_or_default().0.cast_signed()));
        tcp.set_header_len(u8::try_from(self.len()).unwrap_or(0));
        tcp.clear_flags();
        match self.control {
            TcpControl::None => {}
            TcpControl::Psh => tcp.set_psh(true),
            TcpControl::Syn => tcp.set_syn(true),
            TcpControl::Fin => tcp.set_fin(true),
            TcpControl::Rst => tcp.set_rst(true),
        }
        tcp.set_ack(self.ack.is_some());
        tcp.set_window_len(self.window);
        if let Some(SynOptions { mss, window_scale }) = self.options {
            let rest = TcpOption::MaxSegmentSize(mss).emit(tcp.options_mut());
            if let Some(scale) = window_scale {
                let rest = TcpOption::NoOperation.emit(rest);
                TcpOption::WindowScale(scale).emit(rest);
            }
        }
    }
}
