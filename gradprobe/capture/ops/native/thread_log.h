// What each operator of one thread did to nodes, versions, views and storages. All of it is final when an operator
// returns, since the observer is above autograd.

#pragma once

#include "alias_facts.h"
#include "batches.h"
#include "context.h"
#include "creation_records.h"
#include "iterations.h"
#include "manager_events.h"
#include "mode_askers.h"
#include "node_reader.h"
#include "recent_tensors.h"

#include <ATen/record_function.h>
#include <torch/csrc/Exceptions.h>

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <unordered_set>

namespace gradprobe {

// The nodes of a backward that an earlier one has gone through: how many, by the iterations that ended since they were
// constructed and by the line that did.
struct ReachedAgain {
  int64_t nodes = 0;
  std::set<size_t> iterations;
  std::map<std::pair<PyCodeObject*, int>, int64_t> places;
};

// A step of an optimizer: its parameters, what stands for the gradients that it takes, and the backward passes from which a part of
// them comes although another step has taken the other gradients of these passes.
struct StepFacts {
  struct Parameter {
    FlowId leaf;
    bool has_grad, is_again, is_zero;  // again: a step before has taken a part of the gradient
  };

  std::vector<Parameter> parameters;
  std::set<FlowId> takes, others;
};

class ThreadLog {
 public:
  ThreadLog(std::shared_ptr<Context> context, uint64_t thread)
      : context_(std::move(context)),
        thread_(thread),
        callers_(context_->learn, context_->find_module_path, reinterpret_cast<PyCodeObject*>(context_->module_call.ptr())),
        time_(context_->latest),
        last_(at::sequence_number::peek()) {}

  std::atomic<int> interest = NO_OPS;
  ManagerEvents events;
  std::unique_ptr<Detectors> detectors;

  bool sees_parts() const { return context_->sees_parts.load(std::memory_order_relaxed); }

  // Whether the detectors look at operators that take an inference tensor, too: at those outside inference mode, once any
  // inference tensor exists there.
  bool watches_inference() const { return !context_->escaped.is_empty() && detectors && !c10::InferenceMode::is_enabled(); }

  bool is_on() const { return context_->is_on.load(std::memory_order_relaxed); }

  // Notes an operator that has returned.
  void note(const Call& call, const torch::jit::Stack& stack) {
    guarded([&] { record(call, stack); });
  }

  // Notes that an optimizer begins a step.
  void note_step() {
    guarded([&] {
      if (!detectors || !mark_step()) return;
      const OwnPython lock;
      detectors->on_step();
    });
  }

  // Notes a composite operator whose parts are noted already: what they did is theirs alone.
  void note_composite(const Call& call) {
    guarded([&] {
      Caller caller = callers_.locate();
      if (caller.is_own) return;
      if (torch::autograd::get_current_graph_task_id() != -1) caller.phase = BACKWARD;
      const TallyKey key{caller.code, caller.offset, call.plan->name, caller.module, NO_NAME, task(), caller.phase};
      const uint64_t after = at::sequence_number::peek();
      Counts counts{};
      counts[CALLS] = 1;
      counts[NODES] = static_cast<int64_t>(after - std::max(last_, call.before));
      last_ = after;
      add(key, counts, {});
    });
  }

  // Reports what went wrong in the look at an operator.
  void report_error(const std::exception& error) {
    const OwnPython lock;
    context_->fault(borrowed(PyExc_RuntimeError)(error.what()));
  }

  // Emits what the thread has run up to a manager event of its own; `now` is the time of the operators that follow.
  void settle(int64_t now) {
    look_for_claims();
    abandon_all();
    const uint64_t count = std::min(at::sequence_number::peek(), running_since);
    if (count > last_) add_nodes(TallyKey{nullptr, 0, no_operator()}, static_cast<int64_t>(count - last_));
    last_ = std::max(last_, count);
    context_->latest.store(now, std::memory_order_relaxed);
    time_ = std::max(time_ + 1, now);
    flush();
  }

  // Emits what a thread left that has ended, for any thread that holds the GIL.
  void end() {
    look_for_claims();
    abandon_all();
    flush();
  }

  // Emits what the thread has run up to a manager event of its own, and shows the event to the detectors that it concerns.
  void see_event(py::handle event) {
    settle(PyLong_AsLongLong(PyTuple_GET_ITEM(event.ptr(), 1)));
    call_one(detectors->keep_event, event.ptr());
    if (ManagerEvents::is_exit_of_inference_mode(event) && !c10::InferenceMode::is_enabled()) emit_escaped();
    events.see(event, *detectors, *context_, callers_);
  }

