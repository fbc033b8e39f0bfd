/*
 * For fuzz targets that execute random bytes: in real mode, virtual-8086 mode, 16- and 32-bit protected mode,
 * long mode and its compatibility mode, at CPL 0 and 3, on a machine of 1 MiB of RAM. The input's first bytes
 * choose the mode and the registers; the rest is the code. What the code does to page tables, descriptors and
 * itself is part of the game.
 */
#ifndef TRAPEZE_TESTS_RANDOM_CODE_H
#define TRAPEZE_TESTS_RANDOM_CODE_H

#include "one-vcpu.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define RANDOM_CODE_RAM (1ull << 20)

/* Resets @m and makes it start with the input; false when the input is too short. */
bool random_code_start(struct one_vcpu *m, const u8 *data, size_t size);

/* What holds between two instructions, whatever the guest does. */
void random_code_check(const struct one_vcpu *m);

#endif
