// Encoding of what is in the queue as columns of numbers, by the writing thread.
//
// That thread shares the interpreter with the program, so the program pays for the time in which it holds the GIL.

#pragma once

#include "batches.h"
#include "event_columns.h"

#include <deque>
#include <optional>

namespace gradprobe {

// The functions of Python that number what events refer to.
struct Numbering {
  explicit Numbering(const py::dict& given)
      : operation(given["operation"]),
        site(given["site"]),
        place(given["place"]),
        thread(given["thread"]),
        name(given["name"]),
        add_rows(given["add_rows"]),
        now(given["now"]),
        fault(given["fault"]) {}

  py::object operation;  // (op, node, module, phase)
  py::object site;  // (code, offset)
  py::object place;  // (identity of a code object, offset)
  py::object thread;  // (op, time, identifier, extra)
  py::object name;  // (extra)
  py::object add_rows;  // (event, key): takes rows of other kinds and returns their event, None if they belong to another one
  py::object now, fault;
};

// The operators between two events of a thread are one sequence. Those of one kind at one place are one tally in it, which is an event
// whose key is the number of its rows.
class QueueEncoder {
 public:
  // `first_key` is the number of the first rows.
  QueueEncoder(const py::dict& numbering, uint64_t first_key) : number_(numbering), next_(first_key) {}

  // Returns the columns of the events, with tallies in place of batches, and the rows of tallies, of the storages that they saved, and
  // of those among them that are inputs. `closes` also ends the sequences that no event has ended yet. An event that cannot be
  // encoded is lost alone.
  py::tuple encode(const py::list& events, bool closes) {
    Output output;
    known_thread_ = {};
    for (const py::handle event : events) {
      try {
        take(event, output);
      } catch (const py::error_already_set& error) {
        number_.fault(error.value());
      } catch (const py::cast_error& error) {
        number_.fault(borrowed(PyExc_TypeError)(error.what()));
      }
    }
    while (closes && !open_.empty()) close(open_.front().thread, output);
    return output.events.take() + output.rows.take();
  }

 private:
  struct Open {
    uint64_t thread;
    Tallies sums;
  };
  struct Output {
    EventColumns events;
    TallyRows rows;
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
    int64_t offset;
    bool operator==(const Place& other) const { return code == other.code && offset == other.offset; }
  };
  struct Hash {
    size_t operator()(const Operation& one) const {
      return c10::hash_combine(uint64_t(one.op) << 32 | one.node, uint64_t(one.module) << 2 | one.phase);
    }
    size_t operator()(const Place& one) const {
      return c10::hash_combine(reinterpret_cast<uintptr_t>(one.code) >> 4, uint64_t(one.offset));
    }
  };
  using Places = std::unordered_map<Place, uint32_t, Hash>;

