// Exceptions of operators on their way to Python: those on account of autograd are shown to the detectors, and the observer's key
// is taken out of a text that lists all keys. No frame is added to a traceback.

#pragma once

#include "call.h"
#include "objects.h"

#include <string>
#include <vector>

namespace gradprobe {

// Whom exceptions of operators are shown to, and the words of which a text must have one. Used with the GIL.
struct RefusalListener {
  py::object on_refusal;
  std::vector<std::string> words;

  static RefusalListener& global() {
    static RefusalListener* listener = new RefusalListener();  // never freed: the interpreter may end before its last thread
    return *listener;
  }

  bool is_concerned(const std::string& text) const {
    if (!on_refusal) return false;
    for (const auto& word : words) {
      if (text.find(word) != std::string::npos) return true;
    }
    return false;
  }
};

// Puts aside the error that Python has at this moment, while more of Python runs.
struct ErrorAside {
  PyObject *type, *value, *trace;
  ErrorAside() { PyErr_Fetch(&type, &value, &trace); }
  ~ErrorAside() { PyErr_Restore(type, value, trace); }
};

// The text of the exception that is being handled.
inline std::string current_exception_text() {
  try {
    throw;
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (py::error_already_set& error) {  // an operator that is implemented in Python
    return py::str(error.value()).cast<std::string>();
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "";
  }
}

// Shows the exception that is being handled, with the tensors among the arguments of the operator that threw it. An operator that
// has taken arguments off the stack leaves those before them there.
inline void show_operator_refusal(const Call& call, const torch::jit::Stack& stack, size_t first) {
  py::gil_scoped_acquire lock;
  const ErrorAside aside;
  try {
    const std::string text = current_exception_text();
    auto& listener = RefusalListener::global();
    if (!listener.is_concerned(text)) return;
    const py::object on_refusal = listener.on_refusal;
    py::list tensors;
    for (size_t i = first; i < std::min(stack.size(), first + call.plan->arguments); ++i) {
      visit_tensors(stack[i], [&tensors](const at::Tensor& t) { tensors.append(stolen(THPVariable_Wrap(t))); });
    }
    on_refusal(py::str(text), tensors, borrowed(Names::global().object(call.plan->name)));
  } catch (py::error_already_set& error) {  // the program's own exception is the one to be seen
    error.discard_as_unraisable("gradprobe");
  } catch (const std::exception&) {
    return;
  }
}

// Takes a key out of the list of keys in a text, and out of the table of their kernels, which has a line for each.
inline std::string without_key(std::string text, const std::string& key) {
  const auto cut = [&text](const std::string& begin, char last) {
    const size_t at = text.find(begin);
    const size_t end = at == std::string::npos ? at : text.find(last, at);
    if (end != std::string::npos) text.erase(at, end + 1 - at);
  };
  cut(key + ", ", ' ');
  cut(key + ": registered at ", '\n');
  return text;
}

// Throws an error on the lack of a kernel again, as it would read if nothing was registered for the key.
[[noreturn]] inline void throw_without_key(const c10::NotImplementedError& error, const char* key) {
  std::string text = without_key(error.msg(), key);
  if (text == error.msg()) throw;
  c10::NotImplementedError again(std::move(text), error.backtrace(), error.caller());
  for (const auto& part : error.context()) again.add_context(part);
  throw again;
}

// A callable in the place of another one, which shows the exceptions that leave it. On the class that it is an attribute of it
// reads as the original, by which PyTorch and the program recognise a method.
struct ShownCall {
  PyObject_HEAD
  PyObject* original;
  PyObject* on_error;
  PyObject* on_call;  // null if calls that succeed are not shown; of an attribute, what is shown that is None

  static void show(PyObject* on_error, PyObject* arguments) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    if (type != nullptr && PyErr_GivenExceptionMatches(type, PyExc_Exception)) {
      PyErr_NormalizeException(&type, &value, &trace);
      PyObject* done = PyObject_CallFunctionObjArgs(on_error, value, trace == nullptr ? Py_None : trace, arguments, nullptr);
      if (done == nullptr) PyErr_Clear();
      Py_XDECREF(done);
    }
    PyErr_Restore(type, value, trace);
  }

  static PyObject* call(PyObject* self, PyObject* arguments, PyObject* named) {
    auto* shown = reinterpret_cast<ShownCall*>(self);
    PyObject* result = PyObject_Call(shown->original, arguments, named);
    if (result == nullptr) {
      show(shown->on_error, arguments);
    } else if (shown->on_call != nullptr) {
      PyObject* done = PyObject_CallFunctionObjArgs(shown->on_call, arguments, nullptr);
      if (done == nullptr) PyErr_Clear();
      Py_XDECREF(done);
    }
    return result;
  }

  static PyObject* get(PyObject* self, PyObject* object, PyObject*) {
    if (object != nullptr && object != Py_None) return PyMethod_New(self, object);
    PyObject* original = reinterpret_cast<ShownCall*>(self)->original;
    Py_INCREF(original);
    return original;
  }

  static void free(PyObject* self) {
    auto* shown = reinterpret_cast<ShownCall*>(self);
    Py_XDECREF(shown->original);
    Py_XDECREF(shown->on_error);
    Py_XDECREF(shown->on_call);
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
  }
};

// The same for an attribute that is read or set: a descriptor in the place of another one.
struct ShownAttribute {
  static PyObject* get(PyObject* self, PyObject* object, PyObject* type) {
    PyObject* original = reinterpret_cast<ShownCall*>(self)->original;
    if (object == nullptr || object == Py_None) {
      Py_INCREF(original);
      return original;
    }
    PyObject* value = Py_TYPE(original)->tp_descr_get(original, object, type);
    if (value == nullptr) {
      show(self, object, nullptr);
    } else if (value == Py_None && reinterpret_cast<ShownCall*>(self)->on_call != nullptr && is_result(object)) {
      PyObject* done = PyObject_CallFunctionObjArgs(reinterpret_cast<ShownCall*>(self)->on_call, object, nullptr);
      if (done == nullptr) PyErr_Clear();
      Py_XDECREF(done);
    }
    return value;
  }

