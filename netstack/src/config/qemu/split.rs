//! Cuts the text of options at its commas.

/// The options of a text, each a name and its value if it has one. `,,` in a value stands for a comma, as in QEMU. Nothing follows a
/// comma at the end, and nothing precedes one at the beginning.
pub fn options(text: &str) -> Vec<(String, Option<String>)> {
    let mut options = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let value = after.strip_prefix('=').map(|after| {
            let (value, after) = take_value(after);
            rest = after;
            value
        });
        if value.is_none() {
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        if !name.is_empty() || value.is_some() {
            options.push((name.to_owned(), value));
        }
    }
    options
}

/// A value up to a comma that stands alone, and what follows that comma.
fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some((part, after)) = rest.split_once(',') {
        value.push_str(part);
        match after.strip_prefix(',') {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, after),
        }
    }
    value.push_str(rest);
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_separate_and_two_of_them_are_one() {
        let written =
            |(name, value): (String, Option<String>)| [Some(name), value].into_iter().flatten().collect::<Vec<_>>().join("=");
        let cut = |text| options(text).into_iter().map(written);
        for (text, expected) in [
            ("", &[][..]),
            (",", &[]),
            ("restrict", &["restrict"]),
            ("a=1,b=2", &["a=1", "b=2"]),
            ("a=1,restrict,b=2,", &["a=1", "restrict", "b=2"]),
            ("a=x,,y,b=,,", &["a=x,y", "b=,"]),
            ("a=x,,,b=1", &["a=x,", "b=1"]),
            ("a=,b==", &["a=", "b=="]),
            ("=x", &["=x"]),
        ] {
            assert_eq!(cut(text).collect::<Vec<_>>(), expected, "{text}");
        }
    }
}
