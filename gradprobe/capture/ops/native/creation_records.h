// The records of tensors as Python sees them: the tuples of CreationRecord in autograd/creation.py.

#pragma once

#include "creations.h"
#include "objects.h"

#include <torch/csrc/autograd/python_variable.h>

namespace gradprobe {

inline py::tuple describe(const py::object& reference, const Creation& creation) {
  auto& names = Names::global();
  return py::make_tuple(reference, creation.made,
                        creation.code == nullptr ? py::object(py::none()) : borrowed(as_object(creation.code)),
                        creation.offset, borrowed(names.object(creation.op)),
                        creation.module == NO_NAME ? py::object(py::str("")) : borrowed(names.object(creation.module)),
                        creation.storage_made, creation.thread);
}

inline py::tuple describe(const at::Tensor& tensor, const Creation& creation) {
  const auto object = stolen(THPVariable_Wrap(tensor));
  return describe(stolen(PyWeakref_NewRef(object.ptr(), nullptr)), creation);
}

inline py::list describe_all(const std::vector<std::pair<at::Tensor, Creation>>& all) {
  py::list found;
  for (const auto& [tensor, creation] : all) found.append(describe(tensor, creation));
  return found;
}

}  // namespace gradprobe