  // The line that has called the backward which PyTorch begins now, and with what.
  BackwardCall locate_backward() { return callers_.locate_backward(); }

  bool belongs_to(const Context& context) const { return context_.get() == &context; }

  // Emits the tallies; for any thread that holds the GIL.
  void flush() {
    std::unique_lock<std::recursive_mutex> turn(emitting_, std::try_to_lock);
    if (!turn.owns_lock()) {
      // Another thread emits them, and may need the GIL for it. Not by a guard: where the interpreter ends, it ends a thread that
      // waits for the GIL by unwinding, which no destructor may do.
      PyThreadState* const thread = PyEval_SaveThread();
      turn.lock();
      PyEval_RestoreThread(thread);
    }
    Batch taken;
    {
      const std::lock_guard<SpinLock> guard(lock_);
      if (tallies_.empty()) return;
      tallies_.take(taken);
    }
    call_one(context_->emit, make_batch_event(thread_, std::move(taken)).ptr());
  }

  // Adds what the program did by hand, such as a read of a version counter, at a line.
  void add_by_hand(uintptr_t code, int offset, const std::string& what, const Counts& counts) {
    add({reinterpret_cast<PyCodeObject*>(code), offset, Names::global().add(what)}, counts, {});
  }

  // The places that constructed the nodes from `first` to `last`.
  std::vector<CallSite> origins_between(uint64_t first, uint64_t last) {
    const std::lock_guard<SpinLock> guard(lock_);
    std::vector<CallSite> found;
    paths_.visit_between(first, last, [&found](uint64_t, const CallSite& at) { found.push_back(at); });
    return found;
  }

  // PyTorch's number for this thread, by which a node tells the thread that constructed it.
  uint64_t number_in_torch() const { return number_in_torch_.load(std::memory_order_relaxed); }

  // Notes that a backward, called at a site, begins at roots that these sites made, or that are leaves themselves, and ends at
  // these leaves. `autograd.grad` ends no iteration. Returns the number of the site.
  FlowId begin_backward(const FlowNode& site, const std::vector<std::pair<FlowId, bool>>& roots, const std::vector<FlowId>& leaves,
                        bool ends_iteration) {
    const std::lock_guard<SpinLock> guard(lock_);
    auto& target = flow_.at(site);
    for (const auto& [root, is_leaf] : roots) FlowEdges::count(target, root, is_leaf ? WITHOUT_GRAD : CARRIED);
    for (const FlowId leaf : leaves) FlowEdges::count(target, leaf, CARRIED);
    latest_backward_ = target.id;
    backward_code_ = site.code;
    backward_offset_ = site.offset;
    if (ends_iteration) iterations_.end_with_backward();
    return target.id;
  }

  // Notes that a site takes the values of what another one has made, by a call that is no operator.
  void note_read(const FlowNode& site, FlowId made) {
    const std::lock_guard<SpinLock> guard(lock_);
    FlowEdges::count(flow_.at(site), made, WITHOUT_GRAD);
  }

  // Notes that the gradient was cleared which a backward at a site had given a leaf, before an optimizer stepped with it.
  void note_cleared(FlowId site, FlowId leaf) {
    const FlowNode node = FlowNodes::global().get(site);
    const std::lock_guard<SpinLock> guard(lock_);
    FlowEdges::count(flow_.at(node), leaf, WRITTEN);
    cleared_[site].insert(leaf);
  }

  // The storages that the thread has set to one number since the last call, by address.
  std::unordered_set<const c10::StorageImpl*> take_zeroed() { return std::exchange(zeroed_, {}); }

  // The leaves whose gradients from this backward were cleared, empty after it has been asked for often enough.
  std::set<FlowId> take_cleared(FlowId site) {
    const auto found = cleared_.find(site);
    if (found == cleared_.end() || looks_at_cleared_[site] >= MAX_LOOKS_AT_CLEARED) return {};
    ++looks_at_cleared_[site];
    return found->second;
  }

  const Iterations& iterations() const { return iterations_; }

  // The lines that led to a node, from the innermost outwards; empty if they are not known any more.
  std::vector<CallSite> path_to(uint64_t node) {
    const std::lock_guard<SpinLock> guard(lock_);
    return paths_.path_to(node);
  }

  // For the thread itself.
  NodeReader& nodes() { return nodes_; }

