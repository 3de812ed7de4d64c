// The operators of a thread on their way through the queue to the writing thread, and their sums as rows of numbers.
//
// What a thread has run since its last event is one object in the queue, of which no Python object is made: the writing thread
// shares the interpreter with the program, so that all Python that it runs is the program's time.

#pragma once

#include "tallies.h"

#include <deque>

namespace gradprobe {

// The numbers of events in recording/events.py that are compared with it when the library is loaded.
enum QueuedOp { OP_SEQUENCE = 56, OP_ROWS = 68, OP_BATCH = 72, NOT_COUNTED = -1, NOT_READ = 2 };

using Batch = std::vector<Tally>;

inline const char* batch_name() { return "gradprobe.batch"; }

// The event of a batch: (OP_BATCH, thread, the batch).
inline py::object make_batch_event(uint64_t thread, Batch&& tallies) {
  auto* batch = new Batch(std::move(tallies));
  const auto free = [](PyObject* capsule) { delete static_cast<Batch*>(PyCapsule_GetPointer(capsule, batch_name())); };
  PyObject* capsule = PyCapsule_New(batch, batch_name(), free);
  if (capsule == nullptr) {
    delete batch;
    throw py::error_already_set();
  }
  const py::object owned = stolen(capsule);
  static PyObject* const number = PyLong_FromLong(OP_BATCH);
  const py::object owner = stolen(PyLong_FromUnsignedLongLong(thread));
  return stolen(PyTuple_Pack(3, number, owner.ptr(), owned.ptr()));
}

// The operators between two events of a thread are one sequence. Those of one kind at one place are one row in it, whose key is
// the number of the row.
class OpSums {
 public:
  // `number_operation(op, node, module, phase)` and `number_site(code, offset)` give the numbers that rows have; `add_rows(event,
  // key)` takes rows of other kinds and returns their event, None if they belong to another one; `now` is the clock.
  OpSums(py::object number_operation, py::object number_site, py::object add_rows, py::object now)
      : number_operation_(std::move(number_operation)),
        number_site_(std::move(number_site)),
        add_rows_(std::move(add_rows)),
        now_(std::move(now)) {}

  bool has_open() const { return !open_.empty(); }

  // Returns the events with sequences in place of batches, and the rows of tallies, of the storages that they saved, and of
  // those among them that are inputs. `closes` also ends the sequences that no event has ended yet.
  py::tuple expand(const py::list& events, bool closes) {
    Rows rows;
    py::list found;
    for (const py::handle event : events) {
      switch (PyLong_AsLong(item(event, 0))) {
        case OP_BATCH:
          add(PyLong_AsUnsignedLongLong(item(event, 1)), *static_cast<Batch*>(PyCapsule_GetPointer(item(event, 2), batch_name())));
          break;
        case OP_ROWS:
          add_rows(event, found, rows);
          break;
        default:
          close(PyLong_AsUnsignedLongLong(item(event, 2)), found, rows);
          found.append(event);
      }
    }
    while (closes && !open_.empty()) close(open_.front().thread, found, rows);
    return py::make_tuple(found, rows.tallies.take(), rows.saved.take(), rows.inputs.take());
  }

 private:
  struct Open {
    uint64_t thread;
    Tallies sums;
  };

  // Rows as they are stored: numbers of eight or four bytes without gaps.
  class Buffer {
   public:
    template <typename Number>
    void push(Number number) {
      bytes_.append(reinterpret_cast<const char*>(&number), sizeof(number));
    }
    py::object take() const {
      return stolen(PyByteArray_FromStringAndSize(bytes_.data(), static_cast<Py_ssize_t>(bytes_.size())));
    }
    const std::string& bytes() const { return bytes_; }

   private:
    std::string bytes_;
  };
  struct Rows {
    Buffer tallies, saved, inputs;
  };

  struct Operation {
    NameId op, node, module;
    Phase phase;
    bool operator==(const Operation& other) const {
      return op == other.op && node == other.node && module == other.module && phase == other.phase;
    }
  };
  struct Place {
    PyCodeObject* code;
    int offset;
    bool operator==(const Place& other) const { return code == other.code && offset == other.offset; }
  };
  struct Hash {
    size_t operator()(const Operation& one) const {
      return c10::hash_combine(uint64_t(one.op) << 32 | one.node, uint64_t(one.module) << 2 | one.phase);
    }
    size_t operator()(const Place& one) const {
      return c10::hash_combine(reinterpret_cast<uintptr_t>(one.code) >> 4, uint64_t(uint32_t(one.offset)));
    }
  };

  static PyObject* item(py::handle event, Py_ssize_t index) { return PyTuple_GET_ITEM(event.ptr(), index); }

