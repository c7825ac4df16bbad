// The operations of warp.h on the emulator: a warp is a fiber that holds the values of its 32 threads. For tests.
#pragma once
#include "emulator.h"

#define IK_DEVICE inline
#define IK_UNROLL
#define IK_UNROLL_BY(n)
#define IK_NO_UNROLL

namespace interconv::halo {

struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};

inline float to_float(Bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
inline float to_float(Float16 x) {
  _Float16 f;
  memcpy(&f, &x.bits, 2);
  return float(f);
}

inline uint16_t rounded(float f, Bfloat16) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;  // NaN
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline uint16_t rounded(float f, Float16) {
  const _Float16 half = _Float16(f);
  uint16_t bits;
  memcpy(&bits, &half, 2);
  return bits;
}
inline float to_float(Tf32 x) {
  float f;
  memcpy(&f, &x.bits, 4);
  return f;
}
inline uint32_t to_tf32(uint32_t bits) {  // to nearest, and away from zero in the middle
  return (bits & 0x7fffffff) > 0x7f800000 ? bits : (bits + 0x1000) & ~0x1fffu;
}

template <class T>
auto pack(float x, float y) {
  if constexpr (sizeof(T) == 4) {
    uint2 two;
    memcpy(&two.x, &x, 4), memcpy(&two.y, &y, 4);
    return two;
  } else {
    return rounded(x, T()) | uint32_t(rounded(y, T())) << 16;
  }
}
template <class T>
T rounded_for_product(float x) {
  if constexpr (sizeof(T) == 4) {
    return {to_tf32(pack<T>(x, x).x)};
  } else {
    return {rounded(x, T())};
  }
}

template <class T>
struct Frag {
  static constexpr int kVector = 16 / sizeof(T), kDepth = 2 * kVector;
  float m[8][kDepth];
};

struct FragC {
  float m[16][8];
};

struct Block {
  Emulator& machine;
  int warp, program, num_programs;

  Block(Emulator& machine, int warp, int program, int num_programs)
      : machine(machine), warp(warp), program(program), num_programs(num_programs) {}

  template <class F>
  void for_each(int first, int warps, int n, F f) {
    for (int i = (warp - first) * 32; i < n; i += warps * 32) together(i, std::min(i + 32, n), f);
  }
  template <class F>
  void lanes(int n, F f) {
    for (int i = 0; i < n; i += 32) together(i, std::min(i + 32, n), f);
  }

  void sync() {
    if (machine.begin(Op::kSync)) machine.sync(0, machine.num_warps());
  }
  void sync(int id, int warps) {
    if (machine.begin(Op::kSync)) machine.sync(id, warps);
  }
  void arrive(int id, int warps) {
    if (machine.begin(Op::kSync)) machine.arrive(id, warps);
  }
  void sync_warp() {
    if (machine.begin(Op::kSyncWarp)) machine.sync_warp();
  }

  template <int B>
  void copy(int to, const void* from, bool inside) {
    machine.begin();
    const bool allowed = inside && use_global(from, B, Emulator::Access::kCopy);
    use_shared(to, B);
    machine.start_copy(to, allowed ? from : nullptr, B, lane_);
  }
  void commit() {
    if (machine.begin(Op::kCommit)) machine.commit();
  }
  template <int N>
  void wait() {
    if (machine.begin(Op::kWait)) machine.wait(N);
  }

  template <class V>
  V get(int from) {
    machine.begin();
    use_shared(from, sizeof(V));
    V value{};
    if (machine.will_read(from, sizeof(V), lane_)) memcpy(&value, machine.shared.data() + from, sizeof(V));
    return value;
  }
  template <class V>
  void put(int to, const V& value) {
    machine.begin();
    use_shared(to, sizeof(V));
    if (machine.will_write(to, sizeof(V), lane_)) memcpy(machine.shared.data() + to, &value, sizeof(V));
  }
  template <class V>
  V read(const void* from) {
    machine.begin();
    V value{};
    if (use_global(from, sizeof(V), Emulator::Access::kRead)) memcpy(&value, from, sizeof(V));
    return value;
  }
  template <class V>
  void write(void* to, const V& value) {
    machine.begin();
    if (use_global(to, sizeof(V), Emulator::Access::kWrite)) memcpy(to, &value, sizeof(V));
  }

  template <class T, class F>
  void load(Frag<T>& rows0, Frag<T>& rows8, F offset) {
    machine.begin();
    for (int half = 0; half < 2; ++half) {
      for (int row = 0; row < 16; ++row) {
        constexpr int V = Frag<T>::kVector;
        T v[V];
        get_row(v, offset(row, half));
        for (int k = 0; k < V; ++k) (row < 8 ? rows0 : rows8).m[row % 8][half * V + k] = to_float(v[k]);
      }
    }
    count_rows([&](int i) { return offset(i / 16 * 8 + i % 8, i / 8 % 2); });
  }
  template <class T, class F>
  void load_pair(Frag<T>& top, Frag<T>& bottom, F offset) {
    load(top, bottom, offset);
  }
  template <class T>
  void bring_together(Frag<T>&, Frag<T>&) {}  // a matter of registers
  template <class T, class F>
  void load_transposed(Frag<T>& rows0, Frag<T>& rows8, F offset) {
    machine.begin();
    for (int part = 0; part < 2; ++part) {
      for (int k = 0; k < 16; ++k) {
        T v[8];
        get_row(v, offset(k, part));
        for (int row = 0; row < 8; ++row) (part ? rows8 : rows0).m[row][k] = to_float(v[row]);
      }
    }
    count_rows([&](int i) { return offset(i % 16, i / 16); });
  }
  template <class T, class F>
  void load_pair_transposed(Frag<T>& top, Frag<T>& bottom, F offset) {
    load_transposed(top, bottom, offset);
  }

  template <class T>
  void round(Frag<T>& top, Frag<T>& bottom) {
    if constexpr (sizeof(T) == 4) {
      for (auto* rows : {&top, &bottom}) {
        for (float* x = rows->m[0]; x < rows->m[0] + 8 * Frag<T>::kDepth; ++x)
          *x = to_float(rounded_for_product<T>(*x));
      }
    }
  }

  template <class T>
  void multiply(FragC& c, const Frag<T>& top, const Frag<T>& bottom, const Frag<T>& b) {
    machine.begin();
    ++machine.counts.products;
    constexpr int kDepth = Frag<T>::kDepth;
    check_rounded(top), check_rounded(bottom), check_rounded(b);
    float across[kDepth][8];
    for (int j = 0; j < 8; ++j) {
      for (int k = 0; k < kDepth; ++k) across[k][j] = b.m[j][k];
    }
    for (int i = 0; i < 16; ++i) {
      const float* row = i < 8 ? top.m[i] : bottom.m[i - 8];
      for (int k = 0; k < kDepth; ++k) {
        for (int j = 0; j < 8; ++j) c.m[i][j] += row[k] * across[k][j];
      }
    }
  }

  template <class F>
  void pairs(FragC& c, int half, F f) {
    instructions_.clear();
    for (lane_ = 0; lane_ < 32; ++lane_) {
      access_ = 0;
      const int row = lane_ / 4, column = lane_ % 4 * 2;
      f(row, column, c.m[8 * half + row][column], c.m[8 * half + row][column + 1]);
    }
    count_instructions();
  }

  void keep(float* to, const FragC& c) {
    machine.begin();
    for (int i = 0; i < 32; ++i) {
      if (machine.will_access_global(to + 4 * i, 16, Emulator::Access::kWrite))
        memcpy(to + 4 * i, &c.m[0][0] + 4 * i, 16);
    }
  }
  void recall(const float* from, FragC& c) {
    machine.begin();
    for (int i = 0; i < 32; ++i) {
      if (machine.will_access_global(from + 4 * i, 16, Emulator::Access::kRead))
        memcpy(&c.m[0][0] + 4 * i, from + 4 * i, 16);
    }
  }

 private:
  // What the threads of a warp access in one instruction: the n-th access of each within a loop's body.
  struct Instruction {
    bool shared;
    int bytes;
    std::vector<uintptr_t> at;
  };
  int lane_ = Emulator::kAll;
  size_t access_ = 0;
  std::vector<Instruction> instructions_;

  template <class F>
  void together(int begin, int end, F f) {
    instructions_.clear();
    for (int i = begin; i < end; ++i) {
      lane_ = i - begin, access_ = 0;
      f(i);
    }
    count_instructions();
  }
  void count_instructions() {
    lane_ = Emulator::kAll;
    for (const Instruction& instruction : instructions_) {
      if (instruction.shared) {
        machine.counts.wavefronts += wavefronts(instruction);
      } else {
        machine.counts.sectors += int64_t(distinct(instruction.at.begin(), instruction.at.end(), 32).size());
      }
    }
  }
  void use_shared(int at, int bytes) { use(true, uintptr_t(at), bytes); }
  bool use_global(const void* p, int bytes, Emulator::Access access) {
    use(false, reinterpret_cast<uintptr_t>(p), bytes);
    return machine.will_access_global(p, bytes, access);
  }
  void use(bool shared, uintptr_t at, int bytes) {
    if (lane_ == Emulator::kAll) {  // the same value for the whole warp
      if (shared) machine.report("an access of threads outside of for_each, lanes and pairs");
      ++machine.counts.sectors;
      return;
    }
    if (access_ == instructions_.size()) instructions_.push_back({shared, bytes, {}});
    instructions_[access_++].at.push_back(at);
  }

  // The aligned pieces of `bytes` that addresses lie in.
  template <class I>
  static std::vector<uintptr_t> distinct(I begin, I end, int bytes) {
    std::vector<uintptr_t> pieces(begin, end);
    for (uintptr_t& piece : pieces) piece /= bytes;
    std::sort(pieces.begin(), pieces.end());
    pieces.erase(std::unique(pieces.begin(), pieces.end()), pieces.end());
    return pieces;
  }

  // A wavefront serves the threads of 128 bytes, if what they access is in different banks.
  static int64_t wavefronts(const Instruction& instruction) {
    const int bytes = std::max(instruction.bytes, 4);
    const size_t threads = 128 / bytes;
    int64_t sum = 0;
    for (auto first = instruction.at.begin(); first != instruction.at.end();) {
      const auto last = first + std::min<size_t>(threads, instruction.at.end() - first);
      int in_bank[32] = {0}, most = 0;
      for (uintptr_t piece : distinct(first, last, bytes)) most = std::max(most, ++in_bank[piece % threads]);
      sum += most;
      first = last;
    }
    return sum;
  }

  // A tensor core cuts off the lower 13 bits of float32.
  template <class T>
  void check_rounded(const Frag<T>& rows) {
    if constexpr (sizeof(T) == 4) {
      for (const float* x = rows.m[0]; x < rows.m[0] + 8 * Frag<T>::kDepth; ++x) {
        if (pack<T>(*x, 0).x & 0x1fff) return machine.report("a factor that was not rounded to TF32");
      }
    }
  }

  template <class T, size_t V>
  void get_row(T (&v)[V], int at) {
    memset(v, 0, 16);
    if (machine.will_read(at, 16, Emulator::kAll)) memcpy(v, machine.shared.data() + at, 16);
  }
  template <class F>
  void count_rows(
      F offset) {  // 32 rows of 16 bytes: four matrices, each a wavefront if its rows are in different banks
    for (int matrix = 0; matrix < 4; ++matrix) {
      Instruction rows{true, 16, {}};
      for (int i = 0; i < 8; ++i) rows.at.push_back(uintptr_t(offset(matrix * 8 + i)));
      machine.counts.wavefronts += wavefronts(rows);
    }
  }
};

}  // namespace interconv::halo
