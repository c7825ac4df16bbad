// For functions that must be inlined: into kernels on CPU and GPU, and into each version of a function that is compiled
// for several instruction sets (multiversioning.h).
#pragma once
#ifdef __CUDACC__
#define IK_INLINE __host__ __device__ __forceinline__
#else
#define IK_INLINE inline __attribute__((always_inline))
#endif
