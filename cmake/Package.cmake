# `cpack`, by `make deb`: the components of `cmake --install` as Debian packages, kineograph and libkineograph-dev.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME kineograph)
set(CPACK_PACKAGE_CONTACT "The kineograph authors <kineograph@users.noreply.github.com>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "transformers over the frames of videos on CPUs, and restored video")
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_COMPONENTS_ALL runtime devel)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME kineograph)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SECTION video)
# Of what it links, from the packages that the build machine has.
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_RECOMMENDS ffmpeg)
set(CPACK_COMPONENT_RUNTIME_DESCRIPTION
    "The program: inspects, converts, runs and trains diffusers' TransformerTemporalModel, and takes noise and flicker out of
 video. With the model that restores, and the library of the C API.")
set(CPACK_DEBIAN_DEVEL_PACKAGE_NAME libkineograph-dev)
set(CPACK_DEBIAN_DEVEL_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVEL_PACKAGE_DEPENDS
    "kineograph (= ${PROJECT_VERSION}), zlib1g-dev, libhwy-dev, libtbb-dev")
set(CPACK_COMPONENT_DEVEL_DESCRIPTION "Headers and the library, for C++20 and for C.")
include(CPack)
