//! Streams of the simulated host: the queues between the stack and a peer.
//!
//! A [`Connection`] is one object for both ends. The stack writes into the send queue, from which the peer's program reads at its own
//! pace; what the program writes goes to the receive queue as far as there is room, and waits in an outbox until then.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use super::super::{SendRoom, SocketId};
use super::errno;
use super::server::{Outcome, Program, Server};
use super::talk::{Leave, Talk};
use crate::frame::{Chunk, ChunkMut};
use crate::time::{Duration, Instant};

/// What a program holds of its own before it stops reading.
const PROGRAM_BUFFER: usize = 64 << 10;

/// Which connection, counted from the first one of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub usize);

/// What a socket's owner is to be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct News {
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) failed: bool,
}

impl News {
    /// An end by error makes a socket everything at once: poll(2).
    const ERROR: Self = Self { readable: true, writable: true, failed: true };

    pub(super) const fn add(&mut self, other: Self) {
        self.readable |= other.readable;
        self.writable |= other.writable;
        self.failed |= other.failed;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting {
        due: Option<Instant>,
        error: Option<i32>,
    },
    Established,
    /// Ended by an error or a reset: nothing more comes or goes.
    Dead,
}

/// A connection, from the point of view of the peer.
#[derive(Debug)]
pub struct Connection {
    id: ConnectionId,
    local: SocketAddr,
    remote: SocketAddr,
    pub(super) socket: Option<SocketId>,
    from_client: bool,
    state: State,
    program: Program,
    stays_half_open: bool,

    // From the stack to the peer.
    send_queue: VecDeque<u8>,
    send_capacity: usize,
    take_at_most: Option<usize>,
    wants_writable: bool,
    stack_finished: bool,
    stack_closed: bool,
    pace: Option<(usize, Duration)>,
    next_read: Instant,
    received: Vec<u8>,
    received_len: u64,
    received_digest: u64,
    taken: u64,
    scratch: Vec<u8>,
    forgets: bool,
    saw_end: bool,
    saw_reset: bool,

    // From the peer to the stack.
    outbox: VecDeque<u8>,
    written: u64,
    receive_queue: VecDeque<u8>,
    receive_capacity: usize,
    peeked: usize,
    discarded: u64,
    when_seen: VecDeque<Vec<u8>>,
    peer_finished: bool,
    peer_closed: bool,
    end_arrived: bool,

    error: Option<i32>,
    unposted: News,
    now: Instant,
}

impl Connection {
    pub(super) fn connecting(
        id: ConnectionId,
        local: SocketAddr,
        remote: SocketAddr,
        server: &Server,
        now: Instant,
    ) -> io::Result<Self> {
        let due = Some(now + server.delay);
        let state = match server.outcome {
            Outcome::FailAtOnce(number) => return Err(errno(number)),
            Outcome::Accept => State::Connecting { due, error: None },
            Outcome::Fail(number) => State::Connecting { due, error: Some(number) },
            Outcome::Never => State::Connecting { due: None, error: None },
        };
        Ok(Self { state, ..Self::established(id, local, remote, server, now) })
    }

    pub(super) fn established(id: ConnectionId, local: SocketAddr, remote: SocketAddr, server: &Server, now: Instant) -> Self {
        Self {
            id,
            local,
            remote,
            socket: None,
            from_client: false,
            state: State::Established,
            program: server.program,
            stays_half_open: server.stays_half_open,
            send_queue: VecDeque::new(),
            send_capacity: server.send_queue,
            take_at_most: None,
            wants_writable: false,
            stack_finished: false,
            stack_closed: false,
            pace: server.pace,
            next_read: now,
            received: Vec::new(),
            received_len: 0,
            received_digest: digest(DIGEST_START, &[]),
            taken: 0,
            scratch: Vec::new(),
            forgets: server.forgets,
            saw_end: false,
            saw_reset: false,
            outbox: server.greeting.iter().copied().collect(),
            written: 0,
            receive_queue: VecDeque::new(),
            receive_capacity: server.receive_queue,
            peeked: 0,
            discarded: 0,
            when_seen: VecDeque::new(),
            peer_finished: false,
            peer_closed: false,
            end_arrived: false,
            error: None,
            unposted: News::default(),
            now,
        }
    }

