//! A guest, and upstream servers that do as they are told.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, Query as DnsQuery};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};

use super::super::message::Transport;
use super::super::{DnsHandle, LocalNames, Names, Overloaded, Query, Response, STREAMS};
use crate::config::DnsConfig;

pub(super) const GUEST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15)), 40_000);

pub(super) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub(super) fn question(text: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(DnsQuery::query(name(text), kind));
    message
}

/// 192.0.2.`last`, good for 300 s.
pub(super) fn address(text: &str, last: u8) -> Record {
    Record::from_rdata(name(text), 300, RData::A(A::new(192, 0, 2, last)))
}

/// The same with the name that `query` asks for.
pub(super) fn address_of(query: &Message, last: u8) -> Record {
    let mut record = address(".", last);
    record.name = query.queries[0].name().clone();
    record
}

pub(super) fn soa() -> Record {
    let soa = SOA::new(name("ns.example."), name("root.example."), 1, 3600, 600, 86_400, 300);
    Record::from_rdata(name("example."), 300, RData::SOA(soa))
}

pub(super) fn answer_with(query: &Message, answers: impl IntoIterator<Item = Record>) -> Message {
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.metadata.recursion_desired = query.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.queries = query.queries.clone();
    message.answers = answers.into_iter().collect();
    message
}

/// A port of loopback that nobody listens on. Nor will anyone soon: the kernel hands out others first.
pub(super) fn closed_port() -> SocketAddr {
    std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// An upstream server on loopback, for UDP and TCP.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    asked: watch::Sender<usize>,
    open: Arc<watch::Sender<bool>>,
}

type Behaviour = dyn Fn(&Message, Transport) -> Option<Vec<u8>> + Send + Sync;

impl Server {
    pub(super) async fn start(answer: impl Fn(&Message, Transport) -> Option<Message> + Send + Sync + 'static) -> Self {
        Self::serve(Arc::new(move |query, transport| answer(query, transport).map(|answer| answer.to_vec().unwrap()))).await
    }

    /// A server that answers datagrams with any bytes.
    pub(super) async fn start_raw(answer: impl Fn(&Message) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::serve(Arc::new(move |query, _| answer(query))).await
    }

    async fn serve(answer: Arc<Behaviour>) -> Self {
        // One of the first few ports that are free for UDP is free for TCP too.
        let (tcp, udp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (tcp, Arc::new(udp));
            }
        };
        let server =
            Self { address: udp.local_addr().unwrap(), asked: watch::Sender::new(0), open: Arc::new(watch::Sender::new(true)) };

        let (asked, open, behaviour) = (server.asked.clone(), Arc::clone(&server.open), Arc::clone(&answer));
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            // A datagram that is sent again is the same question.
            let mut seen = HashSet::new();
            loop {
                let Ok((length, client)) = udp.recv_from(&mut buffer).await else { continue };
                let query = Message::from_vec(&buffer[..length]).unwrap();
                if seen.insert((query.metadata.id, query.queries.clone())) {
                    asked.send_modify(|asked| *asked += 1);
                }
                let (udp, answer, mut open) = (Arc::clone(&udp), Arc::clone(&behaviour), open.subscribe());
                tokio::spawn(async move {
                    open.wait_for(|open| *open).await.unwrap();
                    if let Some(answer) = answer(&query, Transport::Udp) {
                        udp.send_to(&answer, client).await.unwrap();
                    }
                });
            }
        });
        let asked = server.asked.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = tcp.accept().await.unwrap();
                let mut stream = Stream { inner: stream };
                let Some(query) = stream.receive().await else { continue };
                asked.send_modify(|asked| *asked += 1);
                if let Some(answer) = answer(&query, Transport::Tcp) {
                    stream.send_bytes(&answer).await.unwrap();
                }
            }
        });
        server
    }

    /// How many questions have come.
    pub(super) fn asked(&self) -> usize {
        *self.asked.borrow()
    }

    pub(super) async fn asked_at_least(&self, count: usize) {
        self.asked.subscribe().wait_for(|asked| *asked >= count).await.unwrap();
    }

    /// Keeps answers back.
    pub(super) fn hold(&self) {
        self.open.send_replace(false);
    }

    /// Lets all answers out.
    pub(super) fn release(&self) {
        self.open.send_replace(true);
    }
}

