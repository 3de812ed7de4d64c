// The operators of a thread, added up by kind and place until the thread's next event.

#pragma once

#include "saved.h"

#include <c10/util/hash.h>

#include <algorithm>

namespace gradprobe {

// The fields of OpCounts in recording/op_rows.py, in the same order; compared with it when the library is loaded.
enum Count {
  CALLS, NODES, VERSION_BUMPS, COUNTERS_CREATED, TRACKED_VIEWS, UNTRACKED_VIEWS, INFERENCE_OUTPUTS, NORMAL_OUTPUTS,
  UNCOUNTED_WRITES, HOOKED, FAILED_VERSION_READS, NORMAL_WITHOUT_COUNTER, INFERENCE_WITH_COUNTER, NUMBER_OF_COUNTS
};
using Counts = std::array<int64_t, NUMBER_OF_COUNTS>;

struct TallyKey {
  PyCodeObject* code = nullptr;
  int offset = 0;
  NameId op = NO_NAME, module = NO_NAME, node = NO_NAME, task = NO_NAME;
  Phase phase = FORWARD;

  bool operator==(const TallyKey& other) const {
    return code == other.code && offset == other.offset && op == other.op && module == other.module &&
        node == other.node && task == other.task && phase == other.phase;
  }

  size_t hash() const {
    uint64_t mixed = reinterpret_cast<uintptr_t>(code) >> 4;
    for (const uint64_t part : {uint64_t(uint32_t(offset)) << 2 | phase, uint64_t(op) << 32 | node,
                                uint64_t(module) << 32 | task}) {
      mixed = (mixed ^ part) * 0x9E3779B97F4A7C15ull;
      mixed ^= mixed >> 29;
    }
    return mixed;
  }
};

struct Tally {
  TallyKey key;
  Counts counts{};
  std::vector<SavedStorage> saved;

  void add(const Counts& more, const std::vector<SavedStorage>& storages) {
    for (size_t i = 0; i < NUMBER_OF_COUNTS; ++i) counts[i] += more[i];
    if (!storages.empty()) saved.insert(saved.end(), storages.begin(), storages.end());
  }
};

// Tallies in the order in which their first operators ran.
class Tallies {
 public:
  Tally& at(const TallyKey& key) {
    if (2 * (all_.size() + 1) > slots_.size()) grow();
    size_t slot = key.hash() & (slots_.size() - 1);
    for (; slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
      if (all_[slots_[slot] - 1].key == key) return all_[slots_[slot] - 1];
    }
    all_.emplace_back();
    all_.back().key = key;
    slots_[slot] = static_cast<uint32_t>(all_.size());
    return all_.back();
  }

  bool empty() const { return all_.empty(); }

  // Moves all tallies into `taken`, which is empty.
  void take(std::vector<Tally>& taken) {
    taken.assign(std::make_move_iterator(all_.begin()), std::make_move_iterator(all_.end()));
    all_.clear();
    if (taken.size() > slots_.size() / 16) {
      std::fill(slots_.begin(), slots_.end(), 0);
    } else {
      for (const Tally& tally : taken) clear_from(tally.key.hash());
    }
  }

 private:
  void grow() {
    slots_.assign(std::max<size_t>(64, 2 * slots_.size()), 0);
    for (size_t i = 0; i < all_.size(); ++i) {
      size_t slot = all_[i].key.hash() & (slots_.size() - 1);
      while (slots_[slot] != 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<uint32_t>(i + 1);
    }
  }

  // All tallies go at once, so a run of used slots can be cleared from wherever one of them begins.
  void clear_from(size_t hash) {
    for (size_t slot = hash & (slots_.size() - 1); slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
      slots_[slot] = 0;
    }
  }

  std::vector<Tally> all_;
  std::vector<uint32_t> slots_;  // the index of a tally plus one, 0 for none
};

}  // namespace gradprobe
