// KINEOGRAPH_API marks the functions and classes that a shared library exports; all else in it is hidden.
#pragma once

#if !(__cplusplus >= 202002L || (defined(_MSVC_LANG) && _MSVC_LANG >= 202002L))
#error "kineograph's headers are C++20: compile with -std=c++20 (MSVC: /std:c++20), or take kineograph/c.h"
#endif

#if defined(_WIN32) && defined(KINEOGRAPH_SHARED)  // the library's target says it to whoever links it
#if defined(KINEOGRAPH_BUILDING)
#define KINEOGRAPH_API __declspec(dllexport)
#else
#define KINEOGRAPH_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define KINEOGRAPH_API __attribute__((visibility("default")))
#else
#define KINEOGRAPH_API
#endif

// A class inside an exported one that is the library's own.
#if defined(__GNUC__) && !defined(_WIN32)
#define KINEOGRAPH_LOCAL __attribute__((visibility("hidden")))
#else
#define KINEOGRAPH_LOCAL
#endif
