//! What happened, in numbers. Frames from a guest never make errors; they make counts.

use std::fmt;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Everything that the stack counts. All of it only grows.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Name and value of each, in the order of declaration.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Frames from guests.
    frames_in,
    /// Bytes in them, with Ethernet headers.
    bytes_in,
    /// Frames to guests. A super-frame is one.
    frames_out,
    /// Bytes in them.
    bytes_out,
    /// Dropped: shorter than its headers say, or a header that contradicts itself.
    drop_malformed,
    /// Dropped: a wrong checksum.
    drop_checksum,
    /// Dropped: a fragment that contradicts others of its datagram, or comes after one that did (RFC 5722).
    drop_fragment,
    /// Dropped: asks for what is not done, such as a source route, a long chain of IPv6 headers, or an option that may not be skipped.
    drop_options,
    /// Dropped: a protocol that is not relayed.
    drop_protocol,
    /// Dropped: an ICMP error, for guests are no routers and receive nothing that they could be told wrong.
    drop_icmp_error,
    /// Dropped: it has crossed as many routers as it may.
    drop_hop_limit,
    /// Dropped: a source address that no guest can have, or that belongs to a connection of a guest behind another port.
    drop_source,
    /// Dropped: a destination that is nowhere, or that policy forbids.
    drop_destination,
    /// Dropped: belongs to no flow and starts none.
    drop_no_flow,
    /// Dropped: the port to the guest was full; only what may be lost (never relayed stream bytes).
    drop_port_full,
    /// Dropped: the host could not send the datagram.
    drop_host_send,
    /// Dropped: a packet larger than the guest's link, or for a link on which not even fragments have room.
    drop_too_large,
    /// Dropped: a datagram from a host to which the mapping has never sent (RFC 4787 section 5).
    drop_filtered,
    /// DHCP messages that were not answered.
    dhcp_refused,
    /// DHCPv6 messages that were not answered.
    dhcp6_refused,
    /// DNS questions that were not taken, because too many were in work.
    dns_refused,
    /// TCP connections that guests have opened.
    tcp_opened,
    /// TCP connections to guests, by a forward.
    tcp_accepted,
    /// TCP connections that the host's side refused or could not reach.
    tcp_connect_failed,
    /// TCP connections that policy refused.
    tcp_forbidden,
    /// Refused: as many TCP connections as `Limits::tcp_flows` allows.
    tcp_limit_flows,
    /// Refused: as many TCP connections being opened as `Limits::tcp_opening` allows.
    tcp_limit_opening,
    /// Refused: the host had no descriptor, port or memory for a TCP connection.
    tcp_limit_host,
    /// Refused: as many commands of forwards from guests as `Limits::guest_forward_commands` allows.
    tcp_limit_commands,
    /// TCP segments from guests that were out of order or had been seen before.
    tcp_out_of_order,
    /// TCP segments from guests that no open window allows.
    tcp_out_of_window,
    /// Bytes from guests that were held because a socket did not take them at once.
    tcp_held_bytes,
    /// Segments not taken because as many bytes were held as `Limits::tcp_held_bytes` allows.
    tcp_limit_held,
    /// TCP retransmissions to guests after three duplicate acknowledgements.
    tcp_fast_retransmits,
    /// TCP retransmissions to guests after a time-out.
    tcp_timeouts,
    /// TCP connections whose segments got smaller, because a router of the guest's has said that they were too large.
    tcp_narrowed,
    /// TCP probes of a closed window.
    tcp_window_probes,
    /// TCP connections ended by a reset from the guest.
    tcp_reset_by_guest,
    /// TCP connections ended by a reset from the host.
    tcp_reset_by_host,
    /// TCP connections given up, because the guest did not answer or all was silent for too long.
    tcp_expired,
    /// UDP mappings made.
    udp_mapped,
    /// Refused: as many UDP mappings as `Limits::udp_mappings` allows.
    udp_limit_mappings,
    /// Refused: the host had no descriptor or port for a UDP mapping.
    udp_limit_host,
    /// Datagrams that guests have sent through mappings and forwards.
    udp_datagrams_out,
    /// Datagrams that guests were sent.
    udp_datagrams_in,
    /// TFTP transfers begun.
    tftp_transfers,
    /// TFTP requests refused: not understood, to write, or for what is no file that guests may read.
    tftp_refused,
    /// Refused: as many TFTP transfers as `Limits::tftp_transfers` allows.
    tftp_limit_transfers,
    /// Ping mappings made: one for each identifier that a guest pings the world with.
    icmp_mapped,
    /// Refused: as many ping mappings as `Limits::icmp_mappings` allows.
    icmp_limit_mappings,
    /// Refused: the host had no descriptor for a ping mapping.
    icmp_limit_host,
    /// Refused: the host does not let this user send echo requests.
    icmp_forbidden,
    /// Echo requests of guests sent on to the world.
    icmp_echo_out,
    /// Answers to them that guests were sent.
    icmp_echo_in,
    /// ICMP errors of the host's network about what guests have sent.
    icmp_errors_in,
    /// ICMP errors sent to guests, ours and those of the host's network.
    icmp_errors_out,
    /// ICMP errors that guests were not sent: as many in the last second as `Limits::icmp_errors_per_second` allows.
    icmp_limit_errors,
    /// Dropped: a frame from a guest whose link is down.
    drop_link_down,
    /// Datagrams from guests that were put together from fragments.
    reassembled,
    /// Datagrams from guests that were given up because not all of their fragments came in time.
    reassembly_expired,
    /// Datagrams from guests that were given up because there was more of them than one of `Limits::reassembly_*` allows.
    reassembly_limit,
    /// Packets to guests that were cut into fragments.
    fragmented,
    /// The fragments that they became.
    fragments_out,
    /// Dropped by ports: what a guest sent that is no frame, or what it did not take though it had said that it would.
    drop_port,
    /// Frames that guests sent each other; once for each port that they went to.
    switch_forwarded,
    /// Dropped between guests: the other port was full or its link down, or the frame was too long for it or contradicted itself.
    switch_dropped,
    /// Frames that were recorded; once for each capture.
    capture_frames,
    /// Of those, the ones of which only the headers were kept, because writing was too slow.
    capture_cut,
    /// Frames that were not recorded, because writing was too slow.
    capture_dropped,
    /// Commands that were carried out over the API.
    api_commands,
    /// Requests to the API that were refused: no command, or one that could not be carried out.
    api_refused,
    /// Clients of the API turned away: as many at once as `Limits::api_clients` allows.
    api_limit_clients,
    /// Requests to the API refused: longer than `Limits::api_request_bytes` allows.
    api_limit_request_bytes,
    /// Clients of the API cut off: they sent or took nothing for as long as `Timeouts::api_stall`.
    api_stalled,
    /// Neighbours forgotten because `Limits::neighbours` was reached.
    neighbours_evicted,
}

