// By which calls of the program each node of the graph was constructed, and whether a backward has reached it since.

#pragma once

#include "names.h"

#include <Python.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

namespace gradprobe {

// A line of the program that was running, by code object and offset of the instruction.
struct CallSite {
  PyCodeObject* code = nullptr;
  int offset = 0;
  bool operator==(const CallSite& other) const { return code == other.code && offset == other.offset; }
};

using PathId = uint32_t;

// The nodes of one thread, by the path of the program's lines that led to their operator, from the innermost outwards.
class GraphPaths {
 public:
  // Nodes constructed, reached by a backward, not judged; operators; bytes saved for backward that are no parameters.
  struct Counts {
    int64_t built = 0, reached = 0, forgotten = 0, calls = 0, bytes = 0;
    bool operator==(const Counts& other) const {
      return built == other.built && reached == other.reached && forgotten == other.forgotten && calls == other.calls &&
          bytes == other.bytes;
    }
  };

  struct Origin {
    uint64_t node;
    PathId path;
    bool is_reached;
  };

  PathId intern(const std::vector<CallSite>& frames) {
    uint64_t hash = frames.size();
    for (const CallSite& frame : frames) {
      hash = (hash ^ reinterpret_cast<uintptr_t>(frame.code) >> 4 ^ uint64_t(uint32_t(frame.offset)) << 44) * 0x9E3779B97F4A7C15ull;
      hash ^= hash >> 29;
    }
    auto& known = by_hash_[hash];
    for (const PathId id : known) {
      if (paths_[id] == frames) return id;
    }
    if (paths_.size() >= MAX_PATHS) return 0;
    paths_.push_back(frames);
    counts_.emplace_back();
    known.push_back(static_cast<PathId>(paths_.size() - 1));
    return known.back();
  }

  // Notes the nodes from `first` to before `end`, which one operator constructed. Not judged are those of a
  // backward pass, which may run a part of the forward pass again, as checkpointing does, and those that autocast constructs under
  // no_grad, for the weights that it casts.
  void add(uint64_t first, uint64_t end, PathId path, int64_t bytes, bool is_judged) {
    while (origins_.size() >= MAX_ORIGINS) forget_first();
    for (uint64_t node = first; node < end; ++node) origins_.push_back({node, path, !is_judged});
    Counts& counts = counts_[path];
    counts.built += static_cast<int64_t>(end - first);
    counts.forgotten += is_judged ? 0 : static_cast<int64_t>(end - first);
    counts.bytes += bytes;
    ++counts.calls;
  }

  // Notes that a backward goes through these nodes, whose numbers are sorted. Calls `see_again(node, place)` with those that an
  // earlier one has gone through.
  template <typename See>
  void reach(const std::vector<uint64_t>& numbers, const See& see_again) {
    auto at = numbers.empty() ? origins_.end() : find(numbers.front());
    for (const uint64_t number : numbers) {
      while (at != origins_.end() && at->node < number) ++at;
      if (at == origins_.end()) break;
      if (at->node != number) continue;
      if (at->is_reached) {
        if (!paths_[at->path].empty()) see_again(number, paths_[at->path].front());
        continue;
      }
      at->is_reached = true;
      ++counts_[at->path].reached;
    }
  }

  // The nodes since this one that no backward has reached are not judged: an exception has ended what they belong to.
  void forgive_since(uint64_t first) {
    for (auto at = find(first); at != origins_.end(); ++at) {
      if (at->is_reached) continue;
      at->is_reached = true;
      ++counts_[at->path].forgotten;
    }
  }

  bool is_reached(uint64_t node) const {
    const auto found = find(node);
    return found != origins_.end() && found->node == node && found->is_reached;
  }

  // Calls `see(node, place)` with the nodes from `first` to `last`.
  template <typename See>
  void visit_between(uint64_t first, uint64_t last, const See& see) const {
    for (auto at = find(first); at != origins_.end() && at->node <= last; ++at) {
      if (!paths_[at->path].empty()) see(at->node, paths_[at->path].front());
    }
  }

  // Calls `see(place, is_reached)` with the innermost line that constructed a node, unless that is not known any more.
  template <typename See>
  void visit(uint64_t node, const See& see) const {
    const auto found = find(node);
    if (found == origins_.end() || found->node != node || paths_[found->path].empty()) return;
    see(paths_[found->path].front(), found->is_reached);
  }

  // The lines that led to a node, from the innermost outwards; empty if they are not known any more.
  std::vector<CallSite> path_to(uint64_t node) const {
    const auto found = find(node);
    return found == origins_.end() || found->node != node ? std::vector<CallSite>{} : paths_[found->path];
  }

  // Calls `see(frames, counts)` with each path that has counted something since the last time.
  template <typename See>
  void take(const See& see) {
    for (size_t path = 0; path < paths_.size(); ++path) {
      if (counts_[path] == Counts{}) continue;
      see(paths_[path], counts_[path]);
      counts_[path] = {};
    }
  }

 private:
  static constexpr size_t MAX_ORIGINS = 400'000, MAX_PATHS = 20'000;

  static bool is_before(const Origin& origin, uint64_t number) { return origin.node < number; }
  std::deque<Origin>::iterator find(uint64_t node) {
    return std::lower_bound(origins_.begin(), origins_.end(), node, is_before);
  }
  std::deque<Origin>::const_iterator find(uint64_t node) const {
    return std::lower_bound(origins_.begin(), origins_.end(), node, is_before);
  }

  void forget_first() {
    const Origin& first = origins_.front();
    if (!first.is_reached) ++counts_[first.path].forgotten;
    origins_.pop_front();
  }

  std::deque<Origin> origins_;
  std::deque<std::vector<CallSite>> paths_{1};  // the first one stands for all beyond the limit
  std::deque<Counts> counts_{1};
  std::unordered_map<uint64_t, std::vector<PathId>> by_hash_;
};

}  // namespace gradprobe
