//! Answers of upstream servers, kept for as long as their owners allow.
//!
//! Bounded in entries and in the length of each, least recently used first out. An entry is the message as bytes, which is a tenth of
//! the size of its parsed form. Never a second past the shortest TTL in it, and what is handed out counts down (RFC 1035 section 3.2.1,
//! RFC 2308 for negative answers).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use tokio::time::Instant;

use super::message::Key;

/// Answers longer than this are not kept, so that entries bound memory.
const MESSAGE_MAX: usize = 4096;
/// The longest time that an answer is kept: a day, in seconds (RFC 8767 section 4 recommends a limit of that order).
const TTL_MAX: u32 = 86_400;
/// The longest time that the absence of something is kept: three hours, in seconds (RFC 2308 section 5).
const NEGATIVE_TTL_MAX: u32 = 10_800;

/// A bounded map from questions to answers.
#[derive(Debug)]
pub(super) struct Cache {
    capacity: usize,
    entries: HashMap<Key, Entry>,
    /// Entries by when they were last used, oldest first. `ticket` counts uses.
    used: BTreeMap<u64, Key>,
    ticket: u64,
    /// How many times everything was forgotten.
    generation: u64,
}

#[derive(Debug)]
struct Entry {
    message: Box<[u8]>,
    stored: Instant,
    /// How long it may be used, in seconds.
    lifetime: u32,
    ticket: u64,
}

impl Cache {
    /// An empty cache for `capacity` answers; with 0 nothing is ever kept.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, entries: HashMap::new(), used: BTreeMap::new(), ticket: 0, generation: 0 }
    }

    /// The questions whose answers are kept, and for how long yet.
    pub(super) fn list(&self, now: Instant) -> Vec<(String, Duration)> {
        let left = |entry: &Entry| {
            let lifetime = Duration::from_secs(entry.lifetime.into());
            lifetime.checked_sub(now.saturating_duration_since(entry.stored)).filter(|left| !left.is_zero())
        };
        let mut list: Vec<_> = self.entries.iter().filter_map(|(key, entry)| Some((key.to_string(), left(entry)?))).collect();
        list.sort();
        list
    }

    /// The answer to `key`, its TTLs counted down to `now`.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Message> {
        let ticket = self.next_ticket();
        let entry = self.entries.get_mut(key)?;
        let age = u32::try_from(now.saturating_duration_since(entry.stored).as_secs()).unwrap_or(u32::MAX);
        if age >= entry.lifetime {
            self.remove(key);
            return None;
        }
        let mut message = Message::from_vec(&entry.message).ok()?;
        if let Some(key) = self.used.remove(&entry.ticket) {
            entry.ticket = ticket;
            self.used.insert(ticket, key);
        }
        for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
            // What was capped to be kept is capped for the guest too, or its copy would outlive ours.
            record.ttl = record.ttl.min(TTL_MAX).saturating_sub(age);
        }
        Some(message)
    }

    /// Keeps `message` as the answer to `key` if its owner allows that.
    pub(super) fn put(&mut self, key: Key, message: &Message, now: Instant) {
        let lifetime = lifetime(message);
        let Some(bytes) = message.to_vec().ok().filter(|bytes| bytes.len() <= MESSAGE_MAX) else { return };
        if lifetime == 0 || self.capacity == 0 {
            return;
        }
        self.remove(&key);
        while self.entries.len() >= self.capacity {
            let Some((_, oldest)) = self.used.pop_first() else { break };
            self.entries.remove(&oldest);
        }
        let ticket = self.next_ticket();
        self.used.insert(ticket, key.clone());
        self.entries.insert(key, Entry { message: bytes.into_boxed_slice(), stored: now, lifetime, ticket });
    }

    /// Forgets everything: other servers may say other things.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.used.clear();
        self.generation = self.generation.wrapping_add(1);
    }

    /// Changes with every [`Cache::clear`], so that an answer to a question from before can be told.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.used.remove(&entry.ticket);
        }
    }

    fn next_ticket(&mut self) -> u64 {
        self.ticket = self.ticket.wrapping_add(1);
        self.ticket
    }
}