  // Notes that an optimizer steps.
  void begin_step(const FlowNode& site, const StepFacts& step) {
    const std::lock_guard<SpinLock> guard(lock_);
    auto& target = flow_.at(site);
    for (const auto& [leaf, has_grad, is_again, is_zero] : step.parameters) {
      FlowEdges::count(target, leaf, has_grad ? CARRIED : WITHOUT_GRAD);
      if (is_again) FlowEdges::count(target, leaf, WRITTEN);
      if (is_zero) FlowEdges::count(target, leaf, NOT_DIFFERENTIABLE);
    }
    for (const FlowId by : step.takes) FlowEdges::count(target, by, WITHOUT_GRAD);
    for (const FlowId backward : step.others) FlowEdges::count(target, backward, WRITTEN);
    steps_.insert(target.id);
  }

  FlowId number_of(const FlowNode& site) {
    const std::lock_guard<SpinLock> guard(lock_);
    return flow_.at(site).id;
  }

  // The backward passes of the thread have numbers, by which it is known of the latest ones whether a step has taken gradients of
  // theirs.
  uint32_t begin_pass() {
    if (taken_passes_.size() > MAX_TAKEN_PASSES) taken_passes_.clear();
    return ++number_of_passes_;
  }
  void note_pass_taken(uint32_t pass) { taken_passes_.insert(pass); }
  bool is_taken(uint32_t pass) const { return taken_passes_.count(pass) != 0; }

  bool is_step(FlowId site) const { return steps_.count(site) != 0; }

  // Notes that a backward at a site adds to gradients for which these sites stand.
  void note_left(FlowId site, const std::set<FlowId>& left) {
    if (left.empty()) return;
    const FlowNode node = FlowNodes::global().get(site);
    const std::lock_guard<SpinLock> guard(lock_);
    for (const FlowId by : left) FlowEdges::count(flow_.at(node), by, WRITTEN);
  }

  // Notes that a backward goes through these nodes of the thread, whose numbers are sorted.
  void reach(const std::vector<uint64_t>& numbers, ReachedAgain& again) {
    const std::lock_guard<SpinLock> guard(lock_);
    paths_.reach(numbers, [&](uint64_t node, const CallSite& at) {
      ++again.nodes;
      ++again.places[{at.code, at.offset}];
      again.iterations.insert(iterations_.ended_since(node));
    });
  }

  bool is_reached(uint64_t node) {
    const std::lock_guard<SpinLock> guard(lock_);
    return paths_.is_reached(node);
  }

  template <typename See>
  void take_edges(const See& see) {
    const std::lock_guard<SpinLock> guard(lock_);
    flow_.take(see);
  }

  // Calls `see(frames, counts)` with each path and what it counted since the last time.
  template <typename See>
  void take_paths(const See& see) {
    const std::lock_guard<SpinLock> guard(lock_);
    paths_.take(see);
  }

  // Calls `see(place, age, is_reached)` with each of these nodes of the thread: the line that constructed it, the number of
  // iterations that have ended since, and whether a backward has gone through it.
  template <typename See>
  void visit_nodes(const std::vector<uint64_t>& numbers, const See& see) {
    const std::lock_guard<SpinLock> guard(lock_);
    for (const uint64_t number : numbers) {
      const size_t age = iterations_.ended_since(number);
      paths_.visit(number, [&](const CallSite& at, bool is_reached) { see(at, age, is_reached); });
    }
  }

  // The nodes that the running iteration has constructed are not judged: an exception has ended it.
  void forgive() {
    const std::lock_guard<SpinLock> guard(lock_);
    paths_.forgive_since(std::max(forgiven_, iterations_.latest_backward()));
    forgiven_ = at::sequence_number::peek();  // a program that tries and fails again and again looks at each node once
  }

  // The place of the latest write to a storage, given by its address, since a node has saved it.
  std::optional<std::pair<PyCodeObject*, int>> writer_of(uintptr_t storage) const {
    const auto found = suspects_.find(storage);
    return found == suspects_.end() ? std::nullopt : std::make_optional(found->second);
  }

 private:
  static constexpr size_t MAX_SUSPECTS = 10'000, MAX_ZEROED = 10'000, MAX_TAKEN_PASSES = 10'000, MAX_RESULTS = 8, FIRST_LOOK_AT_GROWTH = 48;
  static constexpr int MAX_LOOKS_AT_CLEARED = 3;
  static constexpr size_t USES_OF_OWN_GRADIENT = 4;  // by the engine, the hook, the stack, and the record of the write
  static constexpr uint64_t MAX_UNCLAIMED = 256, MAX_OPS_UNCLAIMED = 64;

  struct Unclaimed {
    uint64_t node;
    TallyKey place;
    uint64_t since;
  };

  static NameId no_operator() {
    static const NameId name = Names::global().add("(no operator)");
    return name;
  }
  static NameId autograd_function() {
    static const NameId name = Names::global().add("autograd.Function");
    return name;
  }

