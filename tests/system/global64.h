/* The tests of global64.c, for the list of test64.c. */
#ifndef TRAPEZE_TESTS_SYSTEM_GLOBAL64_H
#define TRAPEZE_TESTS_SYSTEM_GLOBAL64_H

void test_global_pages(void);
void test_code_in_global_page(void);

#endif
