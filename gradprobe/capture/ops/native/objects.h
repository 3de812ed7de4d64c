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

inline void call_one(const py::object& function, PyObject* argument) {
  stolen(PyObject_CallOneArg(function.ptr(), argument));
}

}  // namespace gradprobe