  static int set(PyObject* self, PyObject* object, PyObject* value) {
    PyObject* original = reinterpret_cast<ShownCall*>(self)->original;
    const int failed = Py_TYPE(original)->tp_descr_set(original, object, value);
    if (failed != 0) show(self, object, value);
    return failed;
  }

 private:
  static bool is_result(PyObject* object) {
    return THPVariable_Check(object) && raw_grad_fn(THPVariable_Unpack(object)) != nullptr;
  }

  static void show(PyObject* self, PyObject* object, PyObject* value) {
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyObject* arguments = value == nullptr ? PyTuple_Pack(1, object) : PyTuple_Pack(2, object, value);
    if (arguments == nullptr) PyErr_Clear();
    PyErr_Restore(type, error, trace);
    if (arguments == nullptr) return;
    ShownCall::show(reinterpret_cast<ShownCall*>(self)->on_error, arguments);
    Py_DECREF(arguments);
  }
};

inline py::object make_shown(PyObject* type, const py::object& original, const py::object& on_error,
                             const py::object& on_call = py::none()) {
  auto* made = stolen(PyType_GenericAlloc(reinterpret_cast<PyTypeObject*>(type), 0)).release().ptr();
  auto* shown = reinterpret_cast<ShownCall*>(made);
  shown->original = py::object(original).release().ptr();
  shown->on_error = py::object(on_error).release().ptr();
  shown->on_call = on_call.is_none() ? nullptr : py::object(on_call).release().ptr();
  return stolen(made);
}

// Returns `original`, a callable, so that the exceptions which leave it are shown to `on_error` with their traceback and the
// arguments, and the arguments of calls that succeed to `on_call`, unless that is None.
inline py::object show_errors_of_call(const py::object& original, const py::object& on_error, const py::object& on_call) {
  static PyType_Slot slots[] = {{Py_tp_call, reinterpret_cast<void*>(&ShownCall::call)},
                                {Py_tp_descr_get, reinterpret_cast<void*>(&ShownCall::get)},
                                {Py_tp_dealloc, reinterpret_cast<void*>(&ShownCall::free)},
                                {0, nullptr}};
  static PyType_Spec spec = {"gradprobe.ShownCall", sizeof(ShownCall), 0, Py_TPFLAGS_DEFAULT, slots};
  static PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  return make_shown(type, original, on_error, on_call);
}

// The same for an attribute that can be read and set; `on_none` gets each tensor with a node of which it
// is read and is None.
inline py::object show_errors_of_attribute(const py::object& original, const py::object& on_error, const py::object& on_none) {
  static PyType_Slot slots[] = {{Py_tp_descr_get, reinterpret_cast<void*>(&ShownAttribute::get)},
                                {Py_tp_descr_set, reinterpret_cast<void*>(&ShownAttribute::set)},
                                {Py_tp_dealloc, reinterpret_cast<void*>(&ShownCall::free)},
                                {0, nullptr}};
  static PyType_Spec spec = {"gradprobe.ShownAttribute", sizeof(ShownCall), 0, Py_TPFLAGS_DEFAULT, slots};
  static PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  return make_shown(type, original, on_error, on_none);
}

}  // namespace gradprobe
