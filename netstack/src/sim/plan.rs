//! What happens in a run: plain data that follows from a seed, can be written down, and can be made smaller.
//!
//! All times are in microseconds of the run.

use serde::{Deserialize, Serialize};

pub use crate::host::sim::{Leave, Operation};

use super::random::Random;

/// Bytes that are said each way in a run, at least.
pub const LEAST_BYTES: u64 = 1 << 20;

/// A whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Where all chance on the links and in the guests comes from.
    pub seed: u64,
    /// How long a frame is under way.
    pub latency: u64,
    /// The guests.
    pub guests: Vec<GuestPlan>,
    /// The TCP conversations.
    pub flows: Vec<FlowPlan>,
    /// The UDP conversations.
    pub datagrams: Vec<UdpPlan>,
    /// What goes wrong on the links.
    pub link: LinkPlan,
    /// What guests can use up.
    pub limits: LimitsPlan,
    /// What happens to everybody meanwhile.
    pub troubles: Vec<Trouble>,
    /// Bytes that are said each way in all: what is missing in the end is said in one more conversation.
    pub least: u64,
}

/// A guest and its card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestPlan {
    /// The largest IP packet on its link, in bytes.
    pub mtu: u16,
    /// Whether the card takes super-frames and partial checksums.
    pub offloads: bool,
    /// Whether the guest sends super-frames.
    pub segments: bool,
    /// Frames that the port holds before it is full.
    pub capacity: usize,
}

/// A TCP conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowPlan {
    /// Which guest.
    pub guest: u8,
    /// Whether it is over IPv6.
    pub v6: bool,
    /// Whether a client of a forward opens it, rather than the guest.
    pub inbound: bool,
    /// When.
    pub starts: u64,
    /// Bytes that the guest says.
    pub up: u64,
    /// Bytes that the host's side says.
    pub down: u64,
    /// The guest's buffers, each way.
    pub buffer: usize,
    /// Bytes that the guest hears before it begins.
    pub guest_begins_after: u64,
    /// Whether the guest closes only when it has seen the end.
    pub guest_closes_last: bool,
    /// The host's side.
    pub peer: PeerPlan,
    /// Whether somebody resets it.
    pub reset: Option<Reset>,
}

/// The host's side of a TCP conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerPlan {
    /// How it answers; for an inbound connection, how the guest does.
    pub answer: Answer,
    /// How long that takes.
    pub delay: u64,
    /// It reads at most so many bytes at a time, and not again before so long.
    pub reads: Option<(usize, u64)>,
    /// The send queue of the stack's socket.
    pub send_queue: usize,
    /// Its receive queue.
    pub receive_queue: usize,
    /// Bytes that it hears before it begins.
    pub begins_after: u64,
    /// Whether it closes only when it has seen the end.
    pub closes_last: bool,
    /// Whether it goes before everything is said.
    pub leaves: Leave,
}

/// How a connection attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It succeeds.
    Accepts,
    /// It fails with this error number, told by an event.
    Fails(i32),
    /// It fails with this error number at once.
    FailsAtOnce(i32),
    /// It never ends.
    Hangs,
}

/// A reset by one of the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// Whether it is the guest that resets.
    pub by_guest: bool,
    /// When.
    pub when: When,
}

/// A point in the life of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// The guest has asked, and was not answered yet.
    Opening,
    /// It is open.
    Open,
    /// Whoever resets has heard so much.
    Heard(u64),
    /// The guest has closed.
    GuestClosed,
    /// The guest has seen the end of what the other side says.
    PeerClosed,
}

/// A UDP conversation: one side sends, and is answered with the same or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdpPlan {
    /// Which guest.
    pub guest: u8,
    /// Whether it is over IPv6.
    pub v6: bool,
    /// When.
    pub starts: u64,
    /// How many datagrams.
    pub count: u32,
    /// How many bytes each carries, at least 5.
    pub size: usize,
    /// How long after the one before each is sent.
    pub every: u64,
    /// Whether they are answered.
    pub echo: bool,
    /// Whether a client of a forward sends them, rather than the guest.
    pub inbound: bool,
}

