// What is used of libcuda.so.1, by name. The types are those of cuda.h, spelled out so that no
// toolkit is needed: handles are pointers, a device is an int, an address 64 bits.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "vad/cuda.hpp"

namespace vad::cuda {

using Result = int;  // CUresult; 0 = success
using Address = std::uint64_t;

struct Api {
  Result (*init)(unsigned);
  Result (*driver_version)(int*);
  Result (*device_count)(int*);
  Result (*device_get)(int*, int);
  Result (*device_name)(char*, int, int);
  Result (*device_memory)(std::size_t*, int);
  Result (*device_attribute)(int*, int, int);
  Result (*device_uuid)(std::uint8_t*, int);
  Result (*context_retain)(void**, int);
  Result (*context_release)(int);
  Result (*context_set)(void*);
  Result (*memory_info)(std::size_t*, std::size_t*);
  Result (*memory_alloc)(Address*, std::size_t);
  Result (*memory_free)(Address);
  Result (*memory_set)(Address, std::uint8_t, std::size_t, void*);
  Result (*host_alloc)(void**, std::size_t, unsigned);
  Result (*host_free)(void*);
  Result (*copy_in)(Address, const void*, std::size_t, void*);
  Result (*copy_out)(void*, Address, std::size_t, void*);
  Result (*copy_within)(Address, Address, std::size_t, void*);
  Result (*stream_create)(void**, unsigned);
  Result (*stream_destroy)(void*);
  Result (*stream_wait)(void*);
  Result (*module_load)(void**, const void*);
  Result (*module_unload)(void*);
  Result (*module_function)(void**, void*, const char*);
  Result (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                   void*, void**, void**);
  // nullptr where the driver is too old for graphs.
  Result (*capture_begin)(void*, int);
  Result (*capture_end)(void*, void**);
  Result (*graph_instantiate)(void**, void*, unsigned long long);
  Result (*graph_destroy)(void*);
  Result (*graph_launch)(void*, void*);
  Result (*program_destroy)(void*);
};

// Loaded, not initialised. Throws NoDriver.
const Api& api();
// `CUDA_ERROR_NO_DEVICE (100, no CUDA-capable device is detected)`.
std::string error_text(Result result);
// Throws Error unless the call succeeded.
void check(const char* call, Result result);

inline Address address_of(const std::uint8_t* data) { return reinterpret_cast<Address>(data); }

}  // namespace vad::cuda
