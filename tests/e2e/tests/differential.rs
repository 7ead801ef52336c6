//! Two networks hear the same stories: libslirp and slipway.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;

use e2e::story::live::{Kind, Live};
use e2e::story::transcript::Difference;
use e2e::story::{Oracle, Story, all};

/// Stories that are told at the same time. Most of the time each waits whether something comes.
const AT_ONCE: usize = 12;

#[test]
fn libslirp_and_slipway_differ_only_where_it_is_written_down() {
    let stories = Mutex::new(all().into_iter().filter(|story| story.oracle == Oracle::Compared).collect::<Vec<_>>());
    let found = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(story) = next(&stories) {
                    let differences = differences(&story);
                    found.lock().unwrap().extend(differences.into_iter().map(|difference| (difference, story.name)));
                }
            });
        }
    });
    for (difference, name) in found.into_inner().unwrap() {
        println!("{name}: {difference:?}");
    }
}

fn next(stories: &Mutex<Vec<Story>>) -> Option<Story> {
    stories.lock().unwrap().pop()
}

fn differences(story: &Story) -> Vec<Difference> {
    let [libslirp, slipway] = [Kind::Libslirp, Kind::Slipway].map(|kind| {
        let mut link = Live::start(kind, story.user);
        let began = std::time::Instant::now();
        let (transcript, _) = story.play(&mut link);
        println!("TIME {:?} {kind:?} {}", began.elapsed(), story.name);
        assert!(link.is_alive(), "{}: {kind:?} has died", story.name);
        transcript
    });
    libslirp.compare(&slipway)
}
