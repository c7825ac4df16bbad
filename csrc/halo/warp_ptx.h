// The operations of warp.h as PTX, for sm_80 and later.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define IK_DEVICE __device__ __forceinline__
#define IK_UNROLL _Pragma("unroll")
#define IK_PRAGMA(x) _Pragma(#x)
#define IK_UNROLL_BY(n) IK_PRAGMA(unroll n)
#define IK_NO_UNROLL _Pragma("unroll 1")

namespace interconv::halo {

using ::uint2;
using ::uint4;

// Two values, the first in the lower half.
template <class T>
IK_DEVICE auto pack(float x, float y);
template <>
IK_DEVICE auto pack<Bfloat16>(float x, float y) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  return reinterpret_cast<const uint32_t&>(pair);
}
template <>
IK_DEVICE auto pack<Float16>(float x, float y) {
  const __half2 pair = __floats2half2_rn(x, y);
  return reinterpret_cast<const uint32_t&>(pair);
}

template <>
IK_DEVICE auto pack<Tf32>(float x, float y) {
  return uint2{__float_as_uint(x), __float_as_uint(y)};
}

IK_DEVICE uint32_t to_tf32(uint32_t bits) {
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(__uint_as_float(bits)));
  return bits;
}
template <class T>
IK_DEVICE T rounded_for_product(float x) {
  if constexpr (sizeof(T) == 4) {
    return {to_tf32(__float_as_uint(x))};
  } else {
    return {uint16_t(pack<T>(x, x) & 0xffff)};
  }
}

