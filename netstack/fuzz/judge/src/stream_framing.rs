//! Frames with their lengths before them, in whatever pieces a stream delivers or takes them.

use netstack::frame::MAX_FRAME;
use netstack::port::stream::fuzzing::{Found, Reader, Writer};

use crate::script::{Draft, Script};

/// The longest frame that a stream may bring (`NET_BUFSIZE` of QEMU).
const LONGEST: u32 = 4096 + 65536;

/// The first byte says which side is on trial.
pub fn judge(input: &[u8]) {
    let mut script = Script::new(input);
    if script.byte() & 1 == 0 { judge_reading(&mut script) } else { judge_writing(&mut script) }
}

/// A stream: pieces of it, of which each can be blown up with zeroes.
fn judge_reading(script: &mut Script<'_>) {
    let mut stream = Vec::new();
    let mut cuts = Vec::new();
    while !script.is_over() && stream.len() < 1 << 21 {
        let zeroes = usize::from(script.half());
        stream.extend(script.piece());
        stream.resize(stream.len() + zeroes, 0);
        cuts.push(stream.len());
    }
    let mut expected = Frames { rest: &stream };
    let mut reader = Reader::default();
    let mut at = 0;
    for cut in cuts {
        while at < cut {
            let read = reader.read(&stream[at..cut]);
            assert!(read > 0, "no room, though everything complete was taken out");
            at += read;
            loop {
                let ready = reader.is_ready();
                let found = reader.next_frame();
                assert_eq!(ready, found != Found::Incomplete, "it is not ready for what it has");
                match found {
                    Found::Incomplete => break,
                    Found::Impossible(length) => {
                        assert_eq!(expected.next(), Some(Err(length)));
                        // The port ends here.
                        return;
                    }
                    Found::Frame(frame) => assert_eq!(expected.next(), Some(Ok(&frame[..]))),
                }
            }
        }
    }
    assert_eq!(expected.next(), None, "a frame stays inside");
}

/// The frames of a stream, or the length that ends it; told without regard to pieces.
struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<&'a [u8], u32>;

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.rest.split_first_chunk()?;
        let length = u32::from_be_bytes(*length);
        if !(1..=LONGEST).contains(&length) {
            return Some(Err(length));
        }
        let (frame, rest) = rest.split_at_checked(length as usize)?;
        self.rest = rest;
        Some(Ok(frame))
    }
}

/// Frames that are pushed, and a socket that takes some bytes now and then.
fn judge_writing(script: &mut Script<'_>) {
    let mut writer = Writer::default();
    let (mut pushed, mut written) = (Vec::new(), Vec::new());
    while !script.is_over() && pushed.len() < 1 << 21 {
        let kind = script.byte();
        let len = usize::from(script.half());
        if kind & 1 == 0 {
            let frame = vec![kind; len.clamp(1, MAX_FRAME)];
            let capacity = frame.len() + usize::from(kind >> 1) * 300;
            let room = writer.has_room(capacity);
            assert!(room || !writer.is_empty() || capacity > MAX_FRAME, "an empty buffer has no room for {capacity} bytes");
            assert_eq!(writer.push(&frame, capacity), room);
            if room {
                pushed.extend(u32::try_from(frame.len()).unwrap_or_default().to_be_bytes());
                pushed.extend(frame);
            }
        } else {
            let len = writer.unsent().len().min(len * usize::from(kind));
            written.extend_from_slice(&writer.unsent()[..len]);
            writer.sent(len);
        }
        assert_eq!(writer.is_empty(), writer.unsent().is_empty());
    }
    written.extend_from_slice(writer.unsent());
    assert!(written == pushed, "{} bytes went in and others came out, {}", pushed.len(), written.len());
}

/// Streams of frames of several lengths, in several pieces.
pub fn seeds() -> Vec<Vec<u8>> {
    let frame = |len: u32| len.to_be_bytes();
    let reading = Draft::default().bytes(&[0]);
    vec![
        reading.clone().half(60).piece(&frame(60)).half(0).piece(&[0, 0]).half(1514).piece(&[5, 0xea]).finish(),
        reading.clone().half(65535).piece(&frame(65535)).half(65535).piece(&frame(65535)).half(9000).piece(&frame(9000)).finish(),
        reading.clone().half(65535).piece(&frame(LONGEST)).half(4097).piece(&[]).half(0).piece(&frame(1)).finish(),
        reading.clone().half(0).piece(&frame(0)).finish(),
        reading.half(0).piece(b"GET / HTTP/1.0\r\n\r\n").finish(),
        [&[1][..], &[0, 60, 0, 2, 0xff, 0xff, 1, 9, 0, 4, 0xff, 0xff, 0xff, 0xff, 0xff].repeat(12)].concat(),
        [&[1][..], &[0, 0xff, 0xff].repeat(9), &[1, 1, 0], &[0, 1, 0], &[0xff, 0xff, 0xff]].concat(),
    ]
}
