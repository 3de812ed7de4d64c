// The bytes of a storage that a tensor has, and a number for their contents.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <cstring>

namespace gradprobe {

inline bool can_be_read(const c10::StorageImpl& storage) {
  return storage.device_type() == c10::DeviceType::CPU && storage.data() != nullptr &&
      !storage.sym_nbytes().is_heap_allocated() && storage.nbytes() > 0;
}

// Blocks of `width` bytes, one at each multiple of `period` from `begin` on; a single block if `period` is 0. Columns of a matrix
// are such blocks, and those of others lie between them. Where a tensor has gaps of several sizes they are counted in.
struct MemoryRange {
  int64_t begin = 0, end = 0, width = 0, period = 0;

  bool overlaps(const MemoryRange& other) const {
    if (begin >= other.end || other.begin >= end) return false;
    if (period == 0 || period != other.period) return true;
    const int64_t distance = ((other.begin - begin) % period + period) % period;
    return distance < width || distance + other.width > period;
  }

  bool operator==(const MemoryRange& other) const {
    return begin == other.begin && end == other.end && width == other.width && period == other.period;
  }
};

inline MemoryRange range_of(const at::TensorImpl& impl) {
  if (impl.layout() != at::kStrided || impl.is_python_dispatch() || impl.has_symbolic_sizes_strides()) return {0, INT64_MAX, INT64_MAX};
  const auto size = static_cast<int64_t>(impl.itemsize());
  MemoryRange range{size * impl.storage_offset(), size * impl.storage_offset(), size};
  if (impl.numel() == 0) return range;
  c10::SmallVector<std::pair<int64_t, int64_t>, 6> dims;  // stride and size, from the innermost outwards
  for (size_t i = 0; i < impl.sizes().size(); ++i) {
    if (impl.sizes()[i] > 1 && impl.strides()[i] > 0) dims.emplace_back(size * impl.strides()[i], impl.sizes()[i]);
  }
  std::sort(dims.begin(), dims.end());
  int64_t last = range.begin;
  bool is_regular = true;
  for (const auto& [stride, number] : dims) {
    last += stride * (number - 1);
    if (range.period == 0 && stride <= range.width) {
      range.width = std::max(range.width, stride * (number - 1) + range.width);
    } else if (range.period == 0) {
      range.period = stride;
    } else {
      is_regular &= stride % range.period == 0;
    }
  }
  range.end = range.period == 0 ? range.begin + range.width : last + size;
  if (is_regular) return range;
  return {range.begin, range.end, range.end - range.begin};
}

// A number for the contents of memory. Of a large one it takes words at equal distances: what scales, refills or rounds an array
// changes one of them.
inline uint64_t hash_contents(const c10::StorageImpl& storage, const MemoryRange& range) {
  constexpr int64_t WORDS = 1024, WORD = sizeof(uint64_t);
  const auto* bytes = static_cast<const char*>(storage.data());
  const int64_t end = std::min<int64_t>(range.end, static_cast<int64_t>(storage.nbytes()));
  const int64_t length = end - range.begin;
  if (length <= 0) return 0;
  const int64_t period = range.period == 0 ? length : range.period;
  const int64_t words_of_block = (std::min(range.width, length) + WORD - 1) / WORD;
  const int64_t words = words_of_block * ((length + period - 1) / period);
  const int64_t distance = std::max<int64_t>(1, words / WORDS);
  auto hash = static_cast<uint64_t>(length);
  for (int64_t i = 0; i < words; i += distance) {
    const int64_t block = range.begin + i / words_of_block * period, from = block + i % words_of_block * WORD;
    const int64_t number = std::min({WORD, block + range.width - from, end - from});
    if (number <= 0) continue;
    uint64_t word = 0;
    std::memcpy(&word, bytes + from, static_cast<size_t>(number));
    hash = (hash ^ word) * 0x9E3779B97F4A7C15ull;
    hash ^= hash >> 29;
  }
  return hash;
}

inline uint64_t hash_contents(const c10::StorageImpl& storage) {
  const auto size = static_cast<int64_t>(storage.nbytes());
  return hash_contents(storage, {0, size, size});
}

template <typename Bits>
bool has_only_zeros(const void* data, int64_t count) {
  const auto* values = static_cast<const Bits*>(data);
  constexpr Bits SIGN = Bits(1) << (8 * sizeof(Bits) - 1);
  return std::all_of(values, values + count, [](Bits value) { return (value & ~SIGN) == 0; });
}

// Returns whether a tensor of floating point numbers is known to have no other than zero. It reads to the first other one.
inline bool is_all_zero(const at::Tensor& tensor) {
  const auto* impl = tensor.unsafeGetTensorImpl();
  if (!tensor.device().is_cpu() || tensor.layout() != at::kStrided || !at::isFloatingType(tensor.scalar_type())) return false;
  if (!impl->is_non_overlapping_and_dense() || impl->has_symbolic_sizes_strides() || impl->is_python_dispatch()) return false;
  if (impl->numel() == 0 || !impl->has_storage() || impl->data() == nullptr) return false;
  switch (impl->itemsize()) {
    case 2: return has_only_zeros<uint16_t>(impl->data(), impl->numel());
    case 4: return has_only_zeros<uint32_t>(impl->data(), impl->numel());
    case 8: return has_only_zeros<uint64_t>(impl->data(), impl->numel());
    default: return false;
  }
}

}  // namespace gradprobe
