# The files of `cmake --install`. Component runtime: the program, its models, man page and completions, shared libraries;
# devel: headers, the archive, and the packages that find_package(kineograph) and pkg-config find.
include(CMakePackageConfigHelpers)

set(kineograph_libraries kineograph)
if(KINEOGRAPH_C)
  list(APPEND kineograph_libraries kineograph_c)
endif()
install(TARGETS ${kineograph_libraries} EXPORT kineographTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT devel
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT devel)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/kineograph DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT devel)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT runtime)

# The shared library holds the archives that it was built with; who links the static one has to find them again.
set(kineograph_dependencies)
set(kineograph_pc_requires)
set(kineograph_pc_libraries)
if(NOT BUILD_SHARED_LIBS)
  set(kineograph_dependencies Threads ZLIB)
  set(kineograph_pc_requires zlib)
  set(kineograph_pc_libraries -lstdc++ -pthread)
  if(KINEOGRAPH_CPU_ENGINE)
    list(APPEND kineograph_dependencies hwy TBB)
    list(APPEND kineograph_pc_requires libhwy tbb)
  endif()
  if(KINEOGRAPH_BUILD_CUDA)
    list(APPEND kineograph_dependencies CUDAToolkit)
  endif()
endif()
list(JOIN kineograph_pc_requires ", " kineograph_pc_requires)
list(JOIN kineograph_pc_libraries " " kineograph_pc_libraries)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/kineograph)
install(EXPORT kineographTargets NAMESPACE kineograph:: DESTINATION ${package_dir} COMPONENT devel)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/kineographConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/kineographConfig.cmake INSTALL_DESTINATION ${package_dir})
# The same promise as SOVERSION's in src/CMakeLists.txt: versions 0.x.* go together.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/kineographConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/kineographConfig.cmake ${PROJECT_BINARY_DIR}/kineographConfigVersion.cmake
        DESTINATION ${package_dir} COMPONENT devel)

# The prefix is found from the file's own place, so that an installed tree can be moved.
file(RELATIVE_PATH prefix_from_pc ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(${CMAKE_CURRENT_LIST_DIR}/kineograph.pc.in ${PROJECT_BINARY_DIR}/kineograph.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/kineograph.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT devel)
if(KINEOGRAPH_C)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/kineograph_c.pc.in ${PROJECT_BINARY_DIR}/kineograph_c.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/kineograph_c.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT devel)
endif()
if(PROJECT_IS_TOP_LEVEL AND KINEOGRAPH_CLI AND KINEOGRAPH_CPU_ENGINE)
  include(cmake/Package.cmake)
endif()
