# `cmake --install`: a folder that may be moved. Component `runtime` is what a device needs, `dev`
# what a program needs that is built against the library.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(VAD_INSTALL_RPATH "" CACHE STRING
  "Folders on the device where OpenVINO's or other libraries lie; empty = the system's places")

set_target_properties(vad PROPERTIES
  VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}
  INSTALL_RPATH "$ORIGIN;${VAD_INSTALL_RPATH}")
set_target_properties(vad-run-cpp PROPERTIES
  INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")

install(TARGETS vad EXPORT VadEdgeTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT dev
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(VAD_WITH_ONNXRUNTIME AND ONNXRuntime_WHEEL_LIBRARY)
  install(PROGRAMS "${ONNXRuntime_WHEEL_LIBRARY}" DESTINATION ${CMAKE_INSTALL_LIBDIR}
    RENAME libonnxruntime.so.1 COMPONENT runtime)
endif()
install(TARGETS vad-run-cpp RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
install(DIRECTORY include/vad DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev)

set(vad_package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/VadEdge)
install(EXPORT VadEdgeTargets NAMESPACE VadEdge:: DESTINATION ${vad_package_folder} COMPONENT dev)
configure_package_config_file(cmake/VadEdgeConfig.cmake.in VadEdgeConfig.cmake
  INSTALL_DESTINATION ${vad_package_folder})
write_basic_package_version_file(VadEdgeConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/VadEdgeConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/VadEdgeConfigVersion.cmake
  DESTINATION ${vad_package_folder} COMPONENT dev)
