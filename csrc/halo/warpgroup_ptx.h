// The operations of warpgroup.h as PTX, for sm_90a.
#pragma once

// "%0,%1,...": the registers of the sums, and the operands that they are, for 16 columns and more.
#define IK_TEN(d) "%" #d "0,%" #d "1,%" #d "2,%" #d "3,%" #d "4,%" #d "5,%" #d "6,%" #d "7,%" #d "8,%" #d "9"
#define IK_NAMES_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define IK_NAMES_16 IK_TEN() ",%10,%11,%12,%13,%14,%15"
#define IK_NAMES_24 IK_TEN() "," IK_TEN(1) ",%20,%21,%22,%23"
#define IK_NAMES_32 IK_TEN() "," IK_TEN(1) "," IK_TEN(2) ",%30,%31"
#define IK_NAMES_48 IK_TEN() "," IK_TEN(1) "," IK_TEN(2) "," IK_TEN(3) ",%40,%41,%42,%43,%44,%45,%46,%47"
#define IK_NAMES_64 IK_TEN() "," IK_TEN(1) "," IK_TEN(2) "," IK_TEN(3) "," IK_TEN(4) "," IK_TEN(5) ",%60,%61,%62,%63"
#define IK_SUMS_4(j) "+f"(c[j].r[0]), "+f"(c[j].r[1]), "+f"(c[j].r[2]), "+f"(c[j].r[3])
#define IK_SUMS_8(j) IK_SUMS_4(j), IK_SUMS_4(j + 1)
#define IK_SUMS_16(j) IK_SUMS_8(j), IK_SUMS_8(j + 2)
#define IK_SUMS_24(j) IK_SUMS_16(j), IK_SUMS_8(j + 4)
#define IK_SUMS_32(j) IK_SUMS_16(j), IK_SUMS_16(j + 4)
#define IK_SUMS_48(j) IK_SUMS_32(j), IK_SUMS_16(j + 8)
#define IK_SUMS_64(j) IK_SUMS_32(j), IK_SUMS_32(j + 8)
// c += a b^T for `columns` columns: a and b in shared memory, neither negated nor transposed.
#define IK_MULTIPLY64(columns, registers, name_a, name_b, type)                                       \
  asm volatile(                                                                                       \
      "{.reg .pred add; setp.eq.u32 add, 0, 0;\n"                                                     \
      "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type " {" IK_NAMES_##registers \
      "}"                                                                                             \
      ", %" #name_a ", %" #name_b ", add, 1, 1, 0, 0;}"                                               \
      : IK_SUMS_##registers(0)                                                                        \
      : "l"(descriptor(a)), "l"(descriptor(b))                                                        \
      : "memory")

namespace interconv::halo {

template <class T>
inline constexpr bool kIsBfloat16 = false;
template <>
inline constexpr bool kIsBfloat16<Bfloat16> = true;

struct WarpgroupBlock : Block {
  template <int N>
  IK_DEVICE void set_registers() {
    if constexpr (N > 128) {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
    } else if constexpr (N > 0) {
      asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
    }
  }

  IK_DEVICE void init_barrier(int at, int warps) {
    if (threadIdx.x % 32 == 0) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(at)), "r"(warps) : "memory");
    }
  }
  IK_DEVICE void arrive_at(int at) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(at)) : "memory");
    }
  }
  IK_DEVICE void wait_at(int at, int parity) {
    uint32_t over;
    do {
      asm volatile(
          "{.reg .pred %%over; mbarrier.try_wait.parity.shared::cta.b64 %%over, [%1], %2; selp.u32 %0, 1, 0, %%over;}"
          : "=r"(over)
          : "r"(address(at)), "r"(parity)
          : "memory");
    } while (!over);
    __syncwarp();
  }
  IK_DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

  template <int MT, int NT>
  IK_DEVICE void fence_products(FragC (&c)[MT][NT]) {
    hold(c);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  }
  IK_DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
  template <int N, int MT, int NT>
  IK_DEVICE void wait_products(FragC (&c)[MT][NT]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
    hold(c);
  }

  template <class T, int NT>
  IK_DEVICE void multiply64(FragC (&c)[NT], const Operand& a, const Operand& b) {
    static_assert(NT == 2 || NT == 4 || NT == 6 || NT == 8 || NT == 12 || NT == 16);
    if constexpr (kIsBfloat16<T>) {
      if constexpr (NT == 2) {
        IK_MULTIPLY64(16, 8, 8, 9, "bf16");
      } else if constexpr (NT == 4) {
        IK_MULTIPLY64(32, 16, 16, 17, "bf16");
      } else if constexpr (NT == 6) {
        IK_MULTIPLY64(48, 24, 24, 25, "bf16");
      } else if constexpr (NT == 8) {
        IK_MULTIPLY64(64, 32, 32, 33, "bf16");
      } else if constexpr (NT == 12) {
        IK_MULTIPLY64(96, 48, 48, 49, "bf16");
      } else if constexpr (NT == 16) {
        IK_MULTIPLY64(128, 64, 64, 65, "bf16");
      }
    } else {
      if constexpr (NT == 2) {
        IK_MULTIPLY64(16, 8, 8, 9, "f16");
      } else if constexpr (NT == 4) {
        IK_MULTIPLY64(32, 16, 16, 17, "f16");
      } else if constexpr (NT == 6) {
        IK_MULTIPLY64(48, 24, 24, 25, "f16");
      } else if constexpr (NT == 8) {
        IK_MULTIPLY64(64, 32, 32, 33, "f16");
      } else if constexpr (NT == 12) {
        IK_MULTIPLY64(96, 48, 48, 49, "f16");
      } else if constexpr (NT == 16) {
        IK_MULTIPLY64(128, 64, 64, 65, "f16");
      }
    }
  }

 private:
  // The compiler moves no access to c across this.
  template <int MT, int NT>
  IK_DEVICE static void hold(FragC (&c)[MT][NT]) {
    IK_UNROLL for (int m = 0; m < MT; ++m) {
      IK_UNROLL for (int n = 0; n < NT; ++n) {
        IK_UNROLL for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(c[m][n].r[i])::"memory");
      }
    }
  }
  // Without swizzle: the address, and the two steps, in units of 16 bytes.
  IK_DEVICE uint64_t descriptor(const Operand& x) const {
    return (uint64_t(address(x.at)) & 0x3ffff) >> 4 | uint64_t(x.k_step >> 4) << 16 | uint64_t(x.row_step >> 4) << 32;
  }
};

}  // namespace interconv::halo