/// The service, with files of its own, which it looks at upon every question.
pub(super) struct Bed {
    pub(super) handle: DnsHandle,
    pub(super) responses: mpsc::Receiver<Response>,
    pub(super) names: Arc<Names>,
    directory: TempDir,
    next_tag: AtomicU64,
}

impl Bed {
    pub(super) fn new(servers: &[&Server]) -> Self {
        Self::with_servers(servers.iter().map(|server| server.address).collect())
    }

    pub(super) fn with_servers(servers: Vec<SocketAddr>) -> Self {
        Self::configured(|config| config.servers = servers)
    }

    pub(super) fn with_resolv_conf(content: &str) -> Self {
        Self::configured(|config| std::fs::write(&config.resolv_conf, content).unwrap())
    }

    pub(super) fn configured(configure: impl FnOnce(&mut DnsConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = DnsConfig {
            resolv_conf: directory.path().join("resolv.conf"),
            hosts_file: directory.path().join("hosts"),
            ..DnsConfig::default()
        };
        configure(&mut config);
        let addresses = |last: u8| vec![IpAddr::from([10, 0, 2, last]), IpAddr::from([0xfec0, 0, 0, 0, 0, 0, 0, u16::from(last)])];
        let local = LocalNames { gateway: addresses(2), host: addresses(2), dns: addresses(3) };
        let names = Arc::new(Names::new());
        let (handle, responses) = DnsHandle::spawn_checking(&config, Arc::clone(&names), local, Duration::ZERO).unwrap();
        Self { handle, responses, names, directory, next_tag: AtomicU64::new(1000) }
    }

    pub(super) fn write(&self, file: &str, content: &str) {
        // Under another name first, as careful programs do: so the file is never half there, and always another one.
        let new = self.directory.path().join("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, self.directory.path().join(file)).unwrap();
    }

    pub(super) fn remove(&self, file: &str) {
        std::fs::remove_file(self.directory.path().join(file)).unwrap();
    }

    pub(super) fn send(&self, tag: u64, message: Vec<u8>) -> Result<(), Overloaded> {
        self.handle.query(Query { guest: GUEST, tag, message })
    }

    /// Sends a datagram and waits for the answer to it.
    pub(super) async fn ask_raw(&mut self, message: Vec<u8>) -> Vec<u8> {
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        self.send(tag, message).unwrap();
        let response = self.responses.recv().await.unwrap();
        assert_eq!((response.tag, response.guest), (tag, GUEST));
        response.message
    }

    pub(super) async fn ask(&mut self, message: Message) -> Message {
        let answer = Message::from_vec(&self.ask_raw(message.to_vec().unwrap()).await).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        answer
    }

    /// The name that the PTR record at `text` holds.
    pub(super) async fn pointer(&mut self, text: &str) -> String {
        let answer = self.ask(question(text, RecordType::PTR)).await;
        answer.answers[0].data.to_string()
    }

    /// A connection of the guest.
    pub(super) fn connect(&self) -> Stream<tokio::net::UnixStream> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.handle.stream(theirs, GUEST).unwrap();
        ours.set_nonblocking(true).unwrap();
        Stream { inner: tokio::net::UnixStream::from_std(ours).unwrap() }
    }

    /// Waits until all connections are gone.
    pub(super) async fn settled(&self) {
        let all = u32::try_from(STREAMS).unwrap();
        drop(self.handle.streams.acquire_many(all).await.unwrap());
    }
}

/// Messages over a stream.
pub(super) struct Stream<S> {
    pub(super) inner: S,
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Stream<S> {
    pub(super) async fn send(&mut self, message: &Message) {
        self.try_send(message).await.unwrap();
    }

    pub(super) async fn try_send(&mut self, message: &Message) -> std::io::Result<()> {
        self.send_bytes(&message.to_vec().unwrap()).await
    }

    async fn send_bytes(&mut self, message: &[u8]) -> std::io::Result<()> {
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        self.inner.write_all(&[&length, message].concat()).await
    }

    pub(super) async fn receive(&mut self) -> Option<Message> {
        let length = self.inner.read_u16().await.ok()?;
        let mut message = vec![0; usize::from(length)];
        self.inner.read_exact(&mut message).await.ok()?;
        Some(Message::from_vec(&message).unwrap())
    }
}
