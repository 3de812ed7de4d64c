// The events of a thread's operators. A program repeats the same ones, so each distinct event is one object, and so is
// each distinct sequence of events; Python makes both.

#pragma once

#include "callers.h"

#include <c10/util/hash.h>

#include <algorithm>
#include <vector>

namespace gradprobe {

// The numbers of tensors of each kind that a call returned.
struct OutputCounts {
  uint32_t tracked = 0, untracked = 0, inference_views = 0, normal = 0, inference = 0;

  bool operator==(const OutputCounts& other) const {
    return tracked == other.tracked && untracked == other.untracked && inference_views == other.inference_views &&
        normal == other.normal && inference == other.inference;
  }
};

struct HashOfOutputCounts {
  size_t operator()(const OutputCounts& outputs) const {
    return c10::get_hash(outputs.tracked, outputs.untracked, outputs.inference_views, outputs.normal,
                         outputs.inference);
  }
};

// A sequence of operators emitted as one event.
struct OpSequence {
  std::vector<py::object> events;
  py::object event;
};

inline bool are_same(const py::object& one, const py::object& other) { return one.is(other); }

struct EventKey {
  PyCodeObject* code;
  int offset;
  const void* plan;
  PyObject* module;
  int phase;
  PyObject* counts;

  bool operator==(const EventKey& other) const {
    return code == other.code && offset == other.offset && plan == other.plan && module == other.module &&
        phase == other.phase && counts == other.counts;
  }
};

struct HashOfEventKey {
  size_t operator()(const EventKey& key) const {
    return c10::get_hash(reinterpret_cast<size_t>(key.code), key.offset, reinterpret_cast<size_t>(key.plan),
                         reinterpret_cast<size_t>(key.module), key.phase,
                         reinterpret_cast<size_t>(key.counts));
  }
};

class EventBuffer {
 public:
  explicit EventBuffer(const py::dict& context)
      : make_event_(context["make_event"]),
        make_counts_(context["make_counts"]),
        make_sequence_(context["make_sequence"]),
        emit_(context["emit"]) {}

  py::object counts_of(const OutputCounts& outputs) {
    auto& known = counts_[outputs];
    if (!known) {
      known = make_counts_(outputs.tracked, outputs.untracked, outputs.inference_views, outputs.normal,
                           outputs.inference);
    }
    return known;
  }

  // Buffers the event of an operator, whose plan has this identity and name.
  void add(const Caller& caller, const py::object& plan, const py::object& name, const py::object& counts,
           const py::object& task) {
    holds_tasks_ |= !task.is_none();
    buffer_.push_back(task.is_none() ? known_event(caller, plan, name, counts) : event(caller, name, counts, task));
    if (buffer_.size() >= MAX_BUFFERED) flush();
  }

  // Emits the buffered events as one: mostly one that exists already, also for the writing thread. Those of tasks never
  // repeat, so they are emitted one by one.
  void flush() {
    if (buffer_.empty()) return;
    if (holds_tasks_) return flush_each();
    // Emitting may call this function again.
    std::vector<py::object> events;
    events.swap(buffer_);
    size_t hash = events.size();
    for (const auto& event : events) hash = c10::hash_combine(hash, reinterpret_cast<size_t>(event.ptr()));
    auto& known = sequences_[hash];
    if (!known.event || !std::equal(known.events.begin(), known.events.end(), events.begin(), events.end(), are_same)) {
      if (sequences_.size() > MAX_SEQUENCES) sequences_.clear();
      py::tuple all(events.size());
      for (size_t i = 0; i < events.size(); ++i) all[i] = events[i];
      sequences_[hash] = {events, make_sequence_(all)};
    }
    call_one(emit_, sequences_[hash].event.ptr());
  }

  // Emits the buffered events one by one without running Python: no event of the thread can come in between.
  void flush_each() {
    std::vector<py::object> events;
    events.swap(buffer_);
    holds_tasks_ = false;
    for (const auto& event : events) call_one(emit_, event.ptr());
  }

 private:
  static constexpr size_t MAX_EVENTS = 16384, MAX_BUFFERED = 256, MAX_SEQUENCES = 1024;

  py::object known_event(const Caller& caller, const py::object& plan, const py::object& name, const py::object& counts) {
    const EventKey key{caller.code, caller.offset, plan.ptr(), caller.module.ptr(), caller.phase, counts.ptr()};
    const auto known = events_.find(key);
    if (known != events_.end()) return known->second;
    if (events_.size() >= MAX_EVENTS) events_.clear();
    return events_[key] = event(caller, name, counts, py::none());
  }

  py::object event(const Caller& caller, const py::object& name, const py::object& counts, const py::object& task) {
    const auto code = reinterpret_cast<uintptr_t>(caller.code);
    return make_event_(code, caller.offset, name, caller.module, static_cast<int>(caller.phase), task, counts);
  }

  py::object make_event_, make_counts_, make_sequence_, emit_;
  std::unordered_map<EventKey, py::object, HashOfEventKey> events_;
  std::unordered_map<OutputCounts, py::object, HashOfOutputCounts> counts_;
  std::vector<py::object> buffer_;
  bool holds_tasks_ = false;
  std::unordered_map<size_t, OpSequence> sequences_;
};

}  // namespace gradprobe
