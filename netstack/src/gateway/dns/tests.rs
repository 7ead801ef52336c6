//! Stories about the whole service, against upstream servers of the test's own on loopback.

mod fixture;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{CAA, NULL, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::message::{Question, Transport, with_code};
use super::*;
use fixture::{Bed, Server, address, address_of, answer_with, closed_port, name, question, soa};

#[tokio::test]
async fn an_answer_comes_back_whole_whatever_its_type() {
    let server = Server::start(|query, _| {
        let kind = query.queries[0].query_type();
        let owner = query.queries[0].name().clone();
        let data = match kind {
            RecordType::CAA => RData::CAA(CAA::new_issue(true, Some(name("ca.example.")), Vec::new())),
            RecordType::ANY => RData::TXT(TXT::new(vec!["any".to_owned()])),
            kind => RData::Unknown { code: kind, rdata: NULL::with(vec![0, 1, 2, 0xff]) },
        };
        let mut answer = answer_with(query, [Record::from_rdata(owner, 60, data)]);
        answer.metadata.authoritative = true;
        answer.add_authority(soa());
        answer.add_additional(address("ns.example.", 9));
        Some(answer)
    })
    .await;
    let mut bed = Bed::new(&[&server]);
    for kind in [RecordType::CAA, RecordType::ANY, RecordType::DS, RecordType::Unknown(65280), RecordType::Unknown(999)] {
        let answer = bed.ask(question("thing.example.", kind)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!((answer.answers.len(), answer.authorities.len(), answer.additionals.len()), (1, 1, 1), "{kind}");
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        if !matches!(kind, RecordType::CAA | RecordType::ANY) {
            assert_eq!(answer.answers[0].data, RData::Unknown { code: kind, rdata: NULL::with(vec![0, 1, 2, 0xff]) });
        }
    }
}

#[tokio::test]
async fn a_service_binding_passes_through() {
    // `example. HTTPS 1 . alpn=h2` with a key that nobody knows, as bytes on the wire.
    let rdata = [0, 1, 0, 0, 1, 0, 3, 2, b'h', b'2', 0xff, 0, 0, 1, 7];
    let server = Server::start(move |query, _| {
        let record =
            Record::from_rdata(name("example."), 60, RData::Unknown { code: RecordType::HTTPS, rdata: NULL::with(rdata.to_vec()) });
        Some(answer_with(query, [record]))
    })
    .await;
    let mut bed = Bed::new(&[&server]);
    let bytes = bed.ask_raw(question("example.", RecordType::HTTPS).to_vec().unwrap()).await;
    assert!(bytes.windows(rdata.len()).any(|window| window == rdata));
}

#[tokio::test]
async fn what_does_not_exist_comes_with_its_soa_and_is_remembered() {
    let server = Server::start(|query, _| {
        let mut answer = answer_with(query, []);
        answer.metadata.response_code = ResponseCode::NXDomain;
        answer.add_authority(soa());
        Some(answer)
    })
    .await;
    let mut bed = Bed::new(&[&server]);
    for _ in 0..2 {
        let answer = bed.ask(question("nowhere.example.", RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer.authorities, [soa()]);
    }
    assert_eq!(server.asked(), 1);
    assert_eq!(bed.handle.stats().cached, 1);
}

#[tokio::test]
async fn a_cached_answer_counts_down() {
    let server = Server::start(|query, _| Some(answer_with(query, [address_of(query, 1)]))).await;
    let mut bed = Bed::new(&[&server]);
    assert_eq!(bed.ask(question("www.example.", RecordType::A)).await.answers[0].ttl, 300);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(100)).await;
    assert_eq!(bed.ask(question("www.example.", RecordType::A)).await.answers[0].ttl, 200);
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn an_error_of_the_only_server_is_the_answer() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotAuth] {
        let server = Server::start(move |query, _| {
            let mut answer = answer_with(query, []);
            answer.metadata.response_code = code;
            answer.add_authority(soa());
            Some(answer)
        })
        .await;
        let answer = Bed::new(&[&server]).ask(question("www.example.", RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, code);
        assert_eq!(answer.authorities.len(), 1);
    }
}

#[tokio::test]
async fn a_server_that_fails_is_passed_over_for_one_that_does_not() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let first = Server::start(move |query, _| {
            let mut answer = answer_with(query, []);
            answer.metadata.response_code = code;
            Some(answer)
        })
        .await;
        let second = Server::start(|query, _| Some(answer_with(query, [address_of(query, 2)]))).await;
        let answer = Bed::new(&[&first, &second]).ask(question("www.example.", RecordType::A)).await;
        assert_eq!(answer.answers, [address("www.example.", 2)]);
        assert_eq!((first.asked(), second.asked()), (1, 1));
    }
}

