// The operators of a thread on their way through the queue to the writing thread: what a thread has run since its last event is one
// object in the queue, of which no Python object is made.

#pragma once

#include "event_numbers.h"
#include "tallies.h"

namespace gradprobe {

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
  auto event = stolen(PyTuple_Pack(3, number, owner.ptr(), owned.ptr()));
  PyObject_GC_UnTrack(event.ptr());  // it has nothing that could lead back to it, and would bring collections forward
  return event;
}

}  // namespace gradprobe
