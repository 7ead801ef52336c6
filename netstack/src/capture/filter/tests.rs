use proptest::prelude::*;

use super::*;
use crate::capture::summary::tests::{arp, ping, tcp, udp6};

fn filter(text: &str) -> Filter {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Which of a segment, a datagram over IPv6, a ping and an ARP request are chosen.
fn chosen(text: &str) -> [bool; 4] {
    let filter = filter(text);
    [tcp(None, b""), udp6(b""), ping(1), arp()].map(|frame| filter.chooses(&Summary::of(&frame), Some(false)).unwrap())
}

#[test]
fn each_primitive_chooses_its_frames() {
    for (text, expected) in [
        ("ip", [true, false, true, false]),
        ("ip6", [false, true, false, false]),
        ("arp", [false, false, false, true]),
        ("tcp", [true, false, false, false]),
        ("udp", [false, true, false, false]),
        ("icmp", [false, false, true, false]),
        ("icmp6", [false; 4]),
        ("host 10.0.2.15", [true, false, true, true]),
        ("10.0.2.15", [true, false, true, true]),
        ("dst host 10.0.2.15", [false; 4]),
        ("src 10.0.2.15", [true, false, true, true]),
        ("host fec0::3", [false, true, false, false]),
        ("net 10.0.2.0/24", [true, false, true, true]),
        ("src net fec0::/64", [false, true, false, false]),
        ("port 80", [true, false, false, false]),
        ("src port 80", [false; 4]),
        ("portrange 5000-5001", [false, true, false, false]),
        ("src portrange 50-60", [false, true, false, false]),
        ("drops", [false; 4]),
    ] {
        assert_eq!(chosen(text), expected, "{text}");
    }
}

#[test]
fn words_join_as_in_tcpdump() {
    for (text, expected) in [
        ("not ip", [false, true, false, true]),
        ("! ip", [false, true, false, true]),
        ("!(tcp or udp)", [false, false, true, true]),
        ("tcp or udp and port 80", [true, false, false, false]),
        ("(tcp || udp) && port 5000", [false, true, false, false]),
        ("tcp port 80", [true, false, false, false]),
        ("udp dst port 80 or arp", [false, false, false, true]),
        ("not tcp port 80", [false, true, true, true]),
        ("not not arp", [false, false, false, true]),
        ("ip and not port 80", [false, false, true, false]),
    ] {
        assert_eq!(chosen(text), expected, "{text}");
    }
}

#[test]
fn the_example_of_the_help_is_an_expression() {
    let (_, example) = HELP.split_once("Example: ").unwrap();
    assert_eq!(chosen(example), [true, false, false, false]);
}

#[test]
fn what_was_dropped_is_perhaps_chosen_until_it_is_known() {
    let summary = Summary::of(&tcp(None, b""));
    for (text, before, dropped, passed) in [
        ("drops", None, true, false),
        ("not drops", None, false, true),
        ("drops or tcp", Some(true), true, true),
        ("drops or udp", None, true, false),
        ("drops and udp", Some(false), false, false),
        ("drops and tcp", None, true, false),
    ] {
        let filter = filter(text);
        assert_eq!(filter.chooses(&summary, None), before, "{text}");
        assert_eq!(filter.chooses(&summary, Some(true)), Some(dropped), "{text}");
        assert_eq!(filter.chooses(&summary, Some(false)), Some(passed), "{text}");
    }
}

#[test]
fn a_mistake_is_named_with_its_place() {
    for (text, expected) in [
        ("", "something is missing at character 1"),
        ("tcp and", "something is missing at character 8"),
        ("tcp prot 80", "expected `and` or `or` before `prot` at character 5"),
        ("prot 80", "`prot` is neither an address nor a word of the filter language at character 1"),
        ("host 10.0.2", "`10.0.2` is not an address at character 6"),
        ("net 10.0.2.0/33", "`10.0.2.0/33` is not a network such as 10.0.2.0/24 at character 5"),
        ("port", "expected a port number from 0 to 65535 at character 5"),
        ("port 65536", "`65536` is not a port number from 0 to 65535 at character 6"),
        ("port +80", "`+80` is not a port number from 0 to 65535 at character 6"),
        ("portrange 9-8", "`9-8` is not a range of ports such as 8000-8080 at character 11"),
        ("(tcp or (udp)", "a `)` is missing at character 14"),
        ("tcp)", "a `)` without its `(` at character 4"),
        ("tcp & udp", "expected `and` or `or` before `&` at character 5"),
        ("ärger and tcp", "`ärger` is neither an address nor a word of the filter language at character 1"),
        ("arp and ü", "`ü` is neither an address nor a word of the filter language at character 9"),
    ] {
        assert_eq!(text.parse::<Filter>().unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn depth_is_bounded_and_length_is_not() {
    assert!("(".repeat(100_000).parse::<Filter>().is_err());
    assert!("! ".repeat(100_000).parse::<Filter>().is_err());
    let long = vec!["port 80"; 10_000].join(" or ");
    assert_eq!(chosen(&long), [true, false, false, false]);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,40}") {
        let _ = text.parse::<Filter>();
    }

    #[test]
    fn no_words_make_it_panic(words in prop::collection::vec(prop::sample::select(vec![
        "and", "or", "not", "(", ")", "!", "&&", "||", "&", "tcp", "ip6", "host", "net", "port", "portrange", "src", "dst", "drops",
        "10.0.2.2", "fec0::/64", "80", "1-2",
    ]), 0..12)) {
        if let Ok(filter) = words.join(" ").parse::<Filter>() {
            // Whoever knows more decides no differently.
            for frame in [tcp(None, b""), udp6(b""), ping(1), arp()] {
                let summary = Summary::of(&frame);
                if let Some(known) = filter.chooses(&summary, None) {
                    prop_assert_eq!(filter.chooses(&summary, Some(true)), Some(known));
                    prop_assert_eq!(filter.chooses(&summary, Some(false)), Some(known));
                }
                prop_assert!(filter.chooses(&summary, Some(true)).is_some());
            }
        }
    }
}
