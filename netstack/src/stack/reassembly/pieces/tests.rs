//! Any order, any cut, pieces twice, pieces that overlap: either exactly the datagram comes out, or nothing.

use proptest::prelude::*;

use super::*;
use crate::frame::{Chunk, FrameMeta};

/// A datagram in which every byte tells where it belongs.
fn datagram(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 256) as u8).collect()
}

fn add(pieces: &mut Pieces, bytes: &[u8], (from, to): (usize, usize)) -> Added {
    add_bytes(pieces, &bytes[from..to], from, to < bytes.len())
}

fn add_bytes(pieces: &mut Pieces, bytes: &[u8], offset: usize, more: bool) -> Added {
    // In two chunks behind something else, as frames lie.
    let (one, two) = bytes.split_at(bytes.len() / 3);
    let chunks = [Chunk::from(&[0xee; 34][..]), Chunk::from(one), Chunk::from(two)];
    let frame = Frame::new(&chunks, FrameMeta::default());
    pieces.add(Place { offset, at: 34, len: bytes.len(), more }, &frame)
}

fn whole(pieces: &Pieces) -> Vec<u8> {
    let mut whole = Vec::new();
    pieces.write_to(&mut whole);
    whole
}

#[test]
fn all_six_orders_of_three_pieces_make_the_datagram() {
    let bytes = datagram(4000);
    let cuts = [(0, 1480), (1480, 2960), (2960, 4000)];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut pieces = Pieces::default();
        let added = order.map(|index| add(&mut pieces, &bytes, cuts[index]));
        assert_eq!(added, [Added::Taken, Added::Taken, Added::Whole], "{order:?}");
        assert_eq!(whole(&pieces), bytes, "{order:?}");
    }
}

#[test]
fn a_piece_twice_changes_nothing() {
    let bytes = datagram(2000);
    let mut pieces = Pieces::default();
    assert_eq!(add(&mut pieces, &bytes, (1000, 2000)), Added::Taken);
    assert_eq!(add(&mut pieces, &bytes, (1000, 2000)), Added::Repeated);
    assert_eq!(add(&mut pieces, &bytes, (0, 1000)), Added::Whole);
    assert_eq!(whole(&pieces), bytes);
}

#[test]
fn a_piece_again_with_another_byte_is_no_repetition() {
    let bytes = datagram(2000);
    let mut pieces = Pieces::default();
    add(&mut pieces, &bytes, (0, 1000));
    let mut other = bytes.clone();
    other[999] ^= 1;
    assert_eq!(add(&mut pieces, &other, (0, 1000)), Added::Contradiction);
}

#[test]
fn pieces_that_overlap_contradict_each_other() {
    let bytes = datagram(4000);
    for second in [(992, 2000), (0, 800), (0, 1008), (200, 400), (200, 1000), (0, 3000)] {
        let mut pieces = Pieces::default();
        add(&mut pieces, &bytes, (0, 1000));
        assert_eq!(add(&mut pieces, &bytes, second), Added::Contradiction, "{second:?}");
    }
    let mut pieces = Pieces::default();
    add(&mut pieces, &bytes, (1000, 2000));
    assert_eq!(add(&mut pieces, &bytes, (0, 1008)), Added::Contradiction, "from before");
}

#[test]
fn there_is_one_end() {
    let bytes = datagram(1600);
    let mut pieces = Pieces::default();
    add_bytes(&mut pieces, &bytes[800..], 800, false);
    assert_eq!(add_bytes(&mut pieces, &bytes[..800], 1600, true), Added::Contradiction, "behind the end");
    assert_eq!(add_bytes(&mut pieces, &bytes[800..], 800, true), Added::Contradiction, "the end, but more is to come");
    assert_eq!(add_bytes(&mut pieces, &bytes[..400], 400, false), Added::Contradiction, "an end before the end");
    let mut pieces = Pieces::default();
    add_bytes(&mut pieces, &bytes[800..], 800, true);
    assert_eq!(add_bytes(&mut pieces, &bytes[..400], 0, false), Added::Contradiction, "an end before what is there");
    assert_eq!(add_bytes(&mut pieces, &bytes[..0], 0, true), Added::Contradiction, "nothing at all");
    assert_eq!(add_bytes(&mut pieces, &bytes[..8], 65528, false), Added::Contradiction, "longer than any datagram");
}

/// A datagram of up to 65535 bytes, the places where it is cut, and a seed by which its pieces are shuffled.
fn cut() -> impl Strategy<Value = (usize, Vec<(usize, usize)>)> {
    (1usize..=65535).prop_flat_map(|len| {
        let places = proptest::collection::btree_set(1..=len.div_ceil(8).max(1), 0..60);
        places.prop_flat_map(move |places| {
            let mut ends: Vec<usize> = places.iter().map(|place| place * 8).filter(|end| *end < len).collect();
            ends.push(len);
            let starts = [0].into_iter().chain(ends.clone());
            let pieces: Vec<_> = starts.zip(ends.clone()).collect();
            (Just(len), Just(pieces).prop_shuffle())
        })
    })
}

proptest! {
    /// However it is cut, and in whatever order the pieces come, the last one to come makes exactly the datagram.
    #[test]
    fn any_cut_in_any_order_makes_the_datagram((len, cut) in cut(), repeated in proptest::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let bytes = datagram(len);
        let mut pieces = Pieces::default();
        for (index, range) in cut.iter().enumerate() {
            let added = add(&mut pieces, &bytes, *range);
            let last = index + 1 == cut.len();
            prop_assert_eq!(added, if last { Added::Whole } else { Added::Taken });
            // Some come again, as far as they have come.
            for again in &repeated {
                prop_assert_eq!(add(&mut pieces, &bytes, cut[again.index(index + 1)]), Added::Repeated);
            }
        }
        prop_assert_eq!(whole(&pieces), bytes);
    }

    /// Whatever comes, what comes out agrees with every piece that was taken: pieces of different datagrams never mix.
    #[test]
    fn any_pieces_make_one_datagram_or_none(
        ranges in proptest::collection::vec((0usize..40, 1usize..20, any::<bool>(), any::<bool>()), 1..40),
    ) {
        let bytes = datagram(480);
        let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        let mut pieces = Pieces::default();
        let mut taken = vec![None; 480];
        for (start, blocks, more, of_other) in ranges {
            let (from, to) = (start * 8, ((start + blocks) * 8).min(480));
            let source = if of_other { &other } else { &bytes };
            let added = add_bytes(&mut pieces, &source[from..to], from, more);
            match added {
                Added::Contradiction => return Ok(()),
                Added::Repeated => {}
                Added::Taken | Added::Whole => {
                    for (place, byte) in taken[from..to].iter_mut().zip(&source[from..to]) {
                        prop_assert_eq!(place.replace(*byte), None, "a byte came twice");
                    }
                }
            }
            if added == Added::Whole {
                let whole = whole(&pieces);
                let told: Option<Vec<u8>> = taken[..whole.len()].iter().copied().collect();
                prop_assert_eq!(told, Some(whole));
                return Ok(());
            }
        }
    }
}
