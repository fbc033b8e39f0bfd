/* The tests of vectors64.c, for the list of test64.c. */
#ifndef TRAPEZE_TESTS_SYSTEM_VECTORS64_H
#define TRAPEZE_TESTS_SYSTEM_VECTORS64_H

void test_fpu_gating(void);
void test_vector_not_available(void);
void test_vector_exceptions(void);
void test_x87_exceptions(void);
void test_x87_pointers(void);

#endif
