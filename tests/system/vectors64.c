/* Tests in long mode: vector and x87 instructions in what the system makes of them. */
#include "vectors64.h"

#include "lib.h"

void test_fpu_gating(void)
{
    word cr0 = read_cr0(), cr4 = read_cr4();
    write_cr0(cr0 | BIT(3));
    TRY("movaps %%xmm0, %%xmm1", : : : "memory");
    EXPECT_TRAP(NM, 0);
    TRY("fld1", : : : "memory");
    EXPECT_TRAP(NM, 0);
    TRY("wait", : : : "memory"); /* MP is set */
    EXPECT_TRAP(NM, 0);
    __asm__ volatile("clts");
    TRY("movaps %%xmm0, %%xmm1", : : : "memory");
    EXPECT_NO_TRAP();
    write_cr0((cr0 | BIT(2)) & ~BIT(1));
    TRY("movaps %%xmm0, %%xmm1", : : : "memory");
    EXPECT_TRAP(UD, 0);
    TRY("fld1", : : : "memory");
    EXPECT_TRAP(NM, 0);
    write_cr0(cr0);
    write_cr4(cr4 & ~BIT(9));
    TRY("movaps %%xmm0, %%xmm1", : : : "memory");
    EXPECT_TRAP(UD, 0);
    write_cr4(cr4);
    TRY("xgetbv", : : "c"(0) : "eax", "edx");
    EXPECT_TRAP(UD, 0); /* OSXSAVE is clear */
}

/*
 * Code on vector and x87 registers that has run often, so that an engine has made the most of it, and then
 * meets what it must not miss. What a loop tries is the same code each time.
 */
enum { MXCSR_DEFAULT = 0x1f80, MXCSR_ZM = 0x200, FCW_DEFAULT = 0x37f, FCW_ZM = 4 };
#define CR4_OSXMMEXCPT BIT(10)

void test_vector_not_available(void)
{
    u64 *one = alloc_page(), sum;
    word cr0 = read_cr0();
    *one = 1;
    __asm__ volatile("pxor %%xmm5, %%xmm5" : : : "memory");
    for (int n = 0; n < 2 * OFTEN; n++) {
        if (n == OFTEN)
            write_cr0(cr0 | BIT(3));
        TRY("paddq (%0), %%xmm5", : : "r"(one) : "memory");
        CHECK_EQ(last.vector, n == OFTEN ? NM : NO_TRAP);
        __asm__ volatile("clts");
    }
    __asm__ volatile("movq %%xmm5, %0" : "=r"(sum));
    CHECK_EQ(sum, 2 * OFTEN - 1);
}

static void load_mxcsr(u32 v)
{
    __asm__ volatile("ldmxcsr %0" : : "m"(v));
}

/* 1 / 0, exceptions masked as @mxcsr says. */
static void divide_by_zero(u32 mxcsr, word vector)
{
    u32 quotient;
    load_mxcsr(mxcsr);
    TRY("cvtsi2ss %0, %%xmm3; xorps %%xmm4, %%xmm4; divss %%xmm4, %%xmm3", : : "r"(1) : "memory");
    CHECK_EQ(last.vector, vector);
    __asm__ volatile("movd %%xmm3, %0; stmxcsr %1" : "=r"(quotient), "=m"(mxcsr));
    CHECK_EQ(quotient, vector == NO_TRAP ? 0x7f800000 : 0x3f800000);
    CHECK_EQ(mxcsr & 0x3f, 4);
}

void test_vector_exceptions(void)
{
    word cr4 = read_cr4();
    write_cr4(cr4 | CR4_OSXMMEXCPT);
    for (int n = 0; n < OFTEN; n++)
        divide_by_zero(MXCSR_DEFAULT, NO_TRAP);
    divide_by_zero(MXCSR_DEFAULT & ~MXCSR_ZM, XM);
    write_cr4(cr4 & ~CR4_OSXMMEXCPT);
    divide_by_zero(MXCSR_DEFAULT & ~MXCSR_ZM, UD);
    divide_by_zero(MXCSR_DEFAULT, NO_TRAP);
    write_cr4(cr4);
}

void test_x87_exceptions(void)
{
    word cr0 = read_cr0();
    u16 fcw, fsw;
    write_cr0(cr0 | BIT(5)); /* NE */
    for (int n = 0; n < 2 * OFTEN; n++) {
        fcw = n == OFTEN ? FCW_DEFAULT & ~FCW_ZM : FCW_DEFAULT;
        TRY("fninit; fldcw %0; fld1; fldz; fdivrp; fwait; fnop", : : "m"(fcw) : "memory");
        CHECK_EQ(last.vector, n == OFTEN ? MF : NO_TRAP);
        __asm__ volatile("fnstsw %0" : "=m"(fsw));
        CHECK_EQ(fsw & 0x84, n == OFTEN ? 0x84 : 4);
    }
    __asm__ volatile("fninit");
    write_cr0(cr0);
}

/* The address of the last x87 instruction and its operand, whatever ran in between. */
void test_x87_pointers(void)
{
    u8 *page = alloc_page();
    for (int n = 0; n < OFTEN; n++) {
        struct {
            u32 fcw, fsw, ftw, fip, fop, fdp, seg;
        } env;
        word at;
        __asm__ volatile("fninit; fld1; 1: fstpl (%2); nop; fnstenv %1; lea 1b(%%rip), %0"
                         : "=r"(at), "=m"(env)
                         : "r"(page + 8 * n)
                         : "memory");
        CHECK_EQ(env.fip, (u32)at);
        CHECK_EQ(env.fdp, (u32)(word)(page + 8 * n));
    }
}
