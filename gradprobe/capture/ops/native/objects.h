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

inline py::object identity(PyObject* object) { return stolen(PyLong_FromVoidPtr(object)); }

inline py::object call_none(const py::object& function) { return stolen(PyObject_CallNoArgs(function.ptr())); }

inline void call_one(const py::object& function, PyObject* argument) {
  stolen(PyObject_CallOneArg(function.ptr(), argument));
}

// Returns whether a weak reference refers to this object.
inline bool leads_to(PyObject* reference, PyObject* object) {
#if PY_VERSION_HEX >= 0x030D0000
  PyObject* found = nullptr;
  if (PyWeakref_GetRef(reference, &found) < 0) throw py::error_already_set();
  Py_XDECREF(found);
  return found == object;
#else
  return PyWeakref_GET_OBJECT(reference) == object;
#endif
}

}  // namespace gradprobe
