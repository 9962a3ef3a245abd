# What `cmake --install` writes: the library, its headers, and the package that find_package(kineograph) finds.
include(CMakePackageConfigHelpers)

install(TARGETS kineograph EXPORT kineographTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(KINEOGRAPH_C)
  install(TARGETS kineograph_c EXPORT kineographTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/kineograph DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/kineograph)
install(EXPORT kineographTargets NAMESPACE kineograph:: DESTINATION ${package_dir})
# Those that the library's link line names and a package must find again.
set(kineograph_dependencies Threads ZLIB)
if(KINEOGRAPH_CPU_ENGINE)
  list(APPEND kineograph_dependencies hwy TBB)
endif()
if(KINEOGRAPH_BUILD_CUDA)
  list(APPEND kineograph_dependencies CUDAToolkit)
endif()
if(NOT DEFINED BUILD_SHARED_LIBS)
  set(BUILD_SHARED_LIBS OFF)
endif()
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/kineographConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/kineographConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/kineographConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/kineographConfig.cmake ${PROJECT_BINARY_DIR}/kineographConfigVersion.cmake
        DESTINATION ${package_dir})
