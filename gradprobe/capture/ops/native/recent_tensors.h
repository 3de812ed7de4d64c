// The tensors that a thread made in inference mode, for the end of the block.

#pragma once

#include "creations.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

namespace gradprobe {

// A tensor whose record is among the creations, by address and time.
struct TensorRef {
  const at::TensorImpl* impl;
  int64_t made;
};

using LivingTensors = std::vector<std::pair<at::Tensor, Creation>>;

// Those of the tensors that exist, with their records.
template <typename Refs>
LivingTensors living_of(const Refs& refs) {
  LivingTensors found;
  for (const TensorRef& ref : refs) {
    if (auto living = Creations::global().lock(ref.impl, ref.made)) found.push_back(std::move(*living));
  }
  return found;
}

class RecentTensors {
 public:

  void add_inference_tensor(const TensorRef& ref) {
    inference_.push_back(ref);
    if (inference_.size() <= sweep_at_) return;
    const auto is_gone = [](const TensorRef& one) { return !Creations::global().exists(one.impl, one.made); };
    inference_.erase(std::remove_if(inference_.begin(), inference_.end(), is_gone), inference_.end());
    sweep_at_ = 2 * inference_.size() + SPARE;
  }

  // The inference tensors made since the last call that still exist.
  LivingTensors take_inference_tensors() {
    std::deque<TensorRef> taken;
    taken.swap(inference_);
    sweep_at_ = SPARE;
    return living_of(taken);
  }

 private:
  static constexpr size_t SPARE = 256;

  std::deque<TensorRef> inference_;
  size_t sweep_at_ = SPARE;
};

}  // namespace gradprobe
