//! The DNS service without its sockets: guests' questions, servers' answers, and the files that it reads.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use netstack::fuzzing::dns::{Origin, Service, held, resolv_conf};
use netstack::gateway::dns::{LocalNames, Names};

use crate::script::{Draft, Script};

/// The longest answer over UDP, whatever a guest says that it takes; and to one that says nothing (RFC 1035 section 4.2.1).
const UDP_LONGEST: usize = 4096;
const UDP_DEFAULT: usize = 512;
/// A day: nothing is remembered for longer.
const TTL_LONGEST: u32 = 86_400;
const HOUR: Duration = Duration::from_secs(3600);

/// The first byte says which part of the service is on trial.
pub fn judge(input: &[u8]) {
    let mut script = Script::new(input);
    match script.byte() % 4 {
        0 | 1 => judge_service(&mut script),
        2 => judge_resolv_conf(script.rest()),
        _ => judge_names(&mut script),
    }
}

/// A hosts file, a guest's name, and then questions with what a server would answer.
fn judge_service(script: &mut Script<'_>) {
    let names = Arc::new(Names::new());
    let guest = String::from_utf8_lossy(script.piece());
    // Refused if it is no name.
    let _ = names.set(&guest, Ipv4Addr::new(10, 0, 2, 15).into(), HOUR);
    let local = LocalNames {
        gateway: vec!["10.0.2.2".parse().expect("an address"), "fec0::2".parse().expect("an address")],
        host: vec!["10.0.2.2".parse().expect("an address")],
        dns: vec!["10.0.2.3".parse().expect("an address")],
    };
    let mut service = Service::new(local, names, script.piece(), usize::from(script.byte() % 4));
    let mut time = Duration::ZERO;
    for _ in 0..32 {
        if script.is_over() {
            break;
        }
        time += Duration::from_secs(script.choose(&[0, 0, 0, 1, 60, 3600, 86_400, 10_000_000]));
        let tcp = script.byte() & 1 == 1;
        let (question, upstream) = (script.piece(), script.piece());
        let (origin, answer) = service.answer(time, question, tcp, upstream);
        judge_answer(question, tcp, origin, answer.as_deref());
        judge_repetition(&mut service, time, question, tcp, origin, answer);
    }
}

/// Whether `answer` is one to `question`.
fn judge_answer(question: &[u8], tcp: bool, origin: Origin, answer: Option<&[u8]>) {
    let is_query = question.len() >= 12 && question[2] & 0x80 == 0;
    let Some(answer) = answer else {
        assert!(!is_query, "a query without an answer");
        return;
    };
    assert!(is_query, "an answer to what is no query");
    assert!(answer.len() >= 12, "an answer without a whole header");
    assert_eq!(answer[..2], question[..2], "the id");
    assert_eq!(answer[2] & 0x80, 0x80, "it is a response");
    assert_eq!(answer[2] & 0x79, question[2] & 0x79, "operation and RD come back");
    assert_eq!(answer[3] & 0x80, 0x80, "recursion is available");
    let asked = Message::from_vec(question).ok();
    let payload = asked.as_ref().and_then(|asked| asked.edns.as_ref()).map(|edns| usize::from(edns.max_payload()));
    let longest = match payload {
        _ if tcp => usize::from(u16::MAX),
        Some(payload) => payload.clamp(UDP_DEFAULT, UDP_LONGEST),
        None => UDP_DEFAULT,
    };
    assert!(answer.len() <= longest, "{} bytes where {longest} are taken", answer.len());
    let read = Message::from_vec(answer).expect("an answer that can be read");
    if origin == Origin::Refusal {
        assert!(read.answers.is_empty() && u16::from(read.metadata.response_code) != 0, "a refusal that says something");
        return;
    }
    let asked = asked.expect("what is answered can be read");
    assert!(read.edns.is_none() || payload.is_some(), "EDNS for one who does not speak it");
    if let (Some(asked), Some(told)) = (asked.queries.first(), read.queries.first()) {
        assert_eq!(asked, told, "the question comes back");
        assert_eq!(asked.name().to_ascii(), told.name().to_ascii(), "and is spelt as it was");
    } else {
        assert!(read.answers.is_empty(), "records without a question");
    }
}

/// The same question once more, a moment later: it has the same answer, and what was remembered does not live longer.
fn judge_repetition(service: &mut Service, time: Duration, question: &[u8], tcp: bool, origin: Origin, answer: Option<Vec<u8>>) {
    let (again, second) = service.answer(time, question, tcp, &[]);
    match origin {
        Origin::Refusal | Origin::Local => assert_eq!((again, second), (origin, answer), "the same question, another answer"),
        Origin::Cache => assert_eq!(again, Origin::Cache, "forgotten at once"),
        Origin::Nobody => assert_eq!(again, Origin::Nobody, "remembered though nobody said it"),
        Origin::Upstream if again == Origin::Cache => {
            let second = Message::from_vec(&second.unwrap_or_default()).expect("a remembered answer that can be read");
            let longest = second.all_sections().map(|record| record.ttl).max().unwrap_or(0);
            assert!(longest <= TTL_LONGEST, "remembered with a TTL of {longest} s");
            let (later, _) = service.answer(time + Duration::from_secs(u64::from(TTL_LONGEST)), question, tcp, &[]);
            assert_ne!(later, Origin::Cache, "remembered for more than a day");
        }
        Origin::Upstream => {}
    }
}

