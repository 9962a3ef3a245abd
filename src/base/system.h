// Features of the operating system. Calls that not every system knows stand in one file each, with a portable way
// beside them; tests/portable compiles those files as if there were none.
#pragma once

// Linux's own: /proc, O_TMPFILE, RENAME_EXCHANGE, the cores a process is bound to, large pages.
#if defined(__linux__) && !defined(KINEOGRAPH_PORTABLE)
#define KINEOGRAPH_LINUX 1
#else
#define KINEOGRAPH_LINUX 0
#endif

// Files mapped into memory.
#if (defined(__unix__) || defined(__APPLE__)) && !defined(KINEOGRAPH_PORTABLE)
#define KINEOGRAPH_MAPS_FILES 1
#else
#define KINEOGRAPH_MAPS_FILES 0
#endif
