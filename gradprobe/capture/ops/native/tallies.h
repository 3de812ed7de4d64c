// The operators of a thread, added up by kind and place until the thread's next event, and the Python events made of them. A
// program repeats the same tallies, so each distinct event is one object, and so is each distinct sequence of events.

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

  // Moves all tallies into `taken`, which is empty and lends its memory for those to come.
  void take(std::vector<Tally>& taken) {
    taken.swap(all_);
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

// Makes events of tallies. All of it needs the GIL.
class EventMaker {
 public:
  EventMaker(py::object make_event, py::object make_sequence, py::object make_saving, py::object emit)
      : make_event_(std::move(make_event)),
        make_sequence_(std::move(make_sequence)),
        make_saving_(std::move(make_saving)),
        emit_(std::move(emit)) {}

  void emit(uint64_t thread, const std::vector<Tally>& tallies) {
    std::vector<py::object> plain;
    for (const Tally& tally : tallies) {
      py::object event = known_event(thread, tally);
      if (tally.saved.empty()) {
        plain.push_back(std::move(event));
      } else {
        emit_sequence(thread, plain);
        call_one(emit_, make_saving(thread, event, tally.saved).ptr());
      }
    }
    emit_sequence(thread, plain);
  }

 private:
  static constexpr size_t MAX_EVENTS = 16384, MAX_SEQUENCES = 1024;

  struct EventKey {
    TallyKey key;
    Counts counts;
    uint64_t thread;

    bool operator==(const EventKey& other) const {
      return key == other.key && counts == other.counts && thread == other.thread;
    }
  };

  struct HashOfEventKey {
    size_t operator()(const EventKey& event) const {
      size_t hash = c10::hash_combine(event.key.hash(), event.thread);
      for (const int64_t count : event.counts) hash = hash * 31 + static_cast<size_t>(count);
      return hash;
    }
  };

  struct Sequence {
    std::vector<py::object> events;
    py::object event;
  };

  py::object known_event(uint64_t thread, const Tally& tally) {
    const EventKey key{tally.key, tally.counts, thread};
    const auto known = events_.find(key);
    if (known != events_.end()) return known->second;
    if (events_.size() >= MAX_EVENTS) events_.clear();
    auto& names = Names::global();
    const auto& at = tally.key;
    py::tuple counts(tally.counts.size());
    for (size_t i = 0; i < tally.counts.size(); ++i) counts[i] = tally.counts[i];
    py::object event = make_event_(
        thread, reinterpret_cast<uintptr_t>(at.code), at.offset, borrowed(names.object(at.op)),
        at.module == NO_NAME ? py::object(py::str("")) : borrowed(names.object(at.module)), static_cast<int>(at.phase),
        borrowed(names.object(at.task)), borrowed(names.object(at.node)), counts);
    return events_[key] = std::move(event);
  }

  py::object make_saving(uint64_t thread, const py::object& event, const std::vector<SavedStorage>& saved) {
    py::tuple entries(saved.size());
    for (size_t i = 0; i < saved.size(); ++i) {
      entries[i] = py::make_tuple(saved[i].number, saved[i].bytes, saved[i].made, saved[i].is_input);
    }
    return make_saving_(thread, event, entries);
  }

  void emit_sequence(uint64_t thread, std::vector<py::object>& plain) {
    std::vector<py::object> events;
    events.swap(plain);
    if (events.empty()) return;
    if (events.size() == 1) return call_one(emit_, events[0].ptr());
    size_t hash = events.size();
    for (const auto& event : events) hash = c10::hash_combine(hash, reinterpret_cast<size_t>(event.ptr()));
    auto& known = sequences_[hash];
    const auto is_same = [](const py::object& one, const py::object& other) { return one.is(other); };
    if (!known.event || !std::equal(known.events.begin(), known.events.end(), events.begin(), events.end(), is_same)) {
      if (sequences_.size() > MAX_SEQUENCES) sequences_.clear();
      py::tuple all(events.size());
      for (size_t i = 0; i < events.size(); ++i) all[i] = events[i];
      py::object event = make_sequence_(thread, all);
      sequences_[hash] = {std::move(events), event};
      return call_one(emit_, event.ptr());
    }
    call_one(emit_, known.event.ptr());
  }

  py::object make_event_, make_sequence_, make_saving_, emit_;
  std::unordered_map<EventKey, py::object, HashOfEventKey> events_;
  std::unordered_map<size_t, Sequence> sequences_;
};

}  // namespace gradprobe