/// What goes wrong on the links, in thousandths of all frames: [`super::world::Faults`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkPlan {
    /// Never arrive.
    pub lost: u32,
    /// Arrive twice.
    pub doubled: u32,
    /// Are overtaken.
    pub late: u32,
    /// Arrive with a bit changed.
    pub damaged: u32,
}

/// What guests can use up; `None` is what is usual.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsPlan {
    /// TCP connections.
    pub flows: Option<usize>,
    /// TCP connections that are being opened.
    pub opening: Option<usize>,
    /// Bytes held.
    pub held: Option<usize>,
    /// UDP mappings.
    pub mappings: Option<usize>,
    /// Stations remembered.
    pub neighbours: Option<usize>,
}

/// Something that happens at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// When.
    pub at: u64,
    /// How long it lasts, where it does.
    pub lasts: u64,
    /// What.
    pub what: What,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The machine sleeps: the clock leaps ahead, and everything that was due meanwhile is due at once.
    Leap,
    /// A guest takes no frames from its port.
    Stall(u8),
    /// A guest's port holds fewer frames.
    Narrow(u8, usize),
    /// A guest and its port go, and come again.
    Unplug(u8),
    /// A guest is started anew, and nobody is told.
    Reboot(u8),
    /// The engine gets no time, while everybody else goes on.
    Freeze,
    /// So many calls fail with this error number.
    Refuse(Operation, i32, usize),
    /// The socket of a conversation takes at most so many bytes at a time.
    Take(usize, usize),
    /// The send queue of a conversation's socket has another size.
    Queue(usize, usize),
    /// The guest does not read what it is sent in a conversation.
    Deaf(usize),
    /// Events come without any reason.
    Spurious,
    /// No more than so many sockets can be open.
    Sockets(usize),
    /// Datagrams cannot be sent.
    UdpFull,
    /// So many forwards are added, half of them are removed at once and the others later, and so are those by which conversations came
    /// that go on.
    Forwards(u16),
}

impl Plan {
    /// The run of a seed.
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance(Random::new(seed ^ 0x5eed));
        let guests: Vec<GuestPlan> = (0..chance.among(&[1, 1, 1, 2, 2, 3, 4])).map(|_| chance.guest()).collect();
        let calm = chance.one_in(10);
        let mut plan = Self {
            seed,
            latency: chance.among(&[5, 20, 50, 50, 200, 1000, 3000]),
            flows: Vec::new(),
            datagrams: Vec::new(),
            link: if calm { LinkPlan::default() } else { chance.link() },
            limits: LimitsPlan::default(),
            troubles: Vec::new(),
            guests,
            least: LEAST_BYTES,
        };
        for _ in 0..chance.between(1, 9) {
            let flow = chance.flow(&plan.guests, calm);
            plan.flows.push(flow);
        }
        for _ in 0..chance.between(0, 3) {
            let datagrams = chance.datagrams(&plan.guests);
            plan.datagrams.push(datagrams);
        }
        if !calm {
            plan.limits = chance.limits(plan.flows.len());
            for _ in 0..chance.between(0, 8) {
                let trouble = chance.trouble(&plan);
                plan.troubles.push(trouble);
            }
        }
        plan.fill_up(&mut chance);
        plan
    }

    /// Lengthens conversations that come to their end until enough is said each way.
    fn fill_up(&mut self, chance: &mut Chance) {
        let lasting: Vec<usize> = (0..self.flows.len()).filter(|index| self.must_complete(*index)).collect();
        if lasting.is_empty() {
            return;
        }
        for up in [true, false] {
            let said = |flow: &FlowPlan| if up { flow.up } else { flow.down };
            let total: u64 = lasting.iter().map(|index| said(&self.flows[*index])).sum();
            let flow = &mut self.flows[chance.among(&lasting)];
            *(if up { &mut flow.up } else { &mut flow.down }) += self.least.saturating_sub(total);
        }
    }

    /// Whether this conversation has to come to its end, unless the host refuses something or a limit does.
    pub fn must_complete(&self, flow: usize) -> bool {
        let FlowPlan { guest, peer, reset, .. } = &self.flows[flow];
        let ends = [What::Unplug(*guest), What::Reboot(*guest)];
        let gone = self.troubles.iter().any(|trouble| ends.contains(&trouble.what));
        peer.answer == Answer::Accepts && peer.leaves == Leave::Never && reset.is_none() && !gone
    }

    /// Whether the clock leaps.
    pub fn leaps(&self) -> bool {
        self.troubles.iter().any(|trouble| trouble.what == What::Leap)
    }
}

