//! What is put into the guest's memory before its first instruction: the kernel, the initial RAM disk, and what tells the kernel of them.
//!
//! Two kinds of kernels are understood: a bzImage, as distributions install it, entered in 64-bit mode (Linux's boot protocol 2.12 and
//! later); and an ELF image with a PVH note, entered in 32-bit mode (the built-in probe guest, a `vmlinux`). Everything that can be wrong
//! with them is found here, before a virtual machine exists.

mod bzimage;
mod map;
mod pvh;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::{GuestMemory, layout};

pub use map::{MapEntry, MapKind, memory_map};

/// Where and how vCPU 0 starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// In 64-bit mode with an identity map; RSI points at the boot parameters.
    Long {
        /// The first instruction.
        rip: u64,
    },
    /// In 32-bit mode without paging; EBX points at the start info.
    Pvh {
        /// The first instruction.
        eip: u32,
    },
}

/// A kernel that has been looked at, but not loaded.
#[derive(Debug)]
pub struct Kernel {
    image: Image,
    kind: Kind,
    /// What people call it.
    name: String,
}

/// Where the bytes of a kernel are.
#[derive(Debug)]
enum Image {
    File(File),
    Built(&'static [u8]),
}

#[derive(Debug)]
enum Kind {
    BzImage(Box<setup_header>),
    Elf,
}

/// What goes into memory beside the kernel.
#[derive(Debug, Default)]
pub struct Payload {
    /// The initial RAM disk.
    pub initrd: Option<Initrd>,
    /// The kernel's command line.
    pub command_line: String,
}

/// An initial RAM disk that has been opened, but not loaded.
#[derive(Debug)]
pub struct Initrd {
    path: PathBuf,
    file: File,
    len: u64,
}

/// A kernel cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file could not be opened.
    #[error("cannot open {path}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file could not be read, or only in part.
    #[error("cannot read {name}")]
    Read {
        /// Which file.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// It is something else.
    #[error("{name} is no kernel: it is {what}, not a bzImage and not an ELF image")]
    NoKernel {
        /// Which file.
        name: String,
        /// What it seems to be.
        what: &'static str,
    },
    /// A bzImage without the 64-bit entry point.
    #[error("{name} cannot be entered in 64-bit mode: {why}")]
    NoLongEntry {
        /// Which file.
        name: String,
        /// What it lacks.
        why: String,
    },
    /// An ELF image that nothing says how to enter.
    #[error("{name} is an ELF image without a PVH entry point")]
    NoPvhEntry {
        /// Which file.
        name: String,
    },
    /// The loader refuses it.
    #[error("{name} cannot be loaded: {why}")]
    Malformed {
        /// Which file.
        name: String,
        /// What it says.
        why: String,
    },
    /// The kernel needs more memory than there is.
    #[error("{name} needs {} MiB of memory below 3 GiB, and the virtual machine has {} MiB there", mebibytes_up(*needed), available >> 20)]
    KernelTooLarge {
        /// Which file.
        name: String,
        /// Up to which address it needs memory.
        needed: u64,
        /// Where memory ends.
        available: u64,
    },
    /// The initial RAM disk does not fit.
    #[error(
        "the initial RAM disk {path} has {} MiB, and the kernel leaves {} MiB of memory for it",
        mebibytes_up(*size),
        available >> 20
    )]
    InitrdTooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// What there is for it.
        available: u64,
    },
    /// The command line does not fit.
    #[error("the kernel takes a command line of at most {limit} bytes, and this one has {len}")]
    CommandLineTooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Guest memory refused a write: a mistake in the memory map.
    #[error("cannot write to the guest's memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

impl Kernel {
    /// Opens a file and finds out what kind of kernel it is.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is no kernel that could be booted.
    pub fn open(path: &Path) -> Result<Self, BootError> {
        let file = open(path)?;
        Self::look(Image::File(file), path.display().to_string())
    }

    /// A kernel that is part of this program.
    ///
    /// # Errors
    ///
    /// As [`Kernel::open`].
    pub fn built_in(name: &str, bytes: &'static [u8]) -> Result<Self, BootError> {
        Self::look(Image::Built(bytes), name.to_owned())
    }

