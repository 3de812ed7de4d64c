// The events of a thread's operators. A program runs the same ones over and over, so each that is told apart is one object,
// and so is each sequence of them; both are made by Python.

#pragma once

#include "callers.h"

#include <c10/util/hash.h>

#include <algorithm>
#include <vector>

namespace gradprobe {

// How many tensors of each kind a call returned.
struct Results {
  uint32_t tracked = 0, untracked = 0, inference_views = 0, normal = 0, inference = 0;

  bool operator==(const Results& other) const {
    return tracked == other.tracked && untracked == other.untracked && inference_views == other.inference_views &&
        normal == other.normal && inference == other.inference;
  }
};

struct HashOfResults {
  size_t operator()(const Results& results) const {
    return c10::get_hash(results.tracked, results.untracked, results.inference_views, results.normal,
                         results.inference);
  }
};

// Operators that were emitted as one event.
struct Gathered {
  std::vector<py::object> events;
  py::object event;
};

inline bool are_same(const py::object& one, const py::object& other) { return one.is(other); }

struct Place {
  PyCodeObject* code;
  int offset;
  const void* plan;
  PyObject* module;
  int phase;
  PyObject* account;

  bool operator==(const Place& other) const {
    return code == other.code && offset == other.offset && plan == other.plan && module == other.module &&
        phase == other.phase && account == other.account;
  }
};

struct HashOfPlace {
  size_t operator()(const Place& place) const {
    return c10::get_hash(reinterpret_cast<size_t>(place.code), place.offset, reinterpret_cast<size_t>(place.plan),
                         reinterpret_cast<size_t>(place.module), place.phase,
                         reinterpret_cast<size_t>(place.account));
  }
};

class Events {
 public:
  explicit Events(const py::dict& tools)
      : event_(tools["event"]), account_(tools["account"]), gather_(tools["gathered"]), emit_(tools["emit"]) {}

  py::object account_of(const Results& results) {
    auto& known = accounts_[results];
    if (!known) {
      known = account_(results.tracked, results.untracked, results.inference_views, results.normal, results.inference);
    }
    return known;
  }

  // Emits later what an operator did; by a plan of this identity and name.
  void add(const Line& line, const py::object& plan, const py::object& name, const py::object& account,
           const py::object& task) {
    holds_tasks_ |= !task.is_none();
    gathering_.push_back(task.is_none() ? known_event(line, plan, name, account)
                                        : event(line, name, account, task));
    if (gathering_.size() >= MOST_GATHERED) flush();
  }

  // Emits what has gathered, as one event: mostly one that is known, to the writing thread too. Those of tasks come once.
  void flush() {
    if (gathering_.empty()) return;
    if (holds_tasks_) return flush_each();
    // What is emitted may come back to here.
    std::vector<py::object> events;
    events.swap(gathering_);
    size_t hash = events.size();
    for (const auto& event : events) hash = c10::hash_combine(hash, reinterpret_cast<size_t>(event.ptr()));
    auto& known = gathered_[hash];
    if (!known.event || !std::equal(known.events.begin(), known.events.end(), events.begin(), events.end(), are_same)) {
      if (gathered_.size() > MOST_STRETCHES) gathered_.clear();
      py::tuple all(events.size());
      for (size_t i = 0; i < events.size(); ++i) all[i] = events[i];
      gathered_[hash] = {events, gather_(all)};
    }
    call_one(emit_, gathered_[hash].event.ptr());
  }

  // Emits what has gathered without running Python: no event of the thread can come in between.
  void flush_each() {
    std::vector<py::object> events;
    events.swap(gathering_);
    holds_tasks_ = false;
    for (const auto& event : events) call_one(emit_, event.ptr());
  }

 private:
  static constexpr size_t MOST_EVENTS = 16384, MOST_GATHERED = 256, MOST_STRETCHES = 1024;

  py::object known_event(const Line& line, const py::object& plan, const py::object& name, const py::object& account) {
    const Place place{line.code, line.offset, plan.ptr(), line.module.ptr(), line.phase, account.ptr()};
    const auto known = events_.find(place);
    if (known != events_.end()) return known->second;
    if (events_.size() >= MOST_EVENTS) events_.clear();
    return events_[place] = event(line, name, account, py::none());
  }

  py::object event(const Line& line, const py::object& name, const py::object& account, const py::object& task) {
    const auto code = reinterpret_cast<uintptr_t>(line.code);
    return event_(code, line.offset, name, line.module, static_cast<int>(line.phase), task, account);
  }

  py::object event_, account_, gather_, emit_;
  std::unordered_map<Place, py::object, HashOfPlace> events_;
  std::unordered_map<Results, py::object, HashOfResults> accounts_;
  std::vector<py::object> gathering_;
  bool holds_tasks_ = false;
  std::unordered_map<size_t, Gathered> gathered_;
};

}  // namespace gradprobe
