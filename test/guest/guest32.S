/*
 * The smallest test guest: 32-bit protected mode, no paging, no interrupts, no ACPI;
 * COM1 output only. It can't see the power button. Waits by polling the ACPI PM timer,
 * so everything but idle takes a third of a core: prefer guest64.
 *
 * First word of the command line (told apart by its first letters):
 *   (none), tick   a line about every second
 *   idle           hlt with interrupts off for ever
 *   poweroff       one tick, then ACPI S5
 *   reboot         one tick, then keyboard controller reset
 *   triple         one tick, then triple fault
 *   crash          one tick, then an instruction that KVM's emulator lacks
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
    movl %ebx, %ebp             /* hvm_start_info */
    movl $message_ready, %esi
    call put
    movl $message_command_line, %esi
    call put
    movl 24(%ebp), %esi         /* cmdline_paddr, low half */
    testl %esi, %esi
    jz no_command_line
    movb (%esi), %al
    movb %al, first_letter
    movb 1(%esi), %al
    movb %al, second_letter
    call put
no_command_line:
    movl $message_newline, %esi
    call put
    cmpb $'i', first_letter
    je idle
    movl $0, ticks

tick_loop:
    call wait_second
    incl ticks
    movl $message_tick, %esi
    call put
    movl ticks, %eax
    call put_decimal
    movl $message_newline, %esi
    call put
    cmpb $'p', first_letter
    je poweroff
    cmpb $'r', first_letter
    je reboot
    cmpb $'c', first_letter
    je crash
    cmpb $'t', first_letter
    jne tick_loop
    cmpb $'r', second_letter
    je triple
    jmp tick_loop

idle:
    movl $message_idle, %esi
    call put
halted:
    hlt
    jmp halted

poweroff:
    movl $message_poweroff, %esi
    call put
    movb $0x34, %al             /* SLP_TYP 5, SLP_EN */
    movw $0x600, %dx
    outb %al, %dx
    jmp halted

reboot:
    movl $message_reboot, %esi
    call put
    movb $0xfe, %al
    movw $0x64, %dx
    outb %al, %dx
    jmp halted

triple:
    movl $message_triple, %esi
    call put
    lidt empty_idt
    ud2
    jmp halted

crash:
    movl $message_crash, %esi
    call put
    movl $0xd0000000, %edi      /* device window, no device: the access must be emulated */
    popcnt (%edi), %eax
    jmp halted

/* About one second by the 3.579545 MHz ACPI PM timer. */
wait_second:
    movw $0x608, %dx
    inl %dx, %eax
    movl %eax, timer_start
still_waiting:
    movw $0x608, %dx
    inl %dx, %eax
    subl timer_start, %eax
    cmpl $3579545, %eax
    jb still_waiting
    ret

/* esi: zero-terminated string, to COM1. */
put:
    movb (%esi), %al
    testb %al, %al
    jz put_done
    call put_char
    incl %esi
    jmp put
put_done:
    ret

put_char:
    movb %al, %cl
    movw $0x3fd, %dx
put_char_wait:
    inb %dx, %al
    testb $0x20, %al
    jz put_char_wait
    movb %cl, %al
    movw $0x3f8, %dx
    outb %al, %dx
    ret

/* eax: unsigned number, to COM1. */
put_decimal:
    movl $number_end, %edi
    movl $10, %ebx
next_digit:
    xorl %edx, %edx
    divl %ebx
    addb $'0', %dl
    decl %edi
    movb %dl, (%edi)
    testl %eax, %eax
    jnz next_digit
    movl %edi, %esi
    jmp put

    .data
message_ready:
    .asciz "NKUDO-GUEST-READY\r\n"
message_command_line:
    .asciz "NKUDO-CMDLINE "
message_tick:
    .asciz "NKUDO-TICK "
message_idle:
    .asciz "NKUDO-IDLE\r\n"
message_poweroff:
    .asciz "NKUDO-POWEROFF\r\n"
message_reboot:
    .asciz "NKUDO-REBOOT\r\n"
message_triple:
    .asciz "NKUDO-TRIPLE-FAULT\r\n"
message_crash:
    .asciz "NKUDO-CRASH\r\n"
message_newline:
    .asciz "\r\n"
    .align 4
empty_idt:
    .word 0
    .long 0
    .align 4
ticks:
    .long 0
timer_start:
    .long 0
first_letter:
    .byte 0
second_letter:
    .byte 0
    .fill 11, 1, 0
number_end:
    .byte 0
    .bss
    .align 16
    .space 4096
stack_top:
    .section .note.GNU-stack, "", @progbits
