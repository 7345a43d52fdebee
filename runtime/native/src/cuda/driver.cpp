#include "driver.hpp"

#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include <dlfcn.h>

namespace vad::cuda {
namespace {

constexpr const char* library_name = "libcuda.so.1";
constexpr const char* cpu_instead =
    ", or, to run on the processor, use --backend openvino --device cpu.";

// CUdevice_attribute and CUresult, from cuda.h.
constexpr int integrated_attribute = 18;
constexpr int sm_major_attribute = 75;
constexpr int sm_minor_attribute = 76;
constexpr Result no_device = 100;

void* library() {
  static void* const handle = [] {
    void* opened = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) {
      const char* why = dlerror();
      throw NoDriver(std::string("No NVIDIA driver here (") + (why != nullptr ? why : "no reason") +
                     "). Install it (a container needs `--gpus all`)" + cpu_instead);
    }
    return opened;  // never closed: other libraries in this process use it too
  }();
  return handle;
}

template <typename Function>
bool find(Function*& function, const char* name) {
  function = reinterpret_cast<Function*>(dlsym(library(), name));
  return function != nullptr;
}

template <typename Function>
void need(Function*& function, const char* name) {
  if (!find(function, name)) {
    throw NoDriver(std::string(library_name) +
                   " is no NVIDIA driver, or one that is too old (it has no " + name +
                   "). Update the driver" + cpu_instead);
  }
}

Api loaded() {
  Api api{};
  need(api.init, "cuInit");
  need(api.driver_version, "cuDriverGetVersion");
  need(api.device_count, "cuDeviceGetCount");
  need(api.device_get, "cuDeviceGet");
  need(api.device_name, "cuDeviceGetName");
  need(api.device_memory, "cuDeviceTotalMem_v2");
  need(api.device_attribute, "cuDeviceGetAttribute");
  // _v2 tells the slices of one divided GPU apart; CUDA 13 has no other, old drivers only the other.
  if (!find(api.device_uuid, "cuDeviceGetUuid_v2")) need(api.device_uuid, "cuDeviceGetUuid");
  need(api.context_retain, "cuDevicePrimaryCtxRetain");
  need(api.context_release, "cuDevicePrimaryCtxRelease_v2");
  need(api.context_set, "cuCtxSetCurrent");
  need(api.memory_info, "cuMemGetInfo_v2");
  need(api.memory_alloc, "cuMemAlloc_v2");
  need(api.memory_free, "cuMemFree_v2");
  need(api.memory_set, "cuMemsetD8Async");
  need(api.host_alloc, "cuMemHostAlloc");
  need(api.host_free, "cuMemFreeHost");
  need(api.copy_in, "cuMemcpyHtoDAsync_v2");
  need(api.copy_out, "cuMemcpyDtoHAsync_v2");
  need(api.copy_within, "cuMemcpyDtoDAsync_v2");
  need(api.stream_create, "cuStreamCreate");
  need(api.stream_destroy, "cuStreamDestroy_v2");
  need(api.stream_wait, "cuStreamSynchronize");
  need(api.module_load, "cuModuleLoadData");
  need(api.module_unload, "cuModuleUnload");
  need(api.module_function, "cuModuleGetFunction");
  need(api.launch, "cuLaunchKernel");
  find(api.capture_begin, "cuStreamBeginCapture_v2");
  find(api.capture_end, "cuStreamEndCapture");
  find(api.graph_instantiate, "cuGraphInstantiateWithFlags");
  find(api.graph_destroy, "cuGraphDestroy");
  find(api.graph_launch, "cuGraphLaunch");
  find(api.program_destroy, "cuGraphExecDestroy");
  return api;
}

// What the user can do about a CUresult of cuInit; as in vad_runtime/cuda/driver.py.
const char* cause(Result result) {
  switch (result) {
    case 34:
      return "libcuda.so.1 is the toolkit's stub and no driver; take its folder out of "
             "LD_LIBRARY_PATH";
    case 46:
      return "another program holds the GPU alone; end that program (`nvidia-smi` lists it)";
    case 101:
      return "CUDA_VISIBLE_DEVICES names a GPU that is not there; correct it";
    case 802:
      return "the driver is still starting; try again in a minute, or start nvidia-fabricmanager";
    case 803:
      return "kernel module and libcuda are of different versions; restart the machine";
    case 804:
      return "the CUDA compatibility package does not support this GPU; remove it or update the "
             "driver";
    default:
      return "check `nvidia-smi`, and that this user may open /dev/nvidia* (on a Jetson: group "
             "video)";
  }
}

std::string no_gpu_text() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible != nullptr) {
    return std::string("The NVIDIA driver shows no GPU because of CUDA_VISIBLE_DEVICES='") +
           visible + "'. Unset it" + cpu_instead;
  }
  return std::string(
             "The NVIDIA driver finds no GPU. Check `nvidia-smi` (a container needs "
             "`--gpus all`)") +
         cpu_instead;
}

