/*
 * Start of the 64-bit image: from Multiboot's 32-bit protected mode to long mode with the first 1 GiB
 * mapped one to one by 2 MiB pages (user-accessible: tests narrow down what they need), then main().
 * Also the exception stubs and the way to CPL 3 and back.
 */
        .section .multiboot, "a"
        .balign 4
        .long 0x1badb002, 0, -0x1badb002

        .section .text
        .code32
        .globl start
start:
        cli
        mov $ring0_stack_top, %esp
        mov $boot_pml4, %edi
        movl $boot_pdpt + 7, (%edi)
        movl $boot_pd + 7, boot_pdpt
        mov $boot_pd, %edi
        mov $0x87, %eax                 /* present, writable, user, 2 MiB */
        mov $512, %ecx
1:      mov %eax, (%edi)
        movl $0, 4(%edi)
        add $8, %edi
        add $0x200000, %eax
        loop 1b
        mov $boot_pml4, %eax
        mov %eax, %cr3
        mov $0x620, %eax                /* PAE, OSFXSR, OSXMMEXCPT */
        mov %eax, %cr4
        mov $0xc0000080, %ecx
        rdmsr
        or $0x901, %eax                 /* SCE, LME, NXE */
        wrmsr
        mov $0x80010033, %eax           /* PG, WP, NE, ET, MP, PE */
        mov %eax, %cr0
        lgdt gdt_pointer
        ljmp $0x08, $long_start

        .code64
long_start:
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        xor %eax, %eax
        mov %eax, %fs
        mov %eax, %gs
        mov $ring0_stack_top, %rsp
        call main
1:      hlt
        jmp 1b

/*
 * --- exceptions: stub N pushes an error code (0 if the CPU pushes none) and N ---
 * VERW does nothing that counts here. A KVM that emulates, and raises #UD or #GP for what it does not know,
 * does not know it either: so the rescuing interpreter gets to see each exception (soft/take-back.c).
 */

        .balign 16
        .globl stubs
stubs:
        .set i, 0
        .rept 256
        .balign 16
        verw %ax
        .if (i == 8) || ((i >= 10) && (i <= 14)) || (i == 17)
        .else
        push $0
        .endif
        push $i
        jmp trap_common
        .set i, i + 1
        .endr

trap_common:
        push %r15
        push %r14
        push %r13
        push %r12
        push %r11
        push %r10
        push %r9
        push %r8
        push %rdi
        push %rsi
        push %rbp
        sub $8, %rsp                    /* RSP's place */
        push %rbx
        push %rdx
        push %rcx
        push %rax
        cld
        mov %rsp, %rdi
        mov %rsp, %rbx
        and $-16, %rsp
        call trap_record
        mov %rbx, %rsp
        pop %rax
        pop %rcx
        pop %rdx
        pop %rbx
        add $8, %rsp
        pop %rbp
        pop %rsi
        pop %rdi
        pop %r8
        pop %r9
        pop %r10
        pop %r11
        pop %r12
        pop %r13
        pop %r14
        pop %r15
        add $16, %rsp
        iretq

/* --- word run_user(f, arg): IRETQ to CPL 3; INT 0x80 or a fault comes back through user_return --- */

        .globl run_user
run_user:
        push %rbp
        push %rbx
        push %r12
        push %r13
        push %r14
        push %r15
        pushfq
        mov %rsp, user_saved_sp
        mov %rdi, %rax
        mov %rsi, %rdi
        push $0x1b
        mov $user_stack_top, %rcx
        push %rcx
        push $0x3202                    /* IF, IOPL 3 is set by tests that want it */
        andq $~0x3000, (%rsp)
        push $0x23
        push $user_entry
        iretq

        .globl user_return
user_return:
        mov user_saved_sp, %rsp
        popfq
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbx
        pop %rbp
        ret

        .section .user, "ax"
        .globl user_entry
user_entry:
        call *%rax
        int $0x80

        .section .data
        .balign 16
        .globl gdt, gdt_pointer, idt, tss
gdt:    .quad 0
        .quad 0x00af9b000000ffff        /* 08 code */
        .quad 0x00cf93000000ffff        /* 10 data */
        .quad 0x00cff3000000ffff        /* 18 user data */
        .quad 0x00affb000000ffff        /* 20 user code, 64-bit */
        .quad 0x00cffb000000ffff        /* 28 user code, 32-bit */
        .fill 64 - 6, 8, 0
gdt_pointer:
        .word 64 * 8 - 1
        .quad gdt

        .section .bss
        .balign 4096
        .globl boot_pml4, boot_pdpt, boot_pd
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd: .skip 4096
        .globl ring0_stack, ring0_stack_top, user_stack_top, ist_stack_top
ring0_stack: .skip 32768
ring0_stack_top:
        .skip 4096
trap_stack: .skip 16384
        .globl trap_stack_top
trap_stack_top:
        .skip 16384
user_stack_top:
        .skip 16384
ist_stack_top:
        .skip 8192
        .globl df_stack_top
df_stack_top:
idt:    .skip 4096
tss:    .skip 12288
user_saved_sp: .skip 8
