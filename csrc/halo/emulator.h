// One thread block on the CPU, for tests: a fiber for each warp, shared memory, and what is checked and counted there.
//
// Warps are switched by a scheduler: only where one waits (in turn, or shuffled), or at every operation (interleaved),
// in an order that a seed decides. Barriers really wait. Every 4 bytes of shared memory know who last wrote and read
// them, and when in the vector clocks that barriers join: two warps (or two threads of a warp) that touch the same word
// with no barrier between them are reported, whatever the order in which they happened to run. So are reads of copies
// that nothing has waited for, reads of memory that nothing wrote, accesses outside of the tensors, and barriers that
// never open.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "emulator_types.h"

namespace interconv::halo {

class Emulator {
 public:
  static constexpr int kMaxWarps = emulated::kMaxWarps, kBarriers = 16;

  std::vector<char> shared;
  Counts counts;
  std::vector<std::string> errors;  // the first of each kind

  Emulator(int warps, int shared_bytes, Order order, uint64_t seed)
      : shared(shared_bytes, char(0xff)), words_(shared_bytes / 4), order_(order), random_(seed) {
    for (int i = 0; i < warps; ++i) warps_.push_back(std::make_unique<Warp>());
  }

  // Memory that the kernel may read, or write too; its number.
  int allow(const void* begin, int64_t bytes, bool writable) {
    const auto at = reinterpret_cast<uintptr_t>(begin);
    ranges_.push_back({at, at + bytes, writable, 0});
    return int(ranges_.size()) - 1;
  }
  int64_t bytes_copied_from(int memory) const { return ranges_[memory].copied; }

  // The index-th operation of this kind of each warp does nothing.
  void leave_out(Op op, int64_t index) { left_out_ = op, left_out_index_ = index; }
  bool was_left_out() const { return did_leave_out_; }

  void run(const std::function<void(int warp)>& body) {
    body_ = &body;
    for (auto& warp : warps_) {
      warp->stack.resize(kStack);
      getcontext(&warp->context);
      warp->context.uc_stack.ss_sp = warp->stack.data();
      warp->context.uc_stack.ss_size = kStack;
      warp->context.uc_link = &main_;
      const auto self = reinterpret_cast<uintptr_t>(this);
      makecontext(&warp->context, reinterpret_cast<void (*)()>(&Emulator::enter), 2, unsigned(self >> 32),
                  unsigned(self));
    }
    while (true) {
      const int next = pick();
      if (next < 0) break;
      current_ = next;
      swapcontext(&main_, &warps_[next]->context);
    }
    if (std::any_of(warps_.begin(), warps_.end(), [](auto& w) { return !w->done; })) {
      report("deadlock: a barrier or a wait that nothing ends");
    }
  }

  // --- what operations call ------------------------------------------------------------------------------------------

  int warp() const { return current_; }
  int num_warps() const { return int(warps_.size()); }

  void report(const std::string& error) {
    if (reported_.insert(error.substr(0, error.find(':'))).second) {
      errors.push_back(error + " (warp " + std::to_string(current_) + ")");
    }
  }

  // At the start of every operation; false where a test leaves it out.
  bool begin(Op op = Op::kNone) {
    if (order_ == Order::kInterleaved) yield();
    if (op == Op::kNone || op != left_out_) return true;
    if (self().ops++ != left_out_index_) return true;
    did_leave_out_ = true;
    return false;
  }

  void wait_until(const std::function<bool()>& ready) {
    while (!ready()) {
      self().ready = &ready;
      yield();
      self().ready = nullptr;
    }
  }

  // Barriers that are seen by others carry a clock: release() adds what this warp did, acquire() takes over what others
  // did before theirs.
  using Clock = emulated::Clock;
  void release(Clock& clock) {
    join(clock, self().clock);
    ++self().clock[current_];
  }
  void acquire(const Clock& clock) {
    join(self().clock, clock);
    ++self().epoch;
  }

  void arrive(int id, int warps) {
    Barrier& barrier = barriers_[id];
    release(barrier.arriving);
    if (++barrier.arrived < warps) return;
    barrier.opened = barrier.arriving;
    barrier.arrived = 0;
    ++barrier.phase;
    ++counts.barriers;
  }
  void sync(int id, int warps) {
    const int64_t phase = barriers_[id].phase;
    arrive(id, warps);
    wait_until([&] { return barriers_[id].phase != phase; });
    acquire(barriers_[id].opened);
  }
  void sync_warp() { ++self().epoch; }