fn judge_resolv_conf(text: &[u8]) {
    let Some((servers, search, timeout, attempts)) = resolv_conf(text) else { return };
    assert!((1..=8).contains(&servers.len()), "{} servers", servers.len());
    assert!(servers.iter().enumerate().all(|(at, server)| !servers[..at].contains(server)), "a server twice");
    assert!(search.len() <= 32 && search.iter().all(|domain| !domain.is_empty()), "{search:?}");
    assert!((1..=5).contains(&timeout.as_secs()) && (1..=3).contains(&attempts), "{timeout:?} {attempts}");
    // What was understood is understood again.
    let written = |server: &SocketAddr| match server {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("nameserver {}%{}\n", v6.ip(), v6.scope_id()),
        server => format!("nameserver [{}]:{}\n", server.ip(), server.port()),
    };
    let text: String = servers.iter().map(written).chain([format!("search {}\n", search.join(" "))]).collect();
    let (servers_again, search_again, ..) = resolv_conf(text.as_bytes()).expect("a file with servers");
    assert_eq!((servers_again, search_again), (servers, search));
}

/// Guests that take names and give them back.
fn judge_names(script: &mut Script<'_>) {
    let names = Names::new();
    let address = |number: u8| match number % 8 {
        number @ 0..4 => IpAddr::from([10, 0, 2, number]),
        number => IpAddr::from([0xfec0, 0, 0, 0, 0, 0, 0, u16::from(number)]),
    };
    for _ in 0..64 {
        if script.is_over() {
            break;
        }
        let (act, who) = (script.byte(), address(script.byte()));
        if act & 1 == 0 {
            let name = String::from_utf8_lossy(script.piece()).into_owned();
            if names.set(&name, who, HOUR).is_ok() {
                let (label, holders) = held(&names, who).expect("a name that was given");
                assert!(name.to_ascii_lowercase().starts_with(&label), "{name:?} became {label:?}");
                assert!(holders.contains(&who));
            } else {
                assert_eq!(held(&names, who), None, "a name in spite of a refusal");
            }
        } else {
            names.remove(who);
            assert_eq!(held(&names, who), None);
        }
        for who in (0..8).map(address) {
            let Some((label, holders)) = held(&names, who) else { continue };
            assert!(
                matches!(label.len(), 1..=63)
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            );
            let of_a_family = holders.iter().filter(|holder| holder.is_ipv4() == who.is_ipv4()).count();
            assert_eq!(of_a_family, 1, "{label:?} leads to several guests: {holders:?}");
        }
    }
}

/// A script of one question.
pub(crate) fn question_seed(tcp: bool, question: &[u8], upstream: &[u8]) -> Vec<u8> {
    let hosts = b"192.0.2.1 printer.lan printer\n127.0.0.1 localhost\n::1 ip6-localhost # comment\n2001:db8::1 printer\n";
    let scene = Draft::default().bytes(&[0]).piece(b"alpha").piece(hosts).bytes(&[3]);
    scene.bytes(&[0, u8::from(tcp)]).piece(question).piece(upstream).finish()
}

/// Questions of several kinds, and files.
pub fn seeds() -> Vec<Vec<u8>> {
    let name = |text: &str| Name::from_ascii(text).expect("a name");
    let mut seeds = Vec::new();
    for (text, kind) in [
        ("www.example.org.", RecordType::A),
        ("wWw.eXample.org.", RecordType::AAAA),
        ("gateway.slipway.internal.", RecordType::A),
        ("slipway.internal.", RecordType::SOA),
        ("nobody.slipway.internal.", RecordType::ANY),
        ("alpha.", RecordType::A),
        ("printer.lan.", RecordType::ANY),
        ("localhost.", RecordType::AAAA),
        ("2.2.0.10.in-addr.arpa.", RecordType::PTR),
        ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", RecordType::PTR),
        ("example.org.", RecordType::AXFR),
        ("example.org.", RecordType::HTTPS),
    ] {
        let mut question = Message::query();
        question.add_query(Query::query(name(text), kind));
        question.metadata.recursion_desired = true;
        let plain = question.to_vec().expect("a message");
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(1232).set_dnssec_ok(true);
        question.set_edns(edns);
        let extended = question.to_vec().expect("a message");

        let mut answer = Message::response(1, hickory_proto::op::OpCode::Query);
        answer.queries.clone_from(&question.queries);
        answer.add_answer(Record::from_rdata(name(text), 60, RData::CNAME(CNAME(name("other.example.org.")))));
        answer.add_answers((0..40).map(|last| Record::from_rdata(name(text), 300, RData::A(A::new(192, 0, 2, last)))));
        let whole = answer.to_vec().expect("a message");
        let soa = SOA::new(name("ns.example.org."), name("root.example.org."), 1, 2, 3, 4, 30);
        let mut nothing = Message::error_msg(1, hickory_proto::op::OpCode::Query, hickory_proto::op::ResponseCode::NXDomain);
        nothing.authorities.push(Record::from_rdata(name("example.org."), 600, RData::SOA(soa)));
        let nothing = nothing.to_vec().expect("a message");

        seeds.push(question_seed(false, &plain, &whole));
        seeds.push(question_seed(true, &plain, &nothing));
        seeds.push(question_seed(false, &extended, &whole));
    }
    seeds.push([&[2][..], b"nameserver 127.0.0.53\nnameserver fe80::1%2\nnameserver [::1]:5353\nsearch a.example b.example\noptions timeout:1 attempts:2 ndots:3\n"].concat());
    let name = |act: u8, who: u8, name: &[u8]| Draft::default().bytes(&[act, who]).piece(name).finish();
    seeds.push(
        [&[3][..], &name(0, 1, b"alpha"), &name(0, 2, b"ALPHA.lan"), &[1, 1], &name(0, 5, b"alpha"), &name(0, 2, b"wpad")].concat(),
    );
    seeds
}
