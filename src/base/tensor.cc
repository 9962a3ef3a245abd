#include "kineograph/tensor.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <new>

#include "base/half.h"
#include "base/memory.h"
#include "kineograph/error.h"

namespace kineograph {
namespace {

constexpr std::align_val_t kAlignment{64};

struct Info {
  std::string_view name;
  std::size_t size;
};

// In the order of DType.
constexpr Info kInfo[] = {{"f64", 8}, {"f32", 4}, {"f16", 2}, {"bf16", 2}, {"i64", 8},       {"i32", 4},
                          {"i16", 2}, {"i8", 1},  {"u8", 1},  {"bool", 1}, {"f8_e4m3fn", 1}, {"f8_e5m2", 1}};

// Calls body(source offset) for every element in row-major order.
template <class Body>
void for_each_offset(const Shape& shape, const Dims& strides, Body&& body) {
  const std::int64_t count = element_count(shape);
  Dims index = shape;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) index[axis] = 0;
  std::int64_t offset = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    body(offset);
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      offset += strides[axis];
      if (++index[axis] < shape[axis]) break;
      offset -= strides[axis] * shape[axis];
      index[axis] = 0;
    }
  }
}

/// A float from which a 16-bit type rounds as from the double: cut off, with the last bit set where something was lost.
float round_to_odd(double value) {
  const auto nearest = static_cast<float>(value);
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(nearest);
  if (static_cast<double>(nearest) == value || !std::isfinite(nearest) || (bits & 1u) != 0) return nearest;
  return std::bit_cast<float>(std::fabs(static_cast<double>(nearest)) > std::fabs(value) ? bits - 1u : bits + 1u);
}

/// From one floating type to another with one rounding.
template <class D, class S>
D cast_float(S value) {
  if constexpr (std::is_same_v<S, double> && sizeof(D) == 2)
    return from_float<D>(round_to_odd(value));
  else if constexpr (std::is_same_v<S, D>)
    return value;
  else
    return from_float<D>(to_float(value));
}

}  // namespace

std::size_t size_of(DType dtype) noexcept { return kInfo[static_cast<std::size_t>(dtype)].size; }
std::string_view name_of(DType dtype) noexcept { return kInfo[static_cast<std::size_t>(dtype)].name; }
bool is_floating(DType dtype) noexcept { return dtype <= DType::bf16; }

Dims::Dims(std::span<const std::int64_t> values) : rank_(values.size()) {
  if (rank_ > kMaxRank)
    throw ArgumentError("tensor", "at most " + std::to_string(kMaxRank) + " axes", std::to_string(rank_));
  for (std::size_t i = 0; i < rank_; ++i) values_[i] = values[i];
}

std::int64_t element_count(const Shape& shape) {
  std::int64_t count = 1;
  bool zero = false, overflow = false;
  for (std::int64_t extent : shape) {
    if (extent < 0) throw FormatError("shape " + to_string(shape), "extents of 0 or more", std::to_string(extent));
    zero = zero || extent == 0;
    overflow = overflow || __builtin_mul_overflow(count, extent, &count);
  }
  if (zero) return 0;
  if (overflow) throw FormatError("shape " + to_string(shape), "fewer than 2^63 elements", "more");
  return count;
}

Dims contiguous_strides(const Shape& shape) {
  Dims strides = shape;
  std::int64_t stride = 1;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = stride;
    // Overflow is element_count's to report; here it must only be defined.
    stride = static_cast<std::int64_t>(static_cast<std::uint64_t>(stride) *
                                       static_cast<std::uint64_t>(shape[axis] > 0 ? shape[axis] : 1));
  }
  return strides;
}

std::string to_string(const Dims& dims) {
  std::string text = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

bool TensorView::is_contiguous() const {
  const Dims wanted = contiguous_strides(shape_);
  for (std::size_t axis = 0; axis < shape_.size(); ++axis)
    if (shape_[axis] > 1 && strides_[axis] != wanted[axis]) return false;
  return true;
}

void TensorView::check_dtype(DType wanted) const {
  if (dtype_ != wanted) throw ArgumentError("tensor", std::string(name_of(wanted)), std::string(name_of(dtype_)));
}

void Tensor::Free::operator()(std::byte* p) const noexcept { ::operator delete[](p, kAlignment); }

Tensor::Tensor(DType dtype, Shape shape) : dtype_(dtype), shape_(shape) {
  const std::int64_t count = element_count(shape);
  std::int64_t size = 0;
  if (__builtin_mul_overflow(count, static_cast<std::int64_t>(size_of(dtype)), &size))
    throw FormatError("shape " + to_string(shape), "fewer than 2^63 bytes", "more");
  data_.reset(static_cast<std::byte*>(::operator new[](static_cast<std::size_t>(size), kAlignment)));
  prefer_large_pages(data_.get(), static_cast<std::size_t>(size));
  std::memset(data_.get(), 0, static_cast<std::size_t>(size));
}

Tensor::Tensor(const Tensor& other) {
  if (!other) return;
  *this = Tensor(other.dtype_, other.shape_);
  std::memcpy(data_.get(), other.data_.get(), other.bytes());
}

Tensor& Tensor::operator=(const Tensor& other) {
  if (this != &other) *this = Tensor(other);
  return *this;
}

Tensor convert(TensorView source, DType dtype) {
  Tensor result(dtype, source.shape());
  const std::size_t size = size_of(dtype);
  auto* out = static_cast<std::byte*>(result.data());
  if (source.dtype() == dtype) {
    if (source.is_contiguous()) {
      if (result.bytes() != 0) std::memcpy(out, source.data(), result.bytes());
      return result;
    }
    const auto* in = static_cast<const std::byte*>(source.data());
    for_each_offset(source.shape(), source.strides(), [&](std::int64_t offset) {
      std::memcpy(out, in + offset * static_cast<std::int64_t>(size), size);
      out += size;
    });
    return result;
  }
  if (!is_floating(source.dtype()) || !is_floating(dtype))
    throw ArgumentError("convert", "floating dtypes",
                        std::string(name_of(source.dtype())) + " to " + std::string(name_of(dtype)));
  dispatch_floating(source.dtype(), [&]<class S>(S) {
    dispatch_floating(dtype, [&]<class D>(D) {
      const auto* in = static_cast<const S*>(source.data());
      auto* to = static_cast<D*>(result.data());
      for_each_offset(source.shape(), source.strides(),
                      [&](std::int64_t offset) { *to++ = cast_float<D>(in[offset]); });
    });
  });
  return result;
}

}  // namespace kineograph
