#include <utility>

#include "driver.hpp"

namespace vad::cuda {
namespace {

constexpr unsigned non_blocking = 1;  // CU_STREAM_NON_BLOCKING: the default stream holds it not up
constexpr int thread_local_mode = 1;  // other threads may allocate during our capture

bool has_graphs() {
  const Api& calls = api();
  return calls.capture_begin != nullptr && calls.capture_end != nullptr &&
         calls.graph_instantiate != nullptr && calls.graph_destroy != nullptr &&
         calls.graph_launch != nullptr && calls.program_destroy != nullptr;
}

}  // namespace

Stream::Stream(std::shared_ptr<Device> device) : device_(std::move(device)) {
  device_->activate();
  check("cuStreamCreate", api().stream_create(&handle_, non_blocking));
}

Stream::~Stream() {
  try {
    device_->activate();
    api().stream_wait(handle_);
    api().stream_destroy(handle_);
  } catch (const Error&) {  // told where the work was waited for
  }
}

void Stream::copy_in(std::uint8_t* to_device, const void* from_host, std::size_t bytes) {
  device_->activate();
  check("cuMemcpyHtoDAsync", api().copy_in(address_of(to_device), from_host, bytes, handle_));
}

void Stream::copy_out(void* to_host, const std::uint8_t* from_device, std::size_t bytes) {
  device_->activate();
  check("cuMemcpyDtoHAsync", api().copy_out(to_host, address_of(from_device), bytes, handle_));
}

void Stream::copy_within(std::uint8_t* to_device, const std::uint8_t* from_device,
                         std::size_t bytes) {
  device_->activate();
  check("cuMemcpyDtoDAsync",
        api().copy_within(address_of(to_device), address_of(from_device), bytes, handle_));
}

void Stream::synchronise() {
  device_->activate();
  check("cuStreamSynchronize", api().stream_wait(handle_));
}

std::unique_ptr<Graph> Stream::capture(const std::function<void()>& enqueue, std::string& why) {
  device_->activate();
  if (!has_graphs()) {
    why = "this driver has no CUDA graphs";
    return nullptr;
  }
  const auto refused = [&why](const char* call, Result result) {
    why = std::string(call) + ": " + error_text(result);
    return nullptr;
  };
  Result result = api().capture_begin(handle_, thread_local_mode);
  if (result != 0) return refused("cuStreamBeginCapture", result);
  void* graph = nullptr;
  try {
    enqueue();
  } catch (...) {
    // The stream must not stay in capture, or every later call on it would fail.
    api().capture_end(handle_, &graph);
    if (graph != nullptr) api().graph_destroy(graph);
    throw;
  }
  result = api().capture_end(handle_, &graph);
  if (result != 0 || graph == nullptr) return refused("cuStreamEndCapture", result);
  void* program = nullptr;
  result = api().graph_instantiate(&program, graph, 0);
  api().graph_destroy(graph);
  if (result != 0) return refused("cuGraphInstantiate", result);
  why.clear();
  return std::unique_ptr<Graph>(new Graph(device_, program));
}

Graph::~Graph() {
  try {
    device_->activate();
    api().program_destroy(program_);
  } catch (const Error&) {
  }
}

void Graph::launch(Stream& stream) {
  device_->activate();
  const Result result = api().graph_launch(program_, stream.handle());
  if (result != 0) {
    throw Error("cuGraphLaunch failed: " + error_text(result) + ". Try --no-cuda-graphs.");
  }
}

}  // namespace vad::cuda
