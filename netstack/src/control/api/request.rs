//! Requests: one JSON object each, in as many pieces as it comes.

use std::io;

use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A request that can be understood.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::control) struct Request {
    /// The name of a command.
    pub(in crate::control) execute: String,
    /// What goes with it; an empty object if there is nothing.
    pub(in crate::control) arguments: Value,
    /// Whether an error is to have its reason beside it.
    pub(in crate::control) explain: bool,
}

/// A request that cannot, in the words of slirp4netns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Longer than [`Limits::api_request_bytes`](crate::config::Limits).
    #[error("bad request: too large message")]
    TooLarge,
    /// Not JSON.
    #[error("bad request: cannot parse JSON")]
    NotJson,
    /// JSON, but no object.
    #[error("bad request: json_object() failed")]
    NoObject,
    /// An object without the name of a command.
    #[error("bad request: no execute found")]
    NoExecute,
}

impl Request {
    fn parse(text: &[u8]) -> Result<Self, BadRequest> {
        let value = serde_json::from_slice(text).map_err(|_| BadRequest::NotJson)?;
        let Value::Object(mut object) = value else { return Err(BadRequest::NoObject) };
        let Some(Value::String(execute)) = object.remove("execute") else { return Err(BadRequest::NoExecute) };
        let arguments = object.remove("arguments").unwrap_or_else(|| Value::Object(Map::new()));
        Ok(Self { execute, arguments, explain: object.get("explain").is_some_and(|explain| *explain == Value::Bool(true)) })
    }
}

/// Reads one request.
#[derive(Debug)]
pub(in crate::control) struct Reader {
    text: Vec<u8>,
    limit: usize,
    scanner: Scanner,
}

impl Reader {
    /// For a request of at most `limit` bytes.
    pub(in crate::control) fn new(limit: usize) -> Self {
        Self { text: Vec::new(), limit, scanner: Scanner::default() }
    }

    /// Reads until the request is complete, or whoever sends it has nothing more to say.
    ///
    /// # Errors
    ///
    /// When the stream breaks.
    pub(in crate::control) async fn read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Result<Request, BadRequest>> {
        loop {
            let known = self.text.len();
            if stream.read_buf(&mut self.text).await? == 0 {
                return Ok(Request::parse(&self.text));
            }
            if let Some(end) = self.scanner.scan(self.text.get(known..).unwrap_or_default())
                && known + end <= self.limit
            {
                return Ok(Request::parse(self.text.get(..known + end).unwrap_or_default()));
            }
            if self.text.len() > self.limit {
                return Ok(Err(BadRequest::TooLarge));
            }
        }
    }
}

/// Finds the end of a JSON object in what comes piece by piece, and looks at each byte once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scanner {
    state: State,
    /// Objects that are open.
    depth: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Nothing but white space has come.
    #[default]
    Before,
    /// Within the object, outside texts.
    Object,
    /// Within a text.
    Text,
    /// Within a text, after a backslash.
    Escape,
    /// This is no object: it ends when whoever sends it says so.
    Other,
}

impl Scanner {
    /// Looks at the next bytes. Returns how many of them belong to the object, if it ends in them.
    pub fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            self.state = match (self.state, byte) {
                (State::Before, b'{') => {
                    self.depth = 1;
                    State::Object
                }
                (State::Before, b' ' | b'\t' | b'\n' | b'\r') => State::Before,
                (State::Before | State::Other, _) => State::Other,
                (State::Object, b'{') => {
                    self.depth += 1;
                    State::Object
                }
                (State::Object, b'}') => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.state = State::Other;
                        return Some(at + 1);
                    }
                    State::Object
                }
                (State::Object, b'"') | (State::Escape, _) => State::Text,
                (State::Text, b'"') | (State::Object, _) => State::Object,
                (State::Text, b'\\') => State::Escape,
                (State::Text, _) => State::Text,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_object_ends_with_its_last_brace_and_nowhere_else() {
        for (text, end) in [
            (r#"{}"#, Some(2)),
            (" \r\n\t{} rest", Some(6)),
            (r#"{"a":{"b":{}}}{"#, Some(14)),
            (r#"{"}":"\"}\\"}x"#, Some(13)),
            (r#"{"a":[{},{}]}"#, Some(13)),
            (r#"{"a":"#, None),
            (r#"[{}]"#, None),
            ("x{}", None),
            ("", None),
        ] {
            assert_eq!(Scanner::default().scan(text.as_bytes()), end, "{text}");
        }
    }

    #[tokio::test]
    async fn requests_and_what_is_none() {
        let read = async |text: &str| Reader::new(100).read(&mut text.as_bytes()).await.unwrap();
        let request = read(r#"{"execute":"info","arguments":{"a":1},"explain":true} and more"#).await.unwrap();
        assert_eq!((request.execute.as_str(), request.arguments["a"].as_u64(), request.explain), ("info", Some(1), true));
        assert_eq!(read(r#"{"execute":"info"}"#).await.unwrap().arguments, Value::Object(Map::new()));
        for (text, bad) in [
            ("", BadRequest::NotJson),
            ("{", BadRequest::NotJson),
            ("{x}", BadRequest::NotJson),
            (r#""x""#, BadRequest::NoObject),
            ("[1]", BadRequest::NoObject),
            ("{}", BadRequest::NoExecute),
            (r#"{"execute":5}"#, BadRequest::NoExecute),
        ] {
            assert_eq!(read(text).await, Err(bad), "{text}");
        }
        assert_eq!(read(&format!(r#"{{"execute":"{}"}}"#, "x".repeat(100))).await, Err(BadRequest::TooLarge));
        assert_eq!(read(&" ".repeat(101)).await, Err(BadRequest::TooLarge));
        let just = format!(r#"{{"execute":"{}"}}"#, "x".repeat(86));
        assert_eq!((just.len(), read(&just).await.is_ok()), (100, true));
    }

    proptest! {
        #[test]
        fn in_how_many_pieces_it_comes_does_not_matter(text in r#"[ {}"\\a:\[\],]{0,40}"#, cuts in prop::collection::vec(0_usize..40, 0..5)) {
            let whole = Scanner::default().scan(text.as_bytes());
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let mut scanner = Scanner::default();
            let mut found = None;
            for piece in cuts.windows(2) {
                if let Some(end) = scanner.scan(&text.as_bytes()[piece[0]..piece[1]]) {
                    found = Some(piece[0] + end);
                    break;
                }
            }
            prop_assert_eq!(found, whole);
        }

        #[test]
        fn the_end_that_is_found_is_that_of_the_json(value in json(), rest in "[ }{x]{0,5}") {
            let text = format!("{value}{rest}");
            prop_assert_eq!(Scanner::default().scan(text.as_bytes()), Some(value.to_string().len()));
        }
    }

    /// Objects with all kinds of values.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            r#"[{}"\\a-z\n]{0,8}"#.prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(r#"[{}"\\a-z]{0,4}"#, inner, 0..4).prop_map(Value::from_iter),
            ]
        });
        prop::collection::hash_map("[a-z{}\"]{0,4}", value, 0..4).prop_map(Value::from_iter)
    }
}