    /// Which one it is.
    pub const fn id(&self) -> ConnectionId {
        self.id
    }

    /// The address of the stack's end.
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The address of the peer's end.
    pub const fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Whether it was made by a client of what the stack listens on.
    pub const fn is_from_client(&self) -> bool {
        self.from_client
    }

    /// Whether it is connected, and no reset has come from either end.
    pub fn is_established(&self) -> bool {
        self.state == State::Established
    }

    /// Whether the stack still holds its socket.
    pub const fn is_held_by_stack(&self) -> bool {
        self.socket.is_some()
    }

    /// What the peer has received and kept.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// How many bytes the peer has received.
    pub const fn received_len(&self) -> u64 {
        self.received_len
    }

    /// How many bytes the stack's socket has taken, whether the peer has received them or not.
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// How many bytes the peer has written.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The [`digest`] of all that the peer has received. Of what was said in a [`Talk`], none is made.
    pub const fn received_digest(&self) -> u64 {
        self.received_digest
    }

    /// Whether the peer has read the end of file, after all that the stack sent.
    pub const fn saw_end(&self) -> bool {
        self.saw_end
    }

    /// Whether the stack has reset the connection.
    pub const fn saw_reset(&self) -> bool {
        self.saw_reset
    }

    /// Bytes that the peer has written and the stack has not discarded yet.
    pub fn undelivered(&self) -> usize {
        self.outbox.len() + self.receive_queue.len()
    }

    /// How many bytes the peer has written. Those that a reset threw away are not counted any more.
    pub fn written_len(&self) -> u64 {
        self.discarded + self.undelivered() as u64
    }

    /// Whether the peer has closed its sending side.
    pub const fn has_finished(&self) -> bool {
        self.peer_finished
    }

    /// How many bytes the stack's queues can hold: to the peer, and from it.
    pub const fn queue_capacities(&self) -> (usize, usize) {
        (self.send_capacity, self.receive_capacity)
    }

    /// Bytes that the stack has sent and the peer has not read yet.
    pub fn unread(&self) -> usize {
        self.send_queue.len()
    }

    /// The peer writes.
    pub fn push(&mut self, data: &[u8]) {
        assert!(!self.peer_finished, "a peer that has closed writes nothing more");
        self.outbox.extend(data);
    }

    /// These bytes come as soon as the stack has looked at all that came before: between two looks.
    pub fn push_when_seen(&mut self, data: &[u8]) {
        self.when_seen.push_back(data.to_vec());
    }

    /// An [`Program::Idle`] peer reads at most `len` bytes, now.
    pub fn read(&mut self, len: usize) {
        if self.state == State::Established {
            self.consume(len);
        }
    }

    /// The peer changes what it does.
    pub const fn run(&mut self, program: Program) {
        self.program = program;
    }

    /// The peer reads at most `bytes` at a time, and not again before `every` has passed; `None`: as fast as it can.
    pub const fn set_pace(&mut self, pace: Option<(usize, Duration)>) {
        self.pace = pace;
    }

    /// The peer closes its sending side, after what it has written. It can still receive.
    pub const fn finish(&mut self) {
        self.peer_finished = true;
    }

    /// The peer closes. If the stack sends more after that, or something was left unread, it gets a reset.
    pub fn close(&mut self) {
        self.peer_finished = true;
        self.peer_closed = true;
    }

    /// The peer accepts a connection attempt that it had left unanswered.
    pub fn accept(&mut self) {
        if let State::Connecting { .. } = self.state {
            self.state = State::Established;
            self.unposted.writable = true;
        }
    }

    /// The peer resets the connection. What has already arrived can still be read by the stack.
    pub fn reset(&mut self) {
        self.fail(libc::ECONNRESET);
    }

    /// The connection ends with an error, as when a network fails for too long (`ETIMEDOUT`).
    pub fn fail(&mut self, errno: i32) {
        if self.state != State::Dead {
            self.state = State::Dead;
            self.error = Some(errno);
            self.outbox.clear();
            self.send_queue.clear();
            self.unposted.add(News::ERROR);
        }
    }

    /// Sets the capacity of the stack's send queue in bytes.
    pub const fn set_send_queue(&mut self, capacity: usize) {
        self.send_capacity = capacity;
    }