  // What goes wrong in a step must not reach the program.
  template <typename Step>
  void guarded(const Step& step) {
    try {
      step();
    } catch (py::error_already_set& error) {
      const OwnPython lock;
      report(error);
    } catch (const python_error&) {  // an interrupt of the program, see report()
      throw;
    } catch (const std::exception& error) {
      report_error(error);
    }
  }

  // Emits the inference tensors that still exist as the thread leaves that mode, by the line that made them.
  void emit_escaped() {
    auto& escaped = context_->escaped;
    auto left = recent_.take_inference_tensors();
    const bool is_requested = escaped.take_request();
    if (left.empty() && !is_requested) return;
    py::list of_new_lines;
    if (!left.empty()) {
      of_new_lines = describe_all(escaped.add(left));
      const auto now = context_->now().cast<int64_t>();
      for (const EscapedGroup& group : group_by_line(left)) call_one(context_->emit, make_escaped_event(group, now).ptr());
    }
    const bool is_due = py::len(of_new_lines) > 0 || is_requested || escaped.is_due();
    left.clear();  // what the program drops while Python looks must go
    if (is_due) detectors->on_escaped(of_new_lines);
  }

  void record(const Call& call, const torch::jit::Stack& stack) {
    const uint64_t after = at::sequence_number::peek();
    if (!unclaimed_.empty()) look_for_claims();
    const bool builds = after > call.before;
    Caller caller = builds ? callers_.locate_with_path(path_) : callers_.locate();
    if (caller.is_own) return;
    if (call.is_backward) caller.phase = BACKWARD;
    TallyKey key{caller.code, caller.offset, call.plan->name, caller.module, NO_NAME, task(), caller.phase};
    if (call.before > last_) leave_unclaimed(last_, call.before, key);
    last_ = after;
    ++operators_;
    ++time_;
    Counts counts{};
    counts[CALLS] = 1;
    counts[NODES] = static_cast<int64_t>(after - call.before);
    counts[NORMAL_WITHOUT_COUNTER] = call.normal_without_counter;
    counts[INFERENCE_WITH_COUNTER] = call.inference_with_counter;
    Creation creation{time_, caller.code, caller.offset, key.op, caller.module, time_, thread_};
    creation.epoch = FlowNodes::global().epoch();
    if (caller.phase == FORWARD) {
      creation.flow = follow(call, stack, caller, key.op, builds);
    } else if (caller.phase == BACKWARD) {
      creation.flow = latest_backward_;
    } else if (call.plan->zeroes) {
      creation.flow = follow(call, stack, caller, key.op, builds);  // `zero_grad`
    } else if (!call.writes.empty()) {
      note_written_leaves(call, caller, key.op);
    }
    if (caller.phase == BACKWARD && caller.code != backward_code_ && detectors) look_at_hook(call, stack, caller);
    if (!unclaimed_.empty()) last_results_.clear();
    for (size_t i = stack.size() - call.plan->returns; i < stack.size(); ++i) {
      visit_tensors(stack[i], [&](const at::Tensor& tensor) { see_result(call, tensor, creation, counts); });
    }
    if (!call.writes.empty()) {
      count_writes(call, caller, counts);
      if (call.plan->zeroes) note_zeroed(call);
      if (caller.phase != BACKWARD) leaf_writes_ += std::any_of(call.arguments.begin(), call.arguments.end(), [&call](const auto& argument) {
        return (argument.requires_grad || argument.is_data_of_leaf) && call.is_written(argument.impl);
      });
      for (const auto& write : call.writes) {
        if (creation.flow == NO_FLOW && !write.tensor.is_view()) continue;
        Creations::global().note_write(write.tensor.unsafeGetTensorImpl(), creation.flow, creation.epoch);
      }
    }
    std::vector<SavedStorage> saved;
    others_.clear();
    if (builds) read_nodes(call, stack, caller, key, counts, saved);
    add(key, counts, saved);
    if (builds) note_origins(call.before, after, saved, !call.is_backward && c10::GradMode::is_enabled());
    for (const NameId name : others_) {
      key.node = name;
      add_nodes(key, 1);
    }
    while (!unclaimed_.empty() && operators_ - unclaimed_.front().since > MAX_OPS_UNCLAIMED) abandon_first();
    if (detectors) look(call, stack, caller, builds);
  }

