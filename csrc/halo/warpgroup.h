// Operations of a warpgroup, four neighbouring warps from a multiple of four on (sm_90a), and of warps with different
// tasks. As warp.h, implemented twice: by a GPU (warpgroup_ptx.h) and by the emulator (warpgroup_cpu.h).
//
// `WarpgroupBlock` is a Block that also offers:
//
//   multiply64<T>(c, a, b)     c += a b^T: 64 rows, 8 columns for each FragC of c, depth 16, in the background. Warp w
//                              of the four has the rows 16 w ... 16 w + 15. Both operands are in shared memory
//   fence_products(c)          before the first product on c, and again after each wait
//   commit_products()          closes a group of products
//   wait_products<N>(c)        for all groups but the last N. Until then c is NaN, and operands must not be written
//   fence_async()              after threads (or their copies, when these were waited for) wrote what products read,
//                              and before a barrier
//   init_barrier(at, warps)    8 bytes of shared memory: a phase is over when so many warps have arrived
//   arrive_at(at)              of this warp, after all that its threads did
//   wait_at(at, parity)        until phase number 0, 2, ... (parity 0) or 1, 3, ... (1) is over; a wait for parity 1
//                              before anything has arrived returns at once
//   set_registers<N>()         of each thread, for the warps of a warpgroup together; no effect in the emulator
#pragma once
#include "warp.h"

namespace interconv::halo {

// Rows of 16 values: 8 rows x 8 values are 128 bytes in one piece, from any multiple of 16 bytes on.
struct Operand {
  int at;        // offset in shared memory
  int k_step;    // bytes from 8 values to the next 8 of the same rows
  int row_step;  // bytes from 8 rows to the next 8
};

}  // namespace interconv::halo

#ifdef __CUDACC__
#include "warpgroup_ptx.h"
#else
#include "warpgroup_cpu.h"
#endif
