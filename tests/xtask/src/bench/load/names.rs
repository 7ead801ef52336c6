//! Questions for an address by DNS (RFC 1035), one after the other, and a server of hickory's that answers them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use hickory_server::Server;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::rr::rdata::{A, SOA};
use hickory_server::proto::rr::{Name, RData, Record, RecordSet, RrKey};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};

use super::{PATIENCE, Rounds, measure};

/// The zone that the server knows, and the name in it that is asked for.
const ZONE: &str = "example.test.";
const NAME: &str = "www.example.test.";
/// For how long an answer may be kept: longer than any measurement.
const TTL: u32 = 86_400;

/// Serves the zone from memory, on UDP and TCP.
pub(super) fn serve(at: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let zone = Name::from_ascii(ZONE)?;
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 3600, 600, 86_400, 60);
        let records = [
            Record::from_rdata(zone.clone(), TTL, RData::SOA(soa)),
            Record::from_rdata(Name::from_ascii(NAME)?, TTL, RData::A(A::new(192, 0, 2, 77))),
        ];
        let mut sets = BTreeMap::new();
        for record in records {
            let key = RrKey::new(record.name.clone().into(), record.record_type());
            sets.insert(key, RecordSet::from(record));
        }
        let handler: InMemoryZoneHandler<TokioRuntimeProvider> =
            InMemoryZoneHandler::new(zone.clone(), sets, ZoneType::Primary, AxfrPolicy::Deny).map_err(|why| anyhow!(why))?;
        let mut catalog = Catalog::new();
        catalog.upsert(zone.into(), vec![Arc::new(handler)]);
        let mut server = Server::new(catalog);
        server.register_socket(tokio::net::UdpSocket::bind(at).await?);
        server.register_listener(tokio::net::TcpListener::bind(at).await?, PATIENCE, 16);
        server.block_until_done().await.context("the server has ended")
    })
}

/// Asks for the address over and over, and prints how long the answers took.
pub(super) fn ask(rounds: &Rounds) -> Result<()> {
    let socket = UdpSocket::bind(if rounds.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(rounds.to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut question = question();
    let mut id = 0_u16;
    measure(rounds, || {
        id = id.wrapping_add(1);
        question[..2].copy_from_slice(&id.to_be_bytes());
        socket.send(&question)?;
        let mut answer = [0; 1500];
        let len = socket.recv(&mut answer).context("no answer")?;
        ensure!(len > question.len() && answer[..2] == question[..2], "an answer to another question");
        // No error, and at least one record.
        ensure!(answer[3] & 0x0f == 0 && answer[7] > 0, "the name is not known there");
        Ok(())
    })
}

/// Recursion desired, one question: the address of [`NAME`].
fn question() -> Vec<u8> {
    let mut question = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in NAME.trim_end_matches('.').split('.') {
        question.push(u8::try_from(label.len()).unwrap_or_default());
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    question
}