  std::deque<Open>::iterator find(uint64_t thread) {
    return std::find_if(open_.begin(), open_.end(), [thread](const Open& one) { return one.thread == thread; });
  }

  void add(uint64_t thread, Batch& batch) {
    auto at = find(thread);
    if (at == open_.end()) at = open_.insert(open_.end(), {thread, {}});
    for (Tally& tally : batch) at->sums.at(tally.key).add(tally.counts, tally.saved);
  }

  // Ends the sequence of a thread, and adds its event and its rows.
  void close(uint64_t thread, py::list& found, Rows& rows) {
    const auto at = find(thread);
    if (at == open_.end()) return;
    std::vector<Tally> tallies;
    at->sums.take(tallies);
    open_.erase(at);
    if (tallies.empty()) return;
    const uint64_t first = next_;
    Buffer sites;
    py::object tasks = py::none();
    for (const Tally& tally : tallies) {
      const uint64_t key = next_++;
      rows.tallies.push(key);
      rows.tallies.push(number_of({tally.key.op, tally.key.node, tally.key.module, tally.key.phase}));
      for (const int64_t count : tally.counts) rows.tallies.push(count);
      sites.push(site_of({tally.key.code, tally.key.offset}));
      add_saved(key, tally.saved, rows);
      if (tally.key.task != NO_NAME && tasks.is_none()) tasks = py::list(tasks_of(tallies));
    }
    const py::bytes places(sites.bytes());
    found.append(py::make_tuple(static_cast<int>(OP_SEQUENCE), now_(), thread, py::none(), 0, static_cast<int>(NOT_READ),
                                static_cast<int>(NOT_READ), static_cast<int>(NOT_READ), static_cast<int>(NOT_READ), first,
                                py::make_tuple(places, tasks), static_cast<int>(NOT_COUNTED)));
  }

  static py::list tasks_of(const std::vector<Tally>& tallies) {
    py::list tasks;
    for (const Tally& tally : tallies) tasks.append(borrowed(Names::global().object(tally.key.task)));
    return tasks;
  }

  void add_rows(py::handle event, py::list& found, Rows& rows) {
    const py::handle marker = item(event, 2);
    if (marker.is_none()) {
      add_rows_(event, 0);
      return;
    }
    close(PyLong_AsUnsignedLongLong(item(marker, 2)), found, rows);
    found.append(add_rows_(event, next_++));
  }

  // Each storage once, as it was when it was saved last.
  void add_saved(uint64_t key, const std::vector<SavedStorage>& saved, Rows& rows) {
    constexpr size_t FEW = 16;  // so few that to compare all takes less time than a table
    latest_.clear();
    for (size_t i = saved.size() > FEW ? 0 : saved.size(); i < saved.size(); ++i) latest_[saved[i].number] = i;
    for (size_t i = 0; i < saved.size(); ++i) {
      const SavedStorage& storage = saved[i];
      const auto is_same = [&storage](const SavedStorage& other) { return other.number == storage.number; };
      const bool is_saved_again = saved.size() > FEW
          ? latest_[storage.number] != i
          : std::any_of(saved.begin() + static_cast<ptrdiff_t>(i) + 1, saved.end(), is_same);
      if (is_saved_again) continue;
      rows.saved.push(key);
      rows.saved.push(storage.number);
      rows.saved.push(storage.bytes);
      rows.saved.push(storage.made);
      if (!storage.is_input) continue;
      rows.inputs.push(key);
      rows.inputs.push(storage.number);
    }
  }

  uint32_t number_of(const Operation& operation) {
    auto& known = operations_[operation];
    if (known == 0) {
      auto& names = Names::global();
      const py::object module =
          operation.module == NO_NAME ? py::object(py::str("")) : borrowed(names.object(operation.module));
      known = number_operation_(borrowed(names.object(operation.op)), borrowed(names.object(operation.node)), module,
                                static_cast<int>(operation.phase))
                  .cast<uint32_t>();
    }
    return known;
  }

  uint32_t site_of(const Place& place) {
    const auto known = sites_.find(place);
    if (known != sites_.end()) return known->second;
    return sites_[place] = number_site_(reinterpret_cast<uintptr_t>(place.code), place.offset).cast<uint32_t>();
  }

  py::object number_operation_, number_site_, add_rows_, now_;
  std::deque<Open> open_;  // by thread, in the order in which they began
  uint64_t next_ = 1;
  std::unordered_map<Operation, uint32_t, Hash> operations_;
  std::unordered_map<Place, uint32_t, Hash> sites_;
  std::unordered_map<uint64_t, size_t> latest_;
};

}  // namespace gradprobe
