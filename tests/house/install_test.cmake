# A project outside the tree finds an installed kineograph, by CMake and by pkg-config, and one around the tree takes it in.
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${ARGV}: ${result}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

function(expect text)
  if(NOT output MATCHES "${text}")
    message(FATAL_ERROR "expected ${text}, found: ${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${SCRATCH})
# The example is copied away so that nothing of the tree is found beside it, and the prefix is moved after it was installed.
file(COPY ${SOURCE}/examples/embed DESTINATION ${SCRATCH})
foreach(component IN ITEMS runtime devel)
  run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${SCRATCH}/installed --component ${component})
endforeach()
file(RENAME ${SCRATCH}/installed ${SCRATCH}/prefix)
run(${CMAKE_COMMAND} -S ${SCRATCH}/embed -B ${SCRATCH}/build -DCMAKE_PREFIX_PATH=${SCRATCH}/prefix
    -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${SCRATCH}/build)
run(${SCRATCH}/build/embed)
expect("sample \\[4, 32, 6, 5\\]")
run(${SCRATCH}/prefix/bin/kineograph --version)

# All that is installed lies below the prefix, and the pages that a shell and man look for are whole.
foreach(file IN ITEMS share/man/man1/kineograph.1 share/bash-completion/completions/kineograph
                      share/zsh/site-functions/_kineograph share/fish/vendor_completions.d/kineograph.fish
                      share/doc/kineograph/LICENSE share/kineograph/models/restore/config.json)
  file(SIZE ${SCRATCH}/prefix/${file} size)
  if(size LESS 100)
    message(FATAL_ERROR "${file}: expected a page, found ${size} bytes")
  endif()
endforeach()

find_program(PKG_CONFIG NAMES pkg-config pkgconf)
file(GLOB_RECURSE pc_files ${SCRATCH}/prefix/*/kineograph.pc)
list(GET pc_files 0 pc_file)
get_filename_component(pc_folder ${pc_file} DIRECTORY)
set(ENV{PKG_CONFIG_PATH} "${pc_folder}:$ENV{PKG_CONFIG_PATH}")
if(PKG_CONFIG)
  run(${PKG_CONFIG} --cflags --libs kineograph)
  separate_arguments(flags UNIX_COMMAND "${output}")
  run(${CXX} -std=c++20 ${SCRATCH}/embed/main.cc -o ${SCRATCH}/by_pkg_config ${flags})
  run(${SCRATCH}/by_pkg_config)
  expect("sample \\[4, 32, 6, 5\\]")
endif()

# As a subproject nothing is installed, tested or built but the library: a parent that exports targets of its own, and finds
# none of the tree's options set, is configured without a word about them.
file(WRITE ${SCRATCH}/parent/CMakeLists.txt "
cmake_minimum_required(VERSION 3.22)
project(parent LANGUAGES CXX)
add_subdirectory(${SOURCE} kineograph)
add_executable(parent main.cc)
target_link_libraries(parent PRIVATE kineograph::kineograph)
install(TARGETS parent EXPORT parentTargets)
install(EXPORT parentTargets DESTINATION lib/cmake/parent)
if(TARGET kineograph_program OR TARGET headers_test)
  message(FATAL_ERROR \"a subproject builds more than the library\")
endif()
")
file(COPY ${SOURCE}/examples/embed/main.cc DESTINATION ${SCRATCH}/parent)
run(${CMAKE_COMMAND} -S ${SCRATCH}/parent -B ${SCRATCH}/parent/build -DCMAKE_CXX_COMPILER=${CXX})
if(EXISTS ${SCRATCH}/parent/build/kineograph/cmake_install.cmake)
  file(READ ${SCRATCH}/parent/build/kineograph/cmake_install.cmake installed)
  if(installed MATCHES "kineographConfig")
    message(FATAL_ERROR "a subproject installs its package")
  endif()
endif()

# Libraries that are nowhere are named together.
execute_process(COMMAND ${CMAKE_COMMAND} -S ${SOURCE} -B ${SCRATCH}/missing -DCMAKE_CXX_COMPILER=${CXX}
                        -DCMAKE_DISABLE_FIND_PACKAGE_hwy=ON -DCMAKE_DISABLE_FIND_PACKAGE_TBB=ON
                RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE output)
if(result EQUAL 0)
  message(FATAL_ERROR "configured without Highway and oneTBB")
endif()
expect("highway \\(Debian: libhwy-dev\\).*onetbb \\(Debian: libtbb-dev\\).*make deps.*KINEOGRAPH_FETCH")
