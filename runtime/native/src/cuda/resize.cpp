#include <stdexcept>
#include <utility>

#include "driver.hpp"
#include "resize_arguments.hpp"

namespace vad::cuda {

#ifdef VAD_HAVE_CUDA_KERNELS
extern const unsigned char resize_fatbin[];  // made by cmake/VadCudaArray.cmake
#endif

bool kernels_built() noexcept {
#ifdef VAD_HAVE_CUDA_KERNELS
  return true;
#else
  return false;
#endif
}

std::string no_kernels(const std::shared_ptr<Device>& device) {
  try {
    DeviceResizer(device, {1, 1, Colour::gray, Interpolation::area});
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

DeviceResizer::DeviceResizer(std::shared_ptr<Device> device, const Target& target)
    : device_(std::move(device)), target_(target) {
  constexpr int most = 65535;
  if (target.width < 1 || target.height < 1 || target.width > most || target.height > most) {
    throw std::invalid_argument("a target must be 1..65535 pixels wide and high");
  }
#ifdef VAD_HAVE_CUDA_KERNELS
  constexpr Result invalid_image = 200;
  constexpr Result no_binary = 209;
  constexpr Result unsupported_ptx = 222;
  device_->activate();
  const Result result = api().module_load(&module_, resize_fatbin);
  if (result == invalid_image || result == no_binary || result == unsupported_ptx) {
    throw Error("The CUDA kernels of this build do not run on " + device_->gpu().name + " (SM " +
                std::to_string(device_->gpu().sm) + ", driver for CUDA " + driver_version() +
                ": " + error_text(result) +
                "). Build with -DVAD_CUDA_ARCHITECTURES=" + std::to_string(device_->gpu().sm) +
                " and a CUDA toolkit that is not newer than the driver.");
  }
  check("cuModuleLoadData", result);
  const Result found = api().module_function(&kernel_, module_, "vad_resize");
  if (found != 0) {
    api().module_unload(module_);
    check("cuModuleGetFunction", found);
  }
#else
  throw Error(
      "This build of vad-edge has no CUDA kernels. Build it with -DVAD_CUDA=ON on a machine with "
      "nvcc.");
#endif
}

DeviceResizer::~DeviceResizer() {
  if (module_ == nullptr) return;
  try {
    device_->activate();
    api().module_unload(module_);
  } catch (const Error&) {
  }
}

void DeviceResizer::operator()(const Image& image, std::uint8_t* out, Stream& stream) {
  ResizeArguments arguments = resize_arguments(image, target_, out);
  const auto blocks = [](int size, unsigned block) {
    return (static_cast<unsigned>(size) + block - 1) / block;
  };
  void* parameters[] = {&arguments};
  device_->activate();
  check("cuLaunchKernel",
        api().launch(kernel_, blocks(target_.width, kBlockX), blocks(target_.height, kBlockY), 1,
                     kBlockX, kBlockY, 1, 0, stream.handle(), parameters, nullptr));
}

}  // namespace vad::cuda
