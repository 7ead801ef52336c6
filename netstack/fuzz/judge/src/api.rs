//! Requests to the API: in pieces, with whatever arguments.

use netstack::config::HostForward;
use netstack::fuzzing::api::{read, understand};
use serde_json::Value;

/// Longer requests are refused.
const LIMIT: usize = 4096;

/// The first byte says into how long pieces the rest is cut.
pub fn judge(input: &[u8]) {
    let Some((cut, text)) = input.split_first() else { return };
    let whole: Vec<&[u8]> = if text.is_empty() { Vec::new() } else { vec![text] };
    let pieces: Vec<&[u8]> = text.chunks(usize::from(*cut).max(1)).collect();
    let request = read(&whole, LIMIT);
    assert_eq!(request, read(&pieces, LIMIT), "in how many pieces it comes makes a difference");
    match request {
        Err(bad) => assert!(bad.to_string().starts_with("bad request: ")),
        Ok((name, arguments)) => judge_command(&name, arguments),
    }
}

fn judge_command(name: &str, arguments: Value) {
    match understand(name, arguments) {
        None => {}
        Some(Err(refused)) => assert!(refused.what.len() > 5 && !refused.what.contains('\n'), "{refused:?}"),
        Some(Ok(written)) => {
            let again = understand(name, written.clone()).expect("the same command");
            assert_eq!(again.as_ref(), Ok(&written), "what was understood is not understood again");
            if name == "add_hostfwd" {
                judge_forward(&written);
            }
        }
    }
}

/// A forward that the API takes is one that people can write.
fn judge_forward(written: &Value) {
    let text = |name| written.get(name).and_then(Value::as_str);
    let number = |name| written.get(name).and_then(Value::as_u64);
    let address = |name| match text(name) {
        Some(address) if address.contains(':') => format!("[{address}]"),
        address => address.unwrap_or_default().to_owned(),
    };
    let guest = format!("{}:{}", address("guest_addr"), number("guest_port").expect("a port in the guest"));
    let forward = match text("host_path") {
        Some(path) => format!("unix:{path}-{guest}"),
        None => {
            let first = number("host_port").expect("a port of the host");
            let last = number("count").map_or_else(String::new, |count| format!("-{}", first + count - 1));
            let host = match (address("host_addr"), text("interface")) {
                (host, None) => host,
                (host, Some(interface)) => match host.strip_suffix(']') {
                    Some(host) => format!("{host}%{interface}]"),
                    None => format!("{host}%{interface}"),
                },
            };
            format!("{}:{host}:{first}{last}-{guest}", text("proto").expect("a protocol"))
        }
    };
    forward.parse::<HostForward>().unwrap_or_else(|error| panic!("{written} cannot be written as {forward}: {error}"));
}

/// One request of each kind, and of those that are none.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}}"#,
        r#"{"execute":"add_hostfwd","arguments":{"proto":"udp","host_addr":"::1","host_port":6000,"count":11,"interface":"lo","guest_addr":"fec0::15","guest_port":7000}}"#,
        r#"{"execute":"add_hostfwd","arguments":{"proto":"unix","host_path":"/run/a-b.sock","guest_port":22},"explain":true}"#,
        r#"{"execute":"list_hostfwd"}"#,
        r#"{"execute":"remove_hostfwd","arguments":{"id":1,"flows":true}}"#,
        r#"{"execute":"info"}"#,
        r#"{"execute":"flows","arguments":{}}"#,
        r#"{"execute":"set_link","arguments":{"port":"tap0","up":false}}"#,
        r#"{"execute":"set_link","arguments":{"port":7,"up":true}}"#,
        r#"{"execute":"start_capture","arguments":{"file":"/tmp/x","filter":"port 53","snaplen":128,"rotate_bytes":4096,"rotate_files":3,"segment":true}}"#,
        r#"{"execute":"stop_capture","arguments":{"id":3}}"#,
        r#" {"execute":"x","arguments":{"a}":"\"}\\"}} {"#,
        r#"[1]"#,
        r#""execute""#,
        r#"{"execute":5}"#,
    ]
    .iter()
    .flat_map(|text| [1, 7, 255].map(|cut| [&[cut], text.as_bytes()].concat()))
    .collect()
}
