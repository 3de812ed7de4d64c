// The way of a manager event at level ops: the operators of its thread come before it in the queue, the detectors see it if it
// concerns one of them, and the thread's number of nodes is added to it.

#pragma once

#include "observers.h"

namespace gradprobe {

class EventGate {
 public:
  EventGate(std::shared_ptr<Observer> observer, py::object append)
      : observer_(std::move(observer)), append_(std::move(append)) {}

  // A function of Python.
  static PyObject* pass(PyObject* self, PyObject* event) {
    auto& gate = *static_cast<EventGate*>(PyCapsule_GetPointer(self, NAME));
    PyObject *type = nullptr, *value = nullptr, *trace = nullptr;
    try {
      ThreadLog* log = here().log_in(*gate.observer_);
      if (log != nullptr && log->detectors) log->see_event(event);
    } catch (py::error_already_set& error) {  // of a detector, or of a signal handler: the event is the program's all the same
      error.restore();
      PyErr_Fetch(&type, &value, &trace);
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
      PyErr_Fetch(&type, &value, &trace);
    }
    PyObject* done = gate.append(event);
    if (type == nullptr) return done;
    Py_XDECREF(done);
    PyErr_Restore(type, value, trace);
    return nullptr;
  }

  static py::object make(std::shared_ptr<Observer> observer, py::object append) {
    static PyMethodDef method = {"pass_event", &EventGate::pass, METH_O, nullptr};
    const auto free = [](PyObject* capsule) { delete static_cast<EventGate*>(PyCapsule_GetPointer(capsule, NAME)); };
    const auto gate = stolen(PyCapsule_New(new EventGate(std::move(observer), std::move(append)), NAME, free));
    return stolen(PyCFunction_New(&method, gate.ptr()));
  }

 private:
  static constexpr const char* NAME = "gradprobe.gate";

  PyObject* append(PyObject* event) const {
    const Py_ssize_t size = PyTuple_GET_SIZE(event);
    PyObject* counted = PyTuple_New(size + 1);
    if (counted == nullptr) return nullptr;
    PyObject_GC_UnTrack(counted);  // as that of a batch
    for (Py_ssize_t i = 0; i < size; ++i) {
      PyObject* item = PyTuple_GET_ITEM(event, i);
      Py_INCREF(item);
      PyTuple_SET_ITEM(counted, i, item);
    }
    PyObject* nodes = PyLong_FromUnsignedLongLong(at::sequence_number::peek());
    PyTuple_SET_ITEM(counted, size, nodes);
    PyObject* done = nodes == nullptr ? nullptr : PyObject_CallOneArg(append_.ptr(), counted);
    Py_DECREF(counted);
    return done;
  }

  const std::shared_ptr<Observer> observer_;
  const py::object append_;
};

inline py::object make_gate(const std::shared_ptr<Observer>& observer, const py::object& append) {
  return EventGate::make(observer, append);
}

}  // namespace gradprobe
