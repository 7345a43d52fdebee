# Optional libraries: VAD_<NAME>=AUTO|ON|OFF. AUTO takes what is there, ON fails where it is missing,
# OFF does not look. One table says what came of it.

set(vad_summary "")

# vad_option(NAME DEFAULT "what for"): the cache entry.
function(vad_option name default what)
  set(VAD_${name} ${default} CACHE STRING "${what} (AUTO, ON or OFF)")
  set_property(CACHE VAD_${name} PROPERTY STRINGS AUTO ON OFF)
  if(NOT VAD_${name} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "VAD_${name} is \"${VAD_${name}}\". It must be AUTO, ON or OFF.")
  endif()
endfunction()

# vad_note(NAME "text"): a line of the table.
macro(vad_note name text)
  list(APPEND vad_summary "${name}: ${text}")
endmacro()

# vad_decide(NAME FOUND "version" "how to get it"): sets VAD_WITH_<NAME>, or ends with an error.
macro(vad_decide name found version remedy)
  if(${found})
    set(VAD_WITH_${name} TRUE)
    vad_note(${name} "${version}")
  elseif(VAD_${name} STREQUAL "ON")
    message(FATAL_ERROR "VAD_${name}=ON, but it was not found. ${remedy}")
  else()
    set(VAD_WITH_${name} FALSE)
    vad_note(${name} "not found. ${remedy}")
  endif()
endmacro()

function(vad_print_summary)
  message(STATUS "vad-edge ${PROJECT_VERSION} for ${CMAKE_SYSTEM_PROCESSOR}, optional libraries:")
  foreach(line IN LISTS vad_summary)
    message(STATUS "  ${line}")
  endforeach()
  if(NOT (VAD_WITH_OPENVINO OR VAD_WITH_ONNXRUNTIME OR VAD_WITH_TENSORRT))
    message(STATUS "  No engine was found: this build runs no bundle (docs/native.md, \"Build it\").")
  endif()
  if(VAD_WITH_OPENVINO AND OpenVINO_DIR MATCHES "site-packages" AND NOT VAD_INSTALL_RPATH)
    get_filename_component(libraries "${OpenVINO_DIR}/../libs" ABSOLUTE)
    message(STATUS "  What is installed finds OpenVINO with -DVAD_INSTALL_RPATH=${libraries}")
  endif()
endfunction()

vad_option(FFMPEG AUTO "Read films and streams with FFmpeg 4.4 or newer")
vad_option(GSTREAMER AUTO "Read pipelines with GStreamer 1.16 or newer")
# Not by itself: for one resizer it would become a dependency of the whole, and Debian's brings a TBB
# that takes the place of OpenVINO's.
vad_option(OPENCV OFF "Resize with OpenCV for bundles with the resizer 'exact'")
vad_option(OPENVINO AUTO "Run bundles with OpenVINO 2024.3 or newer")
vad_option(ONNXRUNTIME AUTO "Run bundles with ONNX Runtime")
vad_option(TENSORRT AUTO "Run bundles with TensorRT 8.5.1 or newer")

# A function, so that pkg-config's dozens of variables stay here; targets are made global.
function(vad_find_pkg name target)
  find_package(PkgConfig QUIET)
  set(found FALSE)
  if(PkgConfig_FOUND)
    pkg_check_modules(vad_${name} QUIET IMPORTED_TARGET GLOBAL ${ARGN})
    set(found ${vad_${name}_FOUND})
  endif()
  if(found)
    add_library(${target} INTERFACE IMPORTED GLOBAL)
    target_link_libraries(${target} INTERFACE PkgConfig::vad_${name})
    list(GET ARGN 0 first)
    string(REGEX REPLACE "[<>=].*" "" first "${first}")
    set(vad_version "${vad_${name}_${first}_VERSION}" PARENT_SCOPE)
  endif()
  set(vad_found ${found} PARENT_SCOPE)
endfunction()

