/* The trapeze command. */
#include "base/compiler.h"

int main(void) { return 1; }
