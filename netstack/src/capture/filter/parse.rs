//! From words to an expression, or to the place where it makes no sense.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{Expression, Primitive, Protocol, Side};

/// How deep parentheses and `not` may be nested: the parser, and whoever walks the expression, go that deep into each other.
const DEPTH: usize = 100;

/// Why an expression is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at character {at}")]
pub struct FilterError {
    /// Which character, counted from 1; one more than there are for the end.
    pub at: usize,
    problem: String,
}

/// Reads a whole expression.
pub(super) fn parse(text: &str) -> Result<Expression, FilterError> {
    let words = words(text);
    let mut parser = Parser { end: text.chars().count() + 1, words: &words, depth: 0 };
    let expression = parser.any()?;
    match parser.words.first() {
        None => Ok(expression),
        Some(word) if word.text == ")" => Err(parser.error("a `)` without its `(`")),
        Some(word) => Err(parser.error(&format!("expected `and` or `or` before `{}`", word.text))),
    }
}

/// A word, and at which character it begins.
#[derive(Debug, Clone, Copy)]
struct Word<'a> {
    text: &'a str,
    at: usize,
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = text;
    let mut at = 1;
    loop {
        let trimmed = rest.trim_start();
        at += rest[..rest.len() - trimmed.len()].chars().count();
        if trimmed.is_empty() {
            return words;
        }
        let symbol = ["&&", "||", "(", ")", "!"].into_iter().find(|symbol| trimmed.starts_with(symbol));
        let len = symbol.map_or_else(|| word_len(trimmed), str::len);
        let (word, after) = trimmed.split_at(len);
        words.push(Word { text: word, at });
        at += word.chars().count();
        rest = after;
    }
}

fn word_len(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '!' | '&' | '|')).map_or(text.len(), |len| {
        // A single `&` is a word, if not a good one.
        if len == 0 { text.chars().next().map_or(0, char::len_utf8) } else { len }
    })
}

struct Parser<'a> {
    words: &'a [Word<'a>],
    end: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn any(&mut self) -> Result<Expression, FilterError> {
        let mut parts = vec![self.all()?];
        while self.take(&["or", "||"]) {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Expression::Any))
    }

    fn all(&mut self) -> Result<Expression, FilterError> {
        let mut parts = vec![self.factor()?];
        while self.take(&["and", "&&"]) {
            parts.push(self.factor()?);
        }
        Ok(one_or(parts, Expression::All))
    }

    fn factor(&mut self) -> Result<Expression, FilterError> {
        if self.depth == DEPTH {
            return Err(self.error("too many parentheses or `not` in each other"));
        }
        self.depth += 1;
        let factor = if self.take(&["not", "!"]) {
            Expression::Not(Box::new(self.factor()?))
        } else if self.take(&["("]) {
            let inner = self.any()?;
            if !self.take(&[")"]) {
                return Err(self.error("a `)` is missing"));
            }
            inner
        } else {
            self.primitive()?
        };
        self.depth -= 1;
        Ok(factor)
    }

    fn primitive(&mut self) -> Result<Expression, FilterError> {
        if self.take(&["drops"]) {
            return Ok(Expression::Is(Primitive::Drops));
        }
        let Some(protocol) = self.words.first().and_then(|word| protocol(word.text)) else {
            return self.ends().map(Expression::Is);
        };
        self.words = &self.words[1..];
        let protocol = Expression::Is(Primitive::Protocol(protocol));
        // `tcp port 80`
        let ends = ["src", "dst", "host", "net", "port", "portrange"];
        if self.words.first().is_some_and(|word| ends.contains(&word.text)) {
            return Ok(Expression::All(vec![protocol, Expression::Is(self.ends()?)]));
        }
        Ok(protocol)
    }

    /// What is said of the two ends of a packet.
    fn ends(&mut self) -> Result<Primitive, FilterError> {
        let side = if self.take(&["src"]) {
            Side::Source
        } else if self.take(&["dst"]) {
            Side::Destination
        } else {
            Side::Either
        };
        match self.words.first().map(|word| word.text) {
            Some("host") => self.argument("an address", host).map(|host| Primitive::Host(side, host)),
            Some("net") => self.argument("a network such as 10.0.2.0/24", net).map(|net| Primitive::Net(side, net)),
            Some("port") => self.argument("a port number from 0 to 65535", port).map(|port| Primitive::Ports(side, port)),
            Some("portrange") => {
                self.argument("a range of ports such as 8000-8080", ports).map(|ports| Primitive::Ports(side, ports))
            }
            Some(word) => match host(word) {
                Some(host) => {
                    self.words = &self.words[1..];
                    Ok(Primitive::Host(side, host))
                }
                None => Err(self.error(&format!("`{word}` is neither an address nor a word of the filter language"))),
            },
            None => Err(self.error("something is missing")),
        }
    }

    /// Skips a word, and reads the next one, which is to be `what`.
    fn argument<T>(&mut self, what: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, FilterError> {
        self.words = &self.words[1..];
        let Some(word) = self.words.first() else { return Err(self.error(&format!("expected {what}"))) };
        let value = read(word.text).ok_or_else(|| self.error(&format!("`{}` is not {what}", word.text)))?;
        self.words = &self.words[1..];
        Ok(value)
    }

    fn take(&mut self, texts: &[&str]) -> bool {
        match self.words.split_first() {
            Some((word, rest)) if texts.contains(&word.text) => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }

    /// Something is wrong at the next word.
    fn error(&self, problem: &str) -> FilterError {
        FilterError { at: self.words.first().map_or(self.end, |word| word.at), problem: problem.to_owned() }
    }
}

fn one_or(mut parts: Vec<Expression>, many: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => many(parts.into_iter().chain(last).collect()),
    }
}

fn protocol(word: &str) -> Option<Protocol> {
    Some(match word {
        "ip" => Protocol::Ip,
        "ip6" => Protocol::Ip6,
        "arp" => Protocol::Arp,
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "icmp" => Protocol::Icmp,
        "icmp6" => Protocol::Icmp6,
        _ => return None,
    })
}

fn host(word: &str) -> Option<IpAddr> {
    word.parse().ok()
}

fn net(word: &str) -> Option<IpNet> {
    word.parse().ok()
}

fn port(word: &str) -> Option<RangeInclusive<u16>> {
    // `+80` is a number to the standard library.
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = word.parse().ok().filter(|_| digits)?;
    Some(port..=port)
}

fn ports(word: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = word.split_once('-')?;
    let range = *port(first)?.start()..=*port(last)?.end();
    (!range.is_empty()).then_some(range)
}
