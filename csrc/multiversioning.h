// Function multiversioning: one library for every x86-64. A function marked IK_MULTIVERSIONED is compiled for several
// instruction sets (SSE2, AVX2, AVX-512), and the dynamic loader picks the version for the machine. It needs GCC and
// glibc; elsewhere, and under AddressSanitizer, which breaks the loader's choice, the compiler's default target is
// used.
#pragma once
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define IK_MULTIVERSIONED __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define IK_MULTIVERSIONED
#endif
