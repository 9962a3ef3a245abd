/* The version, for the preprocessor of C and C++. CMake and the Python package read it from here. kineograph::version()
 * and kineograph_version() tell the version of the library that is linked. */
#ifndef KINEOGRAPH_VERSION_H_
#define KINEOGRAPH_VERSION_H_

#define KINEOGRAPH_VERSION_MAJOR 0
#define KINEOGRAPH_VERSION_MINOR 1
#define KINEOGRAPH_VERSION_PATCH 0

/** Comparable numbers: KINEOGRAPH_VERSION_NUMBER >= KINEOGRAPH_MAKE_VERSION(0, 1, 0). */
#define KINEOGRAPH_MAKE_VERSION(major, minor, patch) ((major)*1000000 + (minor)*1000 + (patch))
#define KINEOGRAPH_VERSION_NUMBER \
  KINEOGRAPH_MAKE_VERSION(KINEOGRAPH_VERSION_MAJOR, KINEOGRAPH_VERSION_MINOR, KINEOGRAPH_VERSION_PATCH)

#define KINEOGRAPH_TEXT_OF_(value) #value
#define KINEOGRAPH_TEXT_OF(value) KINEOGRAPH_TEXT_OF_(value)
/** "0.1.0" */
#define KINEOGRAPH_VERSION                     \
  KINEOGRAPH_TEXT_OF(KINEOGRAPH_VERSION_MAJOR) \
  "." KINEOGRAPH_TEXT_OF(KINEOGRAPH_VERSION_MINOR) "." KINEOGRAPH_TEXT_OF(KINEOGRAPH_VERSION_PATCH)

#endif /* KINEOGRAPH_VERSION_H_ */
