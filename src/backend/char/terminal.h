/*
 * Raw mode of the terminal on standard input. One process has one such terminal, so this is state of
 * the process, on purpose: it must be put back by exit() and by signal handlers, which know of no VM.
 *
 * While raw mode is entered, the signals that would end the process put the terminal back first
 * (unless the process handles them itself), and so do stopping and continuing (SIGTSTP, SIGCONT).
 */
#ifndef TRAPEZE_BACKEND_CHAR_TERMINAL_H
#define TRAPEZE_BACKEND_CHAR_TERMINAL_H

#include "base/error.h"

/* -EBUSY when it is raw already: two consoles cannot share it. */
int terminal_enter_raw(int fd, struct error *err);

/* Puts the terminal and the signal handlers back. Harmless when it was not entered. */
void terminal_leave_raw(void);

/* Raw again after a job in the background came to the foreground without SIGCONT. */
void terminal_ensure_raw(void);

#endif
