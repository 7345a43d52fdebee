# FindTensorRT: the headers of TensorRT 8.5.1 or newer, and of CUDA, which they include.
#
# Nothing of TensorRT is linked: the library is opened by name at run time (tensorrt_library.cpp), so
# the headers are all that a build needs. They come with JetPack, with Debian's packages
# (libnvinfer-headers-dev) or with NVIDIA's tar file; no Python wheel has them.
#
#   TensorRT_ROOT             a tar file's folder; or -DTensorRT_INCLUDE_DIR=FOLDER
#   CUDAToolkit_ROOT          CUDA's folder;       or -DTensorRT_CUDA_INCLUDE_DIR=FOLDER
#
#   TensorRT_FOUND, TensorRT_VERSION
#   TensorRT::headers         headers alone
#   TensorRT::nvinfer, TensorRT::lean   the libraries, where they are found: for others who link them
#   TensorRT_LIBRARY_DIR      folder of the library, also one that the loader does not search: a
#                             tar file's, a wheel's

set(vad_machine "${CMAKE_SYSTEM_PROCESSOR}")
if(vad_machine MATCHES "^(aarch64|arm64)$")
  # JetPack and SBSA; a cross-compiler looks below CMAKE_FIND_ROOT_PATH first.
  set(vad_multiarch aarch64-linux-gnu)
  set(vad_cuda_targets targets/aarch64-linux/include targets/sbsa-linux/include)
else()
  set(vad_multiarch x86_64-linux-gnu)
  set(vad_cuda_targets targets/x86_64-linux/include)
endif()

find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h
  HINTS ${TensorRT_ROOT} $ENV{TensorRT_ROOT}
  PATHS /usr/src/tensorrt /usr/local/tensorrt /opt/tensorrt
  PATH_SUFFIXES include include/${vad_multiarch}
  DOC "Folder of NvInferRuntime.h")
file(GLOB vad_cuda_folders /usr/local/cuda-[0-9]*)
list(SORT vad_cuda_folders COMPARE NATURAL ORDER DESCENDING)
find_path(TensorRT_CUDA_INCLUDE_DIR cuda_runtime_api.h
  HINTS ${CUDAToolkit_ROOT} $ENV{CUDAToolkit_ROOT} $ENV{CUDA_PATH} $ENV{CUDA_HOME}
  PATHS /usr/local/cuda ${vad_cuda_folders}
  PATH_SUFFIXES include ${vad_cuda_targets}
  DOC "Folder of cuda_runtime_api.h")

# From 10.13 on, NV_TENSORRT_MAJOR is defined as TRT_MAJOR_ENTERPRISE, and that as a number.
set(TensorRT_VERSION "")
if(TensorRT_INCLUDE_DIR AND EXISTS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h")
  file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" vad_lines REGEX "^#define [A-Z_]+ +[A-Z0-9_]+")
  set(vad_numbers "")
  foreach(part MAJOR MINOR PATCH)
    set(vad_name NV_TENSORRT_${part})
    set(vad_number "")
    foreach(step 1 2 3)  # names that stand for names
      foreach(line IN LISTS vad_lines)
        if(line MATCHES "^#define ${vad_name} +([A-Z0-9_]+)")
          set(vad_number "${CMAKE_MATCH_1}")
          break()
        endif()
      endforeach()
      if(vad_number MATCHES "^[0-9]+$")
        break()
      endif()
      set(vad_name "${vad_number}")
    endforeach()
    if(vad_number MATCHES "^[0-9]+$")
      list(APPEND vad_numbers "${vad_number}")
    endif()
  endforeach()
  list(LENGTH vad_numbers vad_count)
  if(vad_count EQUAL 3)
    list(JOIN vad_numbers "." TensorRT_VERSION)
    list(GET vad_numbers 0 vad_major)
  endif()
endif()

# Wheels bring no unversioned links, and lie where no loader looks.
if(TensorRT_VERSION)
  set(vad_wheels "")
  if(NOT CMAKE_CROSSCOMPILING)
    file(GLOB vad_wheels
      "${PROJECT_SOURCE_DIR}/.venv/lib/python3.*/site-packages/tensorrt_libs"
      "${PROJECT_SOURCE_DIR}/.venv/lib/python3.*/site-packages/tensorrt_lean_libs")
  endif()
  foreach(pair LIBRARY:nvinfer LEAN_LIBRARY:nvinfer_lean)
    string(REPLACE ":" ";" pair "${pair}")
    list(GET pair 0 vad_variable)
    list(GET pair 1 vad_stem)
    find_library(TensorRT_${vad_variable}
      NAMES lib${vad_stem}.so.${vad_major} ${vad_stem}
      HINTS ${TensorRT_ROOT} $ENV{TensorRT_ROOT} "${TensorRT_INCLUDE_DIR}/.."
      PATHS ${vad_wheels} /usr/local/tensorrt /opt/tensorrt
      PATH_SUFFIXES lib lib64 lib/${vad_multiarch} targets/${vad_machine}-linux-gnu/lib
      DOC "lib${vad_stem}.so.${vad_major}")
    mark_as_advanced(TensorRT_${vad_variable})
  endforeach()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_INCLUDE_DIR TensorRT_VERSION TensorRT_CUDA_INCLUDE_DIR
  VERSION_VAR TensorRT_VERSION)
if(TensorRT_FOUND AND TensorRT_VERSION VERSION_LESS 8.5.1)
  # Without tensor names and enqueueV3.
  if(NOT TensorRT_FIND_QUIETLY)
    message(STATUS "TensorRT ${TensorRT_VERSION} is too old: 8.5.1 or newer is needed")
  endif()
  set(TensorRT_FOUND FALSE)
endif()
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_CUDA_INCLUDE_DIR)

set(TensorRT_LIBRARY_DIR "")
if(TensorRT_FOUND AND NOT TARGET TensorRT::headers)
  add_library(TensorRT::headers INTERFACE IMPORTED)
  # SYSTEM: their warnings are NVIDIA's.
  target_include_directories(TensorRT::headers SYSTEM INTERFACE
    "${TensorRT_INCLUDE_DIR}" "${TensorRT_CUDA_INCLUDE_DIR}")
  foreach(pair nvinfer:LIBRARY lean:LEAN_LIBRARY)
    string(REPLACE ":" ";" pair "${pair}")
    list(GET pair 0 vad_target)
    list(GET pair 1 vad_variable)
    if(TensorRT_${vad_variable})
      add_library(TensorRT::${vad_target} UNKNOWN IMPORTED)
      set_target_properties(TensorRT::${vad_target} PROPERTIES
        IMPORTED_LOCATION "${TensorRT_${vad_variable}}")
      target_link_libraries(TensorRT::${vad_target} INTERFACE TensorRT::headers)
    endif()
  endforeach()
endif()
if(TensorRT_FOUND AND TensorRT_LIBRARY)
  get_filename_component(TensorRT_LIBRARY_DIR "${TensorRT_LIBRARY}" DIRECTORY)
elseif(TensorRT_FOUND AND TensorRT_LEAN_LIBRARY)
  get_filename_component(TensorRT_LIBRARY_DIR "${TensorRT_LEAN_LIBRARY}" DIRECTORY)
endif()
if(TensorRT_LIBRARY_DIR AND NOT CMAKE_CROSSCOMPILING)
  # Where the program looks after the loader has found nothing.
  set_property(TARGET TensorRT::headers PROPERTY INTERFACE_COMPILE_DEFINITIONS
    "VAD_TENSORRT_LIBRARY_DIR=\"${TensorRT_LIBRARY_DIR}\"")
endif()
