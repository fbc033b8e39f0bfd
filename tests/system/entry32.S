/*
 * Start of the 32-bit image: flat protected mode without paging, as Multiboot leaves it, with our own
 * GDT; exception stubs; the way to CPL 3 and back; and code that runs below 1 MiB in real and
 * virtual-8086 mode (copied to LOW_CODE).
 */
        .set LOW_CODE, 0x8000

        .section .multiboot, "a"
        .balign 4
        .long 0x1badb002, 0, -0x1badb002

        .section .text
        .code32
        .globl start
start:
        cli
        mov $ring0_stack_top, %esp
        lgdt gdt_pointer
        ljmp $0x08, $1f
1:      mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        xor %eax, %eax
        mov %eax, %fs
        mov %eax, %gs
        mov $0x33, %eax                 /* NE, ET, MP, PE */
        mov %eax, %cr0
        call main
1:      hlt
        jmp 1b

        .balign 16
        .globl stubs
stubs:
        .set i, 0
        .rept 256
        .balign 16
        .if (i == 8) || ((i >= 10) && (i <= 14)) || (i == 17)
        .else
        push $0
        .endif
        push $i
        jmp trap_common
        .set i, i + 1
        .endr

trap_common:
        pusha
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        cld
        push %esp
        call trap_record
        add $4, %esp
        popa
        add $8, %esp
        iret

/* --- word run_user(f, arg) --- */

        .globl run_user
run_user:
        push %ebp
        push %ebx
        push %esi
        push %edi
        pushf
        mov %esp, user_saved_sp
        mov 24(%esp), %eax
        mov 28(%esp), %ecx
        mov $user_stack_top - 16, %edx
        mov %ecx, (%edx)
        mov $0x1b, %ebx
        mov %ebx, %ds
        mov %ebx, %es
        push $0x1b
        push %edx
        push $0x2
        push $0x23
        push $user_entry
        iret

        .globl user_return
user_return:
        mov $0x10, %ecx
        mov %ecx, %ds
        mov %ecx, %es
        mov %ecx, %ss
        mov user_saved_sp, %esp
        popf
        pop %edi
        pop %esi
        pop %ebx
        pop %ebp
        ret

        .section .user, "ax"
        .globl user_entry
user_entry:
        call *%eax
        int $0x80

/* --- enter virtual-8086 mode at LOW_CODE + the offset given; comes back by a fault --- */

        .text
        .globl run_v86
run_v86:                                /* void run_v86(u32 offset, u32 flags) */
        push %ebp
        push %ebx
        push %esi
        push %edi
        pushf
        mov %esp, user_saved_sp
        mov 24(%esp), %eax
        mov 28(%esp), %ecx
        or $0x20002, %ecx               /* VM */
        push $0x4444                    /* GS */
        push $0x3333                    /* FS */
        push $0x2222                    /* DS */
        push $0x1111                    /* ES */
        push $0x0700                    /* SS */
        push $0x0ff0                    /* ESP */
        push %ecx
        push $LOW_CODE >> 4             /* CS */
        push %eax
        iret

/* --- real mode: leaves protected mode, runs INT 0x60 through the vector table, comes back --- */

        .globl run_real
run_real:                               /* u32 run_real(void): what the real-mode code left in EAX */
        push %ebp
        push %ebx
        push %esi
        push %edi
        pushf
        cli
        mov %esp, user_saved_sp
        sidt saved_idt
        lidt real_idt
        mov $0xfff0, %esp
        ljmp $0x48, $(real_16 - low_code)     /* 16-bit code segment based at LOW_CODE */
real_back:
        mov $0x10, %ecx
        mov %ecx, %ds
        mov %ecx, %es
        mov %ecx, %ss
        mov user_saved_sp, %esp
        lidt saved_idt
        popf
        pop %edi
        pop %esi
        pop %ebx
        pop %ebp
        ret

/* --- code that is copied to LOW_CODE --- */

        .globl low_code, low_code_end, v86_cli, v86_int, v86_segments, v86_hlt, v86_pushf, real_vector
        .code16
low_code:
v86_cli:
        mov $0x1234, %ax
        cli
        hlt
v86_int:
        int $0x21
        hlt
v86_hlt:
        hlt
v86_pushf:
        pushf
        hlt
v86_segments:
        mov %cs, %ax
        mov %ss, %bx
        mov %ds, %cx
        mov $0x0900, %dx
        mov %dx, %ds
        movw $0xbeef, 4                 /* linear 0x9004 */
        hlt

real_16:
        mov $0x50, %ax                  /* 16-bit data, limit 64 KiB */
        mov %ax, %ds
        mov %ax, %ss
        mov %ax, %es
        mov %cr0, %eax
        and $~1, %eax
        mov %eax, %cr0
        ljmp $LOW_CODE >> 4, $(1f - low_code)
1:      xor %ax, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov $0x7000, %sp
        mov $0x0900, %ax
        mov %ax, %es                    /* base 0x9000 */
        movw $0x5aa5, %es:8
        xor %ebx, %ebx
        int $0x60                       /* adds to EBX */
        mov $0xfffffff0, %eax
        add %ebx, %eax
        mov %sp, %cx
        movl %eax, 0x9010
        movw %cx, 0x9014
        mov %cr0, %eax
        or $1, %eax
        mov %eax, %cr0
        ljmpl $0x08, $real_32
real_vector:
        add $0x77, %ebx
        iret
low_code_end:

        .code32
real_32:
        mov $0x10, %ecx
        mov %ecx, %ds
        mov 0x9010, %eax
        jmp real_back

        .section .data
        .balign 16
        .globl gdt, gdt_pointer, idt, tss
gdt:    .quad 0
        .quad 0x00cf9b000000ffff        /* 08 code */
        .quad 0x00cf93000000ffff        /* 10 data */
        .quad 0x00cff3000000ffff        /* 18 user data */
        .quad 0x00cffb000000ffff        /* 20 user code */
        .quad 0x00cffb000000ffff        /* 28 user code */
        .fill 64 - 6, 8, 0
gdt_pointer:
        .word 64 * 8 - 1
        .long gdt
real_idt:
        .word 0x3ff
        .long 0

        .section .bss
        .balign 4096
        .globl ring0_stack, ring0_stack_top, user_stack_top, ist_stack_top, trap_stack_top
ring0_stack: .skip 65536
ring0_stack_top:
        .skip 16384
trap_stack_top:
        .skip 16384
user_stack_top:
        .skip 16384
ist_stack_top:
idt:    .skip 2048
tss:    .skip 12288
        .globl user_saved_sp
user_saved_sp: .skip 8
saved_idt: .skip 8
