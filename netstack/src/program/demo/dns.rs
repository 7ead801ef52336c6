//! A question to a DNS server over UDP or TCP (RFC 1035, RFC 7766): the answer, without a resolver's caches and fallbacks between.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the question travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// The IPv4 addresses of `name`, as `server` tells.
///
/// # Errors
///
/// A sentence about what went wrong.
pub(crate) fn resolve(server: SocketAddr, name: &str, transport: Transport) -> Result<Vec<Ipv4Addr>, String> {
    let query = Query::query(Name::from_ascii(name).map_err(|err| err.to_string())?, RecordType::A);
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(query);
    let bytes = question.to_vec().map_err(|err| err.to_string())?;
    let answer = match transport {
        Transport::Udp => over_udp(server, &bytes),
        Transport::Tcp => over_tcp(server, &bytes),
    };
    let answer =
        Message::from_vec(&answer.map_err(|err| format!("no answer for {name}: {err}"))?).map_err(|err| err.to_string())?;
    if answer.metadata.id != question.metadata.id {
        return Err(format!("the answer for {name} is one to another question"));
    }
    if answer.metadata.response_code != ResponseCode::NoError {
        return Err(format!("{name}: {}", answer.metadata.response_code));
    }
    Ok(answer
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        })
        .collect())
}

fn over_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(question)?;
    let mut answer = vec![0; 4096];
    let len = socket.recv(&mut answer)?;
    answer.truncate(len);
    Ok(answer)
}

fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let len = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), question].concat())?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
