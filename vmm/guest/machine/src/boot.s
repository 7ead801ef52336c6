# From the 32-bit entry to ring 3, and what still lands in ring 0 afterwards: exceptions and interrupts.
#
# Everything that can be is laid out by the assembler, because ring 0 may be interpreted, at a few instructions a microsecond, and
# without SSE. Selectors: 0x08 code of ring 0, 0x10 data of ring 0, 0x20 data of ring 3, 0x28 code of ring 3, 0x30 the TSS.

.set VECTORS, 64
.set EOI, 0xfee000b0

# ---- The note by which a loader finds the entry (PVH: XEN_ELFNOTE_PHYS32_ENTRY) ----

.section .note.pvh, "a", @note
.balign 4
    .long 4
    .long 4
    .long 18
    .asciz "Xen"
    .long pvh_entry

# ---- The way up ----

.section .boot.text, "ax", @progbits
.code32
.global pvh_entry
pvh_entry:
    cli
    cld
    mov $interrupt_stack_top, %esp
    # The start information comes in EBX. The time-stamp counter says when we began.
    mov %ebx, start_info
    rdtsc
    mov %eax, start_tsc
    mov %edx, start_tsc + 4
    # No interrupt of the old controllers: they would look like exceptions.
    mov $0xff, %al
    out %al, $0x21
    out %al, $0xa1
    # Long mode: PAE and SSE in CR4, LME in EFER, then paging.
    mov $level4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x620, %eax
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    and $0xfffffff3, %eax
    or $0x80000003, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $0x08, $long_mode

.code64
long_mode:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $interrupt_stack_top, %esp
    # The descriptor of the TSS has its base in pieces.
    mov $tss, %eax
    mov %ax, gdt_tss + 2
    shr $16, %eax
    mov %al, gdt_tss + 4
    mov %ah, gdt_tss + 7
    mov $0x30, %eax
    ltr %ax
    # So have the gates; each is the one before it, 16 bytes further on.
    mov $first_vector, %eax
    mov $idt, %edi
    mov $VECTORS, %ecx
1:  mov %ax, (%rdi)
    movl $0x8e00, 4(%rdi)
    movw $0x08, 2(%rdi)
    mov %eax, %edx
    shr $16, %edx
    mov %dx, 6(%rdi)
    add $16, %eax
    add $16, %edi
    dec %ecx
    jnz 1b
    # Ring 3 may use int3: it waits by it.
    movb $0xee, idt + 3 * 16 + 5
    lidt idt_pointer
    # KVM writes down how fast the time-stamp counter runs, if it is KVM and has that clock (MSR_KVM_SYSTEM_TIME_NEW).
    mov $0x40000000, %eax
    cpuid
    cmp $0x4b4d564b, %ebx
    jne 1f
    mov $0x40000001, %eax
    cpuid
    test $8, %eax
    jz 1f
    mov $0x4b564d01, %ecx
    mov $kvm_clock + 1, %eax
    xor %edx, %edx
    wrmsr
1:
    # And down to ring 3, with interrupts on; as if called, for the alignment of the stack.
    mov start_info, %edi
    push $0x23
    push $stack_top - 8
    push $0x202
    push $0x2b
    push $machine_start
    iretq

# ---- Back in ring 0 ----

.balign 16
first_vector:
.set vector, 0
.rept VECTORS
    .balign 16
    .if (vector == 8) | ((vector >= 10) & (vector <= 14)) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30)
    .else
    push $0
    .endif
    push $vector
    jmp landed
    .set vector, vector + 1
.endr

# On the stack: vector, error code, RIP, CS, RFLAGS, RSP, SS.
.balign 16
landed:
    cmpq $3, (%rsp)
    je wait_for_interrupt
    cmpq $32, (%rsp)
    jb fault

    push %rax
    push %rbx
    mov 16(%rsp), %rbx
    incl interrupts
    incl interrupts_of - 32 * 4(, %rbx, 4)
    # The line of a level-triggered interrupt falls when its cause is read. It stays low until ring 3 wants to hear of more.
    cmp $33, %ebx
    jne 1f
    mov line_cause, %rbx
    test %rbx, %rbx
    jz 1f
    mov (%rbx), %eax
    mov line_mask, %rbx
    movl $-1, (%rbx)
1:  mov $EOI, %eax
    movl $0, (%rax)
    pop %rbx
    pop %rax
    add $16, %rsp
    iretq

# int3: halts until there was an interrupt beyond those that EAX counts. The shadow of sti closes the gap before hlt.
wait_for_interrupt:
    cmp %eax, interrupts
    jne 1f
    sti
    hlt
    cli
1:  add $16, %rsp
    iretq

# Tells ring 3, on a stack that is surely good, with interrupts off. It does not come back.
fault:
    popq fault_record
    popq fault_record + 8
    popq fault_record + 16
    mov %cr2, %rax
    mov %rax, fault_record + 24
    mov $interrupt_stack_top, %esp
    push $0x23
    push $fault_stack_top - 8
    push $0x002
    push $0x2b
    push $machine_fault
    iretq

# ---- Tables ----

.section .boot.data, "aw", @progbits
# Virtual is physical, and ring 3 may touch it all: 4 GiB in pages of 2 MiB.
.balign 4096
.global level3
level4:
    .quad level3 + 7
    .fill 511, 8, 0
level3:
    .quad level2 + 0x0007, level2 + 0x1007, level2 + 0x2007, level2 + 0x3007
    .fill 508, 8, 0
level2:
.set page, 0
.rept 2048
    .quad (page << 21) | 0x87
    .set page, page + 1
.endr

idt:
    .fill VECTORS * 16, 1, 0
gdt:
    .quad 0
    .quad 0x00af9a000000ffff
    .quad 0x00cf92000000ffff
    .quad 0
    .quad 0x00cff2000000ffff
    .quad 0x00affa000000ffff
gdt_tss:
    .word tss_end - tss - 1
    .word 0
    .byte 0, 0x89, 0, 0
    .quad 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt
idt_pointer:
    .word VECTORS * 16 - 1
    .quad idt

# All ports are open to ring 3: the map of forbidden ones is empty, and ends with a byte of ones.
.balign 16
tss:
    .long 0
    .quad interrupt_stack_top
    .fill 90, 1, 0
    .word 104
    .fill 8192, 1, 0
    .byte 0xff
tss_end:

.balign 64
.global start_tsc, kvm_clock, fault_record, line_cause, line_mask, interrupts, interrupts_of
kvm_clock:
    .fill 64, 1, 0
start_tsc:
    .quad 0
fault_record:
    .quad 0, 0, 0, 0
line_cause:
    .quad 0
line_mask:
    .quad 0
start_info:
    .long 0
interrupts:
    .long 0
interrupts_of:
    .fill 32, 4, 0

.section .bss.stacks, "aw", @nobits
.balign 4096
    .skip 16384
interrupt_stack_top:
    .skip 16384
fault_stack_top:
    .skip 262144
stack_top:
