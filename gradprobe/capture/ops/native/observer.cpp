// The observer of operators, a fallback for a dispatch key that nothing uses. The key is above autograd, autocast and
// functorch, so that an operator is complete when it returns, and composite operators arrive whole in every mode.
//
// A thread is observed while the key is in its set of included keys. Autograd's engine hands that set on to its threads.

#include "cleared_gradients.h"
#include "event_gate.h"
#include "queue_encoder.h"

#include "gradient_origins.h"
#include "refusals.h"

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <optional>

namespace gradprobe {
namespace {

constexpr auto KEY = c10::DispatchKey::TESTING_ONLY_GenericWrapper;

class Registrations : public c10::OpRegistrationListener {
  void onOperatorRegistered(const c10::OperatorHandle&) override {}
  void onOperatorDeregistered(const c10::OperatorHandle&) override { ++deregistered; }
};

// Another thread may hold a lock at the moment of a fork, and in the child that thread does not exist. The locks of observers
// and logs are theirs alone: a child uses none of those that it inherits.
void lock_all() {
  observers_lock.lock();
  orphans_lock.lock();
  Names::global().lock();
  Creations::global().lock();
  SavedStorages::global().lock();
  FlowNodes::global().lock();
  LeafStorages::global().lock();
  UnseenWrites::global().lock();
}

void unlock_all() {
  UnseenWrites::global().unlock();
  LeafStorages::global().unlock();
  FlowNodes::global().unlock();
  SavedStorages::global().unlock();
  Creations::global().unlock();
  Names::global().unlock();
  orphans_lock.unlock();
  observers_lock.unlock();
}

void include_key(bool is_included) { c10::impl::tls_set_dispatch_key_included(KEY, is_included); }

void run(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack, uint64_t before) {
  struct Running {
    uint64_t& since = running_since;
    const uint64_t outer = since;
    ~Running() { since = outer; }
  } const running;
  running.since = before;
  op.redispatchBoxed(keys, stack);
}

// The operator whose parts the thread observes while it runs; none while it runs a part that is whole.
class Within {
 public:
  Within(ThisThread& thread, const c10::FunctionSchema* composite) : thread_(thread), outer_(thread.composite) {
    thread.composite = composite;
  }
  ~Within() { thread_.composite = outer_; }

