// One library for every x86-64: the loops are compiled for each width of vector, and the machine picks at load.
// (glibc's loader does the picking, so elsewhere the compiler's baseline serves.)
#pragma once
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define IK_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define IK_CLONES
#endif
