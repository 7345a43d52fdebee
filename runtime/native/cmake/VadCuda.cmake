# The CUDA kernels: resize.cu to a fatbin, and that into the library as an array. nvcc is a plain
# custom command, so that the project needs no CUDA language, no toolkit to configure, and links to
# nothing of CUDA: the driver is opened at run time.
#
#   VAD_CUDA               AUTO takes nvcc where it is found, ON insists, OFF builds no kernels
#   VAD_CUDA_ARCHITECTURES SM numbers; default: what this nvcc knows of the list below
#
#   vad_add_cuda_kernels(TARGET)  adds them to a library target

include_guard()

set(VAD_CUDA AUTO CACHE STRING "CUDA kernels: AUTO, ON or OFF")
set_property(CACHE VAD_CUDA PROPERTY STRINGS AUTO ON OFF)
set(VAD_CUDA_ARCHITECTURES "" CACHE STRING
  "SM numbers to build CUDA kernels for, such as 87 for Orin; empty = all that nvcc knows, 75 to 121")

set(VAD_CUDA_FOUND FALSE)
set(vad_cuda_source_dir ${CMAKE_CURRENT_LIST_DIR}/../cuda)
set(vad_cuda_scripts ${CMAKE_CURRENT_LIST_DIR})

function(vad_find_nvcc)
  if(NOT VAD_CUDA MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "VAD_CUDA is ${VAD_CUDA}. Set it to AUTO, ON or OFF.")
  endif()
  if(VAD_CUDA STREQUAL "OFF")
    set(VAD_CUDA_SUMMARY "off" PARENT_SCOPE)
    return()
  endif()
  if(CMAKE_CROSSCOMPILING AND VAD_CUDA STREQUAL "AUTO")
    set(VAD_CUDA_SUMMARY "no (cross-compiling; VAD_CUDA=ON builds them)" PARENT_SCOPE)
    return()
  endif()
  # nvcc runs on this machine, whatever it is built for: not below the cross compiler's root.
  find_program(VAD_NVCC nvcc
    HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda
    PATH_SUFFIXES bin NO_CMAKE_FIND_ROOT_PATH)
  mark_as_advanced(VAD_NVCC)
  if(VAD_NVCC)
    execute_process(COMMAND ${VAD_NVCC} --version
      OUTPUT_VARIABLE version ERROR_VARIABLE version RESULT_VARIABLE result)
    string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" unused "${version}")
    set(release ${CMAKE_MATCH_1})
  endif()
  if(NOT VAD_NVCC OR NOT result EQUAL 0 OR release STREQUAL "")
    if(VAD_CUDA STREQUAL "ON")
      message(FATAL_ERROR
        "VAD_CUDA=ON, but no nvcc was found that runs. Install the CUDA toolkit, set CUDACXX, or "
        "set VAD_CUDA=OFF.")
    endif()
    set(VAD_CUDA_SUMMARY "no (no nvcc)" PARENT_SCOPE)
    return()
  endif()
  set(VAD_CUDA_FOUND TRUE PARENT_SCOPE)
  set(vad_nvcc_release ${release} PARENT_SCOPE)

  execute_process(COMMAND ${VAD_NVCC} --list-gpu-code OUTPUT_VARIABLE known ERROR_QUIET)
  set(chosen "${VAD_CUDA_ARCHITECTURES}")
  if(chosen STREQUAL "")
    foreach(sm 75 80 86 87 89 90 100 103 110 120 121)
      if(known MATCHES "sm_${sm}[\r\n]")
        list(APPEND chosen ${sm})
      endif()
    endforeach()
  endif()
  foreach(sm ${chosen})
    if(NOT sm MATCHES "^[0-9]+$")
      message(FATAL_ERROR
        "VAD_CUDA_ARCHITECTURES has ${sm}. Give SM numbers, such as 87 or 75;86;89.")
    endif()
    if(NOT known STREQUAL "" AND NOT known MATCHES "sm_${sm}[\r\n]")
      message(FATAL_ERROR
        "nvcc ${release} has no SM ${sm}. Take it out of VAD_CUDA_ARCHITECTURES or use another "
        "CUDA toolkit.")
    endif()
  endforeach()
  set(vad_cuda_sms ${chosen} PARENT_SCOPE)
  string(REPLACE ";" " " text "${chosen}")
  set(VAD_CUDA_SUMMARY "nvcc ${release}, SM ${text}" PARENT_SCOPE)
endfunction()

vad_find_nvcc()

function(vad_add_cuda_kernels target)
  target_include_directories(${target} PRIVATE ${vad_cuda_source_dir})
  if(NOT VAD_CUDA_FOUND)
    return()
  endif()
  set(codes)
  set(newest 0)
  foreach(sm ${vad_cuda_sms})
    list(APPEND codes -gencode arch=compute_${sm},code=sm_${sm})
    if(sm GREATER newest)
      set(newest ${sm})
    endif()
  endforeach()
  # PTX of the newest one, which later GPUs' drivers compile.
  list(APPEND codes -gencode arch=compute_${newest},code=compute_${newest})
  set(fatbin ${CMAKE_CURRENT_BINARY_DIR}/resize.fatbin)
  add_custom_command(
    OUTPUT ${fatbin}
    COMMAND ${VAD_NVCC} --fatbin -O3 -std=c++14 -Werror all-warnings ${codes}
            -o ${fatbin} ${vad_cuda_source_dir}/resize.cu
    DEPENDS ${vad_cuda_source_dir}/resize.cu ${vad_cuda_source_dir}/resize_device.hpp
    COMMENT "CUDA kernels for SM ${vad_cuda_sms}"
    COMMAND_EXPAND_LISTS VERBATIM)
  set(array ${CMAKE_CURRENT_BINARY_DIR}/resize_fatbin.cpp)
  add_custom_command(
    OUTPUT ${array}
    COMMAND ${CMAKE_COMMAND} -DFROM=${fatbin} -DTO=${array}
            -P ${vad_cuda_scripts}/VadCudaArray.cmake
    DEPENDS ${fatbin} ${vad_cuda_scripts}/VadCudaArray.cmake
    VERBATIM)
  target_sources(${target} PRIVATE ${array})
  target_compile_definitions(${target} PRIVATE VAD_HAVE_CUDA_KERNELS=1)
endfunction()
