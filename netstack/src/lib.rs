//! A user-mode NAT engine: it gives virtual machines and network namespaces a network without root.
//!
//! Frames of a guest come in at a [`port`]; ordinary sockets of an ordinary user go out at a [`host`]. Between them is a [`stack`] that
//! relays: what the guest's TCP sends goes from the guest's memory into a socket, and what the socket receives is peeked from its queue
//! into the guest's memory. The kernel's queues are the only buffers. Frames carry their offload state with them in both directions (see
//! [`frame`]), so that one of 64 KiB is as good as forty of 1500 bytes.
//!
//! | module | what is there |
//! |---|---|
//! | [`frame`] | frames, and the checksums and segmentation that they still want |
//! | [`port`] | where frames come from: taps, sockets, memory |
//! | [`switch`] | joins several ports on one link |
//! | [`stack`] | the sans-IO core: ARP, neighbour discovery, fragments, ICMP, UDP, TCP |
//! | [`gateway`] | the services at the virtual addresses: DHCP, DHCPv6, DNS, TFTP, HTTP, SMB, commands, and [hooks](gateway::hook) of yours |
//! | [`host`] | sockets, as the stack asks for them: the kernel's, or simulated ones |
//! | [`engine`] | the async shell that drives all of this |
//! | [`control`] | asking a running network, and changing it: one model for the library, the JSON API and `slipway ctl` |
//! | [`capture`] | recording what goes over the link while it does |
//! | [`pcap`] | capture files, and what we write into their comments |
//! | [`replay`] | playing recordings again, and naming what differs |
//! | `program` | the program `slipway`; behind the cargo feature `program` |
//! | [`config`] | what can be set, and the syntax of QEMU's `-netdev user` |
//! | [`wire`], [`addr`], [`time`] | what they share |
//! | `sim` | guests, links and one virtual clock to test all of this with; behind the cargo feature `sim` |
//!
//! An engine and a guest in the same process (`examples/embed.rs` is the same with a guest that says something):
//!
//! ```
//! use netstack::config::Config;
//! use netstack::engine::Engine;
//! use netstack::port::memory::{MemoryConfig, MemoryPort};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new(&Config::default())?;
//! let handle = engine.handle();
//! let running = tokio::spawn(engine.run());
//!
//! let (port, guest) = MemoryPort::pair(MemoryConfig::default());
//! handle.attach(Box::new(port)).await?;
//! // The router makes itself known to every new guest.
//! let (frame, _offload_state) = guest.received().await.ok_or("no frame")?;
//! assert_eq!(frame[12..14], [0x86, 0xdd]);
//!
//! handle.shutdown();
//! running.await?;
//! # Ok(())
//! # }
//! ```

#[macro_use]
mod planted;

pub mod addr;
pub mod capture;
pub mod config;
pub mod control;
pub mod engine;
pub mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub mod host;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod pcap;
pub mod port;
#[cfg(feature = "program")]
pub mod program;
pub mod replay;
#[cfg(feature = "sim")]
pub mod sim;
pub mod stack;
pub mod switch;
pub mod time;
pub mod wire;