    /// Makes each send take at most so many bytes, whatever room [`super::Host::send_room`] tells. With 0 they block, and nothing becomes
    /// writable, as when a kernel is short of memory. `None` ends it.
    pub const fn take_at_most(&mut self, len: Option<usize>) {
        self.take_at_most = len;
    }

    // ---- What the stack does ----

    pub(super) fn dialled(self) -> Self {
        Self { from_client: true, ..self }
    }

    pub(super) fn accepted(&mut self, socket: SocketId) {
        self.socket = Some(socket);
        // Whoever registers a socket that is ready already is told so.
        self.unposted.add(News { readable: !self.receive_queue.is_empty() || self.end_arrived, ..News::default() });
        if self.state == State::Dead {
            self.unposted.add(News::ERROR);
        }
    }

    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.error.take().map(errno)
    }

    pub(super) fn send(&mut self, data: &[Chunk<'_>]) -> io::Result<usize> {
        if let Some(number) = self.error.take() {
            return Err(errno(number));
        }
        match self.state {
            State::Connecting { .. } => return self.would_block(),
            State::Dead => return Err(errno(libc::EPIPE)),
            State::Established if self.stack_finished => return Err(errno(libc::EPIPE)),
            State::Established => {}
        }
        let room = self.free().min(self.take_at_most.unwrap_or(usize::MAX));
        let mut taken = 0;
        for chunk in data {
            let len = chunk.len().min(room - taken);
            if self.scratch.len() < len {
                self.scratch.resize(len, 0);
            }
            let bytes = &mut self.scratch[..len];
            chunk.copy_to(0, bytes);
            taken += len;
            self.send_queue.extend(&*bytes);
        }
        self.taken += taken as u64;
        if taken == 0 && data.iter().any(|chunk| !chunk.is_empty()) { self.would_block() } else { Ok(taken) }
    }

    fn would_block<T>(&mut self) -> io::Result<T> {
        self.wants_writable = true;
        Err(io::ErrorKind::WouldBlock.into())
    }

    pub(super) fn peek(&mut self, offset: usize, into: &mut [ChunkMut<'_>]) -> io::Result<usize> {
        if offset < self.receive_queue.len() {
            let mut copied = 0;
            for chunk in into {
                copied += copy_out(&self.receive_queue, offset + copied, chunk);
            }
            self.peeked = self.peeked.max(offset + copied);
            if self.peeked == self.receive_queue.len()
                && let Some(data) = self.when_seen.pop_front()
            {
                self.receive_queue.extend(data);
                self.unposted.readable = true;
            }
            return Ok(copied);
        }
        if let Some(number) = self.error.take() {
            return Err(errno(number));
        }
        match self.state {
            State::Established if self.end_arrived && offset == self.receive_queue.len() => Ok(0),
            State::Dead => Ok(0),
            State::Connecting { .. } | State::Established => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    pub(super) fn discard(&mut self, len: usize) -> io::Result<()> {
        assert!(len <= self.peeked, "the stack discards {len} bytes but has only peeked {}", self.peeked);
        self.receive_queue.drain(..len);
        self.peeked -= len;
        self.discarded += len as u64;
        Ok(())
    }

    pub(super) fn send_room(&self) -> SendRoom {
        SendRoom { free: self.free(), capacity: self.send_capacity }
    }

    fn free(&self) -> usize {
        self.send_capacity.saturating_sub(self.send_queue.len())
    }

    pub(super) const fn notify_writable(&mut self) {
        self.wants_writable = true;
    }

    pub(super) fn shutdown_write(&mut self) -> io::Result<()> {
        if self.state != State::Established {
            return Err(errno(libc::ENOTCONN));
        }
        self.stack_finished = true;
        Ok(())
    }

    pub(super) fn close_by_stack(&mut self) {
        self.socket = None;
        self.stack_closed = true;
        if !self.receive_queue.is_empty() || matches!(self.state, State::Connecting { .. }) {
            // RFC 2525 section 2.17: whoever throws unread data away has to say so.
            self.reset_by_stack();
        } else {
            self.stack_finished = true;
        }
    }

    pub(super) fn reset_by_stack(&mut self) {
        self.socket = None;
        self.stack_closed = true;
        if self.state == State::Established {
            self.saw_reset = true;
        }
        self.state = State::Dead;
        self.send_queue.clear();
        self.outbox.clear();
        self.receive_queue.clear();
    }

    // ---- What follows from it ----

    /// When this connection has something to do by itself.
    pub(super) fn alarm(&self) -> Option<Instant> {
        match self.state {
            State::Connecting { due, .. } => due,
            State::Established if self.pace.is_some() && !self.send_queue.is_empty() && self.reads() => Some(self.next_read),
            State::Established | State::Dead => None,
        }
    }

    /// Lets the peer act until it can do no more, and says what is new for the stack.
    pub(super) fn settle(&mut self, now: Instant) -> News {
        self.now = now;
        if let State::Connecting { due: Some(due), error } = self.state
            && due <= now
        {
            if let Some(number) = error {
                self.fail(number);
            } else {
                self.state = State::Established;
                self.unposted.writable = true;
            }
        }
        while self.state == State::Established && (self.read_by_program() | self.write_by_program()) {}
        let takes = self.take_at_most != Some(0) && self.free() > 0;
        if self.wants_writable && takes && self.state == State::Established && self.free() * 3 >= self.send_capacity {
            self.wants_writable = false;
            self.unposted.writable = true;
        }
        std::mem::take(&mut self.unposted)
    }

    /// Lets one side of a conversation go on. Returns whether anything happened.
    fn talk(&mut self, talk: &Talk) -> bool {
        let mut progress = false;
        if !self.send_queue.is_empty() && (self.pace.is_none() || self.next_read <= self.now) {
            let most = match talk.leaves {
                Leave::Never => usize::MAX,
                Leave::Close(n) | Leave::Reset(n) => usize::try_from(n - self.received_len.min(n)).unwrap_or(usize::MAX),
            };
            let paced = self.pace.map_or(usize::MAX, |(bytes, every)| {
                self.next_read = self.now + every;
                bytes
            });
            progress = self.hear(talk, most.min(paced)) > 0;
        }
        match talk.leaves {
            Leave::Close(n) if self.received_len >= n && !self.peer_closed => {
                self.close();
                progress = true;
            }
            Leave::Reset(n) if self.received_len >= n => {
                self.fail(libc::ECONNRESET);
                return true;
            }
            _ => {}
        }
        if self.stack_finished && self.send_queue.is_empty() && !self.saw_end {
            self.saw_end = true;
            progress = true;
        }
        if !self.peer_finished && talk.has_begun(self.received_len, self.saw_end) {
            let room = self.receive_capacity.saturating_sub(self.receive_queue.len());
            let mut left = usize::try_from(talk.len - self.written).unwrap_or(usize::MAX).min(room);
            if left > 0 && self.stack_closed {
                return self.is_not_heard();
            }
            while left > 0 {
                let part = talk.says.part(self.written, left);
                self.receive_queue.extend(part);
                self.written += part.len() as u64;
                left -= part.len();
                self.unposted.readable = true;
                progress = true;
            }
            self.peer_finished = talk.is_over(self.written, self.received_len, self.saw_end);
        }
        progress
    }

    /// The peer reads at most `len` bytes, and holds them against what it has to hear.
    fn hear(&mut self, talk: &Talk, len: usize) -> usize {
        let len = len.min(self.send_queue.len());
        let (front, back) = self.send_queue.as_slices();
        let front = &front[..len.min(front.len())];
        let back = &back[..len - front.len()];
        let at = self.received_len;
        let wrong = talk.hears.first_difference(at, front).or_else(|| talk.hears.first_difference(at + front.len() as u64, back));
        if let Some(wrong) = wrong {
            panic!("the peer at {} has received a wrong byte at {wrong} of its stream", self.remote);
        }
        self.send_queue.drain(..len);
        self.received_len += len as u64;
        len
    }

    /// Nobody is there to read what the peer writes: the stack's kernel answers with a reset.
    fn is_not_heard(&mut self) -> bool {
        self.saw_reset = true;
        self.state = State::Dead;
        self.outbox.clear();
        false
    }

    const fn reads(&self) -> bool {
        !matches!(self.program, Program::Idle)
    }

    /// Returns whether anything happened.
    fn read_by_program(&mut self) -> bool {
        if self.peer_closed && !self.send_queue.is_empty() {
            self.fail(libc::ECONNRESET);
            return true;
        }
        if let Program::Talk(talk) = self.program {
            return self.talk(&talk);
        }
        let mut progress = false;
        let due = self.pace.is_none() || self.next_read <= self.now;
        if self.reads() && due && !self.send_queue.is_empty() && self.outbox.len() < PROGRAM_BUFFER {
            let most = match self.program {
                Program::CloseAfter(n) | Program::ResetAfter(n) => {
                    usize::try_from(n - self.received_len.min(n)).unwrap_or(usize::MAX)
                }
                _ => usize::MAX,
            };
            let paced = self.pace.map_or(usize::MAX, |(bytes, every)| {
                self.next_read = self.now + every;
                bytes
            });
            let data = self.consume(most.min(paced));
            progress = !data.is_empty();
            match self.program {
                Program::Echo => self.outbox.extend(&data),
                Program::Respond(answer) => self.outbox.extend(answer(&data)),
                _ => {}
            }
        }
        match self.program {
            Program::CloseAfter(n) if self.received_len >= n && !self.peer_closed => {
                self.close();
                progress = true;
            }
            Program::ResetAfter(n) if self.received_len >= n => {
                self.fail(libc::ECONNRESET);
                progress = true;
            }
            _ => {}
        }
        if self.stack_finished && self.send_queue.is_empty() && !self.saw_end {
            self.saw_end = true;
            progress = true;
        }
        if self.saw_end
            && self.reads()
            && !self.stays_half_open
            && !self.peer_finished
            && !matches!(self.program, Program::Source(_))
        {
            self.peer_finished = true;
            progress = true;
        }
        progress
    }

    fn consume(&mut self, len: usize) -> Vec<u8> {
        let data: Vec<u8> = self.send_queue.drain(..len.min(self.send_queue.len())).collect();
        self.received_len += data.len() as u64;
        self.received_digest = digest(self.received_digest, &data);
        if !self.forgets {
            self.received.extend(&data);
        }
        data
    }

    /// Returns whether anything happened.
    fn write_by_program(&mut self) -> bool {
        if let Program::Source(len) = self.program
            && self.outbox.is_empty()
            && !self.peer_finished
        {
            let mut piece = vec![0; usize::try_from(len - self.written).unwrap_or(usize::MAX).min(PROGRAM_BUFFER)];
            pattern(self.written, &mut piece);
            self.outbox.extend(&piece);
            self.written += piece.len() as u64;
            if self.written == len {
                self.peer_finished = true;
            }
        }
        let room = self.receive_capacity.saturating_sub(self.receive_queue.len()).min(self.outbox.len());
        if room > 0 && self.stack_closed {
            return self.is_not_heard();
        }
        let mut progress = room > 0;
        self.receive_queue.extend(self.outbox.drain(..room));
        if self.peer_finished && self.outbox.is_empty() && !self.end_arrived {
            self.end_arrived = true;
            progress = true;
        }
        self.unposted.readable |= progress;
        progress
    }
}

fn copy_out(queue: &VecDeque<u8>, at: usize, chunk: &mut ChunkMut<'_>) -> usize {
    let (front, back) = queue.as_slices();
    let from_front = front.get(at..).unwrap_or_default();
    let from_back = back.get(at.saturating_sub(front.len())..).unwrap_or_default();
    let copied = chunk.copy_from(0, from_front);
    if copied == from_front.len() { copied + chunk.copy_from(copied, from_back) } else { copied }
}

/// Fills `into` with the bytes that follow `offset` in a stream that is the same for everybody and does not repeat itself soon.
pub fn pattern(offset: u64, into: &mut [u8]) {
    for (at, byte) in (offset..).zip(into) {
        let word = (at >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
        *byte = word.to_le_bytes()[(at & 3) as usize];
    }
}

/// What an empty stream has for a [`digest`].
pub const DIGEST_START: u64 = 0xcbf2_9ce4_8422_2325;

/// The digest of a stream whose first part has the digest `before` and which goes on with `data`: FNV-1a.
pub fn digest(before: u64, data: &[u8]) -> u64 {
    data.iter().fold(before, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