/// How long `message` may be used, in seconds; 0 if not at all.
fn lifetime(message: &Message) -> u32 {
    let code = message.metadata.response_code;
    if message.metadata.truncation || !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return 0;
    }
    let Some(asked) = message.queries.first().map(|query| query.query_type()) else { return 0 };
    let found = match asked {
        RecordType::ANY => !message.answers.is_empty(),
        _ => message.answers.iter().any(|record| record.record_type() == asked),
    };
    let shortest = message.all_sections().map(|record| record.ttl).min().unwrap_or(0);
    if found && code == ResponseCode::NoError {
        return shortest.min(TTL_MAX);
    }
    // RFC 2308 section 5: the SOA record says for how long something is known not to exist; without one nothing says so.
    let minimum = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(soa.minimum),
        _ => None,
    });
    minimum.map_or(0, |minimum| minimum.min(shortest).min(NEGATIVE_TTL_MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::{A, CNAME, NS, SOA};
    use hickory_proto::rr::{Name, Record};

    use super::super::message::Question;
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn question(text: &str) -> (Key, Message) {
        let mut query = Message::query();
        query.add_query(hickory_proto::op::Query::query(name(text), RecordType::A));
        let key = Question::parse(&query.to_vec().unwrap()).unwrap().key();
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        answer.queries = query.queries;
        (key, answer)
    }

    fn record(text: &str, ttl: u32) -> Record {
        Record::from_rdata(name(text), ttl, RData::A(A::new(192, 0, 2, 1)))
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        Record::from_rdata(
            name("example."),
            ttl,
            RData::SOA(SOA::new(name("ns.example."), name("root.example."), 1, 2, 3, 4, minimum)),
        )
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn an_answer_counts_down_and_is_gone_with_its_shortest_ttl() {
        let (mut cache, start) = (Cache::new(8), Instant::now());
        let (key, mut answer) = question("www.example.");
        answer.add_answer(record("www.example.", 300));
        answer.add_authority(Record::from_rdata(name("example."), 100, RData::NS(NS(name("ns.example.")))));
        cache.put(key.clone(), &answer, start);

        let kept = cache.get(&key, after(start, 60)).unwrap();
        assert_eq!((kept.answers[0].ttl, kept.authorities[0].ttl), (240, 40));
        let (shouted, _) = question("WWW.Example.");
        assert!(cache.get(&shouted, after(start, 99)).is_some(), "case makes no difference");
        assert!(cache.get(&key, after(start, 100)).is_none());
        assert!(cache.entries.is_empty() && cache.used.is_empty());
    }

    #[test]
    fn absence_is_remembered_for_as_long_as_the_soa_says() {
        let (mut cache, start) = (Cache::new(8), Instant::now());
        for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
            let (key, mut answer) = question("nowhere.example.");
            answer.metadata.response_code = code;
            answer.add_authority(soa(3600, 30));
            cache.put(key.clone(), &answer, start);
            let kept = cache.get(&key, after(start, 29)).unwrap();
            assert_eq!(kept.metadata.response_code, code);
            assert!(cache.get(&key, after(start, 30)).is_none());
        }
    }

    #[test]
    fn what_may_not_be_kept_is_not() {
        let start = Instant::now();
        let (key, empty) = question("www.example.");
        let mut zero = empty.clone();
        zero.add_answer(record("www.example.", 0));
        let mut cut = empty.clone();
        cut.add_answer(record("www.example.", 300));
        cut.metadata.truncation = true;
        let mut failed = empty.clone();
        failed.metadata.response_code = ResponseCode::ServFail;
        failed.add_authority(soa(300, 300));
        let mut dangling = empty.clone();
        dangling.add_answer(Record::from_rdata(name("www.example."), 300, RData::CNAME(CNAME(name("other.example.")))));
        let mut long = empty.clone();
        long.add_answers((0..500).map(|_| record("www.example.", 300)));
        for answer in [empty, zero, cut, failed, dangling, long] {
            let mut cache = Cache::new(8);
            cache.put(key.clone(), &answer, start);
            assert!(cache.get(&key, start).is_none(), "{answer}");
        }
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let (mut cache, start) = (Cache::new(2), Instant::now());
        let keep = |cache: &mut Cache, text: &str| {
            let (key, mut answer) = question(text);
            answer.add_answer(record(text, 300));
            cache.put(key.clone(), &answer, start);
            key
        };
        let (a, b) = (keep(&mut cache, "a.example."), keep(&mut cache, "b.example."));
        assert!(cache.get(&a, start).is_some());
        let c = keep(&mut cache, "c.example.");
        assert!(cache.get(&b, start).is_none());
        assert!(cache.get(&a, start).is_some() && cache.get(&c, start).is_some());
        assert_eq!((cache.entries.len(), cache.used.len()), (2, 2));
    }

    #[test]
    fn a_cache_of_nothing_keeps_nothing() {
        let mut cache = Cache::new(0);
        let (key, mut answer) = question("www.example.");
        answer.add_answer(record("www.example.", 300));
        cache.put(key.clone(), &answer, Instant::now());
        assert!(cache.get(&key, Instant::now()).is_none());
    }

    #[test]
    fn a_ttl_of_years_is_a_day() {
        let (mut cache, start) = (Cache::new(8), Instant::now());
        let (key, mut answer) = question("www.example.");
        answer.add_answer(record("www.example.", u32::MAX));
        cache.put(key.clone(), &answer, start);
        assert_eq!(cache.get(&key, after(start, 400)).unwrap().answers[0].ttl, 86_000);
        assert!(cache.get(&key, after(start, 86_400)).is_none());
    }
}
