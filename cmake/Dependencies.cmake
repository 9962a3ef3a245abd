# The libraries that kineograph is built with. Each comes from the project around this one, from the system, or, with
# KINEOGRAPH_FETCH, from its publisher, of one version and hash; FETCHCONTENT_SOURCE_DIR_<NAME> gives an unpacked one. Those
# that are nowhere are named together, in one error.
include(FetchContent)

set(kineograph_missing)

# kineograph_need(NAME target debian-package "find_package's arguments"): whether the target is there, or is made here from
# what is declared below. Adds to kineograph_missing otherwise.
function(kineograph_need name target debian package)
  string(TOUPPER ${name} upper)
  if(NOT TARGET ${target} AND NOT FETCHCONTENT_SOURCE_DIR_${upper})
    find_package(${package} QUIET)
  endif()
  if(NOT TARGET ${target} AND KINEOGRAPH_FETCH AND name IN_LIST kineograph_published)
    kineograph_fetch(${name})
    if(name STREQUAL highway AND NOT TARGET hwy::hwy)
      add_library(hwy::hwy ALIAS hwy)
    endif()
  endif()
  if(NOT TARGET ${target})
    set(kineograph_missing ${kineograph_missing} "${name} (Debian: ${debian})" PARENT_SCOPE)
  endif()
endfunction()

# Published archives, pinned by hash. A project around this one that declares the same name gets its own.
set(kineograph_published)
macro(kineograph_publish name url hash)
  list(APPEND kineograph_published ${name})
  set(kineograph_url_${name} ${url})
  set(kineograph_hash_${name} ${hash})
endmacro()
set(github https://github.com)
kineograph_publish(highway ${github}/google/highway/archive/refs/tags/1.2.0.tar.gz
                   7e0be78b8318e8bdbf6fa545d2ecb4c90f947df03f7aadc42c1967f019e63343)
kineograph_publish(onetbb ${github}/uxlfoundation/oneTBB/archive/refs/tags/v2022.2.0.tar.gz
                   f0f78001c8c8edb4bddc3d4c5ee7428d56ae313254158ad1eec49eced57f6a5b)
kineograph_publish(nlohmann_json ${github}/nlohmann/json/releases/download/v3.11.3/json.tar.xz
                   d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)
kineograph_publish(cli11 ${github}/CLIUtils/CLI11/archive/refs/tags/v2.4.2.tar.gz
                   f2d893a65c3b1324c50d4e682c0cdc021dd0477ae2c048544f39eed6654b699a)
kineograph_publish(xxhash ${github}/Cyan4973/xxHash/archive/refs/tags/v0.8.3.tar.gz
                   aae608dfe8213dfd05d909a57718ef82f30722c392344583d3f39050c7f29a80)
kineograph_publish(googletest ${github}/google/googletest/archive/refs/tags/v1.16.0.tar.gz
                   78c676fc63881529bf97bf9d45948d905a66833fbfa5318ea2cd7478cb98f399)

# Makes the targets of one, as this project uses them: no tests and no examples. Libraries that kineograph links are installed with it.
function(kineograph_fetch name)
  # The settings below hold though the library makes options, or values of the cache, of them.
  set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)
  set(CMAKE_POLICY_DEFAULT_CMP0126 NEW)
  set(CMAKE_POLICY_DEFAULT_CMP0135 NEW)
  if(POLICY CMP0135)
    cmake_policy(SET CMP0135 NEW)  # unpacked files have the time of unpacking
  endif()
  set(CMAKE_CXX_SCAN_FOR_MODULES OFF)  # there are none, and ccache takes no file that is scanned for them
  set(BUILD_TESTING OFF)
  set(HWY_ENABLE_TESTS OFF)
  set(HWY_ENABLE_EXAMPLES OFF)
  set(HWY_ENABLE_CONTRIB OFF)
  set(HWY_ENABLE_INSTALL ${KINEOGRAPH_INSTALL})
  set(HWY_FORCE_STATIC_LIBS ON)
  set(TBB_TEST OFF)
  set(TBB_STRICT OFF)
  set(TBB_INSTALL ${KINEOGRAPH_INSTALL})
  set(TBBMALLOC_BUILD OFF)
  set(INSTALL_GTEST OFF)
  set(BUILD_GMOCK OFF)
  set(JSON_Install OFF)
  set(JSON_BuildTests OFF)
  set(CLI11_INSTALL OFF)
  # oneTBB is to be shared by all who use it in a process; the others are held inside.
  string(COMPARE EQUAL ${name} onetbb BUILD_SHARED_LIBS)
  # xxhash is one header: a folder without CMakeLists.txt adds nothing.
  FetchContent_Declare(${name} URL ${kineograph_url_${name}} URL_HASH SHA256=${kineograph_hash_${name}})
  FetchContent_MakeAvailable(${name})
  set(kineograph_fetched ${${name}_SOURCE_DIR} PARENT_SCOPE)
endfunction()

kineograph_need(threads Threads::Threads libc6-dev Threads)
kineograph_need(zlib ZLIB::ZLIB zlib1g-dev ZLIB)
kineograph_need(nlohmann_json nlohmann_json::nlohmann_json nlohmann-json3-dev "nlohmann_json;3.9")
if(KINEOGRAPH_CPU_ENGINE)
  kineograph_need(highway hwy::hwy libhwy-dev hwy)
  kineograph_need(onetbb TBB::tbb libtbb-dev TBB)
endif()
if(KINEOGRAPH_CLI)
  kineograph_need(cli11 CLI11::CLI11 libcli11-dev "CLI11;2.1")
endif()
if(KINEOGRAPH_TESTS)
  kineograph_need(googletest GTest::gtest_main libgtest-dev GTest)
endif()
if(KINEOGRAPH_BENCH)
  kineograph_need(benchmark benchmark::benchmark libbenchmark-dev benchmark)
endif()

# xxHash is used as a header, which no package file tells of.
if(KINEOGRAPH_CLI OR KINEOGRAPH_PYTHON)
  if(NOT FETCHCONTENT_SOURCE_DIR_XXHASH)
    find_path(KINEOGRAPH_XXHASH_INCLUDE_DIR xxhash.h)
    set(kineograph_fetched ${KINEOGRAPH_XXHASH_INCLUDE_DIR})
  endif()
  if(NOT kineograph_fetched AND KINEOGRAPH_FETCH)
    kineograph_fetch(xxhash)
  endif()
  if(NOT kineograph_fetched)
    list(APPEND kineograph_missing "xxhash (Debian: libxxhash-dev)")
  else()
    add_library(kineograph_xxhash INTERFACE)
    target_include_directories(kineograph_xxhash SYSTEM INTERFACE ${kineograph_fetched})
  endif()
endif()

if(kineograph_missing)
  list(JOIN kineograph_missing "\n  " kineograph_missing)
  message(FATAL_ERROR "kineograph: expected the libraries that it is built with, found none of these:\n  "
                      "${kineograph_missing}\n"
                      "`make deps` installs them by apt; -DKINEOGRAPH_FETCH=ON fetches those that are published as source.")
endif()
