// Functions of the program that ask for the mode, and what they make of the same arguments under different modes. An unbroken run of
// operators within one call of such a function is a stretch; Python looks at the first ones, and then at fewer and fewer.

#pragma once

#include "callers.h"
#include "call.h"

#include <ATen/Context.h>

#include <array>
#include <unordered_map>

namespace gradprobe {

// A few elements of a tensor, as numbers at equal distances; nothing for a tensor whose memory cannot be read here.
inline std::vector<double> sample_values(const at::Tensor& tensor) {
  constexpr int64_t SAMPLES = 64;
  const auto* impl = tensor.unsafeGetTensorImpl();
  const bool is_plain = tensor.layout() == at::kStrided && tensor.device().is_cpu() && !impl->has_symbolic_sizes_strides() &&
      !impl->is_python_dispatch() && impl->has_storage() && impl->numel() > 0 && !impl->is_conj() && !impl->is_neg();
  if (!is_plain || impl->data() == nullptr) return {};
  const auto sizes = impl->sizes(), strides = impl->strides();
  const int64_t count = std::min(SAMPLES, impl->numel());
  std::vector<double> found;
  for (int64_t i = 0; i < count; ++i) {
    int64_t index = count == 1 ? 0 : i * (impl->numel() - 1) / (count - 1), place = 0;
    for (int64_t dim = static_cast<int64_t>(sizes.size()) - 1; dim >= 0; --dim) {
      place += index % sizes[dim] * strides[dim];
      index /= sizes[dim];
    }
    const auto* data = static_cast<const char*>(impl->data()) + place * static_cast<int64_t>(impl->itemsize());
    switch (tensor.scalar_type()) {
      case at::kFloat: found.push_back(*reinterpret_cast<const float*>(data)); break;
      case at::kDouble: found.push_back(*reinterpret_cast<const double*>(data)); break;
      case at::kHalf: found.push_back(*reinterpret_cast<const at::Half*>(data)); break;
      case at::kBFloat16: found.push_back(*reinterpret_cast<const at::BFloat16*>(data)); break;
      case at::kLong: found.push_back(static_cast<double>(*reinterpret_cast<const int64_t*>(data))); break;
      case at::kInt: found.push_back(*reinterpret_cast<const int32_t*>(data)); break;
      case at::kBool: found.push_back(*reinterpret_cast<const bool*>(data)); break;
      default: return {};
    }
  }
  return found;
}

// A number for the state of the processor's random generator. Reading the state changes nothing.
inline uint64_t hash_random_state() {
  at::Generator generator = at::globalContext().defaultGenerator(at::kCPU);
  at::Tensor state;
  {
    const std::lock_guard<std::mutex> guard(generator.mutex());
    state = generator.get_state();
  }
  uint64_t hash = 0;
  const auto* bytes = static_cast<const unsigned char*>(state.data_ptr());
  for (int64_t i = 0; i < state.numel(); ++i) hash = (hash ^ bytes[i]) * 0x100000001B3ull;
  return hash;
}

// The stretches of one thread.
class Stretches {
 public:
  enum Look { NONE, CONTINUED, BEGUN };

  // Notes an operator within a call of a function, by its code and its first argument. Returns whether Python looks at it.
  Look note(PyCodeObject* code, PyObject* first, int mode) {
    if (code == nullptr) {
      code_ = nullptr;
      return NONE;
    }
    if (code == code_ && first == first_ && mode == mode_) {
      looks_ += is_looked_at_ ? 1 : 0;
      return is_looked_at_ ? CONTINUED : NONE;
    }
    code_ = code;
    first_ = first;
    mode_ = mode;
    const uint64_t number = ++numbers_[code][static_cast<size_t>(mode)];
    is_looked_at_ = looks_ < MAX_LOOKS || (number & (number - 1)) == 0;
    looks_ += is_looked_at_ ? 1 : 0;
    return is_looked_at_ ? BEGUN : NONE;
  }

 private:
  static constexpr uint64_t MAX_LOOKS = 20'000;  // at operators, of some microseconds each
  static constexpr size_t MODES = 4;

  PyCodeObject* code_ = nullptr;
  PyObject* first_ = nullptr;
  int mode_ = 0;
  bool is_looked_at_ = false;
  uint64_t looks_ = 0;
  std::unordered_map<PyCodeObject*, std::array<uint64_t, MODES>> numbers_;
};

}  // namespace gradprobe