/// The counters that rise when a frame from a guest is dropped or refused.
type Refusal = (&'static str, fn(&Counters) -> u64);

macro_rules! refusals {
    ($($name:ident)+) => {
        &[$((stringify!($name), |counters| counters.$name),)+]
    };
}

const REFUSALS: &[Refusal] = refusals! {
    drop_malformed drop_checksum drop_fragment drop_options drop_protocol drop_icmp_error drop_hop_limit drop_source drop_destination
    drop_no_flow drop_host_send dhcp_refused dhcp6_refused dns_refused tcp_forbidden tcp_connect_failed tcp_limit_flows
    tcp_limit_opening tcp_limit_host tcp_out_of_order tcp_out_of_window tcp_limit_held tcp_limit_commands udp_limit_mappings
    udp_limit_host icmp_limit_mappings icmp_limit_host icmp_forbidden tftp_refused tftp_limit_transfers drop_port_full drop_too_large
    reassembly_limit
};

impl Counters {
    /// Why the frame was dropped or refused which was all that has happened since `before`, if it was: the name of the counter that has
    /// risen, without its `drop_`.
    pub fn refusal_since(&self, before: &Self) -> Option<&'static str> {
        let (name, _) = REFUSALS.iter().find(|(_, count)| count(self) > count(before))?;
        Some(name.strip_prefix("drop_").unwrap_or(name))
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.iter().filter(|(_, value)| *value != 0) {
            writeln!(f, "{name:<24} {value:>16}")?;
        }
        Ok(())
    }
}
