//! The guests. Each is position-independent 64-bit code that starts with a stack and a table of interrupts: see [`super::vm`].

use std::arch::global_asm;

/// Defines functions that return the code between two labels.
macro_rules! guests {
    ($($(#[doc = $doc:literal])+ $name:ident $start:ident $end:ident { $($line:literal),+ $(,)? })+) => {
        $(
            global_asm!(
                ".pushsection .rodata",
                concat!(stringify!($start), ":"),
                $($line,)+
                concat!(stringify!($end), ":"),
                ".popsection",
            );
            $(#[doc = $doc])+
            pub(crate) fn $name() -> &'static [u8] {
                unsafe extern "C" {
                    static $start: u8;
                    static $end: u8;
                }
                // SAFETY: both labels are in one section, the second after the first, and what is between them is constant.
                unsafe {
                    let start = &raw const $start;
                    std::slice::from_raw_parts(start, (&raw const $end).offset_from(start).unsigned_abs())
                }
            }
        )+
    };
}

/// Where handlers are put, behind every guest.
pub(crate) const HANDLER: fn() -> &'static [u8] = handler;
/// The other one.
pub(crate) const LEVEL_HANDLER: fn() -> &'static [u8] = level_handler;

guests! {
    /// Writes "hello" to the serial port and turns the machine off.
    hello hello_start hello_end {
        "lea rsi, [rip + 3f]",
        "mov ecx, 5",
        "mov dx, 0x3f8",
        "2: mov al, [rsi]",
        "out dx, al",
        "inc rsi",
        "dec ecx",
        "jnz 2b",
        "mov dx, 0x600",
        "mov al, 0x34",
        "out dx, al",
        "4: jmp 4b",
        "3: .ascii \"hello\"",
    }
    /// Asks, waits for one byte, sends it back and turns the machine off.
    echo echo_start echo_end {
        "mov dx, 0x3f8",
        "mov al, '?'",
        "out dx, al",
        "2: mov dx, 0x3fd",
        "in al, dx",
        "test al, 1",
        "jz 2b",
        "mov dx, 0x3f8",
        "in al, dx",
        "out dx, al",
        "mov dx, 0x600",
        "mov al, 0x34",
        "out dx, al",
        "4: jmp 4b",
    }
    /// Resets the machine as ACPI says.
    reset_register reset_register_start reset_register_end {
        "mov dx, 0x602",
        "mov al, 1",
        "out dx, al",
        "4: jmp 4b",
    }
    /// Resets the machine as the PC/AT did.
    keyboard_reset keyboard_reset_start keyboard_reset_end {
        "mov al, 0xfe",
        "out 0x64, al",
        "4: jmp 4b",
    }
    /// Faults with an empty table of interrupts.
    crash crash_start crash_end {
        "push 0",
        "push 0",
        "lidt [rsp]",
        "ud2",
    }
    /// Begins with a vector instruction, and turns the machine off.
    vector vector_start vector_end {
        "xorps xmm0, xmm0",
        "mov dx, 0x600",
        "mov al, 0x34",
        "out dx, al",
        "4: jmp 4b",
    }
    /// Says that it is there, and runs in circles.
    spin spin_start spin_end {
        "mov dx, 0x3f8",
        "mov al, '!'",
        "out dx, al",
        "4: jmp 4b",
    }
    /// Says that it is there, and halts for good.
    halt halt_start halt_end {
        "mov dx, 0x3f8",
        "mov al, '!'",
        "out dx, al",
        "cli",
        "4: hlt",
        "jmp 4b",
    }
    /// Turns its local APIC on, halts three times until it is interrupted, and turns the machine off.
    wait_for_interrupts wait_for_interrupts_start wait_for_interrupts_end {
        "mov ebx, 0xfee00000",
        "mov dword ptr [rbx + 0xf0], 0x1ff",
        "mov ecx, 3",
        "2: mov dx, 0x3f8",
        "mov al, '.'",
        "out dx, al",
        // Nothing comes between these two.
        "sti",
        "hlt",
        "cli",
        "dec ecx",
        "jnz 2b",
        "mov dx, 0x600",
        "mov al, 0x34",
        "out dx, al",
        "4: jmp 4b",
    }
    /// Says that it was interrupted.
    handler handler_start handler_end {
        "push rax",
        "push rdx",
        "mov dx, 0x3f8",
        "mov al, 'i'",
        "out dx, al",
        "mov dword ptr [rbx + 0xb0], 0",
        "pop rdx",
        "pop rax",
        "iretq",
    }
    /// Turns on the memory of the card in slot 1, writes to its doorbell twice and to a register once, and turns the machine off.
    ring ring_start ring_end {
        "mov dx, 0xcf8",
        "mov eax, 0x80000810",
        "out dx, eax",
        "mov dx, 0xcfc",
        "in eax, dx",
        "mov ebx, eax",
        "mov dx, 0xcf8",
        "mov eax, 0x80000804",
        "out dx, eax",
        "mov dx, 0xcfc",
        "mov ax, 2",
        "out dx, ax",
        "mov word ptr [rbx + 0x800], 7",
        "mov dword ptr [rbx + 0x800], 8",
        "mov dword ptr [rbx + 0x100], 0x1234",
        "mov dx, 0x600",
        "mov al, 0x34",
        "out dx, al",
        "4: jmp 4b",
    }
    /// Routes the line of the card in slot 1 to the vector, lets the card assert it, and halts until the handler has counted three
    /// interrupts; then says so and turns the machine off.
    level level_start level_end {
        "mov ebp, 0xfee00000",
        "mov dword ptr [rbp + 0xf0], 0x1ff",
        // Entry 16 of the I/O APIC: the vector, level-triggered, to processor 0.
        "mov edi, 0xfec00000",
        "mov dword ptr [rdi], 0x31",
        "mov dword ptr [rdi + 0x10], 0",
        "mov dword ptr [rdi], 0x30",
        "mov dword ptr [rdi + 0x10], 0x8040",
        // The card's memory, as above.
        "mov dx, 0xcf8",
        "mov eax, 0x80000810",
        "out dx, eax",
        "mov dx, 0xcfc",
        "in eax, dx",
        "mov ebx, eax",
        "mov dx, 0xcf8",
        "mov eax, 0x80000804",
        "out dx, eax",
        "mov dx, 0xcfc",
        "mov ax, 2",
        "out dx, ax",
        "xor ecx, ecx",
        "mov dword ptr [rbx + 0x104], 1",
        "2: cli",
        "cmp ecx, 3",
        "jae 3f",
        "sti",
        "hlt",
        "jmp 2b",
        "3: mov dx, 0x3f8",
        "mov al, '.'",
        "out dx, al",
        "mov dx, 0x600",
        "mov al, 0x34",
        "out dx, al",
        "4: jmp 4b",
    }
    /// Counts, and satisfies the card the third time.
    level_handler level_handler_start level_handler_end {
        "push rax",
        "push rdx",
        "mov dx, 0x3f8",
        "mov al, 'i'",
        "out dx, al",
        "inc ecx",
        "cmp ecx, 3",
        "jb 2f",
        "mov dword ptr [rbx + 0x104], 0",
        "2: mov dword ptr [rbp + 0xb0], 0",
        "pop rdx",
        "pop rax",
        "iretq",
    }
}
