/*
 * The reference interpreter: executes guest code one instruction after the other, in every mode of the
 * CPU. It is an engine (interpret_engine in cpu/engine.h) and, for other engines, a way to execute
 * single instructions: to get past one that they cannot do, or to compare states in lock-step.
 */
#ifndef TRAPEZE_SOFT_INTERPRET_H
#define TRAPEZE_SOFT_INTERPRET_H

#include "soft/soft.h"

/* Gives @c what it needs to decode and execute. soft_cpu_init() came before. */
int interpret_attach(struct soft_cpu *c, struct error *err);
void interpret_detach(struct soft_cpu *c);

/*
 * Executes @count instructions at the state of @c; a delivered exception or interrupt counts as one
 * and a REP string instruction as one however long. VCPU_EXIT_REQUEST when all were done, else why not.
 * Requests to leave are not looked at, but within a REP string instruction, which then goes on next time.
 */
enum vcpu_exit interpret_step(struct soft_cpu *c, unsigned count);

#endif
