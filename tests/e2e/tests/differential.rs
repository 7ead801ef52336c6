//! libslirp and slipway are told the same stories, and answer differently only where it is written down.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::{fs, thread};

use e2e::story::differences::{KNOWN, page};
use e2e::story::live::{Kind, Live};
use e2e::story::transcript::Difference;
use e2e::story::{Oracle, Story, all};

/// Stories that are told at the same time. Most of the time each waits whether something comes.
const AT_ONCE: usize = 12;

#[test]
fn libslirp_and_slipway_differ_only_where_it_is_written_down() {
    let found = compare_all();
    let unknown: Vec<_> = found.iter().filter(|(difference, _)| !KNOWN.iter().any(|known| known.is_about(difference))).collect();
    assert!(
        unknown.is_empty(),
        "differences that no row of story/differences.rs is about; first libslirp, then slipway:\n{unknown:#?}"
    );
    let shown_by: Vec<Vec<_>> = KNOWN
        .iter()
        .map(|known| {
            let stories: BTreeSet<_> =
                found.iter().filter(|(difference, _)| known.is_about(difference)).map(|(_, name)| *name).collect();
            stories.into_iter().collect()
        })
        .collect();
    let idle: Vec<_> = KNOWN.iter().zip(&shown_by).filter(|(_, stories)| stories.is_empty()).collect();
    assert!(idle.is_empty(), "rows of story/differences.rs that nothing shows any more:\n{idle:#?}");

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/differences-from-libslirp.md");
    let page = page(&shown_by);
    if fs::read_to_string(&path).unwrap_or_default() != page {
        fs::write(&path, page).unwrap();
        panic!("{} was not up to date, and is now: commit it", path.display());
    }
}

/// What both have told differently, and in which stories.
fn compare_all() -> BTreeSet<(Difference, &'static str)> {
    let stories = Mutex::new(all().into_iter().filter(|story| story.oracle == Oracle::Compared).collect::<Vec<_>>());
    let found = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(story) = next(&stories) {
                    let differences = compare(&story);
                    found.lock().unwrap().extend(differences.into_iter().map(|difference| (difference, story.name)));
                }
            });
        }
    });
    found.into_inner().unwrap()
}

fn next(stories: &Mutex<Vec<Story>>) -> Option<Story> {
    stories.lock().unwrap().pop()
}

fn compare(story: &Story) -> Vec<Difference> {
    let [libslirp, slipway] = [Kind::Libslirp, Kind::Slipway].map(|kind| {
        let mut link = Live::start(kind, story);
        let (transcript, _) = story.play(&mut link);
        assert!(link.is_alive(), "{}: {kind:?} has died", story.name);
        transcript
    });
    libslirp.compare(&slipway)
}