 private:
  ThisThread& thread_;
  const c10::FunctionSchema* const outer_;
};

using PartsAreNotSeen = std::optional<c10::impl::ExcludeDispatchKeyGuard>;

// Runs a composite operator with the key on, so that its parts are observed; returns whether it had any.
bool run_with_parts(ThisThread& thread, const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack,
                    uint64_t before, PartsAreNotSeen& not_seen) {
  const Within within(thread, &op.schema());
  const uint64_t noted = thread.noted;
  not_seen.reset();
  run(op, keys, stack, before);
  not_seen.emplace(KEY);
  return thread.noted != noted;
}

// Runs the begin or the end of a profiler range. Every optimizer, the program's own too, steps within a range of this name.
void run_marker(ThisThread& thread, const OpPlan& plan, const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                torch::jit::Stack* stack) {
  bool begins_step = false;
  if (plan.begins_range) {
    const auto& name = (*stack)[stack->size() - plan.arguments];
    begins_step = name.isString() && name.toStringRef().rfind("Optimizer.step#", 0) == 0;
  }
  op.redispatchBoxed(keys, stack);
  if (!begins_step) return;
  for (const auto& log : thread.logs()) {
    if (log->is_on()) log->note_step();
  }
}

void observe(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const auto rest = keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, KEY);
  auto& thread = here();
  // Autocast and functorch call an operator again, below themselves, and functorch with the keys that it began with.
  if (running_since != UINT64_MAX && (thread.composite == nullptr || thread.composite == &op.schema())) {
    op.redispatchBoxed(rest, stack);
    return;
  }
  PartsAreNotSeen not_seen(std::in_place, KEY);
  auto& logs = thread.logs();
  if (logs.empty()) {  // the recording was stopped in another thread
    include_key(false);
    op.redispatchBoxed(rest, stack);
    return;
  }
  const OpPlan& plan = thread.plan_of(op);
  if (plan.is_marker) {
    run_marker(thread, plan, op, rest, stack);
    return;
  }
  int interest = NO_OPS;
  bool sees_parts = false, watches_inference = false;
  for (const auto& log : logs) {
    interest = std::max(interest, log->interest.load(std::memory_order_relaxed));
    watches_inference |= log->watches_inference();
    sees_parts |= log->sees_parts();
  }
  std::optional<Call> call;
  try {
    call.emplace(plan, *stack, interest, watches_inference);
  } catch (const std::exception& error) {  // a tensor that refuses a question
    logs.front()->report_error(error);
  }
  if (!call) {
    op.redispatchBoxed(rest, stack);
    return;
  }
  bool has_parts = false;
  const size_t first = stack->size() - call->plan->arguments;
  try {
    // What a subclass or a mode of the program runs for an operator is no part of it.
    if (sees_parts && call->plan->is_composite && !call->has_subclass && !c10::impl::dispatch_mode_enabled()) {
      has_parts = run_with_parts(thread, op, rest, stack, call->before, not_seen);
    } else {
      const Within within(thread, nullptr);
      run(op, rest, stack, call->before);
    }
  } catch (...) {
    for (const auto& log : thread.logs()) log->forgive();
    show_operator_refusal(*call, *stack, first);
    throw;
  }
  ++thread.noted;
  for (const auto& log : thread.logs()) {  // again: the operator may have begun or ended a recording
    if (!log->is_on() || (thread.composite != nullptr && !log->sees_parts())) continue;
    if (has_parts && log->sees_parts()) {
      log->note_composite(*call);
    } else {
      log->note(*call, *stack);
    }
  }
}

void observe_and_hide(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  try {
    observe(op, keys, stack);
  } catch (const c10::NotImplementedError& error) {
    throw_without_key(error, c10::toString(KEY));
  }
}

bool is_key_included() { return c10::impl::tls_is_dispatch_key_included(KEY); }

// Takes the key for the rest of the process. Fails if another library has a fallback for it.
void take_key() {
  static auto* library = new torch::Library(torch::Library::IMPL, "_", KEY, __FILE__, __LINE__);
  library->fallback(torch::CppFunction::makeFromBoxedFunction<&observe_and_hide>());
}

// Observes the calling thread.
void attach(Observer& observer, const py::dict& detectors, int64_t now) {
  static const auto* listening = new c10::RegistrationHandleRAII(
      c10::Dispatcher::singleton().addRegistrationListener(std::make_unique<Registrations>()));
  (void)listening;
  const auto log = observer.log_of(this_thread());
  ++observers_changed;
  log->detectors = std::make_unique<Detectors>(detectors);
  log->settle(now);
  include_key(true);
}

py::object find_creation(const py::object& tensor) {
  const auto& value = THPVariable_Unpack(tensor.ptr());
  const auto found = Creations::global().find(value.unsafeGetTensorImpl());
  return found ? py::object(describe(value, *found)) : py::none();
}

FlowNode site_at(const py::object& code, int offset, const char* op) {
  FlowNode site;
  site.code = code.is_none() ? nullptr : reinterpret_cast<PyCodeObject*>(code.ptr());
  site.offset = offset;
  site.op = Names::global().add(op);
  return site;
}

py::tuple place_of(PyCodeObject* code, int offset) { return py::make_tuple(reinterpret_cast<uintptr_t>(code), offset); }

py::list count_places(const std::map<std::pair<PyCodeObject*, int>, int64_t>& places) {
  py::list found;
  for (const auto& [place, number] : places) found.append(py::make_tuple(place_of(place.first, place.second), number));
  return found;
}

// The unseen writes to what a backward uses: the line that saved the memory, the line that wrote it or gave it away, and whether an
// operator wrote it.
py::list describe_unseen(const Logs& logs, const std::vector<UnseenWrite>& writes) {
  py::list found;
  for (const auto& write : writes) {
    CallSite saved;
    for (const auto& log : logs) {
      if (log->number_in_torch() != write.thread || saved.code != nullptr) continue;
      const auto path = log->path_to(write.node);
      if (!path.empty()) saved = path.front();
    }
    found.append(py::make_tuple(place_of(saved.code, saved.offset), place_of(write.place.code, write.place.offset), write.by_operator));
  }
  return found;
}

// The part of a graph that leads only to leaves whose gradients were cleared: the paths of calls that constructed it, each with the
// numbers of all nodes and of those in that part, and the largest number of such leaves behind one node.
py::tuple describe_part(const ChosenPart& part) {
  py::list paths;
  for (const auto& [frames, counts] : part.paths) {
    py::list lines;
    for (const auto& [code, offset] : frames) lines.append(place_of(code, offset));
    paths.append(py::make_tuple(lines, counts.all, counts.chosen));
  }
  return py::make_tuple(paths, part.most_leaves);
}

// Notes a backward from these roots, which the running frame of PyTorch has begun. Returns the line of the program, whether it
// asks for gradients only, what it says of the graph, the ranges of its nodes, and of those that an earlier backward has gone
// through: how many, from how many iterations, and the lines that constructed them; what was written unseen; and, where earlier
// gradients of this backward were cleared, the part of the graph that leads to them.
py::tuple note_backward(Observer& observer, const std::vector<at::Tensor>& roots, int64_t now) {
  const auto own = observer.log_of(this_thread());
  own->settle(now);
  const BackwardCall call = own->locate_backward();
  const auto code = call.code == nullptr ? py::object(py::none()) : borrowed(as_object(call.code));
  const auto logs = observer.logs();
  const auto pass = begin_backward(logs, own.get(), site_at(code, call.offset, call.is_grad ? "autograd.grad" : "backward"), roots,
                                   !call.is_grad);
  py::object part = py::none();
  if (!call.is_grad && !call.is_in_step && own->iterations().sees_all_steps()) {
    note_gradients(*own, pass.site, pass.leaves);
    auto cleared = own->take_cleared(pass.site);
    if (!cleared.empty()) part = describe_part(PartOfGraph(logs, std::move(cleared)).find(roots));
  }
  return py::make_tuple(code, call.offset, call.is_grad, call.retain_graph, call.create_graph, pass.ranges, pass.again.nodes,
                        pass.again.iterations.size(), count_places(pass.again.places), describe_unseen(logs, pass.unseen), part);
}

// A call that no operator shows gives the values of a tensor to code beyond PyTorch at a line, with its memory or without.
void note_export(Observer& observer, const at::Tensor& tensor, const py::object& code, int offset, const char* name, bool is_shared) {
  const auto* impl = tensor.unsafeGetTensorImpl();
  const FlowId made = Creations::global().find_flow(impl, FlowNodes::global().epoch()).first;
  observer.log_of(this_thread())->note_read(site_at(code, offset, name), made);
  if (!is_shared) return;
  auto* storage = storage_of(impl);
  if (storage == nullptr || !can_be_read(*storage)) return;
  const FlowNode site = site_at(code, offset, "");
  const void* counter = counter_of(impl);
  const uint32_t version = counter == nullptr ? 0 : impl->version_counter().current_version();
  const ThreadMoment now{at::RecordFunction::currentThreadId(), at::sequence_number::peek()};
  UnseenWrites::global().share(storage, {site.code, site.offset}, {now, hash_contents(*storage), counter, version});
}

bool was_reached(Observer& observer, const at::Tensor& tensor) {
  const auto* node = raw_grad_fn(tensor);
  if (node == nullptr) return false;
  for (const auto& log : observer.logs()) {
    if (log->number_in_torch() == (*node)->thread_id() && log->is_reached((*node)->sequence_nr())) return true;
  }
  return false;
}

void note_step(Observer& observer, const std::vector<at::Tensor>& parameters, const py::object& code, int offset) {
  note_taken(*observer.log_of(this_thread()), site_at(code, offset, "optimizer.step"), parameters);
}

// The sites and leaves from a number on: code, offset, operator, module, whether it is a leaf, the site that created it.
py::list take_flow_nodes(FlowId first) {
  py::list found;
  auto& names = Names::global();
  for (const auto& node : FlowNodes::global().since(first)) {
    found.append(py::make_tuple(reinterpret_cast<uintptr_t>(node.code), node.offset, borrowed(names.object(node.op)),
                                borrowed(names.object(node.module)), node.is_leaf, node.made_at));
  }
  return found;
}

// The site that made a tensor or wrote it last, the leaf that it is, and the leaf whose memory it has; 0 where there is none.
py::tuple find_flow(const at::Tensor& tensor) {
  auto* impl = tensor.unsafeGetTensorImpl();
  const auto [site, leaf] = Creations::global().find_flow(impl, FlowNodes::global().epoch());
  auto* storage = storage_of(impl);
  return py::make_tuple(site, leaf, storage == nullptr ? NO_FLOW : LeafStorages::global().find(storage));
}

py::list held_by_program(Observer& observer) {
  py::list found;
  for (const auto& [creation, graphs] : held_graphs(*observer.log_of(this_thread()), observer.logs())) {
    py::list heads;
    for (const auto& head : graphs.heads) heads.append(stolen(THPVariable_Wrap(head)));
    found.append(py::make_tuple(place_of(creation.code, creation.offset), borrowed(Names::global().object(creation.op)), heads,
                                graphs.bytes, graphs.number, graphs.nodes, graphs.old_nodes, graphs.unused_nodes, graphs.iterations.size(),
                                count_places(graphs.places), py::cast(graphs.samples)));
  }
  return found;
}

py::dict mirrored_constants() {
  py::dict constants;
  constants["NO_OPS"] = static_cast<int>(NO_OPS);
  constants["OPS_ON_GRAD_TENSORS"] = static_cast<int>(OPS_ON_GRAD_TENSORS);
  constants["ALL_OPS"] = static_cast<int>(ALL_OPS);
  constants["SKIPPED"] = static_cast<int>(SKIPPED);
  constants["USER"] = static_cast<int>(USER);
  constants["MODULE_CALL"] = static_cast<int>(MODULE_CALL);
  constants["OPTIMIZER"] = static_cast<int>(OPTIMIZER);
  constants["OWN"] = static_cast<int>(OWN);
  constants["ASKS_MODE"] = ASKS_MODE;
  constants["FORWARD"] = static_cast<int>(FORWARD);
  constants["BACKWARD"] = static_cast<int>(BACKWARD);
  constants["IN_OPTIMIZER"] = static_cast<int>(IN_OPTIMIZER);
  constants["CALLS"] = static_cast<int>(CALLS);
  constants["NODES"] = static_cast<int>(NODES);
  constants["VERSION_BUMPS"] = static_cast<int>(VERSION_BUMPS);
  constants["COUNTERS_CREATED"] = static_cast<int>(COUNTERS_CREATED);
  constants["TRACKED_VIEWS"] = static_cast<int>(TRACKED_VIEWS);
  constants["UNTRACKED_VIEWS"] = static_cast<int>(UNTRACKED_VIEWS);
  constants["INFERENCE_OUTPUTS"] = static_cast<int>(INFERENCE_OUTPUTS);
  constants["NORMAL_OUTPUTS"] = static_cast<int>(NORMAL_OUTPUTS);
  constants["UNCOUNTED_WRITES"] = static_cast<int>(UNCOUNTED_WRITES);
  constants["HOOKED"] = static_cast<int>(HOOKED);
  constants["FAILED_VERSION_READS"] = static_cast<int>(FAILED_VERSION_READS);
  constants["NORMAL_WITHOUT_COUNTER"] = static_cast<int>(NORMAL_WITHOUT_COUNTER);
  constants["INFERENCE_WITH_COUNTER"] = static_cast<int>(INFERENCE_WITH_COUNTER);
  constants["NUMBER_OF_COUNTS"] = static_cast<int>(NUMBER_OF_COUNTS);
  constants["ACTION_MASK"] = static_cast<int>(ACTION_MASK);
  constants["COPIED_ONTO_ITSELF"] = static_cast<int>(COPIED_ONTO_ITSELF);
  constants["COMPARED_WITH_ITSELF"] = static_cast<int>(COMPARED_WITH_ITSELF);
  constants["STACKED_ON_ITSELF"] = static_cast<int>(STACKED_ON_ITSELF);
  constants["EXIT"] = static_cast<int>(EXIT);
  constants["INFERENCE_MODE"] = static_cast<int>(INFERENCE_MODE);
  constants["ESCAPED_TENSORS"] = static_cast<int>(ESCAPED_TENSORS);
  constants["THREAD"] = static_cast<int>(THREAD);
  constants["TALLY"] = static_cast<int>(TALLY);
  constants["NOWHERE"] = static_cast<int>(NOWHERE);
  constants["OP_ROWS"] = static_cast<int>(OP_ROWS);
  constants["OP_BATCH"] = static_cast<int>(OP_BATCH);
  constants["NOT_COUNTED"] = static_cast<int>(NOT_COUNTED);
  constants["NOT_READ"] = static_cast<int>(NOT_READ);
  constants["CARRIED"] = static_cast<int>(CARRIED);
  constants["WITHOUT_GRAD"] = static_cast<int>(WITHOUT_GRAD);
  constants["CUT_BY_NO_GRAD"] = static_cast<int>(CUT_BY_NO_GRAD);
  constants["CUT_BY_INFERENCE"] = static_cast<int>(CUT_BY_INFERENCE);
  constants["CUT_BY_DETACH"] = static_cast<int>(CUT_BY_DETACH);
  constants["CUT_BY_DATA"] = static_cast<int>(CUT_BY_DATA);
  constants["WRITTEN"] = static_cast<int>(WRITTEN);
  constants["NOT_DIFFERENTIABLE"] = static_cast<int>(NOT_DIFFERENTIABLE);
  return constants;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  try {
    take_key();
  } catch (const c10::Error& error) {
    throw py::import_error(std::string("another library observes operators by the same key: ") + error.what_without_backtrace());
  }
  py::class_<ThreadLog, std::shared_ptr<ThreadLog>>(module, "ThreadLog")
      .def("settle", &ThreadLog::settle, "Emit the operators of this thread, which has changed its mode.")
      .def("end", &ThreadLog::end, "Emit what this thread left, which has ended.")
      .def("add_by_hand", &ThreadLog::add_by_hand, "Add what the program did by hand at a line.")
      .def("drop_detectors", [](ThreadLog& log) { log.detectors.reset(); },
           "Forget the detectors, which refer to this log; for the thread itself, once it is observed no more.")
      .def("set_interest",
           [](ThreadLog& log, int interest) { log.interest = interest; })
      .def("set_quiet", [](ThreadLog& log, bool is_quiet) { log.events.is_quiet = is_quiet; })
      .def("origins_between",
           [](ThreadLog& log, uint64_t first, uint64_t last) {
             py::list found;
             for (const auto& origin : log.origins_between(first, last)) {
               found.append(py::make_tuple(reinterpret_cast<uintptr_t>(origin.code), origin.offset));
             }
             return found;
           })
      .def("writer_of", [](ThreadLog& log, uintptr_t storage) -> py::object {
        const auto place = log.writer_of(storage);
        if (!place) return py::none();
        return py::make_tuple(reinterpret_cast<uintptr_t>(place->first), place->second);
      });
  py::class_<Observer, std::shared_ptr<Observer>>(module, "Observer")
      .def(py::init<py::dict>())
      .def("attach", &attach, "Observe the calling thread.")
      .def("log_of", &Observer::log_of, "Return the log of a thread.")
      .def("flush_all", &Observer::flush_all, "Emit the operators of all threads so far.")
      .def("forget_thread", &Observer::forget_thread, "Emit the operators of a thread and forget it.")
      .def("begin_backward", &note_backward, "Note a backward from these roots; return its line, what it asks for and its nodes.")
      .def("make_gate", &make_gate, "Return a callable that passes manager events on to another one, after the operators before each.")
      .def("was_reached", &was_reached, "Return whether a backward has gone through the node of a tensor.")
      .def("note_export", &note_export, "Note that code beyond PyTorch gets the values of a tensor at a line.")
      .def("begin_step", &note_step, "Note that an optimizer steps with these parameters, called at a line.")
      .def("take_flow", &Observer::take_flow, "Return the edges and the paths that were used since the last time.")
      .def("held_graphs", &held_by_program, "Return the graphs that the program holds.")
      .def("take_escaped", [](Observer& observer) { return describe_all(observer.escaped().take()); },
           "Return the records of the inference tensors that exist beyond their block, once.")
      .def("request_look", [](Observer& observer) { observer.escaped().request_look(); },
           "Let the places of these tensors be looked for as the next thread leaves inference mode.")
      .def("latest_escaped", [](Observer& observer) { return describe_all(observer.escaped().latest_of_lines()); },
           "Return the records of the latest of them by line.")
      .def("last_escaped",
           [](Observer& observer) {
             const auto latest = observer.escaped().latest();
             return latest ? py::object(describe(py::none(), *latest)) : py::none();
           },
           "Return the record of the last of them, without a reference to it, or None.")
      .def("set_parts", &Observer::set_parts, "Note the parts of composite operators too, or not.")
      .def("set_tasks", &Observer::set_tasks, "Ask for the asyncio task of each operator, or not.")
      .def("stop", &Observer::stop, "Observe nothing more.");
  py::class_<QueueEncoder>(module, "QueueEncoder")
      .def(py::init<py::dict, uint64_t>())
      .def("encode", &QueueEncoder::encode, "Return the columns of events, and the rows of the operators among them.");
  module.def("include_key", &include_key, "Let the operators of the calling thread be observed, or not.");
  module.def("is_key_included", &is_key_included, "Return whether the operators of the calling thread are observed.");
  module.def("find_creation", &find_creation, "Return the record of a tensor, or None.");
  module.def("living", [] { return describe_all(Creations::global().living()); }, "Return the records of all tensors.");
  module.def(
      "forget",
      [](const py::object& tensor) {
        Creations::global().forget(THPVariable_Unpack(tensor.ptr()).unsafeGetTensorImpl());
      },
      "Drop the record of a tensor.");
  module.def(
      "forget_instances",
      [](const py::object& type) {
        Creations::global().forget_if([&type](const at::Tensor& tensor) {
          PyObject* object = tensor.unsafeGetTensorImpl()->pyobj_slot()->load_pyobj();
          return object != nullptr && PyObject_TypeCheck(object, reinterpret_cast<PyTypeObject*>(type.ptr()));
        });
      },
      "Drop the records of the tensors of a type.");
  module.def("is_running", [] { return running_since != UINT64_MAX; }, "Return whether the thread runs an operator.");
  module.def("module_paths_changed", [](const py::args&) { ++module_paths_changed; }, "Forget what threads know of the paths of modules.");
  module.def(
      "show_refusals",
      [](const py::object& on_refusal, std::vector<std::string> words) {
        RefusalListener::global() = {on_refusal.is_none() ? py::object() : on_refusal, std::move(words)};
      },
      "Show exceptions of operators, those whose text has one of the words, or no more if the callable is None.");
  module.def("show_errors_of_call", &show_errors_of_call, "Return a callable that shows the exceptions which leave another one, and its calls.",
             py::arg("original"), py::arg("on_error"), py::arg("on_call") = py::none());
  module.def("show_errors_of_attribute", &show_errors_of_attribute, "Return a descriptor that shows the exceptions of another one.",
             py::arg("original"), py::arg("on_error"), py::arg("on_none") = py::none());
  module.def("clear_saved", [] {
    SavedStorages::global().clear();
    UnseenWrites::global().clear();
  }, "Release the addresses of saved storages.");
  module.def("reachable_ranges", [](const std::vector<at::Tensor>& roots) { return begin_backward({}, nullptr, {}, roots).ranges; },
             "Return the sequence numbers of the nodes behind tensors, as ranges.");
  module.def("sample_values", &sample_values, "Return a few elements of a tensor as numbers, none if they cannot be read.");
  module.def("hash_random_state", &hash_random_state, "Return a number for the state of the random generator.");
  module.def("flow_nodes", &take_flow_nodes, "Return the sites and leaves of the flow from a number on.");
  module.def("leaf_number", [](const at::Tensor& leaf) { return flow_of_leaf(leaf); }, "Return the number of a leaf in the flow.");
  module.def("find_flow", &find_flow, "Return the numbers of a tensor in the flow: its site, its leaf, the leaf whose memory it has.");
  module.def("clear_flow", [] {
    FlowNodes::global().clear();
    LeafStorages::global().clear();
  }, "Forget the sites and leaves of the flow.");
  pthread_atfork(&lock_all, &unlock_all, &unlock_all);
  module.attr("KEYS") = py::cast(c10::DispatchKeySet(KEY));
  module.attr("CONSTANTS") = mirrored_constants();
}

}  // namespace gradprobe
