// kineograph.restore_video: frames of arrays through a Restorer.
#pragma once

#include <nanobind/nanobind.h>

namespace kineograph::python {

void bind_restoration(nanobind::module_& module);

}  // namespace kineograph::python
