//! From a guest's question to its answer: our own names, then the cache, then the upstream servers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::DnsStatus;
use super::cache::Cache;
use super::hosts::Hosts;
use super::local::Local;
use super::message::{Key, Question, Transport, with_code};
use super::resolv_conf::ResolvConf;
use super::upstream::Upstream;
use super::watched::Watched;
use crate::config::DnsConfig;

/// Everything that an answer may need. Shared by all questions in work.
#[derive(Debug)]
pub(super) struct Forwarder {
    local: Local,
    cache: Mutex<Cache>,
    /// Questions that upstream servers are working on.
    flights: Mutex<HashMap<Key, Arc<Flight>>>,
    sources: tokio::sync::Mutex<Sources>,
    search: Mutex<Vec<String>>,
    /// The files are looked at no more often than this.
    check_interval: Duration,
    pub(super) counters: Counters,
}

/// What has happened, counted since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) dropped: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) local: AtomicU64,
    pub(super) cached: AtomicU64,
    pub(super) joined: AtomicU64,
    pub(super) forwarded: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) overloaded: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A question on its way upstream; `None` says that nobody answered it.
type Flight = OnceCell<Option<Arc<Message>>>;

impl Forwarder {
    /// Reads the files that `config` names.
    pub(super) fn new(config: &DnsConfig, local: Local, check_interval: Duration) -> Self {
        let resolv_conf = Watched::open(&config.resolv_conf, |text| text.and_then(ResolvConf::parse));
        let hosts = Watched::open(&config.hosts_file, |text| Some(text.map(Hosts::parse).unwrap_or_default()));
        let search = resolv_conf.value().search.clone();
        let upstream = upstream(&config.servers, resolv_conf.value());
        let sources = Sources { fixed: config.servers.clone(), resolv_conf, hosts, upstream, checked: Instant::now() };
        Self {
            local,
            cache: Mutex::new(Cache::new(config.cache_entries)),
            flights: Mutex::default(),
            sources: tokio::sync::Mutex::new(sources),
            search: Mutex::new(search),
            check_interval,
            counters: Counters::default(),
        }
    }

    /// The domains that the host searches, as of the last question.
    pub(super) fn search(&self) -> Vec<String> {
        lock(&self.search).clone()
    }

    /// Answers a message of a guest; `None` if it deserves no answer.
    pub(super) async fn answer(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = match Question::parse(message) {
            Ok(question) => question,
            Err(refusal) => {
                count(if refusal.is_some() { &self.counters.refused } else { &self.counters.dropped });
                return refusal;
            }
        };
        let answer = self.resolve(&question).await;
        let answer = answer.unwrap_or_else(|| with_code(ResponseCode::ServFail));
        Some(question.reply(answer, transport))
    }

    async fn resolve(&self, question: &Question) -> Option<Message> {
        let Now { hosts, upstream, generation } = self.now().await;
        if let Some(answer) = self.local.answer(&hosts, &question.query) {
            count(&self.counters.local);
            return Some(answer);
        }
        let key = question.key();
        if let Some(answer) = lock(&self.cache).get(&key, Instant::now()) {
            count(&self.counters.cached);
            return Some(answer);
        }
        // Whoever comes first asks; who comes while it waits waits for the same answer. If the first one goes away, the next asks.
        let (seat, joined) = Boarded::new(&self.flights, key.clone());
        if joined {
            count(&self.counters.joined);
        }
        let answer = seat.flight.get_or_init(|| self.ask(key, question, &upstream, generation)).await;
        answer.as_deref().cloned()
    }

    async fn ask(&self, key: Key, question: &Question, upstream: &Upstream, generation: u64) -> Option<Arc<Message>> {
        count(&self.counters.forwarded);
        match upstream.ask(&question.to_upstream()).await {
            Ok(answer) => {
                let mut cache = lock(&self.cache);
                // If the servers have changed meanwhile, this is an answer from yesterday.
                if cache.generation() == generation {
                    cache.put(key, &answer, Instant::now());
                }
                drop(cache);
                Some(Arc::new(answer))
            }
            Err(error) => {
                count(&self.counters.failed);
                tracing::debug!(query = %question.query, %error, "a question stays unanswered");
                None
            }
        }
    }

    /// What is known, and from whom.
    pub(super) async fn status(&self) -> DnsStatus {
        let upstream = self.now().await.upstream;
        DnsStatus {
            servers: upstream.servers().collect(),
            names: self.local.names(),
            cached: lock(&self.cache).list(Instant::now()),
        }
    }

    /// What the files say now.
    async fn now(&self) -> Now {
        let mut sources = self.sources.lock().await;
        if sources.checked.elapsed() >= self.check_interval {
            if sources.refresh().await {
                // Other servers may know other names: after a VPN has come up, what was said before is wrong.
                lock(&self.cache).clear();
                lock(&self.search).clone_from(&sources.resolv_conf.value().search);
            }
            sources.checked = Instant::now();
        }
        Now {
            hosts: Arc::clone(sources.hosts.value()),
            upstream: Arc::clone(&sources.upstream),
            generation: lock(&self.cache).generation(),
        }
    }
}

/// What the files said when a question came.
struct Now {
    hosts: Arc<Hosts>,
    upstream: Arc<Upstream>,
    /// Of the cache.
    generation: u64,
}

/// The files, and the servers that they name.
#[derive(Debug)]
struct Sources {
    /// Servers that are asked whatever the resolver configuration says.
    fixed: Vec<SocketAddr>,
    resolv_conf: Watched<ResolvConf>,
    hosts: Watched<Hosts>,
    upstream: Arc<Upstream>,
    checked: Instant,
}

impl Sources {
    /// Reads what has changed. Whether the resolver configuration has.
    async fn refresh(&mut self) -> bool {
        self.hosts.refresh().await;
        let before = Arc::clone(self.resolv_conf.value());
        self.resolv_conf.refresh().await;
        let changed = before != *self.resolv_conf.value();
        if changed {
            self.upstream = upstream(&self.fixed, self.resolv_conf.value());
        }
        changed
    }
}

fn upstream(fixed: &[SocketAddr], conf: &ResolvConf) -> Arc<Upstream> {
    Arc::new(Upstream::new(if fixed.is_empty() { &conf.servers } else { fixed }, conf.timing))
}

/// A seat in the flight for a question. The last to leave takes the flight off the board, whether it has landed or not.
struct Boarded<'a> {
    board: &'a Mutex<HashMap<Key, Arc<Flight>>>,
    key: Key,
    flight: Arc<Flight>,
}

impl<'a> Boarded<'a> {
    /// Takes a seat, and says whether others sat there before.
    fn new(board: &'a Mutex<HashMap<Key, Arc<Flight>>>, key: Key) -> (Self, bool) {
        let flight = Arc::clone(lock(board).entry(key.clone()).or_default());
        // The board has one copy, and we have one.
        let joined = Arc::strong_count(&flight) > 2;
        (Self { board, key, flight }, joined)
    }
}

impl Drop for Boarded<'_> {
    fn drop(&mut self) {
        let mut board = lock(self.board);
        if Arc::strong_count(&self.flight) <= 2 {
            board.remove(&self.key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
