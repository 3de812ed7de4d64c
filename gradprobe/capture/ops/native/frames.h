// The Python frames of the running thread, from the innermost outwards, without creating frame objects.

#pragma once

#include <Python.h>
#include <frameobject.h>

#include "objects.h"

#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030E0000
#define GRADPROBE_READS_FRAMES 1
#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE 1
#endif
#include <internal/pycore_frame.h>
#undef Py_BUILD_CORE
#endif

namespace gradprobe {

#ifdef GRADPROBE_READS_FRAMES

// Valid while the Python frames of the calling thread wait for it, with the GIL or without; it may call Python meanwhile. A
// thread that runs no Python has none.
class Frames {
 public:
  Frames() {
    const PyThreadState* thread = PyGILState_GetThisThreadState();
    if (thread != nullptr) at_ = skip_incomplete(innermost(thread));
  }

  explicit operator bool() const { return at_ != nullptr; }

  void next() { at_ = skip_incomplete(at_->previous); }

  PyCodeObject* code() const {
#if PY_VERSION_HEX >= 0x030D0000
    return reinterpret_cast<PyCodeObject*>(at_->f_executable);
#else
    return at_->f_code;
#endif
  }

  int offset() const { return _PyInterpreterFrame_LASTI(at_) * static_cast<int>(sizeof(_Py_CODEUNIT)); }

  // The first argument, unless it is a cell variable; null if it is gone.
  PyObject* first_local() const { return at_->localsplus[0]; }

  // A variable, None if it is not set; with the GIL.
  py::object local(const char* name) const {
    PyObject* names = code()->co_localsplusnames;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i) {
      if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, i), name) != 0) continue;
      PyObject* value = at_->localsplus[i];
      // An inner function uses it, too.
      if (value != nullptr && PyCell_Check(value)) value = PyCell_GET(value);
      return value == nullptr ? py::object(py::none()) : borrowed(value);
    }
    return py::none();
  }

 private:
  static _PyInterpreterFrame* innermost(const PyThreadState* thread) {
#if PY_VERSION_HEX >= 0x030D0000
    return thread->current_frame;
#else
    return thread->cframe == nullptr ? nullptr : thread->cframe->current_frame;
#endif
  }

  static _PyInterpreterFrame* skip_incomplete(_PyInterpreterFrame* frame) {
    while (frame != nullptr && _PyFrame_IsIncomplete(frame)) frame = frame->previous;
    return frame;
  }

  _PyInterpreterFrame* at_ = nullptr;
};

#else

// Through frame objects, with the GIL: other versions of Python lay their frames out differently.
class Frames {
 public:
  Frames() : at_(PyThreadState_GetFrame(PyThreadState_Get())) {}
  ~Frames() { Py_XDECREF(at_); }
  Frames(const Frames& other) : at_(other.at_) { Py_XINCREF(at_); }
  Frames& operator=(const Frames&) = delete;

  explicit operator bool() const { return at_ != nullptr; }

  void next() {
    PyFrameObject* back = PyFrame_GetBack(at_);
    Py_DECREF(at_);
    at_ = back;
  }

  // A borrowed reference: the frame keeps it alive.
  PyCodeObject* code() const {
    PyCodeObject* code = PyFrame_GetCode(at_);
    Py_DECREF(code);
    return code;
  }

  int offset() const {
#if PY_VERSION_HEX >= 0x030B0000
    return PyFrame_GetLasti(at_);
#else
    PyObject* number = PyObject_GetAttrString(reinterpret_cast<PyObject*>(at_), "f_lasti");
    const int offset = number == nullptr ? 0 : static_cast<int>(PyLong_AsLong(number));
    Py_XDECREF(number);
    return offset;
#endif
  }

  PyObject* first_local() const { return nullptr; }

  py::object local(const char* name) const {
    const auto all = stolen(PyObject_GetAttrString(reinterpret_cast<PyObject*>(at_), "f_locals"));
    const auto value = py::reinterpret_steal<py::object>(PyMapping_GetItemString(all.ptr(), name));
    if (!value) PyErr_Clear();
#if PY_VERSION_HEX < 0x030D0000
    PyDict_Clear(all.ptr());  // a snapshot, which lives as long as the frame and would keep its objects alive
#endif
    return value ? value : py::object(py::none());
  }

 private:
  PyFrameObject* at_;
};

#endif

// The frame object this many complete frames outwards of the innermost, as a new reference.
inline PyFrameObject* frame_object(int outwards) {
  PyFrameObject* frame = PyThreadState_GetFrame(PyThreadState_Get());
  while (frame != nullptr && outwards-- > 0) {
    PyFrameObject* back = PyFrame_GetBack(frame);
    Py_DECREF(frame);
    frame = back;
  }
  return frame;
}

}  // namespace gradprobe
