//! What lies between the simulated host and those whom its datagrams and echo requests go to.
//!
//! To an address without a [`Way`], a datagram goes in one hop, whatever its length, and nobody there answers echo requests.

use std::net::IpAddr;

use super::{HOST_V4, HOST_V6, SendOptions, SimHost};
use crate::wire::icmp_error::{Problem, Unreachable};

/// The way to an address: routers, the links before and behind them, and what is at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    mtu: usize,
    routers: Vec<Router>,
    end: End,
}

/// A router, and the largest packet that the link behind it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Router {
    address: IpAddr,
    mtu: usize,
    /// Whether it drops what it cannot send on without a word.
    silent: bool,
}

/// What is at the end of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A host that takes datagrams and answers echo requests.
    Answers,
    /// One that takes datagrams, but does not answer.
    Silent,
    /// None; the last router says so.
    Unreachable(Unreachable),
}

/// What becomes of something on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    There { routers: u8, answers: bool },
    Error(Problem, IpAddr),
    Lost,
}

impl Way {
    /// A host on the link of the simulated host, which takes packets of 1500 bytes. It answers echo requests.
    pub const fn direct() -> Self {
        Self { mtu: 1500, routers: Vec::new(), end: End::Answers }
    }

    /// The largest packet that the first link takes, in bytes.
    #[must_use]
    pub fn mtu(mut self, mtu: usize) -> Self {
        self.mtu = mtu;
        self
    }

    /// One more router before the end; the link behind it takes packets of `mtu` bytes.
    #[must_use]
    pub fn router(mut self, address: IpAddr, mtu: usize) -> Self {
        self.routers.push(Router { address, mtu, silent: false });
        self
    }

    /// One more router that says nothing about what it drops.
    #[must_use]
    pub fn silent_router(mut self, address: IpAddr, mtu: usize) -> Self {
        self.routers.push(Router { address, mtu, silent: true });
        self
    }

    /// The host at the end does not answer echo requests.
    #[must_use]
    pub const fn silent(mut self) -> Self {
        self.end = End::Silent;
        self
    }

    /// There is no host at the end, which the last router says; or the simulated host itself, if there is none.
    #[must_use]
    pub const fn unreachable(mut self, why: Unreachable) -> Self {
        self.end = End::Unreachable(why);
        self
    }

    fn go(&self, len: usize, options: SendOptions, own: IpAddr) -> Arrival {
        let mut left = usize::from(options.hop_limit.unwrap_or(64));
        for router in &self.routers {
            left = left.saturating_sub(1);
            let problem = if left == 0 {
                Problem::HopLimit
            } else if options.dont_fragment && len > router.mtu {
                Problem::TooBig { mtu: u32::try_from(router.mtu).unwrap_or(u32::MAX) }
            } else {
                continue;
            };
            return if router.silent { Arrival::Lost } else { Arrival::Error(problem, router.address) };
        }
        let last = self.routers.last();
        match self.end {
            End::Unreachable(_) if last.is_some_and(|router| router.silent) => Arrival::Lost,
            End::Unreachable(why) => Arrival::Error(Problem::Unreachable(why), last.map_or(own, |router| router.address)),
            end => Arrival::There { routers: u8::try_from(self.routers.len()).unwrap_or(u8::MAX), answers: end == End::Answers },
        }
    }
}

const fn ip_header(ip: IpAddr) -> usize {
    if ip.is_ipv4() { 20 } else { 40 }
}

impl SimHost {
    /// Says what lies between this host and `to`.
    pub fn lay(&mut self, to: IpAddr, way: Way) {
        self.ways.insert(to, way);
    }

    /// How much of what was sent errors quote from now on, in bytes behind the UDP header, or with it for echo requests. At first as much as
    /// RFC 792 asks for.
    pub const fn set_quoted(&mut self, bytes: usize) {
        self.quoted = bytes;
    }

    /// The MTU that is told when this host cannot send something itself: for the first link, or for the way as far as it is known.
    pub(super) fn too_big_for(&self, to: IpAddr, len: usize, options: SendOptions) -> Option<u32> {
        let way = self.ways.get(&to)?;
        let mtu = self.path_mtus.get(&to).copied().unwrap_or(usize::MAX).min(way.mtu);
        (options.dont_fragment && len + ip_header(to) > mtu).then(|| u32::try_from(mtu).unwrap_or(u32::MAX))
    }

    /// What becomes of `len` bytes behind an IP header that have left this host.
    pub(super) fn arrival(&mut self, to: IpAddr, len: usize, options: SendOptions) -> Arrival {
        let Some(way) = self.ways.get(&to) else { return Arrival::There { routers: 0, answers: false } };
        let own = if to.is_ipv4() { HOST_V4.into() } else { HOST_V6.into() };
        let arrival = way.go(len + ip_header(to), options, own);
        // As the kernel does, this host remembers what it was told.
        if let Arrival::Error(Problem::TooBig { mtu }, _) = arrival {
            self.path_mtus.insert(to, usize::try_from(mtu).unwrap_or(usize::MAX));
        }
        arrival
    }

    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || ip == IpAddr::V4(HOST_V4) || ip == IpAddr::V6(HOST_V6)
    }
}
