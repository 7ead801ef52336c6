//! The ACPI tables as an independent reader understands them: ACPICA, whose interpreter is Linux's too.

#![expect(clippy::unwrap_used, reason = "what fails in a test is to be seen where it fails")]

use std::fs;
use std::path::Path;
use std::process::Command;

/// Where each table starts, by its signature: the root pointer does not count.
fn split(image: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut tables = Vec::new();
    let mut at = 64;
    while at + 36 <= image.len() {
        let len = u32::from_le_bytes(image[at + 4..at + 8].try_into().unwrap());
        let end = at + usize::try_from(len).unwrap();
        let name = String::from_utf8(image[at..at + 4].to_vec()).unwrap();
        tables.push((name, image[at..end].to_vec()));
        at = end.next_multiple_of(16);
    }
    tables
}

/// The source text that a table was disassembled to, with what the disassembler had to say.
fn disassembled(directory: &Path, name: &str, table: &[u8]) -> String {
    let file = directory.join(name);
    fs::write(&file, table).unwrap();
    let output = Command::new("iasl").arg("-d").arg(&file).current_dir(directory).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    for word in ["rror", "arning", "nvalid", "nknown"] {
        assert!(!said.contains(word), "{name}: {said}");
    }
    fs::read_to_string(file.with_extension("dsl")).unwrap()
}

#[test]
fn the_tables_are_what_acpica_takes_them_for() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("SKIPPED: this test needs iasl, of Debian's package acpica-tools");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let tables = split(&vmm::acpi::tables(2));
    let names: Vec<_> = tables.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["DSDT", "FACP", "APIC", "MCFG", "XSDT"]);
    let text = |wanted: &str| {
        let (name, table) = tables.iter().find(|(name, _)| name == wanted).unwrap();
        disassembled(directory.path(), name, table)
    };
    let facp = text("FACP");
    assert!(facp.contains("Hardware Reduced (V5) : 1") && facp.contains("Reset Register Supported (V2) : 1"), "{facp}");
    assert_eq!(text("APIC").matches("Processor Enabled : 1").count(), 2);
    assert!(text("MCFG").contains("Base Address : 00000000E0000000"));

    // The disassembled source is compiled again: what it says is sound, and it is all that was said.
    let dsdt = text("DSDT");
    assert!(dsdt.contains("Device (PCI0)") && dsdt.contains("Device (COM1)") && dsdt.contains("Name (_S5"), "{dsdt}");
    let output = Command::new("iasl").args(["-p", "again", "DSDT.dsl"]).current_dir(directory.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("0 Errors, 0 Warnings"), "{said}\n{dsdt}");
    let (_, table) = &tables[0];
    assert_eq!(fs::read(directory.path().join("again.aml")).unwrap()[36..], table[36..]);
}
