#include "arrays.h"

#include <cstdlib>
#include <new>
#include <string>

namespace nb = nanobind;

namespace kineograph::python {
namespace {

constexpr std::size_t kAlignment = 64;

nb::dlpack::dtype to_dlpack(DType dtype) {
  using Code = nb::dlpack::dtype_code;
  const auto make = [&](Code code) {
    return nb::dlpack::dtype{static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(8 * size_of(dtype)), 1};
  };
  switch (dtype) {
    case DType::f64:
    case DType::f32:
    case DType::f16:
      return make(Code::Float);
    case DType::bf16:
      return make(Code::Bfloat);
    case DType::u8:
      return make(Code::UInt);
    case DType::boolean:
      return make(Code::Bool);
    default:
      return make(Code::Int);
  }
}

constexpr DType kDTypes[] = {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64,
                             DType::i32, DType::i16, DType::i8,  DType::u8,   DType::boolean};

DType from_dlpack(const char* where, nb::dlpack::dtype dtype) {
  for (const DType known : kDTypes)
    if (to_dlpack(known) == dtype) return known;
  throw ArgumentError(
      where, "f32, f16, bf16, f64, integers or booleans",
      "elements of DLPack type code " + std::to_string(dtype.code) + " and " + std::to_string(dtype.bits) + " bits");
}

template <class View, class AnyArray, class Data>
View make_view(const char* where, const AnyArray& array, Data* data) {
  std::vector<std::int64_t> shape(array.ndim()), strides(array.ndim());
  for (std::size_t axis = 0; axis < array.ndim(); ++axis) {
    shape[axis] = static_cast<std::int64_t>(array.shape(axis));
    strides[axis] = array.stride(axis);
  }
  return View(data, from_dlpack(where, array.dtype()), Shape(shape), Dims(strides));
}

std::string class_of(nb::handle object) { return nb::cast<std::string>(nb::str(object.type().attr("__qualname__"))); }

template <class Wanted>
Wanted array_of(const char* where, nb::handle object, const char* expected) {
  try {
    Wanted array;
    if (!object.is_none() && nb::try_cast(object, array) && array.is_valid()) return array;
  } catch (const nb::python_error& error) {  // what __dlpack__ itself says
    throw ArgumentError(where, expected, class_of(object), error.what());
  }
  PyErr_Clear();
  throw ArgumentError(where, expected, class_of(object),
                      "Arrays of other devices have to be brought into the host's memory first.");
}

/// Access is nb::ro for an array that is not to be written.
template <class... Access>
nb::object wrap(void* data, const TensorView& like, nb::handle owner, Framework framework) {
  std::vector<std::size_t> shape;
  std::vector<std::int64_t> strides;
  for (std::size_t axis = 0; axis < like.rank(); ++axis) {
    shape.push_back(static_cast<std::size_t>(like.size(axis)));
    strides.push_back(like.strides()[axis]);
  }
  const auto make = [&]<class... Kind>() {
    return nb::cast(nb::ndarray<Access..., Kind...>(data, shape.size(), shape.data(), owner, strides.data(),
                                                    to_dlpack(like.dtype())),
                    nb::rv_policy::reference);
  };
  if (framework == Framework::torch) return make.template operator()<nb::pytorch>();
  if (framework == Framework::jax) return make.template operator()<nb::jax>();
  if (framework == Framework::numpy && like.dtype() != DType::bf16) return make.template operator()<nb::numpy>();
  return make.template operator()<>();
}

}  // namespace

Framework framework_of(nb::handle object) {
  const auto module = nb::cast<std::string>(nb::str(object.type().attr("__module__")));
  const std::string root = module.substr(0, module.find('.'));
  if (root == "torch") return Framework::torch;
  if (root == "jax" || root == "jaxlib") return Framework::jax;
  return root == "numpy" || !nb::hasattr(object, "__dlpack__") ? Framework::numpy : Framework::other;
}

Array as_array(const char* where, nb::handle object) {
  return array_of<Array>(where, object, "an array of the host's memory (DLPack or the buffer protocol)");
}
MutableArray as_mutable_array(const char* where, nb::handle object) {
  return array_of<MutableArray>(where, object, "a writable array of the host's memory (DLPack or the buffer protocol)");
}

TensorView view_of(const char* where, const Array& array) { return make_view<TensorView>(where, array, array.data()); }
MutableTensorView view_of(const char* where, const MutableArray& array) {
  return make_view<MutableTensorView>(where, array, array.data());
}

nb::object array_over(TensorView view, nb::handle owner, Framework framework) {
  return wrap<nb::ro>(const_cast<void*>(view.data()), view, owner, framework);
}

nb::object make_array(DType dtype, const Shape& shape, Framework framework, MutableTensorView& view) {
  const auto bytes = static_cast<std::size_t>(element_count(shape)) * size_of(dtype);
  void* data = std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
  if (data == nullptr) throw std::bad_alloc();
  const nb::capsule owner(data, [](void* memory) noexcept { std::free(memory); });
  view = MutableTensorView(data, dtype, shape);
  return wrap<>(data, view, owner, framework);
}

}  // namespace kineograph::python
