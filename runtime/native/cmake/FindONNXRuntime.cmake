# ONNX Runtime: header and shared library of one release.
#
#   find_package(ONNXRuntime)      -DONNXRuntime_ROOT=FOLDER for an unpacked release
#
# Gives ONNXRuntime_FOUND, ONNXRuntime_VERSION and the target ONNXRuntime::onnxruntime. Not every
# release and distribution brings a CMake file of its own, and the Python wheel has neither that nor
# a header. So this looks for the two files:
#
#   ONNXRuntime_INCLUDE_DIR        the folder of onnxruntime_c_api.h
#   ONNXRuntime_LIBRARY            libonnxruntime.so, also as libonnxruntime.so.1.20.1 in a wheel
#   ONNXRuntime_WHEEL_LIBRARY      the wheel's file, to be installed as libonnxruntime.so.1; unset
#                                  where a loader finds the library under its own name

find_path(ONNXRuntime_INCLUDE_DIR onnxruntime_c_api.h
  PATH_SUFFIXES
    include
    include/onnxruntime
    include/onnxruntime/core/session)  # Debian, and `make install` before 1.15

find_library(ONNXRuntime_LIBRARY onnxruntime PATH_SUFFIXES lib lib64)
if(NOT ONNXRuntime_LIBRARY AND ONNXRuntime_ROOT)
  # A wheel has the library under its full version only, but programs look for its SONAME: a link.
  file(GLOB ONNXRuntime_in_wheel
    "${ONNXRuntime_ROOT}/libonnxruntime.so.*"
    "${ONNXRuntime_ROOT}/lib/libonnxruntime.so.*"
    "${ONNXRuntime_ROOT}/capi/libonnxruntime.so.*")
  if(ONNXRuntime_in_wheel)
    list(GET ONNXRuntime_in_wheel 0 ONNXRuntime_in_wheel)
    set(ONNXRuntime_link "${CMAKE_BINARY_DIR}/onnxruntime/libonnxruntime.so.1")
    file(MAKE_DIRECTORY "${CMAKE_BINARY_DIR}/onnxruntime")
    file(CREATE_LINK "${ONNXRuntime_in_wheel}" "${ONNXRuntime_link}" SYMBOLIC)
    set_property(CACHE ONNXRuntime_LIBRARY PROPERTY VALUE "${ONNXRuntime_link}")
    unset(ONNXRuntime_link)
  endif()
  unset(ONNXRuntime_in_wheel)
endif()

# The header counts only the interface; a release is 1.N for interface N.
if(ONNXRuntime_INCLUDE_DIR)
  file(STRINGS "${ONNXRuntime_INCLUDE_DIR}/onnxruntime_c_api.h" ONNXRuntime_VERSION
    REGEX "^#define ORT_API_VERSION [0-9]+")
  string(REGEX REPLACE "[^0-9]" "" ONNXRuntime_VERSION "${ONNXRuntime_VERSION}")
  set(ONNXRuntime_VERSION "1.${ONNXRuntime_VERSION}")
endif()

# The link stays behind in the build folder: whoever installs a program takes the file along.
unset(ONNXRuntime_WHEEL_LIBRARY)
if(ONNXRuntime_LIBRARY STREQUAL "${CMAKE_BINARY_DIR}/onnxruntime/libonnxruntime.so.1")
  get_filename_component(ONNXRuntime_WHEEL_LIBRARY "${ONNXRuntime_LIBRARY}" REALPATH)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ONNXRuntime
  REQUIRED_VARS ONNXRuntime_LIBRARY ONNXRuntime_INCLUDE_DIR
  VERSION_VAR ONNXRuntime_VERSION)
mark_as_advanced(ONNXRuntime_INCLUDE_DIR ONNXRuntime_LIBRARY)

if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::onnxruntime)
  add_library(ONNXRuntime::onnxruntime SHARED IMPORTED)
  set_target_properties(ONNXRuntime::onnxruntime PROPERTIES
    IMPORTED_LOCATION "${ONNXRuntime_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${ONNXRuntime_INCLUDE_DIR}")
endif()
