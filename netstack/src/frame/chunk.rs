//! Pieces of a port's memory, as the kernel's scatter-gather calls want them.
//!
//! A frame of a virtual machine lies in guest memory, which the guest may rewrite at any moment, also while we look at it. A `&[u8]`
//! promises the compiler that this cannot happen; a [`Chunk`] promises nothing. It can only be copied from, byte by byte, or handed to
//! the kernel. Whatever decides something is first copied out, and only the copy is read.

use std::fmt;
use std::marker::PhantomData;
use std::ptr;

/// A readable piece of a port's memory. Has the layout of `struct iovec`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Chunk<'a> {
    iov: libc::iovec,
    memory: PhantomData<&'a [u8]>,
}

/// A writable piece of a port's memory. Has the layout of `struct iovec`.
#[repr(transparent)]
pub struct ChunkMut<'a> {
    iov: libc::iovec,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Chunk<'a> {
    /// The `len` bytes at `start`.
    ///
    /// # Safety
    ///
    /// The memory must stay mapped and readable for `'a`. It may be changed meanwhile by a guest; it must not be changed meanwhile by
    /// this process, except by the kernel or through other chunks.
    pub const unsafe fn from_raw_parts(start: *const u8, len: usize) -> Self {
        Self { iov: libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len }, memory: PhantomData }
    }

    /// A chunk without bytes.
    pub const fn empty() -> Self {
        Self { iov: libc::iovec { iov_base: ptr::dangling_mut::<u8>().cast(), iov_len: 0 }, memory: PhantomData }
    }

    /// Its length in bytes.
    pub const fn len(&self) -> usize {
        self.iov.iov_len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.iov.iov_len == 0
    }

    /// Copies bytes from `offset` on into `to`; returns how many there were.
    pub fn copy_to(&self, offset: usize, to: &mut [u8]) -> usize {
        let len = self.len().saturating_sub(offset).min(to.len());
        if len > 0 {
            // SAFETY: `offset + len <= self.len()`, and the memory is readable by the contract of `from_raw_parts`; `to` is ours alone.
            unsafe { ptr::copy_nonoverlapping(self.iov.iov_base.cast::<u8>().add(offset), to.as_mut_ptr(), len) };
        }
        len
    }

    /// The part of at most `len` bytes from `offset` on; empty where there is none.
    #[must_use]
    pub fn part(&self, offset: usize, len: usize) -> Self {
        let offset = offset.min(self.len());
        // SAFETY: `offset` is at most the length of this chunk, so the result lies within it.
        unsafe { Self::from_raw_parts(self.iov.iov_base.cast::<u8>().add(offset), len.min(self.len() - offset)) }
    }
}

impl<'a> From<&'a [u8]> for Chunk<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        // SAFETY: a shared slice is readable and unchanged for its lifetime.
        unsafe { Self::from_raw_parts(bytes.as_ptr(), bytes.len()) }
    }
}

impl fmt::Debug for Chunk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len())
    }
}

impl<'a> ChunkMut<'a> {
    /// The `len` bytes at `start`.
    ///
    /// # Safety
    ///
    /// The memory must stay mapped and writable for `'a`. A guest may read or change it meanwhile; nothing in this process may, except
    /// the kernel or other chunks.
    pub const unsafe fn from_raw_parts(start: *mut u8, len: usize) -> Self {
        Self { iov: libc::iovec { iov_base: start.cast(), iov_len: len }, memory: PhantomData }
    }

    /// A chunk without bytes.
    pub const fn empty() -> Self {
        Self { iov: libc::iovec { iov_base: ptr::dangling_mut::<u8>().cast(), iov_len: 0 }, memory: PhantomData }
    }

    /// Its length in bytes.
    pub const fn len(&self) -> usize {
        self.iov.iov_len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.iov.iov_len == 0
    }

    /// Copies `from` to `offset`; returns how many bytes there was room for.
    pub fn copy_from(&mut self, offset: usize, from: &[u8]) -> usize {
        let len = self.len().saturating_sub(offset).min(from.len());
        if len > 0 {
            // SAFETY: `offset + len <= self.len()`, and the memory is writable by the contract of `from_raw_parts`.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.iov.iov_base.cast::<u8>().add(offset), len) };
        }
        len
    }

    /// The part of at most `len` bytes from `offset` on, for as long as this chunk is borrowed; empty where there is none.
    pub fn part(&mut self, offset: usize, len: usize) -> ChunkMut<'_> {
        let offset = offset.min(self.len());
        // SAFETY: `offset` is at most the length of this chunk, so the result lies within it, and it borrows this chunk mutably.
        unsafe { ChunkMut::from_raw_parts(self.iov.iov_base.cast::<u8>().add(offset), len.min(self.len() - offset)) }
    }

    /// The same bytes, to be read.
    pub const fn as_chunk(&self) -> Chunk<'_> {
        Chunk { iov: self.iov, memory: PhantomData }
    }
}

impl<'a> From<&'a mut [u8]> for ChunkMut<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        // SAFETY: a mutable slice is ours alone for its lifetime.
        unsafe { Self::from_raw_parts(bytes.as_mut_ptr(), bytes.len()) }
    }
}

impl fmt::Debug for ChunkMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkMut({} bytes)", self.len())
    }
}