  // Counts the ways from the sites that made the arguments to this one, and returns its number.
  FlowId follow(const Call& call, const torch::jit::Stack& stack, const Caller& caller, NameId op, bool builds) {
    bool carries = builds;
    Passage if_cut = NOT_DIFFERENTIABLE;
    if (c10::InferenceMode::is_enabled()) {
      if_cut = CUT_BY_INFERENCE;
    } else if (!c10::GradMode::is_enabled()) {
      if_cut = CUT_BY_NO_GRAD;
    } else if (call.plan->is_detach) {
      if_cut = CUT_BY_DETACH;
    } else if (call.has_grad_arguments && !builds) {
      // An operator may return its argument as it is.
      const auto see = [&carries](const at::Tensor& result) { carries |= result.requires_grad(); };
      for (size_t i = stack.size() - call.plan->returns; i < stack.size(); ++i) visit_tensors(stack[i], see);
    }
    const std::lock_guard<SpinLock> guard(lock_);
    auto& target = flow_.at({caller.code, caller.offset, op, caller.module});
    if (!call.plan->takes_values) return target.id;
    for (const auto& argument : call.arguments) {
      // What a line writes without a node, such as a parameter that it initializes, has no gradient to lose there.
      const Passage passage = !builds && call.is_written(argument.impl) ? WRITTEN
          : argument.requires_grad                                      ? (carries ? CARRIED : if_cut)
          : argument.is_data_of_leaf                 ? CUT_BY_DATA
                                                     : WITHOUT_GRAD;
      FlowEdges::count(target, argument.flow, passage);
    }
    return target.id;
  }

  void note_written_leaves(const Call& call, const Caller& caller, NameId op) {
    const std::lock_guard<SpinLock> guard(lock_);
    auto& target = flow_.at({caller.code, caller.offset, op, caller.module});
    for (const auto& argument : call.arguments) {
      if (argument.flow != NO_FLOW && argument.requires_grad && call.is_written(argument.impl)) {
        FlowEdges::count(target, argument.flow, WRITTEN);
      }
    }
  }

  void note_origins(uint64_t first, uint64_t end, const std::vector<SavedStorage>& saved, bool is_judged) {
    int64_t bytes = 0;
    for (const SavedStorage& storage : saved) bytes += storage.is_input ? 0 : storage.bytes;
    if (number_in_torch() == 0) number_in_torch_ = at::RecordFunction::currentThreadId();
    const std::lock_guard<SpinLock> guard(lock_);
    paths_.add(first, end, paths_.intern(path_), bytes, is_judged);
  }

  NameId task() {
    if (!context_->may_have_tasks.load(std::memory_order_relaxed)) return NO_NAME;
    const OwnPython lock;
    const py::object label = context_->task_label();
    return label.is_none() ? NO_NAME : Names::global().add(label.cast<std::string>());
  }

  // `creation` is of the operator; only that of a view differs between its results.
  void see_result(const Call& call, const at::Tensor& tensor, Creation& creation, Counts& counts) {
    auto* impl = tensor.unsafeGetTensorImpl();
    const auto* storage = storage_of(impl);
    const at::TensorImpl* source = nullptr;
    for (const auto& argument : call.arguments) {
      if (argument.impl == impl) return;  // modified in place, or returned as it is
      if (source == nullptr && storage != nullptr && argument.storage == storage) source = argument.impl;
    }
    const bool is_inference = impl->is_inference();
    ++counts[is_inference ? INFERENCE_OUTPUTS : NORMAL_OUTPUTS];
    const bool is_tracked = !is_inference && tensor.is_view();
    const bool is_view = source != nullptr || is_tracked;
    creation.storage_made = creation.made;
    creation.version = 0;
    if (is_view) {
      ++counts[is_tracked ? TRACKED_VIEWS : UNTRACKED_VIEWS];
      creation.storage_made = source == nullptr ? -1 : Creations::global().storage_made(source);
      if (impl->version_counter().enabled()) creation.version = impl->version_counter().current_version();
    } else if (!is_inference) {
      ++counts[COUNTERS_CREATED];
    }
    if (!can_be_weak(*impl)) return;
    Creations::global().add(impl, creation);
    const TensorRef ref{impl, creation.made};
    if (is_inference) recent_.add_inference_tensor(ref);
    if (!unclaimed_.empty() && last_results_.size() < MAX_RESULTS) last_results_.push_back(ref);
  }

  void count_writes(const Call& call, const Caller& caller, Counts& counts) {
    c10::SmallVector<const void*, 4> counted;
    for (const auto& write : call.writes) {
      const auto* impl = write.tensor.unsafeGetTensorImpl();
      if (write.counter == nullptr) {
        ++counts[UNCOUNTED_WRITES];
      } else if (std::find(counted.begin(), counted.end(), write.counter) == counted.end()) {
        counted.push_back(write.counter);
        const auto* now = counter_of(impl);
        counts[VERSION_BUMPS] +=
            now == write.counter ? static_cast<int64_t>(impl->version_counter().current_version()) - write.version : 1;
      }
      if (!write.is_saved) continue;
      auto* storage = storage_of(impl);
      if (suspects_.size() >= MAX_SUSPECTS) suspects_.clear();
      suspects_[reinterpret_cast<uintptr_t>(storage)] = {caller.code, caller.offset};
      const CallSite place{caller.code, caller.offset};
      UnseenWrites::global().on_write(
          storage, {{number_in_torch_, call.before}, place, write.counter, write.is_unseen, write.range, write.contents});
    }
  }