    fn look(mut image: Image, name: String) -> Result<Self, BootError> {
        let start = image.start().map_err(|source| BootError::Read { name: name.clone(), source })?;
        let kind = match &start[..] {
            [0x7f, b'E', b'L', b'F', ..] => Kind::Elf,
            start if bzimage::is_one(start) => Kind::BzImage(Box::new(bzimage::header(start, &name)?)),
            start => return Err(BootError::NoKernel { name, what: guess(start) }),
        };
        Ok(Self { image, kind, name })
    }

    /// Puts the kernel, `payload` and the tables that describe them into `memory`, and says where the guest starts.
    ///
    /// # Errors
    ///
    /// When something does not fit or turns out to be damaged.
    pub fn load(&self, memory: &GuestMemory, payload: &Payload) -> Result<Entry, BootError> {
        match &self.kind {
            Kind::BzImage(header) => bzimage::load(self, header, memory, payload),
            Kind::Elf => pvh::load(self, memory, payload),
        }
    }
}

impl Image {
    /// The first bytes: all that identify it.
    fn start(&mut self) -> io::Result<Vec<u8>> {
        let mut start = Vec::new();
        match self {
            Self::File(file) => {
                file.seek(SeekFrom::Start(0))?;
                (&*file).take(bzimage::HEADER_END).read_to_end(&mut start)?;
            }
            Self::Built(bytes) => start.extend(bytes.iter().take(usize::try_from(bzimage::HEADER_END).unwrap_or(usize::MAX))),
        }
        Ok(start)
    }
}

impl Initrd {
    /// Opens an initial RAM disk.
    ///
    /// # Errors
    ///
    /// When that is not possible.
    pub fn open(path: &Path) -> Result<Self, BootError> {
        let file = open(path)?;
        let len = file.metadata().map_err(|source| BootError::Read { name: path.display().to_string(), source })?.len();
        Ok(Self { path: path.to_owned(), file, len })
    }

    /// Puts it as high as possible between `floor` and `ceiling`: address and length.
    fn load(&self, memory: &GuestMemory, floor: u64, ceiling: u64) -> Result<(u64, u64), BootError> {
        let too_large =
            || BootError::InitrdTooLarge { path: self.path.clone(), size: self.len, available: ceiling.saturating_sub(floor) };
        let start = ceiling.checked_sub(self.len).ok_or_else(too_large)? & !0xfff;
        if start < floor {
            return Err(too_large());
        }
        let read = |source| BootError::Read { name: self.path.display().to_string(), source };
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let len = usize::try_from(self.len).map_err(|_| too_large())?;
        memory
            .read_exact_volatile_from(GuestAddress(start), &mut file.try_clone().map_err(read)?, len)
            .map_err(|err| read(io::Error::other(err)))?;
        Ok((start, self.len))
    }
}

/// Writes the command line; `limit` is what the kernel takes, without the final NUL.
fn write_command_line(memory: &GuestMemory, line: &str, limit: usize) -> Result<(), BootError> {
    let limit = limit.min(layout::COMMAND_LINE_MAX - 1);
    if line.len() > limit {
        return Err(BootError::CommandLineTooLong { len: line.len(), limit });
    }
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(0);
    Ok(memory.write_slice(&bytes, GuestAddress(layout::COMMAND_LINE))?)
}

/// Where RAM below the gap ends.
fn low_ram_end(memory: &GuestMemory) -> u64 {
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    memory.find_region(GuestAddress(0)).map_or(0, GuestMemoryRegion::len)
}

fn open(path: &Path) -> Result<File, BootError> {
    let refuse = |source| BootError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(refuse)?;
    if file.metadata().map_err(refuse)?.is_dir() {
        return Err(refuse(io::ErrorKind::IsADirectory.into()));
    }
    Ok(file)
}

/// What a file that is no kernel may be.
fn guess(start: &[u8]) -> &'static str {
    match start {
        [] => "empty",
        [0x1f, 0x8b, ..] => "compressed with gzip",
        [0xfd, b'7', b'z', ..] => "compressed with xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "compressed with zstd",
        [b'0', b'7', b'0', b'7', ..] => "a cpio archive, as initial RAM disks are",
        [b'#', b'!', ..] => "a script",
        start if start.get(0x38..0x3c) == Some(b"ARM\x64") => "a kernel for ARM",
        [b'M', b'Z', ..] => "a program for EFI",
        _ => "something unknown",
    }
}

fn mebibytes_up(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests;
