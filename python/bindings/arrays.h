// NumPy arrays, torch tensors and their like <-> the library's views, by DLPack or the buffer protocol, without a copy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "kineograph/kineograph.h"

namespace kineograph::python {

/// Any array of the host's memory; read, never written.
using Array = nanobind::ndarray<nanobind::ro, nanobind::device::cpu>;
/// Any array of the host's memory that may be written.
using MutableArray = nanobind::ndarray<nanobind::device::cpu>;

/// Who an array is made for: the library that the caller's own array is of.
enum class Framework { numpy, torch, jax, other };
Framework framework_of(nanobind::handle object);

/// The array behind an argument; throws ArgumentError, naming `where`, for what is none or lies on another device.
Array as_array(const char* where, nanobind::handle object);
MutableArray as_mutable_array(const char* where, nanobind::handle object);

/// Views live as long as the array. Throws ArgumentError for element types that the library has no name for.
TensorView view_of(const char* where, const Array& array);
MutableTensorView view_of(const char* where, const MutableArray& array);

/// An array over a view's memory, for which `owner` is kept alive. NumPy has no bf16: such a view becomes an object
/// with __dlpack__ alone there.
nanobind::object array_over(TensorView view, nanobind::handle owner, Framework framework);
/// A new, uninitialised array; `view` is set to its memory.
nanobind::object make_array(DType dtype, const Shape& shape, Framework framework, MutableTensorView& view);

}  // namespace kineograph::python
