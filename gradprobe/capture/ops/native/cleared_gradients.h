// The part of a graph that leads only to leaves whose gradients were cleared before any optimizer stepped with them.

#pragma once

#include "graphs.h"

namespace gradprobe {

// Nodes that one line's calls constructed, and those among them that lead to chosen leaves only.
struct NodesOfPath {
  int64_t all = 0, chosen = 0;
};

// The part of a graph that leads to chosen leaves only, by the lines that led to its nodes. `most_leaves` is the largest number of
// them behind one of its nodes that anything else takes: the weights of a layer that are computed from others have two.
struct ChosenPart {
  std::map<std::vector<std::pair<PyCodeObject*, int>>, NodesOfPath> paths;
  size_t most_leaves = 0;
};

class PartOfGraph {
 public:
  PartOfGraph(const Logs& logs, std::set<FlowId> chosen) : logs_(logs), chosen_(std::move(chosen)) {}

  ChosenPart find(const std::vector<at::Tensor>& roots) {
    for (const auto& root : roots) {
      const auto* node = raw_grad_fn(root);
      if (node != nullptr) judge(node->get());
    }
    ChosenPart part;
    for (const auto& [node, leads] : leads_) {
      if (node->sequence_nr() == OF_A_LEAF) continue;
      auto& counts = part.paths[path_to(*node)];
      ++counts.all;
      counts.chosen += leads == ONLY_TO_CHOSEN ? 1 : 0;
      if (leads == ONLY_TO_CHOSEN) continue;
      for (const auto& edge : node->next_edges()) {
        if (edge.function && leads_[edge.function.get()] == ONLY_TO_CHOSEN) {
          part.most_leaves = std::max(part.most_leaves, count_leaves(edge.function.get()));
        }
      }
    }
    return part;
  }

 private:
  enum Leads : uint8_t { NOWHERE, ONLY_TO_CHOSEN, TO_OTHERS };

  // From the leaves upwards, without recursion: a graph may be deeper than the stack.
  void judge(Node* root) {
    std::vector<std::pair<Node*, size_t>> open;
    const auto enter = [&](Node* node) {
      if (leads_.count(node) != 0) return;
      leads_[node] = own_of(*node);
      open.emplace_back(node, 0);
    };
    enter(root);
    while (!open.empty()) {
      auto& [node, next] = open.back();
      if (next < node->num_outputs()) {
        Node* behind = node->next_edge(next++).function.get();
        if (behind != nullptr) enter(behind);
        continue;
      }
      auto& leads = leads_[node];
      for (const auto& edge : node->next_edges()) {
        if (edge.function) leads = std::max(leads, leads_[edge.function.get()]);
      }
      open.pop_back();
    }
  }

  Leads own_of(const Node& node) const {
    if (node.sequence_nr() != OF_A_LEAF) return NOWHERE;
    const auto* accumulate = dynamic_cast<const torch::autograd::AccumulateGrad*>(&node);
    if (accumulate == nullptr || !accumulate->variable.defined()) return TO_OTHERS;
    return chosen_.count(flow_of_leaf(accumulate->variable)) != 0 ? ONLY_TO_CHOSEN : TO_OTHERS;
  }

  static size_t count_leaves(Node* root) {
    std::vector<Node*> waiting{root};
    std::unordered_set<Node*> found{root};
    size_t leaves = 0;
    while (!waiting.empty()) {
      Node* node = waiting.back();
      waiting.pop_back();
      leaves += node->sequence_nr() == OF_A_LEAF ? 1 : 0;
      for (const auto& edge : node->next_edges()) {
        if (edge.function && found.insert(edge.function.get()).second) waiting.push_back(edge.function.get());
      }
    }
    return leaves;
  }

  std::vector<std::pair<PyCodeObject*, int>> path_to(const Node& node) const {
    std::vector<std::pair<PyCodeObject*, int>> path;
    for (const auto& log : logs_) {
      if (log->number_in_torch() != node.thread_id()) continue;
      for (const CallSite& frame : log->path_to(node.sequence_nr())) path.emplace_back(frame.code, frame.offset);
      if (!path.empty()) break;
    }
    return path;
  }

  const Logs& logs_;
  const std::set<FlowId> chosen_;
  std::unordered_map<Node*, Leads> leads_;
};

}  // namespace gradprobe