  // Barriers in shared memory (mbarrier): a phase is over when so many warps have arrived.
  void init_barrier(int at, int warps) {
    Phases& phases = phases_[at];
    phases = {warps, warps, current_, self().clock[current_]};
  }
  void arrive_at(int at) {
    Phases& phases = known(at);
    release(phases.arriving);
    if (--phases.missing != 0) return;
    phases.opened = phases.arriving;
    phases.missing = phases.warps;
    ++phases.over;
  }
  // Until the phase with this parity is over: nothing to wait for where the one before it was the last.
  void wait_at(int at, int parity) {
    const Phases& phases = known(at);
    wait_until([&] { return phases.over % 2 != parity; });
    acquire(phases.opened);
  }

  // Accesses by a thread (lane 0 ... 31) or by the whole warp (kAll). What returns false is reported, and must not be
  // done: it is outside of memory.
  static constexpr int kAll = 32;
  bool will_read(int at, int bytes, int lane) {
    return each_word(at, bytes, [&](Word& w) {
      if (w.in_flight) report("read of a copy that was not waited for: byte " + std::to_string(at));
      if (w.writer < 0) report("read of shared memory that nothing wrote: byte " + std::to_string(at));
      check_writer(w, at, lane, "read");
      const bool same = w.reader == current_ && w.read_epoch == self().epoch && w.reader_lane != lane;
      w.reader = int8_t(current_), w.reader_lane = int8_t(same ? kAll : lane), w.read_epoch = self().epoch;
      w.read_clock[current_] = self().clock[current_];
    });
  }
  bool will_write(int at, int bytes, int lane) {
    return each_word(at, bytes, [&](Word& w) {
      if (w.in_flight) report("write to a copy in flight: byte " + std::to_string(at));
      if (w.async_readers) report("write to what a product reads: byte " + std::to_string(at));
      check_writer(w, at, lane, "write");
      for (int i = 0; i < num_warps(); ++i) {
        if (w.read_clock[i] > self().clock[i]) {
          report("race, write after read: byte " + std::to_string(at) + ", read by warp " + std::to_string(i));
        }
      }
      if (w.reader == current_ && w.read_epoch == self().epoch && w.reader_lane != lane) {
        report("race of threads, write after read: byte " + std::to_string(at));
      }
      wrote(w, lane);
    });
  }

  // Reads through the async proxy, from now until end_async_read. What threads wrote must be fenced by who wrote it.
  void fence_async() { self().fences.push_back(self().clock[current_]); }
  bool will_read_async(int at, int bytes) {
    return will_read(at, bytes, kAll) && each_word(at, bytes, [&](Word& w) {
             ++w.async_readers;
             if (w.writer < 0) return;
             const auto& fences = warps_[w.writer]->fences;
             if (w.fences >= fences.size() || fences[w.fences] > self().clock[w.writer]) {
               report("read through the async proxy without a fence after the write: byte " + std::to_string(at));
             }
           });
  }
  void end_async_read(int at, int bytes) {
    each_word(at, bytes, [&](Word& w) { --w.async_readers, w.read_clock[current_] = self().clock[current_]; });
  }
  bool toss() { return random_() % 2; }

  // An asynchronous copy, whose data land when its own thread waits for them.
  void start_copy(int at, const void* data, int bytes, int lane) {
    if (!will_write(at, bytes, lane)) return;
    each_word(at, bytes, [](Word& w) { ++w.in_flight; });
    memset(shared.data() + at, 0xff, bytes);
    Copy copy{at, bytes, lane, {}};
    if (data) memcpy(copy.data, data, bytes);
    self().groups.back().push_back(copy);
  }
  void commit() { self().groups.emplace_back(); }
  void wait(int left) {
    auto& groups = self().groups;
    while (int(groups.size()) - 1 > left) {
      for (const Copy& copy : groups.front()) {
        memcpy(shared.data() + copy.at, copy.data, copy.bytes);
        each_word(copy.at, copy.bytes, [&](Word& w) { --w.in_flight, wrote(w, copy.lane); });
      }
      groups.erase(groups.begin());
    }
  }

  enum class Access { kCopy, kRead, kWrite };
  bool will_access_global(const void* p, int bytes, Access access) {
    const bool write = access == Access::kWrite;
    (write ? counts.written : access == Access::kRead ? counts.read : counts.copied) += bytes;
    const auto at = reinterpret_cast<uintptr_t>(p);
    if (at % bytes) report("misaligned access to global memory: " + std::to_string(bytes) + " bytes");
    for (Range& range : ranges_) {
      if (at >= range.begin && at + bytes <= range.end && (range.writable || !write)) {
        if (access == Access::kCopy) range.copied += bytes;
        return true;
      }
    }
    report(write ? "write outside of every tensor" : "read outside of every tensor");
    return false;
  }