  void note_zeroed(const Call& call) {
    if (zeroed_.size() >= MAX_ZEROED) zeroed_.clear();
    for (const auto& write : call.writes) zeroed_.insert(storage_of(write.tensor.unsafeGetTensorImpl()));
  }

  // Reads the nodes that an operator constructed: the name of the last one, those of others, and what they saved.
  void read_nodes(const Call& call, const torch::jit::Stack& stack, const Caller& caller, TallyKey& key, Counts& counts,
                  std::vector<SavedStorage>& saved) {
    c10::SmallVector<ResultMemory, 4> result_storages;
    c10::SmallVector<c10::intrusive_ptr<Node>, 4> waiting;
    const auto begin_at = [&](const at::Tensor& tensor) {
      result_storages.push_back(memory_of(tensor));
      const auto* node = raw_grad_fn(tensor);
      if (node != nullptr) push_new(*node, call.before, waiting);
    };
    for (size_t i = stack.size() - call.plan->returns; i < stack.size(); ++i) visit_tensors(stack[i], begin_at);
    for (const auto& write : call.writes) begin_at(write.tensor);
    for (size_t i = 0; i < waiting.size() && i < 256; ++i) {
      const c10::intrusive_ptr<Node> node = waiting[i];
      NodeType& type = nodes_.type_of(*node);
      const NameId name = NodeReader::name_of(type, *node);
      if (i == 0) {
        key.node = name;
      } else if (counts[NODES] > 1) {
        --counts[NODES];
        others_.push_back(name);
      }
      nodes_.read_saved(type, node, result_storages, time_, counts[HOOKED], saved);
      if (type.is_copy_slices) {
        const auto& inner = static_cast<const torch::autograd::CopySlices&>(*node).fn;
        if (inner) nodes_.read_saved(nodes_.type_of(*inner), inner, result_storages, time_, counts[HOOKED], saved);
      }
      for (const auto& edge : node->next_edges()) {
        if (edge.function) push_new(edge.function, call.before, waiting);
      }
    }
  }

  static void push_new(const c10::intrusive_ptr<Node>& node, uint64_t first,
                       c10::SmallVector<c10::intrusive_ptr<Node>, 4>& waiting) {
    // AccumulateGrad has the highest number there is.
    if (node->sequence_nr() < first || node->sequence_nr() == UINT64_MAX) return;
    if (std::find(waiting.begin(), waiting.end(), node) == waiting.end()) waiting.push_back(node);
  }

  // The node of a custom Function is constructed before all operators of its forward, and becomes visible at the output
  // of the last of them.
  void look_for_claims() {
    if (unclaimed_.empty()) return;
    for (const TensorRef& ref : last_results_) {
      const auto found = Creations::global().lock(ref.impl, ref.made);
      if (!found) continue;
      const auto* node = raw_grad_fn(found->first);
      if (node != nullptr) claim(*node, found->first);
    }
  }

  void claim(const c10::intrusive_ptr<Node>& node, const at::Tensor& output) {
    const auto number = node->sequence_nr();
    const auto found = std::find_if(unclaimed_.begin(), unclaimed_.end(),
                                    [number](const Unclaimed& one) { return one.node == number; });
    if (found == unclaimed_.end()) return;
    NodeType& type = nodes_.type_of(*node);
    if (!type.is_python) return;
    TallyKey key = found->place;
    unclaimed_.erase(found);
    key.op = autograd_function();
    key.node = NodeReader::name_of(type, *node);
    Counts counts{};
    counts[CALLS] = counts[NODES] = 1;
    std::vector<SavedStorage> saved;
    const ResultMemory results[] = {memory_of(output)};
    nodes_.read_saved(type, node, c10::ArrayRef<ResultMemory>(results), time_, counts[HOOKED], saved);
    add(key, counts, saved);
  }

  // Keeps the nodes from `first` to before `end` until an output shows where they belong. Of many, as a compiled function may
  // construct while it is not observed, only the latest: nothing will show where the others belong.
  void leave_unclaimed(uint64_t first, uint64_t end, TallyKey key) {
    const uint64_t kept = end - std::min<uint64_t>(end - first, MAX_UNCLAIMED);
    for (uint64_t node = kept; node < end; ++node) unclaimed_.push_back({node, key, operators_});
    if (kept > first) {
      key.op = no_operator();
      add_nodes(key, static_cast<int64_t>(kept - first));
    }
  }

