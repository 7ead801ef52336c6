//! Which part of a file a guest wants (RFC 9110 section 14).

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it: no part was asked for, or in a way that is not understood, or several, which nobody who boots does.
    Whole,
    /// `len` bytes from `first` on; `len` is not 0.
    Some { first: u64, len: u64 },
    /// Nothing that there is.
    None,
}

impl Part {
    /// Reads the value of a `Range` field, of a file of `size` bytes.
    pub(super) fn of(range: &str, size: u64) -> Self {
        Self::single(range, size).unwrap_or(Self::Whole)
    }

    fn single(range: &str, size: u64) -> Option<Self> {
        let (unit, range) = range.split_once('=')?;
        let (first, last) = range.trim().split_once('-')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        let (first, len) = match (first, last) {
            ("", last) => {
                let len = number(last)?.min(size);
                (size - len, len)
            }
            (first, "") => {
                let first = number(first)?;
                (first, size.saturating_sub(first))
            }
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return None;
                }
                (first, last.saturating_add(1).min(size).saturating_sub(first))
            }
        };
        Some(if len == 0 { Self::None } else { Self::Some { first, len } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_cut_to_what_there_is() {
        let some = |first, len| Part::Some { first, len };
        assert_eq!(Part::of("bytes=0-9", 100), some(0, 10));
        assert_eq!(Part::of("bytes=90-", 100), some(90, 10));
        assert_eq!(Part::of("Bytes = 90-200", 100), some(90, 10));
        assert_eq!(Part::of("bytes=-30", 100), some(70, 30));
        assert_eq!(Part::of("bytes=-300", 100), some(0, 100));
        assert_eq!(Part::of("bytes=0-18446744073709551615", 100), some(0, 100));
    }

    #[test]
    fn a_part_behind_the_end_is_none_and_what_is_not_understood_is_the_whole() {
        for none in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(Part::of(none, 100), Part::None, "{none}");
        }
        assert_eq!(Part::of("bytes=0-", 0), Part::None);
        for whole in
            ["bytes=9-1", "bytes=0-1,5-6", "lines=1-2", "bytes", "bytes=-", "bytes=+1-2", "bytes=99999999999999999999-", ""]
        {
            assert_eq!(Part::of(whole, 100), Part::Whole, "{whole}");
        }
    }
}
