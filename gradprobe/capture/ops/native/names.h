// Names of operators, modules, autograd nodes and tasks, by number. A record of an operator then needs no string and no
// Python object.

#pragma once

#include "objects.h"

#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace gradprobe {

using NameId = uint32_t;
constexpr NameId NO_NAME = 0;

// The names of the process. They are never forgotten: a program has as many as it has operators, modules and tasks.
class Names {
 public:
  static Names& global() {
    static Names* names = new Names();  // never freed: threads may still run while the interpreter ends
    return *names;
  }

  NameId add(const std::string& name) {
    const std::lock_guard<std::mutex> guard(lock_);
    const auto known = numbers_.find(name);
    if (known != numbers_.end()) return known->second;
    const auto number = static_cast<NameId>(names_.size());
    names_.push_back(name);
    numbers_[name] = number;
    return number;
  }

  // For a fork: see observer.cpp.
  void lock() { lock_.lock(); }
  void unlock() { lock_.unlock(); }

  // The name as a Python string, or None for NO_NAME. Needs the GIL.
  PyObject* object(NameId number) {
    if (number == NO_NAME) return Py_None;
    if (number < objects_.size() && objects_[number] != nullptr) return objects_[number];
    std::string name;
    {
      const std::lock_guard<std::mutex> guard(lock_);
      name = names_[number];
    }
    if (number >= objects_.size()) objects_.resize(number + 1, nullptr);
    PyObject* object = PyUnicode_FromStringAndSize(name.data(), static_cast<Py_ssize_t>(name.size()));
    if (object == nullptr) throw py::error_already_set();
    return objects_[number] = object;
  }

 private:
  Names() : names_(1) {}

  std::mutex lock_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, NameId> numbers_;
  std::vector<PyObject*> objects_;  // by number; null until first asked for
};

}  // namespace gradprobe
