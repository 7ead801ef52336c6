//! Lists of domain names as neighbour discovery and DHCPv6 write them: DNS's encoding without its compression.

/// The names one after the other, in the encoding of RFC 1035 section 3.1 (RFC 8106 section 5.2, RFC 8415 section 10). `None` if one
/// of them is no domain name.
pub(crate) fn encode<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Vec<u8>> {
    let mut encoded = Vec::new();
    for name in names {
        let start = encoded.len();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            let len = u8::try_from(label.len()).ok().filter(|len| *len <= LONGEST_LABEL)?;
            encoded.push(len);
            encoded.extend(label.as_bytes());
        }
        encoded.push(0);
        if encoded.len() - start > LONGEST_NAME {
            return None;
        }
    }
    Some(encoded)
}

/// RFC 1035 section 2.3.4.
const LONGEST_LABEL: u8 = 63;
const LONGEST_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_common_end_are_written_out() {
        let encoded = encode(["a.example", "b.example."]).unwrap();
        assert_eq!(encoded, b"\x01a\x07example\0\x01b\x07example\0");
        assert_eq!(encode([]), Some(Vec::new()));
    }

    #[test]
    fn what_is_no_name_is_not_written() {
        assert_eq!(encode(["a".repeat(64).as_str()]), None);
        assert_eq!(encode([["abcdefg"; 32].join(".").as_str()]), None);
    }
}
