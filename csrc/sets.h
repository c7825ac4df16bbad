// The sets of a packed batch, and the chunks in which long sets are reduced.
#pragma once
#include "vectors.h"

namespace interconv {

// Sets of more samples than this are reduced in chunks of this many samples, counted from the set's own first sample;
// the chunks' sums are then added in order. So a set's bits depend neither on the device, nor on threads, nor on the
// set's position in the batch, and a single long set keeps a whole GPU busy.
constexpr int64_t kChunk = 64;

struct Set {
  int64_t b, begin, end;  // set b holds the samples begin ... end-1

  IK_INLINE int64_t size() const { return end - begin; }
  IK_INLINE int64_t last() const { return end - 1; }
  IK_INLINE bool is_long() const { return size() > kChunk; }

  // 1/K. For an empty set 1: its sum is zero, and stays zero.
  template <typename A>
  IK_INLINE A inverse_size() const {
    return size() > 0 ? A(1) / A(size()) : A(1);
  }
};

struct Chunk {
  Set set;
  int64_t begin = -1, end = -1;  // its samples; -1: none

  IK_INLINE static Chunk starting_at(const Set& set, int64_t begin) {
    return {set, begin, begin + kChunk < set.end ? begin + kChunk : set.end};
  }
  IK_INLINE bool exists() const { return begin >= 0; }
};

// Offsets [B+1] and set ids [N], on the device of the tensors.
struct SetIndex {
  const int32_t* offsets;
  const int32_t* set_ids;
  int64_t num_sets, num_rows;

  IK_INLINE Set operator[](int64_t b) const { return {b, offsets[b], offsets[b + 1]}; }

  // Chunk sums live in slots whose number follows from N alone, so that no set size is read back from a GPU. Each
  // window of kChunk rows of the packed batch has two slots. For window q, which starts at row q kChunk:
  //   slot 2q      the one chunk that begins in the window and belongs to the set of its first row
  //   slot 2q + 1  the first chunk of a long set that begins later in the window (a long set reaches the next window,
  //                so there is at most one)
  int64_t num_slots() const { return (num_rows + kChunk - 1) / kChunk * 2; }

  IK_INLINE static int64_t slot_of(const Set& set, int64_t chunk_begin) {
    return chunk_begin / kChunk * 2 + (chunk_begin == set.begin && chunk_begin % kChunk != 0);
  }

  // The chunk of a long set that a slot is for, if there is one.
  IK_INLINE Chunk chunk_of(int64_t slot) const {
    const int64_t row = slot / 2 * kChunk, next_row = row + kChunk;
    if (slot % 2 == 0) {
      const Set set = (*this)[set_ids[row]];
      const int64_t begin = set.begin + (row - set.begin + kChunk - 1) / kChunk * kChunk;
      if (set.is_long() && begin < set.end) return Chunk::starting_at(set, begin);
    } else if (next_row < num_rows) {
      const Set set = (*this)[set_ids[next_row]];
      if (set.is_long() && set.begin > row && set.begin < next_row) return Chunk::starting_at(set, set.begin);
    }
    return {};
  }
};

}  // namespace interconv
