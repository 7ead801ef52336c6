//! The service without its tasks, files and sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::time::Instant;

use super::cache::Cache;
use super::hosts::Hosts;
use super::local::Local;
use super::message::{Question, Transport, is_answer, with_code};
use super::resolv_conf::ResolvConf;
use super::{LocalNames, Names};

/// What stands between a guest's question and its answer.
#[derive(Debug)]
pub struct Service {
    local: Local,
    hosts: Hosts,
    cache: Cache,
    start: Instant,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The question was refused.
    Refusal,
    /// Names of our own.
    Local,
    /// What was said before.
    Cache,
    /// A server.
    Upstream,
    /// No server has answered.
    Nobody,
}

impl Service {
    /// A service with these names, a hosts file and room for `cached` answers.
    pub fn new(local: LocalNames, names: Arc<Names>, hosts_file: &[u8], cached: usize) -> Self {
        let hosts = Hosts::parse(hosts_file);
        Self { local: Local::new(local, names), hosts, cache: Cache::new(cached), start: Instant::now() }
    }

    /// The answer to a guest's message over TCP or UDP, `time` after the start. What is not known here is answered with `upstream`, the
    /// bytes of a server's message, which is taken to repeat the question.
    pub fn answer(&mut self, time: Duration, message: &[u8], tcp: bool, upstream: &[u8]) -> (Origin, Option<Vec<u8>>) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let question = match Question::parse(message) {
            Ok(question) => question,
            Err(refusal) => return (Origin::Refusal, refusal),
        };
        let (origin, answer) = self.resolve(self.start + time, &question, upstream);
        (origin, Some(question.reply(answer, transport)))
    }

    fn resolve(&mut self, now: Instant, question: &Question, upstream: &[u8]) -> (Origin, Message) {
        if let Some(answer) = self.local.answer(&self.hosts, &question.query) {
            return (Origin::Local, answer);
        }
        if let Some(answer) = self.cache.get(&question.key(), now) {
            return (Origin::Cache, answer);
        }
        let Some(mut answer) = Message::from_vec(upstream).ok().filter(is_answer) else {
            return (Origin::Nobody, with_code(ResponseCode::ServFail));
        };
        answer.queries = question.to_upstream().queries;
        self.cache.put(question.key(), &answer, now);
        (Origin::Upstream, answer)
    }
}

/// What a resolv.conf says: the servers, the domains, how long a server may be silent and how many datagrams it gets. `None` if it names
/// no server.
pub fn resolv_conf(text: &[u8]) -> Option<(Vec<SocketAddr>, Vec<String>, Duration, u8)> {
    let conf = ResolvConf::parse(text)?;
    Some((conf.servers, conf.search, conf.timing.timeout, conf.timing.attempts))
}

/// The name that a table of guests' names has for an address, and the addresses that it has for that name.
pub fn held(names: &Names, address: std::net::IpAddr) -> Option<(String, Vec<std::net::IpAddr>)> {
    let name = names.name(address)?;
    let addresses = names.addresses(&name).unwrap_or_default();
    Some((name, addresses))
}
