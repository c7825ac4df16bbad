// The operations of warpgroup.h on the emulator.
//
// A product reads its operands when it is started or when it is waited for, by chance; its sums are NaN in between.
// Both operands are watched until then: a write to them is reported, however the warps happened to run.
#pragma once
#include <limits>

namespace interconv::halo {

struct WarpgroupBlock : Block {
  using Block::Block;

  template <int N>
  void set_registers() {}

  void init_barrier(int at, int warps) {
    machine.begin();
    machine.init_barrier(at, warps);
  }
  void arrive_at(int at) {
    if (!machine.begin(Op::kArriveAt)) return;
    machine.sync_warp();
    machine.arrive_at(at);
  }
  void wait_at(int at, int parity) {
    if (machine.begin(Op::kWaitAt)) machine.wait_at(at, parity);
  }
  void fence_async() {
    if (machine.begin(Op::kFenceAsync)) machine.fence_async();
  }

  template <int MT, int NT>
  void fence_products(const FragC (&c)[MT][NT]) {
    if (!machine.begin(Op::kFenceProducts)) return;
    for (const auto& row : c) {
      for (const FragC& sums : row) sums_[&sums].fenced = sums, sums_[&sums].is_fenced = true;
    }
  }
  void commit_products() {
    if (machine.begin(Op::kCommitProducts)) groups_.emplace_back();
  }
  template <int N, int MT, int NT>
  void wait_products(FragC (&)[MT][NT]) {
    if (!machine.begin(Op::kWaitProducts)) return;
    while (int(groups_.size()) - 1 > N) {
      for (const auto& finish : groups_.front()) finish();
      groups_.erase(groups_.begin());
    }
  }

  template <class T, int NT>
  void multiply64(FragC (&c)[NT], const Operand& a, const Operand& b) {
    machine.begin();
    machine.counts.products += NT;
    machine.counts.wavefronts += 4 + NT / 2;  // 16 rows of 32 bytes; 8 NT of them for four warps
    Operand own = a;
    own.at += warp % 4 * 2 * a.row_step;
    for (int j = 0; j < NT; ++j) begin_sum(c[j]);
    const auto rows = std::make_shared<std::array<std::vector<float>, 2>>();
    const auto read = [this, own, b, rows] {
      (*rows)[0] = values<T>(own, 2);
      (*rows)[1] = values<T>(b, NT);
    };
    watch(own, 2, true), watch(b, NT, true);
    const bool now = machine.toss();
    if (now) read();
    groups_.back().push_back([=, this, &c] {
      if (!now) read();
      watch(own, 2, false), watch(b, NT, false);
      for (int j = 0; j < NT; ++j) add(sums_[&c[j]].value, (*rows)[0].data(), (*rows)[1].data() + j * 128);
      for (int j = 0; j < NT; ++j) end_sum(c[j]);
    });
  }

 private:
  struct Sums {
    FragC fenced, value;  // as of the last fence; what lands
    bool is_fenced = false;
    int in_flight = 0;
  };
  std::vector<std::vector<std::function<void()>>> groups_{1};  // what finishes each product
  std::map<const FragC*, Sums> sums_;

  void begin_sum(FragC& c) {
    Sums& sums = sums_[&c];
    if (!sums.is_fenced || memcmp(&sums.fenced, &c, sizeof(c)) != 0) {
      machine.report("product without a fence between it and what was done with its sums");
    }
    if (sums.in_flight++ == 0) {
      sums.value = c;
      for (auto& row : c.m) std::fill(row, row + 8, std::numeric_limits<float>::quiet_NaN());
      sums.fenced = c;
    }
  }
  void end_sum(FragC& c) {
    Sums& sums = sums_[&c];
    if (--sums.in_flight != 0) return;
    if (memcmp(&sums.fenced, &c, sizeof(c)) != 0) machine.report("sums were written before their product was over");
    c = sums.value;
    sums.is_fenced = false;
  }

  void watch(const Operand& x, int eights, bool begin) {
    for (int i = 0; i < eights; ++i) {
      for (int half = 0; half < 2; ++half) {
        const int at = x.at + i * x.row_step + half * x.k_step;
        if (at % 16) machine.report("operand of a product that is not aligned to 16 bytes");
        begin ? void(machine.will_read_async(at, 128)) : machine.end_async_read(at, 128);
      }
    }
  }
  template <class T>
  std::vector<float> values(const Operand& x, int eights) const {  // [8 eights][16]
    std::vector<float> found(eights * 128);
    for (int row = 0; row < 8 * eights; ++row) {
      for (int k = 0; k < 16; ++k) {
        T v;
        const int at = x.at + row / 8 * x.row_step + row % 8 * 16 + k / 8 * x.k_step + k % 8 * 2;
        if (at < 0 || at + 2 > int(machine.shared.size())) continue;  // reported
        memcpy(&v, machine.shared.data() + at, 2);
        found[row * 16 + k] = to_float(v);
      }
    }
    return found;
  }
  static void add(FragC& c, const float* a, const float* b) {
    float across[16][8];
    for (int j = 0; j < 8; ++j) {
      for (int k = 0; k < 16; ++k) across[k][j] = b[j * 16 + k];
    }
    for (int i = 0; i < 16; ++i) {
      for (int k = 0; k < 16; ++k) {
        for (int j = 0; j < 8; ++j) c.m[i][j] += a[i * 16 + k] * across[k][j];
      }
    }
  }
};

}  // namespace interconv::halo
