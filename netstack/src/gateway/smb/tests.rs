//! What keeps an SMB server from being there. What it does is tried with real clients, in `tests/e2e`.

use super::*;

#[test]
fn a_directory_that_is_none_is_told_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for path in [file, directory.path().join("nowhere")] {
        let error = readable(&path).unwrap_err();
        assert!(error.to_string().starts_with(&format!("`smb={}` cannot be shared", path.display())), "{error}");
    }
    let strange = directory.path().join("50%");
    std::fs::create_dir(&strange).unwrap();
    assert!(readable(&strange).unwrap_err().to_string().contains("no way to write `%`"));
    assert_eq!(readable(directory.path()).unwrap(), directory.path());
}

#[test]
fn programs_are_found_where_they_are() {
    assert!(find_program("sh").is_some_and(|program| is_program(&program)));
    assert_eq!(find_program("no-such-program-anywhere"), None);
}

#[test]
fn whoever_runs_this_has_a_name() {
    assert!(!user_name().unwrap().is_empty());
}