  void abandon_first() {
    TallyKey key = unclaimed_.front().place;
    unclaimed_.pop_front();
    key.op = no_operator();
    key.node = NO_NAME;
    add_nodes(key, 1);
  }

  void abandon_all() {
    while (!unclaimed_.empty()) abandon_first();
    last_results_.clear();
  }

  void add_nodes(const TallyKey& key, int64_t number) {
    Counts counts{};
    counts[NODES] = number;
    add(key, counts, {});
  }

  void add(const TallyKey& key, const Counts& counts, const std::vector<SavedStorage>& saved) {
    const std::lock_guard<SpinLock> guard(lock_);
    tallies_.at(key).add(counts, saved);
  }

  bool mark_step() {
    const std::lock_guard<SpinLock> guard(lock_);
    return iterations_.end_with_step();
  }

  void look(const Call& call, const torch::jit::Stack& stack, const Caller& caller, bool has_node) {
    // Rarely enough to take no time worth naming: each time when the program has run a quarter as many operators again.
    if (has_node && operators_ >= look_at_growth_at_) {
      look_at_growth_at_ = operators_ + operators_ / 4;
      const OwnPython lock;
      detectors->on_growth();
    }
    if (caller.phase == FORWARD) look_at_asker(call, stack, caller);
    const size_t first = stack.size() - call.plan->returns;
    if (call.alias_use != NO_ALIASES) show_aliases(call, caller);
    const bool is_looked_at = !call.kept.empty() &&
        (interest.load(std::memory_order_relaxed) != NO_OPS || watches_inference());
    if (!is_looked_at) return;
    const OwnPython lock;
    py::list arguments;
    for (const auto& value : call.kept) {
      if (value.isTensor() || value.isList()) arguments.append(as_python(value));
    }
    py::object result = py::tuple();
    if (call.plan->is_detach) {
      // PyTorch may be about to make it a parameter or another subclass, which takes a tensor without a Python object.
    } else if (call.plan->returns == 1) {
      result = as_python(stack[first]);
    } else {
      py::list results;
      for (size_t i = first; i < stack.size(); ++i) results.append(as_python(stack[i]));
      result = py::tuple(results);
    }
    const auto code = caller.code == nullptr ? py::object(py::none()) : borrowed(as_object(caller.code));
    const auto name = borrowed(Names::global().object(call.plan->name));
    const py::tuple all(arguments);
    detectors->on_operator(name, all, result, code, caller.offset, has_node);
  }

  // Shows the detectors an operator that the program's own code runs in a backward, as hooks do, if it writes a gradient of the
  // engine's in place, or makes zeros of one.
  void look_at_hook(const Call& call, const torch::jit::Stack& stack, const Caller& caller) {
    constexpr int MAX_LOOKS = 64;
    int& looks = looks_at_hooks_[{caller.code, caller.offset}];
    if (looks >= MAX_LOOKS || !iterations_.sees_all_steps()) return;
    ++looks;
    bool writes = false, is_shared = false, takes_values = false;
    for (const auto& argument : call.arguments) {
      const auto creation = Creations::global().find(argument.impl);
      const bool is_given = creation && creation->code == backward_code_ && creation->offset == backward_offset_;
      if (!is_given || creation->flow != latest_backward_) continue;
      if (!call.is_written(argument.impl)) {
        const auto gradient = Creations::global().lock(argument.impl, creation->made);
        takes_values |= gradient && !is_all_zero(gradient->first);
        continue;
      }
      for (const auto& write : call.writes) {
        if (write.tensor.unsafeGetTensorImpl() != argument.impl) continue;
        writes = true;
        takes_values |= !write.was_zero;
        is_shared |= write.tensor.use_count() > USES_OF_OWN_GRADIENT;
      }
    }
    if (!writes && !takes_values) return;
    const at::Tensor* result = nullptr;
    if (!call.writes.empty()) {
      result = &call.writes.front().tensor;
    } else if (call.plan->returns > 0 && stack.back().isTensor()) {
      result = &stack.back().toTensor();
    }
    const bool is_zero = takes_values && result != nullptr && result->defined() && result->dim() > 0 && is_all_zero(*result);
    if (!writes && !is_zero) return;
    const OwnPython lock;
    detectors->on_hook(reinterpret_cast<uintptr_t>(caller.code), caller.offset, reinterpret_cast<uintptr_t>(backward_code_),
                       backward_offset_, writes, is_shared, is_zero);
  }

