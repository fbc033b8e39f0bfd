/*
 * A kernel of a few bytes that says on COM1 what its boot loader gave it, then ends through
 * isa-debug-exit with status 85 (42 << 1 | 1). Built three times: as an ELF32 with a Multiboot header
 * (MULTIBOOT), as a flat image whose Multiboot header names its addresses (FLAT), and as an ELF64
 * with a PVH note (PVH). Entered in 32-bit protected mode each time.
 *
 * Prints one line each: the magic number, the command line, each module's arguments, its contents.
 */
    .code32
    .text
    .globl _start
_start:
#if defined(MULTIBOOT) || defined(FLAT)
    jmp start
    .balign 4
header:
#ifdef FLAT
    .set flags, 0x10003
#else
    .set flags, 0x3
#endif
    .long 0x1badb002, flags, -(0x1badb002 + flags)
    .long header, _start, _edata, _end, _start
#endif

start:
    movl $stack_top, %esp
    movl %eax, %edi
    movl %ebx, %ebp

#ifdef PVH
    movl (%ebp), %eax               /* hvm_start_info: magic */
    call put_hex
    movl 24(%ebp), %esi             /* command line */
    call put_line
    movl 12(%ebp), %ecx             /* number of modules, 32 bytes each */
    movl 16(%ebp), %ebx
next:
    jecxz done
    movl 16(%ebx), %esi             /* arguments */
    call put_line
    movl (%ebx), %esi
    movl 8(%ebx), %edx
    call put_bytes
    addl $32, %ebx
    decl %ecx
    jmp next
#else
    movl %edi, %eax                 /* what the loader left in EAX */
    call put_hex
    movl 16(%ebp), %esi
    call put_line
    movl 20(%ebp), %ecx             /* number of modules, 16 bytes each */
    movl 24(%ebp), %ebx
next:
    jecxz done
    movl 8(%ebx), %esi
    call put_line
    movl (%ebx), %esi
    movl 4(%ebx), %edx
    subl %esi, %edx
    call put_bytes
    addl $16, %ebx
    decl %ecx
    jmp next
#endif

done:
    movl bss_word, %eax             /* .bss is zero */
    addl $42, %eax
    movw $0xf4, %dx
    outl %eax, %dx
1:  hlt
    jmp 1b

/* AL to the serial port, once it is ready. */
put_char:
    pushl %edx
    pushl %eax
    movw $0x3fd, %dx
1:  inb %dx, %al
    testb $0x20, %al
    jz 1b
    popl %eax
    movw $0x3f8, %dx
    outb %al, %dx
    popl %edx
    ret

put_newline:
    movb $'\n', %al
    jmp put_char

/* The string at ESI and a newline. */
put_line:
    lodsb
    testb %al, %al
    jz put_newline
    call put_char
    jmp put_line

/* EDX bytes at ESI and a newline. */
put_bytes:
    testl %edx, %edx
    jz put_newline
    lodsb
    call put_char
    decl %edx
    jmp put_bytes

/* EAX in hexadecimal and a newline. */
put_hex:
    movl $8, %ecx
1:  roll $4, %eax
    pushl %eax
    andb $15, %al
    cmpb $10, %al
    sbbb $0x69, %al
    das
    orb $0x20, %al
    call put_char
    popl %eax
    loop 1b
    jmp put_newline

    .data
    .long 0x12345678
    .bss
    .balign 16
bss_word:
    .long 0
    .skip 4092
stack_top:

#ifdef PVH
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18                  /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long _start
#endif
    .section .note.GNU-stack, "", @progbits