/// Chance with a sense for what is likely to find something.
struct Chance(Random);

impl Chance {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.below(high - low + 1)
    }

    /// Mostly small: the size is chosen before the number.
    fn up_to(&mut self, high: u64) -> u64 {
        let bits = u64::from(64 - high.leading_zeros());
        let size = self.between(0, bits);
        self.0.below(1 << size).min(high)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.0.below(n) == 0
    }

    fn among<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.0.below(of.len() as u64) as usize].clone()
    }

    fn guest(&mut self) -> GuestPlan {
        GuestPlan {
            mtu: self.among(&[576, 1280, 1500, 1500, 1500, 1500, 9000, 9000, 65_520, 65_520]),
            offloads: self.one_in(2),
            segments: self.one_in(2),
            capacity: self.among(&[4, 16, 64, 256, 256, 256]),
        }
    }

    fn link(&mut self) -> LinkPlan {
        let mut permille = |most: u64| if self.one_in(2) { self.up_to(most) as u32 } else { 0 };
        LinkPlan { lost: permille(30), doubled: permille(100), late: permille(60), damaged: permille(20) }
    }

    fn limits(&mut self, flows: usize) -> LimitsPlan {
        let held = self.among(&[100, 4000, 60_000]);
        let mut low = |most: u64| self.one_in(8).then(|| self.between(1, most) as usize);
        LimitsPlan { flows: low(flows as u64 + 1), opening: low(3), held: low(held), mappings: low(2), neighbours: low(4) }
    }

    /// A guest and whether IPv6 is possible on its link.
    fn place(&mut self, guests: &[GuestPlan]) -> (u8, bool) {
        let guest = self.0.below(guests.len() as u64) as u8;
        (guest, guests[usize::from(guest)].mtu >= 1280 && self.one_in(2))
    }

    fn flow(&mut self, guests: &[GuestPlan], calm: bool) -> FlowPlan {
        let (guest, v6) = self.place(guests);
        let (up, down) = (self.up_to(300_000), self.up_to(300_000));
        // Of the two, one begins without having heard anything, and one closes without having seen the end.
        let first = self.among(&[Some(true), Some(false), None, None]);
        let last = self.among(&[Some(true), Some(false), None, None]);
        let begins_after = |waits: bool, said: u64, this: &mut Self| match (waits, this.one_in(3)) {
            (false, _) => 0,
            (true, false) => this.up_to(said),
            (true, true) => u64::MAX,
        };
        let guest_begins_after = begins_after(first == Some(false), down, self);
        let peer_begins_after = begins_after(first == Some(true), up, self);
        let mut flow = FlowPlan {
            guest,
            v6,
            inbound: self.one_in(4),
            starts: self.up_to(100_000),
            up,
            down,
            buffer: self.among(&[2000, 5000, 16_000, 64_000, 64_000, 200_000]),
            guest_begins_after,
            // Whoever waits for the end before it begins cannot be waited for with closing.
            guest_closes_last: last == Some(true) && peer_begins_after < u64::MAX,
            peer: PeerPlan {
                answer: Answer::Accepts,
                delay: self.up_to(200_000),
                reads: self.one_in(3).then(|| (self.between(2000, 60_000) as usize, self.up_to(30_000))),
                send_queue: self.among(&[4000, 20_000, 128 << 10, 128 << 10, 1 << 20]),
                receive_queue: self.among(&[4000, 20_000, 128 << 10, 128 << 10, 1 << 20]),
                begins_after: peer_begins_after,
                closes_last: last == Some(false) && guest_begins_after < u64::MAX,
                leaves: Leave::Never,
            },
            reset: None,
        };
        if !calm {
            self.spoil(&mut flow);
        }
        flow
    }

    /// Makes some conversations end before their time.
    fn spoil(&mut self, flow: &mut FlowPlan) {
        match self.between(0, 19) {
            0 => {
                let errors = [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::ETIMEDOUT, libc::EACCES];
                let error = self.among(&errors);
                let answers = [Answer::Fails(error), Answer::FailsAtOnce(error), Answer::Hangs];
                flow.peer.answer = self.among(&answers);
            }
            1 => {
                let heard = self.up_to(flow.up);
                let leaves = [Leave::Close(heard), Leave::Reset(heard)];
                flow.peer.leaves = self.among(&leaves);
            }
            2..=4 => {
                let by_guest = self.one_in(2);
                let heard = self.up_to(if by_guest { flow.down } else { flow.up });
                let points =
                    [When::Opening, When::Open, When::Heard(heard), When::Heard(heard), When::GuestClosed, When::PeerClosed];
                flow.reset = Some(Reset { by_guest, when: self.among(&points) });
            }
            _ => {}
        }
    }

    fn datagrams(&mut self, guests: &[GuestPlan]) -> UdpPlan {
        let (guest, v6) = self.place(guests);
        let largest = u64::from(guests[usize::from(guest)].mtu.min(9000)) - if v6 { 48 } else { 28 };
        UdpPlan {
            guest,
            v6,
            starts: self.up_to(100_000),
            count: self.between(1, 60) as u32,
            size: self.up_to(largest).max(5) as usize,
            every: self.up_to(20_000),
            echo: !self.one_in(4),
            inbound: self.one_in(4),
        }
    }

    fn trouble(&mut self, plan: &Plan) -> Trouble {
        let guest = self.0.below(plan.guests.len() as u64) as u8;
        let flow = self.0.below(plan.flows.len() as u64) as usize;
        let what = match self.between(0, 26) {
            0 => What::Leap,
            1..=3 => What::Stall(guest),
            4 => What::Narrow(guest, self.between(1, 8) as usize),
            5 => self.among(&[What::Unplug(guest), What::Reboot(guest)]),
            20..=24 => What::Freeze,
            6..=8 => self.refusal(),
            9..=11 => What::Take(flow, self.among(&[0, 1, 1, 2, 100])),
            12 => What::Queue(flow, self.among(&[0, 1000, 10_000, 300_000])),
            13..=15 => What::Deaf(flow),
            16..=17 => What::Spurious,
            18 => What::Sockets(self.between(1, 8) as usize),
            25..=26 => What::Forwards(self.between(1, 40) as u16),
            _ => What::UdpFull,
        };
        let lasts = match what {
            What::Leap => self.up_to(20_000_000_000).max(1),
            _ => self.up_to(3_000_000),
        };
        Trouble { at: self.up_to(500_000), lasts, what }
    }

    fn refusal(&mut self) -> What {
        use Operation::{Accept, BindDatagram, Connect, Peek, ReceiveFrom, Send, SendTo};
        let operation = self.among(&[Connect, Connect, Accept, Accept, Send, Peek, BindDatagram, SendTo, ReceiveFrom]);
        let errors = match operation {
            Send | Peek => [libc::ECONNRESET, libc::EPIPE, libc::ETIMEDOUT, libc::ENOMEM],
            _ => [libc::EMFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL],
        };
        What::Refuse(operation, self.among(&errors), self.between(1, 4) as usize)
    }
}
