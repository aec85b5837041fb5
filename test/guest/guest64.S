/*
 * PVH entry of the long-mode test guest: 32-bit protected mode without paging in,
 * 64-bit identity-mapped first GiB (2 MiB pages) out, then guest_main() in guest64.c.
 * Also holds what C can't say: sleeping until the local APIC timer fires, and the
 * two deliberate deaths. Avoids every instruction that KVM's emulator lacks.
 */
    .section .note.Xen, "a", @note
    .align 4
    .long 4                     /* name size */
    .long 8                     /* descriptor size */
    .long 18                    /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad _start

    .text
    .code32
    .globl _start
_start:
    cli
    movl $stack_top, %esp
    movl %ebx, %esi             /* hvm_start_info, kept for guest_main */

    movl $page_directory_low, %edi
    movl $0x83, %eax            /* present, writable, 2 MiB */
    xorl %ecx, %ecx
fill_directory:
    movl %eax, (%edi, %ecx, 8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $512, %ecx
    jb fill_directory

    movl $page_directory_low, %eax
    orl $3, %eax
    movl %eax, pdpt_low
    movl $pdpt_low, %eax
    orl $3, %eax
    movl %eax, pml4

    lgdt gdt_pointer
    movl %cr4, %eax
    orl $0x20, %eax             /* PAE */
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      /* EFER */
    rdmsr
    orl $0x100, %eax            /* LME */
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax       /* paging, protection */
    movl %eax, %cr0
    ljmp $0x08, $long_mode

    .code64
long_mode:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $stack_top, %esp
    movl %esi, %edi
    call guest_main
halted:
    hlt
    jmp halted

/*
 * void sleep_until_timer(void): halts with interrupts on until the timer's vector is
 * delivered. The handler doesn't return with iretq (the emulator has none for long
 * mode); it drops the interrupt frame and returns to sleep_until_timer's caller.
 */
    .globl sleep_until_timer
sleep_until_timer:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, sleeping_stack
    sti
still_asleep:
    hlt
    jmp still_asleep

    .globl timer_interrupt
timer_interrupt:
    movl $0x80b, %ecx           /* x2APIC end of interrupt */
    xorl %eax, %eax
    xorl %edx, %edx
    wrmsr
    movq sleeping_stack, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* void die_by_triple_fault(void): an exception with no handler, no double-fault handler. */
    .globl die_by_triple_fault
die_by_triple_fault:
    lidt empty_idt
    ud2
    jmp die_by_triple_fault

/*
 * void die_by_emulation_failure(u64 mmio): a 16-byte compare-and-exchange on a device
 * address has to be emulated and KVM's emulator can't, with or without VMX/SVM.
 */
    .globl die_by_emulation_failure
die_by_emulation_failure:
    xorl %eax, %eax
    xorl %edx, %edx
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    cmpxchg16b (%rdi)
    jmp die_by_emulation_failure

    .data
    .align 8
gdt:
    .quad 0
    .quad 0x00af9a000000ffff    /* 64-bit code */
    .quad 0x00cf92000000ffff    /* data */
gdt_pointer:
    .word 23
    .long gdt
    .align 8
empty_idt:
    .word 0
    .quad 0
    .align 8
sleeping_stack:
    .quad 0

    .bss
    .align 4096
    .globl pml4, pdpt_low
pml4:
    .space 4096
pdpt_low:
    .space 4096
page_directory_low:
    .space 4096
    .space 8192
stack_top:
    .section .note.GNU-stack, "", @progbits
