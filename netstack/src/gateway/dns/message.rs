//! Messages of guests: the question that a datagram asks, and the datagram that answers it.
//!
//! A guest's bytes become a [`Question`] or they become a refusal; nothing else of them is kept. On the way back an answer, wherever
//! it came from, is fitted to the question: its id, the spelling of its name, its flags, and the size that the guest can take.

use std::fmt;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, RecordType};

/// The UDP payload that we can take, from upstream servers and from guests (<https://www.dnsflagday.net/2020/>).
pub(super) const UDP_PAYLOAD: u16 = 1232;
/// The longest answer in a datagram, whatever a guest says that it can take.
const UDP_ANSWER_MAX: usize = 4096;
/// The longest answer in a datagram to a guest that says nothing (RFC 1035 section 4.2.1).
const UDP_ANSWER_DEFAULT: usize = 512;
/// The length of a message's header.
const HEADER: usize = 12;
/// Extended DNS errors (RFC 8914): the one option of an upstream answer that means something beyond the hop it was made for.
const EXTENDED_ERROR: u16 = 15;

/// How a question came, and so how long its answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What a guest wants to know.
#[derive(Debug, Clone)]
pub(super) struct Question {
    id: u16,
    /// Name, type and class. The name is spelt as the guest spelt it.
    pub(super) query: Query,
    flags: QueryFlags,
    /// The UDP payload that the guest can take, if it speaks EDNS (RFC 6891).
    payload: Option<u16>,
}

/// The bits of a question that may change its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct QueryFlags {
    recursion_desired: bool,
    authentic_data: bool,
    checking_disabled: bool,
    dnssec_ok: bool,
}

/// What two questions have in common when the same answer is right for both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    // hickory compares and hashes names without regard to case.
    query: Query,
    flags: QueryFlags,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.query.name(), self.query.query_type())
    }
}

impl Question {
    /// Reads a message of a guest.
    ///
    /// # Errors
    ///
    /// What to answer instead: nothing if the bytes are no query, otherwise a message with the reason as response code.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let Some(&[_, _, bits, _, qd_high, qd_low, ..]) = bytes.first_chunk::<HEADER>() else { return Err(None) };
        // A response is dropped: to answer one could start two servers talking to each other for ever.
        if bits & 0x80 != 0 {
            return Err(None);
        }
        if (bits >> 3) & 0xf != 0 {
            return Err(refusal(bytes, ResponseCode::NotImp));
        }
        // RFC 9619: exactly one question.
        if [qd_high, qd_low] != [0, 1] {
            return Err(refusal(bytes, ResponseCode::FormErr));
        }
        let Ok(mut message) = Message::from_vec(bytes) else { return Err(refusal(bytes, ResponseCode::FormErr)) };
        let Some(query) = message.queries.pop() else { return Err(refusal(bytes, ResponseCode::FormErr)) };
        let question = Self {
            id: message.metadata.id,
            flags: QueryFlags {
                recursion_desired: message.metadata.recursion_desired,
                authentic_data: message.metadata.authentic_data,
                checking_disabled: message.metadata.checking_disabled,
                dnssec_ok: message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            },
            payload: message.edns.as_ref().map(Edns::max_payload),
            query,
        };
        match question.objection(message.version()) {
            Some(code) => Err(Some(question.reply(with_code(code), Transport::Udp))),
            None => Ok(question),
        }
    }

    fn objection(&self, edns_version: u8) -> Option<ResponseCode> {
        if edns_version != 0 {
            return Some(ResponseCode::BADVERS);
        }
        // Zone transfers are for secondary servers. OPT, TKEY and TSIG are no data that one can ask a forwarder for.
        let transfer = matches!(self.query.query_type(), RecordType::AXFR | RecordType::IXFR);
        let meta = matches!(u16::from(self.query.query_type()), 41 | 249 | 250);
        let class = matches!(self.query.query_class(), DNSClass::IN | DNSClass::ANY);
        (transfer || meta || !class).then_some(ResponseCode::Refused)
    }

    /// What identifies the answer to this question.
    pub(super) fn key(&self) -> Key {
        Key { query: self.query.clone(), flags: self.flags }
    }

    /// The same question as we ask it ourselves, with an id and an OPT record of our own.
    pub(super) fn to_upstream(&self) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = self.flags.recursion_desired;
        message.metadata.authentic_data = self.flags.authentic_data;
        message.metadata.checking_disabled = self.flags.checking_disabled;
        message.add_query(self.query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(self.flags.dnssec_ok);
        message.set_edns(edns);
        message
    }

    /// The bytes that answer this question with what `answer` says.
    pub(super) fn reply(&self, mut answer: Message, transport: Transport) -> Vec<u8> {
        self.fit(&mut answer);
        let limit = match (transport, self.payload) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, Some(payload)) => usize::from(payload).clamp(UDP_ANSWER_DEFAULT, UDP_ANSWER_MAX),
            (Transport::Udp, None) => UDP_ANSWER_DEFAULT,
        };
        // The additional section is a courtesy: without it an answer is still whole (RFC 2181 section 9).
        let whole = encode(&answer, limit).or_else(|| {
            answer.additionals.clear();
            encode(&answer, limit)
        });
        whole.or_else(|| encode(&answer.truncate(), limit)).unwrap_or_else(|| self.bare(ResponseCode::ServFail))
    }

    /// Makes `answer` the answer to this very question.
    fn fit(&self, answer: &mut Message) {
        answer.metadata.id = self.id;
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.op_code = OpCode::Query;
        answer.metadata.recursion_desired = self.flags.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.checking_disabled = self.flags.checking_disabled;
        // RFC 6840 section 5.8: only who asks for it is told that data is authentic.
        answer.metadata.authentic_data &= self.flags.authentic_data || self.flags.dnssec_ok;
        answer.signature = None;

        // The guest may check that its own mixture of upper and lower case comes back.
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals) {
            if record.name == *self.query.name() {
                record.name = self.query.name().clone();
            }
        }
        answer.queries = vec![self.query.clone()];

        let errors = answer.edns.take().map(|edns| edns.options().options.clone()).unwrap_or_default();
        if self.payload.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(self.flags.dnssec_ok);
            for (code, option) in errors {
                if let (EdnsCode::Unknown(EXTENDED_ERROR), EdnsOption::Unknown(..)) = (code, &option) {
                    edns.options_mut().insert(option);
                }
            }
            answer.edns = Some(edns);
        } else if answer.metadata.response_code.high() != 0 {
            // Only an OPT record has room for the upper bits of such a code.
            answer.metadata.response_code = ResponseCode::ServFail;
        }
    }

    /// A header that says `code`.
    fn bare(&self, code: ResponseCode) -> Vec<u8> {
        let [high, low] = self.id.to_be_bytes();
        vec![high, low, 0x80 | u8::from(self.flags.recursion_desired), 0x80 | code.low(), 0, 0, 0, 0, 0, 0, 0, 0]
    }
}

/// Whether a server's message answers a query, whatever it says. One of another operation (RFC 6895 section 2.2) may hold records that no
/// answer can, such as those without data of an update.
pub(super) fn is_answer(message: &Message) -> bool {
    message.metadata.message_type == MessageType::Response && message.metadata.op_code == OpCode::Query
}

/// A message that says nothing but `code`.
pub(super) fn with_code(code: ResponseCode) -> Message {
    Message::error_msg(0, OpCode::Query, code)
}

/// The shortest answer to a query that may be unreadable: its header turned round. `None` if it is no query.
pub(super) fn refusal(bytes: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let &[id_high, id_low, bits, ..] = bytes.first_chunk::<HEADER>()?;
    if bits & 0x80 != 0 {
        return None;
    }
    // The operation and RD come back.
    Some(vec![id_high, id_low, 0x80 | (bits & 0x79), 0x80 | code.low(), 0, 0, 0, 0, 0, 0, 0, 0])
}

fn encode(message: &Message, limit: usize) -> Option<Vec<u8>> {
    // Past 64 KiB the encoder leaves records out and says so with TC, which is right for any transport.
    message.to_vec().ok().filter(|bytes| bytes.len() <= limit)
}
