//! Two networks hear the same stories: libslirp and slipway.

use e2e::story::live::{Kind, Live};
use e2e::story::{Oracle, all};

#[test]
fn libslirp_and_slipway_differ_only_where_it_is_written_down() {
    for story in all().iter().filter(|story| story.oracle == Oracle::Compared) {
        let told = [Kind::Libslirp, Kind::Slipway].map(|kind| {
            let mut link = Live::start(kind, story.user);
            let (transcript, outcome) = story.play(&mut link);
            println!("== {} {kind:?} {outcome:?}\n{transcript}", story.name);
            transcript
        });
        for difference in told[0].compare(&told[1]) {
            println!("!! {} {difference:?}", story.name);
        }
    }
}
