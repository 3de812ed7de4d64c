// The manager events of a thread that its detectors see. Most blocks concern none of them: an event does that enables grad within
// inference mode, any while a detector waits for something, and now and then one for what is looked for at times.

#pragma once

#include "call.h"
#include "callers.h"
#include "context.h"

namespace gradprobe {

class ManagerEvents {
 public:
  bool is_quiet = false;  // no detector waits for anything

  void see(py::handle event, const Detectors& detectors, const Context& context, CallerFinder& callers) {
    PyObject* code = PyTuple_GET_ITEM(event.ptr(), 3);
    if (code != Py_None && callers.kind_of(reinterpret_cast<PyCodeObject*>(code)) == USER) ++number_;
    const bool is_due = number_ > looked_at_ && (number_ & (number_ - 1)) == 0;
    const bool is_calm =
        is_quiet && !is_due && PyDict_GET_SIZE(context.left_modes.ptr()) == 0 && is_plain(event, context);
    if (is_calm) return;
    if (is_due) looked_at_ = number_;
    detectors.on_event(event, is_due);
  }

  static bool is_exit_of_inference_mode(py::handle event) { return op_of(event) == (INFERENCE_MODE | EXIT); }

 private:
  static long op_of(py::handle event) { return PyLong_AsLong(PyTuple_GET_ITEM(event.ptr(), 0)); }

  static bool is_plain(py::handle event, const Context& context) {
    if (PyObject_IsTrue(PyTuple_GET_ITEM(event.ptr(), 6)) == 0) return true;
    const long op = op_of(event);
    if (op == (INFERENCE_MODE | EXIT) && PyDict_GET_SIZE(context.autocasts.ptr()) != 0) return false;
    return op >= 0 && op < 64 && (context.quiet_in_inference_mode >> op & 1) != 0;
  }

  uint64_t number_ = 0, looked_at_ = 0;  // of events of the program
};

}  // namespace gradprobe