  // Shows an operator to the detector of results that depend on the mode, if it belongs to a function that asks for the mode.
  void look_at_asker(const Call& call, const torch::jit::Stack& stack, const Caller& caller) {
    const int mode = (c10::GradMode::is_enabled() ? 1 : 0) + (c10::InferenceMode::is_enabled() ? 2 : 0);
    const auto looked = stretches_.note(caller.asker, caller.asked_with, mode);
    if (looked == Stretches::NONE) return;
    const OwnPython lock;
    py::object result = py::none();
    if (call.plan->returns > 0 && stack.back().isTensor() && stack.back().toTensor().defined()) {
      const at::Tensor& tensor = stack.back().toTensor();
      result = py::make_tuple(py::tuple(py::cast(tensor.sizes().vec())), tensor.is_floating_point(), py::cast(sample_values(tensor)));
    }
    detectors->on_asker(looked == Stretches::BEGUN, mode, leaf_writes_, borrowed(as_object(caller.asker)),
                        reinterpret_cast<uintptr_t>(caller.code), caller.offset, call.plan->is_random, result);
  }

  // Shows tensors over one memory to the detectors.
  void show_aliases(const Call& call, const Caller& caller) {
    const auto [leaf, known] = find_aliases(call);
    const OwnPython lock;
    py::list made;
    for (const auto& [creation, writes] : known) {
      made.append(py::make_tuple(reinterpret_cast<uintptr_t>(creation.code), creation.offset, writes));
    }
    detectors->on_aliases(static_cast<int>(call.alias_use), reinterpret_cast<uintptr_t>(caller.code), caller.offset,
                          static_cast<int64_t>(call.arguments.size()), leaf, made);
  }

  static py::object as_python(const c10::IValue& value) {
    if (value.isTensor()) return stolen(THPVariable_Wrap(value.toTensor()));
    py::list tensors;
    visit_tensors(value, [&tensors](const at::Tensor& tensor) { tensors.append(stolen(THPVariable_Wrap(tensor))); });
    return std::move(tensors);
  }

  // Reports a fault, unless the error is the program's: an interrupt that came while gradprobe's Python was running.
  void report(py::error_already_set& error) {
    if (error.matches(PyExc_Exception)) {
      try {
        // By its traceback an error of a signal handler is told from one of gradprobe's; nothing else has set it yet.
        if (error.trace()) PyException_SetTraceback(error.value().ptr(), error.trace().ptr());
        context_->fault(error.value());
        return;
      } catch (py::error_already_set& interrupt) {
        interrupt.restore();
      }
    } else {
      error.restore();
    }
    python_error interrupt;
    interrupt.persist();
    throw interrupt;
  }

  const std::shared_ptr<Context> context_;
  const uint64_t thread_;
  CallerFinder callers_;
  int64_t time_;
  uint64_t last_, operators_ = 0;
  std::deque<Unclaimed> unclaimed_;
  std::deque<TensorRef> last_results_;
  RecentTensors recent_;
  std::vector<NameId> others_;  // the names of the nodes beside the last one that the latest operator constructed
  std::vector<CallSite> path_;  // of the latest operator that constructed a node
  GraphPaths paths_;
  FlowEdges flow_;
  Stretches stretches_;
  int64_t leaf_writes_ = 0;  // the number of operators that have written to leaves or to their memory
  FlowId latest_backward_ = NO_FLOW;
  PyCodeObject* backward_code_ = nullptr;  // the line that called it
  int backward_offset_ = 0;
  std::map<std::pair<PyCodeObject*, int>, int> looks_at_hooks_;
  std::unordered_set<const c10::StorageImpl*> zeroed_;
  std::map<FlowId, std::set<FlowId>> cleared_;  // by backward, the leaves whose gradients were cleared
  std::map<FlowId, int> looks_at_cleared_;
  uint32_t number_of_passes_ = 0;
  std::unordered_set<uint32_t> taken_passes_;
  std::unordered_set<FlowId> steps_;
  uint64_t forgiven_ = 0;  // the number of nodes that the thread had constructed at its latest exception
  Iterations iterations_;
  std::atomic<uint64_t> number_in_torch_ = 0;
  uint64_t look_at_growth_at_ = FIRST_LOOK_AT_GROWTH;
  std::unordered_map<uintptr_t, std::pair<PyCodeObject*, int>> suspects_;
  NodeReader nodes_;
  SpinLock lock_;  // of the tallies, the paths and the flow, which another thread may take
  Tallies tallies_;
  std::recursive_mutex emitting_;
};

}  // namespace gradprobe
