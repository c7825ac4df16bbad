// Operations of a warp of 32 threads: the interface between the kernels in this folder and what runs them. It is
// implemented twice, by a GPU (warp_ptx.h) and by an emulator on the CPU (warp_cpu.h), so that tests on the CPU run the
// very code that a GPU runs.
//
// A kernel is a function `run(Block& block)` that every warp executes. `Block` offers:
//
//   warp, program, num_programs      which warp of which program (thread block) this is
//   for_each(first, warps, n, f)     f(i) for i = 0 ... n-1, one thread each, shared by `warps` warps from `first` on
//   lanes(n, f)                      the same for the threads of this warp alone
//   sync(), sync_warp()              barriers: of all warps, of this warp's threads
//   sync(id, warps), arrive(...)     named barriers (id 1 ... 15) of some warps; arrive does not wait
//   copy<B>(to, from, inside)        asynchronous copy of B = 4, 8 or 16 bytes, zeros where not inside; commit()
//                                    closes a group of copies, wait<N>() waits for all of this thread's but the last N
//   get<V>, put<V>                   a value of 2 to 16 bytes from and to shared memory
//   read<V>, write<V>                the same with global memory; what is read, nothing writes while the kernel runs
//   keep, recall                     sums to global memory and back
//   load, load_transposed            two fragments from shared memory
//   load_pair, bring_together        the `top` and `bottom` of a product: from one load; from two
//   load_pair_transposed             the same as load_pair, of rows that lie across as for load_transposed
//   round(top, bottom)               to what a product takes: float32 to TF32, other values are left alone
//   multiply(c, top, bottom, b)      c += [top; bottom] b^T
//   pairs(c, half, f)                f(row, even column, value, next value) for rows 8 half ... 8 half + 7 of c, rows
//                                    counted from 0, each thread its own
//
// Shared memory is addressed by byte offsets from its start (1024-byte aligned). Copies, get, put and write are those
// of threads: they are called inside for_each, lanes or pairs. The others are called by whole warps (read: by either).
//
// Frag<T> holds 8 rows of 32 bytes, the depth of one product, FragC 16 x 8 float32 sums.
#pragma once
#include <cstdint>

namespace interconv::halo {

// Element types. The bits are converted with to_float, pack (two values, rounded to nearest) and rounded_for_product.
struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
// float32, of which products take the upper 19 bits. What is not a factor is not rounded.
struct Tf32 {
  uint32_t bits;
};

}  // namespace interconv::halo

#ifdef __CUDACC__
#include "warp_ptx.h"
#else
#include "warp_cpu.h"
#endif
