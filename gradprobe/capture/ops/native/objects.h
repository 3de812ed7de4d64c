// Helpers for Python objects: counted references, and Python errors as C++ exceptions.

#pragma once

#include <torch/csrc/utils/pybind.h>

namespace gradprobe {

namespace py = pybind11;

template <typename T>
PyObject* as_object(T* object) {
  return reinterpret_cast<PyObject*>(object);
}

inline py::object borrowed(PyObject* object) { return py::reinterpret_borrow<py::object>(object); }

inline py::object stolen(PyObject* object) {
  if (object == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

// Holds the GIL for gradprobe's own Python functions, which profile and trace functions of the program do not see.
class OwnPython {
 public:
  OwnPython() : thread_(PyThreadState_Get()) {
#if PY_VERSION_HEX >= 0x030B0000
    PyThreadState_EnterTracing(thread_);
#else
    ++thread_->tracing;
    thread_->cframe->use_tracing = 0;
#endif
  }
  ~OwnPython() {
#if PY_VERSION_HEX >= 0x030B0000
    PyThreadState_LeaveTracing(thread_);
#else
    --thread_->tracing;
    thread_->cframe->use_tracing =
        thread_->tracing == 0 && (thread_->c_tracefunc != nullptr || thread_->c_profilefunc != nullptr) ? 255 : 0;
#endif
  }
  OwnPython(const OwnPython&) = delete;
  OwnPython& operator=(const OwnPython&) = delete;

 private:
  const py::gil_scoped_acquire lock_;
  PyThreadState* const thread_;
};

inline void call_one(const py::object& function, PyObject* argument) {
  stolen(PyObject_CallOneArg(function.ptr(), argument));
}

}  // namespace gradprobe