 private:
  using Word = emulated::Word;
  using Barrier = emulated::Barrier;
  using Phases = emulated::Phases;
  static constexpr size_t kStack = 1 << 20;
  struct Copy {
    int at, bytes, lane;
    char data[16];
  };
  struct Warp {
    ucontext_t context;
    std::vector<char> stack;
    bool done = false;
    const std::function<bool()>* ready = nullptr;
    Clock clock{};
    uint32_t epoch = 0;  // counts what orders the threads of a warp
    int64_t ops = 0;
    std::vector<uint32_t> fences;  // the clock of each fence of the async proxy
    std::vector<std::vector<Copy>> groups{1};
  };
  struct Range {
    uintptr_t begin, end;
    bool writable;
    int64_t copied;
  };

  static void enter(unsigned high, unsigned low) {
    auto* self = reinterpret_cast<Emulator*>(uintptr_t(high) << 32 | low);
    ++self->self().clock[self->current_];
    (*self->body_)(self->current_);
    for (const auto& group : self->self().groups) {
      if (!group.empty()) self->report("the program ends with copies that were not waited for");
    }
    self->self().done = true;
  }
  Warp& self() { return *warps_[current_]; }

  static void join(Clock& to, const Clock& from) {
    for (int i = 0; i < kMaxWarps; ++i) to[i] = std::max(to[i], from[i]);
  }

  // The warp that runs next: -1 if none can.
  int pick() {
    int can[kMaxWarps], count = 0;
    for (int i = 0; i < num_warps(); ++i) {
      if (!warps_[i]->done && (!warps_[i]->ready || (*warps_[i]->ready)())) can[count++] = i;
    }
    if (count == 0) return -1;
    return can[order_ == Order::kInTurn ? 0 : random_() % count];
  }
  void yield() {
    const int from = current_, next = order_ == Order::kInTurn || self().ready ? -1 : pick();
    if (next == from) return;
    if (next < 0) {
      swapcontext(&warps_[from]->context, &main_);
    } else {
      current_ = next;
      swapcontext(&warps_[from]->context, &warps_[next]->context);
    }
  }

  template <class F>
  bool each_word(int at, int bytes, F f) {
    if (at < 0 || at + bytes > int(shared.size()) || at % std::min(bytes, 16)) {
      report("access outside of shared memory or misaligned: byte " + std::to_string(at));
      return false;
    }
    for (int i = at / 4; i <= (at + bytes - 1) / 4; ++i) f(words_[i]);
    return true;
  }
  void check_writer(const Word& w, int at, int lane, const char* what) {
    if (w.writer < 0) return;
    if (w.write_clock > self().clock[w.writer]) {
      report(std::string("race, ") + what + " after write: byte " + std::to_string(at) + ", written by warp " +
             std::to_string(w.writer));
    } else if (w.writer == current_ && w.write_epoch == self().epoch && w.writer_lane != lane) {
      report(std::string("race of threads, ") + what + " after write: byte " + std::to_string(at));
    }
  }
  void wrote(Word& w, int lane) {
    w.writer = int8_t(current_), w.writer_lane = int8_t(lane);
    w.write_clock = self().clock[current_], w.write_epoch = self().epoch;
    w.fences = uint32_t(self().fences.size());
  }
  Phases& known(int at) {
    Phases& phases = phases_[at];
    if (phases.warps == 0 || phases.init_clock > self().clock[phases.initialiser]) {
      report("barrier in shared memory that is not known to be initialised: byte " + std::to_string(at));
    }
    return phases;
  }

  std::vector<Word> words_;
  std::vector<std::unique_ptr<Warp>> warps_;
  std::array<Barrier, kBarriers> barriers_;
  std::map<int, Phases> phases_;
  std::vector<Range> ranges_;
  std::set<std::string> reported_;
  Order order_;
  std::mt19937_64 random_;
  ucontext_t main_;
  int current_ = 0;
  const std::function<void(int)>* body_ = nullptr;
  Op left_out_ = Op::kNone;
  int64_t left_out_index_ = 0;
  bool did_leave_out_ = false;
};

}  // namespace interconv::halo