  static PyObject* item(py::handle event, Py_ssize_t index) {
    PyObject* found = PyTuple_GetItem(event.ptr(), index);
    if (found == nullptr) throw py::error_already_set();
    return found;
  }
  static long long integer(PyObject* object) {
    const long long number = PyLong_AsLongLong(object);
    if (number == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    return number;
  }
  static uint64_t natural(PyObject* object) {
    const unsigned long long number = PyLong_AsUnsignedLongLong(object);
    if (number == static_cast<unsigned long long>(-1) && PyErr_Occurred() != nullptr) throw py::error_already_set();
    return number;
  }

  void take(py::handle event, Output& output) {
    const auto op = integer(item(event, 0));
    if (op == OP_BATCH) {
      add(natural(item(event, 1)), *static_cast<Batch*>(PyCapsule_GetPointer(item(event, 2), batch_name())));
    } else if (op == OP_ROWS) {
      add_rows(event, output);
    } else {
      close(natural(item(event, 2)), output);
      push(event, output);
    }
  }

  std::deque<Open>::iterator find(uint64_t thread) {
    return std::find_if(open_.begin(), open_.end(), [thread](const Open& one) { return one.thread == thread; });
  }

  void add(uint64_t thread, Batch& batch) {
    auto at = find(thread);
    if (at == open_.end()) at = open_.insert(open_.end(), {thread, {}});
    for (Tally& tally : batch) at->sums.at(tally.key).add(tally.counts, tally.saved);
  }

  // Ends the sequence of a thread.
  void close(uint64_t thread, Output& output) {
    const auto at = find(thread);
    if (at == open_.end()) return;
    std::vector<Tally> tallies;
    at->sums.take(tallies);
    open_.erase(at);
    if (tallies.empty()) return;
    const auto time = number_.now().cast<int64_t>();
    const uint32_t thread_number = thread_of(TALLY, time, thread, py::none());
    constexpr uint8_t unread = NOT_READ | NOT_READ << 2 | NOT_READ << 4 | NOT_READ << 6;
    for (const Tally& tally : tallies) {
      const uint64_t key = next_++;
      const auto task = tally.key.task == NO_NAME ? 0 : name_of(borrowed(Names::global().object(tally.key.task)));
      output.rows.push(key, operation_of({tally.key.op, tally.key.node, tally.key.module, tally.key.phase}), tally);
      output.events.push({TALLY, time, thread_number, place_of({tally.key.code, tally.key.offset}), unread, key, task, NOT_COUNTED});
    }
  }

  void add_rows(py::handle event, Output& output) {
    const py::handle marker = item(event, 2);
    if (marker.is_none()) {
      number_.add_rows(event, 0);
      return;
    }
    close(natural(item(marker, 2)), output);
    push(number_.add_rows(event, next_++), output);
  }

  void push(py::handle event, Output& output) {
    const auto op = static_cast<uint8_t>(integer(item(event, 0)));
    const auto time = integer(item(event, 1));
    PyObject* extra = item(event, 10);
    output.events.push({op, time, thread_of(op, time, natural(item(event, 2)), extra), site_of(item(event, 3), item(event, 4)),
                        pack_state(integer(item(event, 5)), integer(item(event, 6)), integer(item(event, 7)), integer(item(event, 8))),
                        natural(item(event, 9)), extra == Py_None ? 0 : name_of(extra),
                        PyTuple_GET_SIZE(event.ptr()) > 11 ? integer(item(event, 11)) : NOT_COUNTED});
  }

  // Begins and ends of threads change what an identifier stands for.
  uint32_t thread_of(uint8_t op, int64_t time, uint64_t ident, py::handle extra) {
    const bool is_mark = (op & ~ACTION_MASK) == THREAD;
    if (is_mark || !known_thread_ || known_thread_->first != ident) {
      known_thread_ = {ident, number_.thread(op, time, ident, extra).cast<uint32_t>()};
    }
    const uint32_t number = known_thread_->second;
    if (is_mark) known_thread_ = {};
    return number;
  }

  uint32_t name_of(py::handle extra) { return number_.name(extra).cast<uint32_t>(); }

  uint32_t operation_of(const Operation& operation) {
    auto& known = operations_[operation];
    if (known == 0) {
      auto& names = Names::global();
      const py::object module =
          operation.module == NO_NAME ? py::object(py::str("")) : borrowed(names.object(operation.module));
      known = number_.operation(borrowed(names.object(operation.op)), borrowed(names.object(operation.node)), module,
                                static_cast<int>(operation.phase))
                  .cast<uint32_t>();
    }
    return known;
  }

  uint32_t place_of(const Place& place) {
    const auto known = places_.find(place);
    if (known != places_.end()) return known->second;
    return places_[place] = number_.place(reinterpret_cast<uintptr_t>(place.code), place.offset).cast<uint32_t>();
  }

  // The offset of a place with a name is a pair; such places are rare.
  uint32_t site_of(PyObject* code, PyObject* offset) {
    if (!PyLong_Check(offset)) return number_.site(borrowed(code), borrowed(offset)).cast<uint32_t>();
    if (code == Py_None) return NOWHERE;
    const Place place{reinterpret_cast<PyCodeObject*>(code), integer(offset)};
    const auto known = sites_.find(place);
    if (known != sites_.end()) return known->second;
    return sites_[place] = number_.site(borrowed(code), borrowed(offset)).cast<uint32_t>();
  }

  const Numbering number_;
  std::deque<Open> open_;  // by thread, in the order in which they began
  uint64_t next_;
  std::unordered_map<Operation, uint32_t, Hash> operations_;
  Places places_, sites_;  // not one: an operator may have run in code of which nothing is known
  std::optional<std::pair<uint64_t, uint32_t>> known_thread_;
};

}  // namespace gradprobe
