//! The smallest image that can be booted: a few instructions, and the note that names the first of them.

/// An ELF file that loads `code` at `start` and is entered there in 32-bit mode.
pub(crate) fn with_code(start: u32, code: &[u8]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    const LOAD: u32 = 1;
    const NOTE: u32 = 4;
    const EXECUTABLE: u16 = 2;
    const X86_64: u16 = 62;
    let note: Vec<u8> = [4_u32.to_le_bytes(), 4_u32.to_le_bytes(), 18_u32.to_le_bytes(), *b"Xen\0", start.to_le_bytes()].concat();
    let note_at = HEADER + 2 * PROGRAM_HEADER;
    let code_at = note_at + note.len() as u64;

    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [EXECUTABLE, X86_64] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for long in [u64::from(start), HEADER, 0] {
        file.extend(long.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    // Sizes of the headers, and how many there are; no sections.
    for half in [HEADER as u16, PROGRAM_HEADER as u16, 2, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let segments = [(LOAD, code_at, u64::from(start), code.len() as u64), (NOTE, note_at, 0, note.len() as u64)];
    for (kind, offset, address, len) in segments {
        for word in [kind, 7] {
            file.extend(word.to_le_bytes());
        }
        for long in [offset, address, address, len, len, 4] {
            file.extend(long.to_le_bytes());
        }
    }
    file.extend(note);
    file.extend(code);
    file
}