#[tokio::test]
async fn a_server_with_a_closed_port_is_left_alone_after_the_first_refusal() {
    let second = Server::start(|query, _| Some(answer_with(query, [address_of(query, 2)]))).await;
    let closed = closed_port();
    let mut bed = Bed::with_servers(vec![closed, second.address]);
    assert_eq!(bed.ask(question("first.example.", RecordType::A)).await.answers.len(), 1);

    let now_open = std::net::UdpSocket::bind(closed).unwrap();
    now_open.set_nonblocking(true).unwrap();
    assert_eq!(bed.ask(question("second.example.", RecordType::A)).await.answers.len(), 1);
    assert_eq!(now_open.recv(&mut [0; 512]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_silent_server_is_soon_left_alone_and_tried_again_later() {
    let first = Server::start(|_, _| None).await;
    let second = Server::start(|query, _| Some(answer_with(query, [address_of(query, 2)]))).await;
    let mut bed = Bed::new(&[&first, &second]);
    for n in 0..10 {
        let answer = bed.ask(question(&format!("n{n}.example."), RecordType::A)).await;
        assert_eq!(answer.answers.len(), 1);
    }
    // Twice it had its chance; each time it got one datagram before the second server won.
    assert_eq!(first.asked(), 2);
    assert_eq!(second.asked(), 10);

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    assert_eq!(bed.ask(question("later.example.", RecordType::A)).await.answers.len(), 1);
    first.asked_at_least(3).await;
}

#[tokio::test]
async fn with_no_server_in_reach_the_answer_is_servfail() {
    let silent = Server::start(|_, _| None).await;
    for servers in [vec![closed_port()], vec![closed_port(), silent.address]] {
        let mut bed = Bed::with_servers(servers);
        let answer = bed.ask(question("www.example.", RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(bed.handle.stats().failed, 1);
    }
}

#[tokio::test]
async fn what_does_not_fit_a_datagram_comes_over_tcp() {
    let server = Server::start(|query, transport| {
        if transport == Transport::Udp {
            let mut answer = answer_with(query, []);
            answer.metadata.truncation = true;
            return Some(answer);
        }
        let owner = query.queries[0].name().clone();
        let texts = (0..20).map(|n| Record::from_rdata(owner.clone(), 60, RData::TXT(TXT::new(vec![format!("{n:0>150}")]))));
        Some(answer_with(query, texts))
    })
    .await;
    let mut bed = Bed::new(&[&server]);

    let bytes = bed.ask_raw(question("big.example.", RecordType::TXT).to_vec().unwrap()).await;
    let answer = Message::from_vec(&bytes).unwrap();
    assert!(answer.metadata.truncation && answer.answers.is_empty() && answer.edns.is_none());
    assert!(bytes.len() <= 512);

    let mut large = question("big.example.", RecordType::TXT);
    large.edns = Some(Edns::new());
    large.edns.as_mut().unwrap().set_max_payload(4096);
    let answer = bed.ask(large).await;
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 20);
    assert_eq!(answer.edns.unwrap().max_payload(), 1232);

    let mut stream = bed.connect();
    stream.send(&question("big.example.", RecordType::TXT)).await;
    assert_eq!(stream.receive().await.unwrap().answers.len(), 20);
    assert_eq!(server.asked(), 2, "the rest came from the cache");
}

#[tokio::test]
async fn additional_records_give_way_before_an_answer_is_truncated() {
    let server = Server::start(|query, _| {
        let mut answer = answer_with(query, [address_of(query, 1)]);
        answer.add_additionals((0..60).map(|n| address("ns.example.", n)));
        Some(answer)
    })
    .await;
    let answer = Bed::new(&[&server]).ask(question("www.example.", RecordType::A)).await;
    assert!(!answer.metadata.truncation);
    assert_eq!((answer.answers.len(), answer.additionals.len()), (1, 0));
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without() {
    let server = Server::start(|query, _| {
        if query.edns.is_some() {
            let mut answer = answer_with(query, []);
            answer.metadata.response_code = ResponseCode::FormErr;
            return Some(answer);
        }
        Some(answer_with(query, [address_of(query, 1)]))
    })
    .await;
    let answer = Bed::new(&[&server]).ask(question("www.example.", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn flags_go_up_and_come_down() {
    let server = Server::start(|query, _| {
        let seen = format!(
            "rd={} ad={} cd={} do={} size={}",
            query.metadata.recursion_desired,
            query.metadata.authentic_data,
            query.metadata.checking_disabled,
            query.edns.as_ref().unwrap().flags().dnssec_ok,
            query.edns.as_ref().unwrap().max_payload()
        );
        let text = Record::from_rdata(query.queries[0].name().clone(), 60, RData::TXT(TXT::new(vec![seen])));
        let mut answer = answer_with(query, [text]);
        answer.metadata.authentic_data = true;
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::Unknown(15, vec![0, 3]));
        edns.options_mut().insert(EdnsOption::Unknown(10, vec![7; 16]));
        answer.edns = Some(edns);
        Some(answer)
    })
    .await;
    let mut bed = Bed::new(&[&server]);
    let seen = |answer: &Message| answer.answers[0].data.to_string().trim_matches('"').to_owned();

    let plain = bed.ask(question("flags.example.", RecordType::TXT)).await;
    assert_eq!(seen(&plain), "rd=true ad=false cd=false do=false size=1232");
    assert!(!plain.metadata.authentic_data && plain.edns.is_none());

    let mut query = question("flags.example.", RecordType::TXT);
    query.metadata.recursion_desired = false;
    query.metadata.checking_disabled = true;
    query.edns = Some(Edns::new());
    query.edns.as_mut().unwrap().set_dnssec_ok(true);
    let answer = bed.ask(query).await;
    assert_eq!(seen(&answer), "rd=false ad=false cd=true do=true size=1232");
    assert!(answer.metadata.authentic_data && answer.metadata.checking_disabled && !answer.metadata.recursion_desired);
    // An extended error is for the guest; a cookie was for us.
    let edns = answer.edns.unwrap();
    assert!(edns.flags().dnssec_ok);
    assert_eq!(edns.options().options.len(), 1);
}

#[tokio::test]
async fn the_same_question_of_many_goes_upstream_once_and_each_gets_its_own_spelling() {
    let server = Server::start(|query, _| Some(answer_with(query, [address_of(query, 1)]))).await;
    server.hold();
    let mut bed = Bed::new(&[&server]);
    let spellings = ["www.example.", "WWW.example.", "wWw.eXample."];
    for (tag, spelling) in (0..).zip(spellings.iter().cycle().take(60)) {
        bed.send(tag, question(spelling, RecordType::A).to_vec().unwrap()).unwrap();
    }
    server.asked_at_least(1).await;
    server.release();
    for _ in 0..60 {
        let response = bed.responses.recv().await.unwrap();
        let answer = Message::from_vec(&response.message).unwrap();
        let spelling = spellings[usize::try_from(response.tag % 3).unwrap()];
        assert_eq!(answer.queries[0].name().to_ascii(), spelling);
        assert_eq!(answer.answers[0].name.to_ascii(), spelling);
    }
    assert_eq!(server.asked(), 1);
    let stats = bed.handle.stats();
    assert_eq!((stats.forwarded, stats.joined), (1, 59));
}

#[tokio::test]
async fn three_hundred_questions_at_once_are_no_more_work_than_allowed() {
    let server = Server::start(|query, _| Some(answer_with(query, [address_of(query, 1)]))).await;
    server.hold();
    let mut bed = Bed::configured(|config| {
        config.servers = vec![server.address];
        config.concurrent = 16;
    });
    let mut refused = 0;
    for tag in 0..300 {
        let message = question(&format!("n{tag}.example."), RecordType::A).to_vec().unwrap();
        refused += usize::from(bed.send(tag, message).is_err());
    }
    assert_eq!(refused, 284);
    assert_eq!(bed.handle.stats().overloaded, 284);
    server.asked_at_least(16).await;
    assert_eq!(server.asked(), 16);
    server.release();

    // What was refused was told so as far as there was room.
    let mut codes = Vec::new();
    for _ in 0..32 {
        codes.push(Message::from_vec(&bed.responses.recv().await.unwrap().message).unwrap().metadata.response_code);
    }
    assert_eq!(codes.iter().filter(|code| **code == ResponseCode::NoError).count(), 16);
    assert_eq!(codes.iter().filter(|code| **code == ResponseCode::ServFail).count(), 16);
    assert_eq!(bed.ask(question("after.example.", RecordType::A)).await.answers.len(), 1);
}

#[tokio::test]
async fn a_changed_resolv_conf_is_followed_and_a_lost_one_is_not_missed() {
    let old = Server::start(|query, _| Some(answer_with(query, [address_of(query, 1)]))).await;
    let new = Server::start(|query, _| Some(answer_with(query, [address_of(query, 2)]))).await;
    let mut bed = Bed::with_resolv_conf(&format!("search old.example\nnameserver [127.0.0.1]:{}\n", old.address.port()));
    assert_eq!(bed.ask(question("www.example.", RecordType::A)).await.answers, [address("www.example.", 1)]);
    assert_eq!(bed.handle.search(), ["old.example"]);

    // The same question: the cache has been emptied too.
    bed.write("resolv.conf", &format!("search new.example\nnameserver [127.0.0.1]:{}\n", new.address.port()));
    assert_eq!(bed.ask(question("www.example.", RecordType::A)).await.answers, [address("www.example.", 2)]);
    assert_eq!(bed.handle.search(), ["new.example"]);

    for (n, content) in [Some(""), None, Some("# nothing yet\n")].into_iter().enumerate() {
        match content {
            Some(content) => bed.write("resolv.conf", content),
            None => bed.remove("resolv.conf"),
        }
        let answer = bed.ask(question(&format!("n{n}.example."), RecordType::A)).await;
        assert_eq!(answer.answers.len(), 1, "{content:?}");
    }

    bed.write("resolv.conf", &format!("nameserver [127.0.0.1]:{}\n", old.address.port()));
    assert_eq!(bed.ask(question("www.example.", RecordType::A)).await.answers, [address("www.example.", 1)]);
}

#[tokio::test]
async fn an_answer_that_comes_after_the_servers_have_changed_is_not_kept() {
    let old = Server::start(|query, _| Some(answer_with(query, [address_of(query, 1)]))).await;
    let new = Server::start(|query, _| Some(answer_with(query, [address_of(query, 2)]))).await;
    old.hold();
    let mut bed = Bed::with_resolv_conf(&format!("nameserver [127.0.0.1]:{}\n", old.address.port()));
    bed.send(1, question("www.example.", RecordType::A).to_vec().unwrap()).unwrap();
    old.asked_at_least(1).await;
    bed.write("resolv.conf", &format!("nameserver [127.0.0.1]:{}\n", new.address.port()));
    assert_eq!(bed.ask(question("other.example.", RecordType::A)).await.answers, [address("other.example.", 2)]);
    old.release();
    assert_eq!(bed.responses.recv().await.unwrap().tag, 1);
    assert_eq!(bed.ask(question("www.example.", RecordType::A)).await.answers, [address("www.example.", 2)]);
}

#[tokio::test]
async fn the_hosts_file_answers_and_is_followed() {
    let server = Server::start(|query, _| Some(answer_with(query, []))).await;
    let mut bed = Bed::new(&[&server]);
    bed.write("hosts", "127.0.0.1 localhost\n127.0.1.1 thismachine\n192.0.2.7 Printer.lan printer\n2001:db8::9 six\n");
    let v4 = |answer: Message| answer.answers.iter().filter_map(|r| r.data.ip_addr()).collect::<Vec<IpAddr>>();

    assert_eq!(v4(bed.ask(question("PRINTER.lan.", RecordType::A)).await), [IpAddr::from([192, 0, 2, 7])]);
    let absent = bed.ask(question("printer.", RecordType::AAAA)).await;
    assert_eq!((absent.metadata.response_code, absent.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(v4(bed.ask(question("six.", RecordType::AAAA)).await).len(), 1);
    // 127.0.1.1 would be the guest itself.
    assert_eq!(v4(bed.ask(question("thismachine.", RecordType::A)).await), [IpAddr::from([10, 0, 2, 2])]);
    assert_eq!(v4(bed.ask(question("localhost.", RecordType::A)).await), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
    assert_eq!(v4(bed.ask(question("www.localhost.", RecordType::AAAA)).await), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
    assert_eq!(bed.pointer("7.2.0.192.in-addr.arpa.").await, "printer.lan.");
    assert_eq!(server.asked(), 0);

    bed.write("hosts", "192.0.2.8 printer\n");
    assert_eq!(v4(bed.ask(question("printer.", RecordType::A)).await), [IpAddr::from([192, 0, 2, 8])]);
    bed.ask(question("printer.lan.", RecordType::A)).await;
    assert_eq!(server.asked(), 1);
    // What else there is to know of a name is known upstream.
    bed.ask(question("printer.", RecordType::MX)).await;
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn the_virtual_hosts_and_the_guests_have_names_both_ways() {
    let server = Server::start(|query, _| Some(answer_with(query, []))).await;
    let mut bed = Bed::new(&[&server]);
    bed.names.set("Alpha", IpAddr::from([10, 0, 2, 15]), Duration::from_secs(3600)).unwrap();
    for (text, expected) in [
        ("gateway.slipway.internal.", [10, 0, 2, 2]),
        ("Host.Slipway.INTERNAL.", [10, 0, 2, 2]),
        ("dns.slipway.internal.", [10, 0, 2, 3]),
        ("alpha.slipway.internal.", [10, 0, 2, 15]),
        ("ALPHA.", [10, 0, 2, 15]),
    ] {
        let answer = bed.ask(question(text, RecordType::A)).await;
        assert_eq!(answer.answers[0].data.ip_addr(), Some(IpAddr::from(expected)), "{text}");
        assert_eq!(answer.answers[0].name.to_ascii(), text);
        assert!(answer.metadata.authoritative);
    }
    let six = bed.ask(question("gateway.slipway.internal.", RecordType::AAAA)).await;
    assert_eq!(six.answers[0].data.ip_addr(), Some("fec0::2".parse().unwrap()));

    assert_eq!(bed.pointer("2.2.0.10.in-addr.arpa.").await, "gateway.slipway.internal.");
    assert_eq!(bed.pointer("3.2.0.10.in-addr.arpa.").await, "dns.slipway.internal.");
    assert_eq!(bed.pointer("15.2.0.10.IN-ADDR.arpa.").await, "alpha.slipway.internal.");
    let nibbles = format!("2.{}0.c.e.f.ip6.arpa.", "0.".repeat(27));
    assert_eq!(bed.pointer(&nibbles).await, "gateway.slipway.internal.");

    bed.names.remove(IpAddr::from([10, 0, 2, 15]));
    for text in ["alpha.slipway.internal.", "x.gateway.slipway.internal."] {
        let gone = bed.ask(question(text, RecordType::A)).await;
        assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
        assert!(matches!(gone.authorities[0].data, RData::SOA(_)));
    }
    let empty = bed.ask(question("gateway.slipway.internal.", RecordType::MX)).await;
    assert_eq!((empty.metadata.response_code, empty.answers.len(), empty.authorities.len()), (ResponseCode::NoError, 0, 1));
    for (kind, count) in [(RecordType::SOA, 1), (RecordType::NS, 1), (RecordType::A, 0), (RecordType::ANY, 2)] {
        assert_eq!(bed.ask(question("slipway.internal.", kind)).await.answers.len(), count, "{kind}");
    }
    assert_eq!(server.asked(), 0, "nothing of this is anybody else's business");

    bed.ask(question("notslipway.internal.", RecordType::A)).await;
    bed.ask(question("10.in-addr.arpa.", RecordType::SOA)).await;
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_guest_cannot_take_a_name_that_the_host_has_given() {
    let mut bed = Bed::new(&[]);
    bed.write("hosts", "192.0.2.7 printer\n");
    bed.names.set("printer", IpAddr::from([10, 0, 2, 66]), Duration::from_secs(3600)).unwrap();
    let answer = bed.ask(question("printer.", RecordType::A)).await;
    assert_eq!(answer.answers[0].data.ip_addr(), Some(IpAddr::from([192, 0, 2, 7])));
}

#[tokio::test]
async fn what_is_no_question_for_a_forwarder_is_refused_or_dropped() {
    let server = Server::start(|query, _| Some(answer_with(query, []))).await;
    let mut bed = Bed::new(&[&server]);
    let asking = || question("www.example.", RecordType::A);
    let code = |answer: Message| answer.metadata.response_code;

    let mut update = asking();
    update.metadata.op_code = OpCode::Update;
    let answer = bed.ask(update).await;
    assert_eq!((answer.metadata.op_code, answer.metadata.response_code), (OpCode::Update, ResponseCode::NotImp));

    let mut none = asking();
    none.queries.clear();
    assert_eq!(code(bed.ask(none).await), ResponseCode::FormErr);
    let mut two = asking();
    two.queries.push(two.queries[0].clone());
    assert_eq!(code(bed.ask(two).await), ResponseCode::FormErr);

    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(bed.ask(chaos).await), ResponseCode::Refused);
    for kind in [RecordType::AXFR, RecordType::IXFR, RecordType::OPT] {
        assert_eq!(code(bed.ask(question("example.", kind)).await), ResponseCode::Refused);
    }
    let mut future = asking();
    future.edns = Some(Edns::new());
    future.edns.as_mut().unwrap().set_version(1);
    let answer = bed.ask(future).await;
    // 16 is BADVERS in an answer to a question without a signature.
    assert_eq!((u16::from(answer.metadata.response_code), answer.edns.unwrap().version()), (16, 0));

    // The tail is missing.
    let mut cut = asking().to_vec().unwrap();
    cut.truncate(20);
    assert_eq!(Message::from_vec(&bed.ask_raw(cut).await).unwrap().metadata.response_code, ResponseCode::FormErr);

    // Neither a response nor scraps are answered: the next thing to come is the answer to a question.
    let mut response = asking();
    response.metadata.message_type = MessageType::Response;
    bed.send(1, response.to_vec().unwrap()).unwrap();
    bed.send(2, vec![1, 2, 3]).unwrap();
    assert_eq!(code(bed.ask(question("gateway.slipway.internal.", RecordType::A)).await), ResponseCode::NoError);
    assert_eq!(bed.handle.stats().dropped, 2);
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn a_connection_carries_many_questions_and_answers_them_as_they_come() {
    let server = Server::start(|query, _| Some(answer_with(query, [address_of(query, 1)]))).await;
    server.hold();
    let bed = Bed::new(&[&server]);
    let mut stream = bed.connect();
    stream.send(&question("slow.example.", RecordType::A)).await;
    stream.send(&question("gateway.slipway.internal.", RecordType::A)).await;
    assert_eq!(stream.receive().await.unwrap().queries[0].name(), &name("gateway.slipway.internal."));
    // Its half is closed, but what it has asked is still answered.
    stream.inner.shutdown().await.unwrap();
    server.release();
    assert_eq!(stream.receive().await.unwrap().queries[0].name(), &name("slow.example."));
    assert!(stream.receive().await.is_none());
}

#[tokio::test]
async fn a_connection_that_asks_without_end_is_not_read_without_end() {
    let server = Server::start(|query, _| Some(answer_with(query, [address_of(query, 1)]))).await;
    server.hold();
    let bed = Bed::new(&[&server]);
    let mut stream = bed.connect();
    for n in 0..100 {
        stream.send(&question(&format!("n{n}.example."), RecordType::A)).await;
    }
    server.asked_at_least(16).await;
    assert_eq!(server.asked(), 16);
    server.release();
    for _ in 0..100 {
        assert_eq!(stream.receive().await.unwrap().answers.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let bed = Bed::new(&[]);
    let mut stream = bed.connect();
    // Half a message is not less idle than none.
    stream.inner.write_all(&[0, 40, 1]).await.unwrap();
    let mut rest = Vec::new();
    stream.inner.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_no_answers_is_closed() {
    let bed = Bed::new(&[]);
    let mut stream = bed.connect();
    let query = question("slipway.internal.", RecordType::ANY);
    // Until the other side has given up: asking is then an error.
    while stream.try_send(&query).await.is_ok() {}
    bed.settled().await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let bed = Bed::new(&[]);
    let streams: Vec<_> = (0..STREAMS).map(|_| bed.connect()).collect();
    let (ours, theirs) = UnixStream::pair().unwrap();
    assert_eq!(bed.handle.stream(theirs, fixture::GUEST), Err(Overloaded));
    drop((streams, ours));
    bed.settled().await;
    let mut stream = bed.connect();
    stream.send(&question("gateway.slipway.internal.", RecordType::A)).await;
    assert_eq!(stream.receive().await.unwrap().answers.len(), 1);
}

#[tokio::test]
async fn a_server_that_sends_rubbish_hurts_nobody() {
    // Every byte of a good answer after its id, turned over one at a time, and every length that it could be cut to.
    let server = Server::start_raw(|query| {
        let number: usize =
            query.queries[0].name().iter().next().and_then(|label| std::str::from_utf8(label).ok()?.get(1..)?.parse().ok())?;
        let mut answer = answer_with(query, [address_of(query, 1)]);
        answer.add_authority(soa());
        answer.edns = Some(Edns::new());
        let mut bytes = answer.to_vec().unwrap();
        if number.is_multiple_of(2) {
            bytes.truncate(number / 2 + 2);
        } else if let Some(byte) = bytes.get_mut(number / 2 + 2) {
            *byte ^= 0xff;
        }
        Some(bytes)
    })
    .await;
    let mut bed = Bed::with_resolv_conf(&format!("options timeout:1\nnameserver [127.0.0.1]:{}\n", server.address.port()));
    for tag in 0..200 {
        bed.send(tag, question(&format!("n{tag}.example."), RecordType::A).to_vec().unwrap()).unwrap();
    }
    for _ in 0..200 {
        let response = bed.responses.recv().await.unwrap();
        assert!(Message::from_vec(&response.message).is_ok());
    }
}

#[tokio::test]
async fn an_answer_to_another_question_is_not_believed() {
    let server = Server::start(|query, _| {
        let mut other = query.clone();
        other.queries[0].set_name(name("evil.example."));
        Some(answer_with(&other, [address("evil.example.", 66)]))
    })
    .await;
    let mut bed = Bed::with_resolv_conf(&format!("options timeout:1\nnameserver [127.0.0.1]:{}\n", server.address.port()));
    let answer = bed.ask(question("www.example.", RecordType::A)).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::ServFail, 0));
}

#[tokio::test]
async fn a_message_of_another_operation_is_no_answer() {
    let server = Server::start(|query, _| {
        let mut answer = answer_with(query, [address("www.example.", 66)]);
        answer.metadata.op_code = OpCode::Update;
        Some(answer)
    })
    .await;
    let mut bed = Bed::with_resolv_conf(&format!("options timeout:1\nnameserver [127.0.0.1]:{}\n", server.address.port()));
    let answer = bed.ask(question("www.example.", RecordType::A)).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::ServFail, 0));
}

#[test]
fn without_a_runtime_the_service_says_so() {
    let error = DnsHandle::spawn(&DnsConfig::default(), Arc::default(), LocalNames::default()).unwrap_err();
    assert!(error.to_string().contains("tokio runtime"));
}

proptest! {
    #[test]
    fn whatever_a_guest_sends_is_answered_refused_or_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        survives(&bytes)?;
    }

    #[test]
    fn nearly_right_questions_are_no_trouble(at in 0_usize..60, value: u8, cut in 12_usize..60, label in "[a-zA-Z0-9_*\\\\. -]{0,40}") {
        let mut query = Message::query();
        query.add_query(hickory_proto::op::Query::query(Name::from_utf8(label).unwrap_or_default(), RecordType::A));
        query.edns = Some(Edns::new());
        let mut bytes = query.to_vec().unwrap();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(cut);
        survives(&bytes)?;
    }
}

fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    let local = Local::new(LocalNames::default(), Arc::default());
    match Question::parse(bytes) {
        Ok(question) => {
            let answer = local.answer(&Default::default(), &question.query).unwrap_or_else(|| with_code(ResponseCode::ServFail));
            for transport in [Transport::Udp, Transport::Tcp] {
                let reply = question.reply(answer.clone(), transport);
                prop_assert_eq!(&reply[..2], &bytes[..2]);
                prop_assert!(Message::from_vec(&reply).is_ok());
            }
            prop_assert!(question.to_upstream().to_vec().is_ok());
        }
        Err(Some(refusal)) => prop_assert_eq!(&refusal[..2], &bytes[..2]),
        Err(None) => prop_assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0),
    }
    Ok(())
}