IK_DEVICE float to_float(Tf32 x) { return __uint_as_float(x.bits); }
IK_DEVICE float to_float(Bfloat16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
IK_DEVICE float to_float(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }

template <class T>
struct Frag {
  uint32_t r[2];
};

struct FragC {
  float r[4];
};

struct Block {
  char* shared;
  int warp, program, num_programs;
  int zero;  // 0, which the compiler does not know

  template <class F>
  IK_DEVICE void for_each(int first, int warps, int n, F f) {
    IK_NO_UNROLL for (int i = threadIdx.x - first * 32; i < n; i += warps * 32) f(i);
  }
  template <class F>
  IK_DEVICE void lanes(int n, F f) {
    IK_NO_UNROLL for (int i = threadIdx.x % 32; i < n; i += 32) f(i);
  }

  IK_DEVICE void sync() { __syncthreads(); }
  IK_DEVICE void sync_warp() { __syncwarp(); }
  IK_DEVICE void sync(int id, int warps) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(warps * 32) : "memory"); }
  IK_DEVICE void arrive(int id, int warps) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(warps * 32) : "memory"); }

  IK_DEVICE uint32_t address(int offset) const {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared)) + offset;
  }

  template <int B>
  IK_DEVICE void copy(int to, const void* from, bool inside) {
    const int bytes = inside ? B : 0;
    if constexpr (B == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(to)), "l"(from), "r"(bytes)
                   : "memory");
    } else {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address(to)), "l"(from), "n"(B), "r"(bytes)
                   : "memory");
    }
  }
  IK_DEVICE void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <int N>
  IK_DEVICE void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
  }

  template <class V>
  IK_DEVICE V get(int from) {
    return *reinterpret_cast<const V*>(shared + from);
  }
  template <class V>
  IK_DEVICE void put(int to, const V& value) {
    *reinterpret_cast<V*>(shared + to) = value;
  }
  template <class V>
  IK_DEVICE V read(const void* from) {
    return __ldg(static_cast<const V*>(from));
  }
  template <class V>
  IK_DEVICE void write(void* to, const V& value) {
    *static_cast<V*>(to) = value;
  }

  // offset(row 0 ... 15, half): where 16 bytes of a row lie, the first or the second half of its 32.
  template <class T, class F>
  IK_DEVICE void load(Frag<T>& rows0, Frag<T>& rows8, F offset) {
    const int lane = threadIdx.x % 32;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(rows0.r[0]), "=r"(rows0.r[1]), "=r"(rows8.r[0]), "=r"(rows8.r[1])
                 : "r"(address(offset(lane / 16 * 8 + lane % 8, lane / 8 % 2))));
  }
  // The same for the `top` and `bottom` of a product, in the order of its registers, so that none is moved.
  template <class T, class F>
  IK_DEVICE void load_pair(Frag<T>& top, Frag<T>& bottom, F offset) {
    const int lane = threadIdx.x % 32;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(top.r[0]), "=r"(bottom.r[0]), "=r"(top.r[1]), "=r"(bottom.r[1])
                 : "r"(address(offset(lane % 16, lane / 16))));
  }
  // A product takes `top` and `bottom` from four neighbouring registers. If they come from two loads, the compiler
  // moves them before every product. Here they get new values, which it cannot tell from the old ones: moved once.
  template <class T>
  IK_DEVICE void bring_together(Frag<T>& top, Frag<T>& bottom) {
    asm volatile("xor.b32 %0, %0, %4; xor.b32 %1, %1, %4; xor.b32 %2, %2, %4; xor.b32 %3, %3, %4;"
                 : "+r"(top.r[0]), "+r"(bottom.r[0]), "+r"(top.r[1]), "+r"(bottom.r[1])
                 : "r"(zero));
  }

  // The rows lie across: offset(k 0 ... 15, part) is where 8 rows' values of depth k lie, of `rows0` or `rows8`.
  template <class T, class F>
  IK_DEVICE void load_transposed(Frag<T>& rows0, Frag<T>& rows8, F offset) {
    const int lane = threadIdx.x % 32;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(rows0.r[0]), "=r"(rows0.r[1]), "=r"(rows8.r[0]), "=r"(rows8.r[1])
                 : "r"(address(offset(lane % 16, lane / 16))));
  }
  // The same for two fragments that `multiply` takes as one: in the order of its registers, so that none is moved.
  template <class T, class F>
  IK_DEVICE void load_pair_transposed(Frag<T>& top, Frag<T>& bottom, F offset) {
    const int lane = threadIdx.x % 32;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(top.r[0]), "=r"(bottom.r[0]), "=r"(top.r[1]), "=r"(bottom.r[1])
                 : "r"(address(offset(lane / 16 * 8 + lane % 8, lane / 8 % 2))));
  }

  template <class T>
  IK_DEVICE void round(Frag<T>& top, Frag<T>& bottom) {
    if constexpr (sizeof(T) == 4) {
      IK_UNROLL for (int j = 0; j < 2; ++j) top.r[j] = to_tf32(top.r[j]), bottom.r[j] = to_tf32(bottom.r[j]);
    }
  }

  IK_DEVICE void multiply(FragC& c, const Frag<Tf32>& top, const Frag<Tf32>& bottom, const Frag<Tf32>& b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c.r[0]), "+f"(c.r[1]), "+f"(c.r[2]), "+f"(c.r[3])
        : "r"(top.r[0]), "r"(bottom.r[0]), "r"(top.r[1]), "r"(bottom.r[1]), "r"(b.r[0]), "r"(b.r[1]));
  }
  IK_DEVICE void multiply(FragC& c, const Frag<Bfloat16>& top, const Frag<Bfloat16>& bottom, const Frag<Bfloat16>& b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c.r[0]), "+f"(c.r[1]), "+f"(c.r[2]), "+f"(c.r[3])
        : "r"(top.r[0]), "r"(bottom.r[0]), "r"(top.r[1]), "r"(bottom.r[1]), "r"(b.r[0]), "r"(b.r[1]));
  }
  IK_DEVICE void multiply(FragC& c, const Frag<Float16>& top, const Frag<Float16>& bottom, const Frag<Float16>& b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c.r[0]), "+f"(c.r[1]), "+f"(c.r[2]), "+f"(c.r[3])
        : "r"(top.r[0]), "r"(bottom.r[0]), "r"(top.r[1]), "r"(bottom.r[1]), "r"(b.r[0]), "r"(b.r[1]));
  }

  template <class F>
  IK_DEVICE void pairs(FragC& c, int half, F f) {
    const int lane = threadIdx.x % 32;
    f(lane / 4, lane % 4 * 2, c.r[2 * half], c.r[2 * half + 1]);
  }

  // Sums to 512 bytes of global memory and back, each thread its own: nothing to wait for.
  IK_DEVICE void keep(float* to, const FragC& c) {
    reinterpret_cast<float4*>(to)[threadIdx.x % 32] = {c.r[0], c.r[1], c.r[2], c.r[3]};
  }
  IK_DEVICE void recall(const float* from, FragC& c) {
    const float4 v = reinterpret_cast<const float4*>(from)[threadIdx.x % 32];
    c.r[0] = v.x, c.r[1] = v.y, c.r[2] = v.z, c.r[3] = v.w;
  }
};

}  // namespace interconv::halo
