/* Functions that this project does not use, each with what to use instead. Included everywhere. */
#ifndef TRAPEZE_BASE_BANNED_H
#define TRAPEZE_BASE_BANNED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#pragma GCC poison strcpy strcat strncpy strncat  /* snprintf, memcpy with a checked length */
#pragma GCC poison sprintf vsprintf               /* snprintf */
#pragma GCC poison gets                           /* getline */
#pragma GCC poison strtok                         /* strtok_r */
#pragma GCC poison asctime ctime gmtime localtime /* gmtime_r */
#pragma GCC poison atoi atol atoll                /* parse_u64 */
#undef alloca
#pragma GCC poison alloca /* a bounded array or malloc */

#endif