std::string uuid_text(const std::array<std::uint8_t, 16>& raw) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text = "GPU-";
  for (std::size_t i = 0; i < raw.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += digits[raw[i] >> 4];
    text += digits[raw[i] & 15];
  }
  return text;
}

int attribute(int which, int device) {
  int value = 0;
  check("cuDeviceGetAttribute", api().device_attribute(&value, which, device));
  return value;
}

Gpu gpu_at(int index) {
  int device = 0;
  check("cuDeviceGet", api().device_get(&device, index));
  std::array<char, 256> name{};
  check("cuDeviceGetName",
        api().device_name(name.data(), static_cast<int>(name.size()) - 1, device));
  std::array<std::uint8_t, 16> uuid{};
  check("cuDeviceGetUuid", api().device_uuid(uuid.data(), device));
  Gpu gpu;
  gpu.index = index;
  gpu.name = name.data();
  check("cuDeviceTotalMem", api().device_memory(&gpu.memory_bytes, device));
  gpu.sm = 10 * attribute(sm_major_attribute, device) + attribute(sm_minor_attribute, device);
  gpu.integrated = attribute(integrated_attribute, device) != 0;
  gpu.uuid = uuid_text(uuid);
  return gpu;
}

std::vector<Gpu> asked() {
  const Result result = api().init(0);
  if (result != 0 && result != no_device) {
    throw NoDriver("The NVIDIA driver does not start: " + error_text(result) + ": " +
                   cause(result) + cpu_instead);
  }
  try {
    int count = 0;
    if (result != no_device) check("cuDeviceGetCount", api().device_count(&count));
    if (count == 0) throw NoDriver(no_gpu_text());
    std::vector<Gpu> found;
    for (int index = 0; index < count; ++index) found.push_back(gpu_at(index));
    return found;
  } catch (const NoDriver&) {
    throw;
  } catch (const Error& error) {
    throw NoDriver(std::string("The NVIDIA driver does not answer: ") + error.what());
  }
}

}  // namespace

const Api& api() {
  static const Api loaded_once = loaded();  // a failure is tried again
  return loaded_once;
}

std::string error_text(Result result) {
  std::string texts[2];
  const char* calls[2] = {"cuGetErrorName", "cuGetErrorString"};
  for (int i = 0; i < 2; ++i) {
    Result (*ask)(Result, const char**) = nullptr;
    const char* text = nullptr;
    if (!find(ask, calls[i]) || ask(result, &text) != 0 || text == nullptr || *text == '\0') {
      return "CUDA error " + std::to_string(result);
    }
    texts[i] = text;
  }
  return texts[0] + " (" + std::to_string(result) + ", " + texts[1] + ")";
}

void check(const char* call, Result result) {
  if (result != 0) {
    throw Error(std::string(call) + " failed: " + error_text(result) + ". Check `nvidia-smi`.");
  }
}

bool driver_installed() noexcept {
  try {
    return library() != nullptr;
  } catch (const std::exception&) {
    return false;
  }
}

const std::vector<Gpu>& gpus() {
  static const std::vector<Gpu> found = asked();
  return found;
}

std::string driver_version() {
  gpus();
  int version = 0;
  check("cuDriverGetVersion", api().driver_version(&version));
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

Gpu gpu_of(const std::string& device) {
  constexpr std::size_t prefix = 5;  // `cuda:`
  std::size_t index = 0;
  if (device.compare(0, prefix, "cuda:") == 0) {
    const std::string digits = device.substr(prefix);
    const bool number = !digits.empty() && digits.size() <= 4 &&
                        digits.find_first_not_of("0123456789") == std::string::npos;
    if (!number) throw Error("`" + device + "` is no GPU. Use --device cuda or --device cuda:N.");
    index = std::stoul(digits);
  } else if (device != "auto" && device != "cuda") {
    throw Error("`" + device + "` is no GPU. Use --device cuda or --device cuda:N.");
  }
  const std::vector<Gpu>& all = gpus();
  if (index < all.size()) return all[index];
  std::string known;
  for (const Gpu& gpu : all) {
    if (!known.empty()) known += ", ";
    known += "cuda:" + std::to_string(gpu.index) + " (" + gpu.name + ")";
  }
  throw Error("There is no GPU cuda:" + std::to_string(index) + " here. Use one of: " + known +
              ".");
}

}  // namespace vad::cuda