if(VAD_FFMPEG STREQUAL "OFF")
  vad_note(FFMPEG "off")
else()
  # FFmpeg 4.4 brought libavformat 58.76; its other libraries come from the same release.
  vad_find_pkg(FFMPEG VadDep::FFMPEG libavformat>=58.76 libavcodec libavutil libswscale)
  vad_decide(FFMPEG vad_found "libavformat ${vad_version}"
    "Debian, Ubuntu: scripts/system-packages ffmpeg")
endif()

if(VAD_GSTREAMER STREQUAL "OFF")
  vad_note(GSTREAMER "off")
else()
  vad_find_pkg(GSTREAMER VadDep::GSTREAMER
    gstreamer-1.0>=1.16 gstreamer-app-1.0 gstreamer-video-1.0)
  vad_decide(GSTREAMER vad_found "${vad_version}"
    "Debian, Ubuntu: scripts/system-packages gstreamer")
endif()

if(VAD_OPENCV STREQUAL "OFF")
  vad_note(OPENCV "off")
else()
  find_package(OpenCV QUIET COMPONENTS core imgproc)
  if(OpenCV_FOUND)
    add_library(VadDep::OPENCV INTERFACE IMPORTED)
    target_link_libraries(VadDep::OPENCV INTERFACE ${OpenCV_LIBS})
    target_include_directories(VadDep::OPENCV SYSTEM INTERFACE ${OpenCV_INCLUDE_DIRS})
  endif()
  vad_decide(OPENCV OpenCV_FOUND "${OpenCV_VERSION}"
    "Debian, Ubuntu: scripts/system-packages opencv")
endif()

if(VAD_OPENVINO STREQUAL "OFF")
  vad_note(OPENVINO "off")
else()
  # The wheel brings headers and CMake files; scripts/install puts it here. A wheel is never for
  # another processor.
  set(vad_openvino_hints "")
  if(NOT CMAKE_CROSSCOMPILING)
    file(GLOB vad_openvino_hints
      "${PROJECT_SOURCE_DIR}/.venv/lib/python3.*/site-packages/openvino/cmake")
  endif()
  find_package(OpenVINO QUIET COMPONENTS Runtime HINTS ${vad_openvino_hints})
  if(OpenVINO_FOUND)
    add_library(VadDep::OPENVINO INTERFACE IMPORTED)
    target_link_libraries(VadDep::OPENVINO INTERFACE openvino::runtime)
  endif()
  vad_decide(OPENVINO OpenVINO_FOUND "${OpenVINO_VERSION} (${OpenVINO_DIR})"
    "pip install openvino, then -DOpenVINO_DIR=SITE-PACKAGES/openvino/cmake")
endif()

if(VAD_ONNXRUNTIME STREQUAL "OFF")
  vad_note(ONNXRUNTIME "off")
else()
  find_package(ONNXRuntime QUIET)
  if(ONNXRuntime_FOUND)
    add_library(VadDep::ONNXRUNTIME INTERFACE IMPORTED)
    target_link_libraries(VadDep::ONNXRUNTIME INTERFACE ONNXRuntime::onnxruntime)
  endif()
  vad_decide(ONNXRUNTIME ONNXRuntime_FOUND "${ONNXRuntime_VERSION}"
    "Unpack a release of ONNX Runtime, then -DONNXRuntime_ROOT=FOLDER")
endif()

if(VAD_TENSORRT STREQUAL "OFF")
  vad_note(TENSORRT "off")
else()
  find_package(TensorRT QUIET)
  if(TensorRT_FOUND)
    add_library(VadDep::TENSORRT INTERFACE IMPORTED)
    target_link_libraries(VadDep::TENSORRT INTERFACE TensorRT::headers)
  endif()
  vad_decide(TENSORRT TensorRT_FOUND "${TensorRT_VERSION}"
    "JetPack brings it. Elsewhere unpack NVIDIA's tar file, then -DTensorRT_ROOT=FOLDER")
endif()
