// Tensors: a dtype, a shape, strides and bytes; views that do not own, and one that does.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "kineograph/export.h"

namespace kineograph {

/// Element types that checkpoints hold. The model computes on f32, f16 and bf16; indices are i64 or i32. The 8-bit
/// floats are stored weights only, which are widened to f16 before anything is done with them.
enum class DType : std::uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean, f8_e4m3fn, f8_e5m2 };

/// Bytes of one element.
KINEOGRAPH_API std::size_t size_of(DType dtype) noexcept;
/// "f32", "bf16", ...
KINEOGRAPH_API std::string_view name_of(DType dtype) noexcept;
/// f16, bf16, f32 or f64.
KINEOGRAPH_API bool is_floating(DType dtype) noexcept;

/// IEEE 754's binary16 as its bits; arithmetic is done after conversion to float.
struct f16 {
  std::uint16_t bits = 0;  ///< sign, 5 of exponent, 10 of mantissa
};
/// The upper half of a float as its bits; arithmetic is done after conversion to float.
struct bf16 {
  std::uint16_t bits = 0;  ///< sign, 8 of exponent, 7 of mantissa
};

/// The DType of a C++ element type.
template <class T>
constexpr DType dtype_of() {
  using U = std::remove_cv_t<T>;
  if constexpr (std::is_same_v<U, double>)
    return DType::f64;
  else if constexpr (std::is_same_v<U, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<U, f16>)
    return DType::f16;
  else if constexpr (std::is_same_v<U, bf16>)
    return DType::bf16;
  else if constexpr (std::is_same_v<U, std::int64_t>)
    return DType::i64;
  else if constexpr (std::is_same_v<U, std::int32_t>)
    return DType::i32;
  else if constexpr (std::is_same_v<U, std::int16_t>)
    return DType::i16;
  else if constexpr (std::is_same_v<U, std::int8_t>)
    return DType::i8;
  else if constexpr (std::is_same_v<U, std::uint8_t>)
    return DType::u8;
  else {
    static_assert(std::is_same_v<U, bool>, "not an element type");
    return DType::boolean;
  }
}

/// Extents or strides of at most kMaxRank axes, held in place: making one never allocates.
class KINEOGRAPH_API Dims {
 public:
  static constexpr std::size_t kMaxRank = 8;  ///< most axes

  constexpr Dims() = default;
  /// Throws ArgumentError beyond kMaxRank axes.
  Dims(std::initializer_list<std::int64_t> values) : Dims(std::span(values.begin(), values.size())) {}
  /// Throws ArgumentError beyond kMaxRank axes.
  explicit Dims(std::span<const std::int64_t> values);

  std::size_t size() const noexcept { return rank_; }  ///< number of axes
  bool empty() const noexcept { return rank_ == 0; }   ///< no axes

  /// Of axis i, which is below kMaxRank; not checked.
  std::int64_t operator[](std::size_t i) const noexcept { return values_[i]; }
  /// Of axis i, which is below kMaxRank; not checked.
  std::int64_t& operator[](std::size_t i) noexcept { return values_[i]; }
  const std::int64_t* begin() const noexcept { return values_.data(); }  ///< first axis

  /// One past the last axis.
  const std::int64_t* end() const noexcept { return values_.data() + rank_; }
  friend bool operator==(const Dims& a, const Dims& b) noexcept {
    if (a.rank_ != b.rank_) return false;
    for (std::size_t i = 0; i < a.rank_; ++i)
      if (a.values_[i] != b.values_[i]) return false;
    return true;
  }

 private:
  std::array<std::int64_t, kMaxRank> values_{};
  std::size_t rank_ = 0;
};

using Shape = Dims;

/// Number of elements; 1 for rank 0. Throws FormatError when the product does not fit in 63 bits or an extent is
/// negative.
KINEOGRAPH_API std::int64_t element_count(const Shape& shape);
/// Strides in elements of a row-major tensor.
KINEOGRAPH_API Dims contiguous_strides(const Shape& shape);
/// "[2, 320, 64, 64]"
KINEOGRAPH_API std::string to_string(const Dims& dims);

/// A read-only view of somebody else's memory. Strides count elements. A default-made view is "no tensor".
class KINEOGRAPH_API TensorView {
 public:
  TensorView() = default;
  /// Row-major elements at `data`.
  TensorView(const void* data, DType dtype, Shape shape)
      : data_(data), dtype_(dtype), shape_(shape), strides_(contiguous_strides(shape)), present_(true) {}
  /// Elements at `data`, `strides[i]` of them apart along axis i.
  TensorView(const void* data, DType dtype, Shape shape, Dims strides)
      : data_(data), dtype_(dtype), shape_(shape), strides_(strides), present_(true) {}
  /// Row-major elements of type T.
  template <class T>
  TensorView(const T* data, Shape shape) : TensorView(data, dtype_of<T>(), shape) {}

  /// False for a default-made view: an optional argument that was not given.
  explicit operator bool() const noexcept { return present_; }
  /// The element at index 0 of every axis.
  const void* data() const noexcept { return data_; }
  /// The elements as T; throws ArgumentError when T is not the dtype.
  template <class T>
  const T* data_as() const {
    check_dtype(dtype_of<T>());
    return static_cast<const T*>(data_);
  }
  DType dtype() const noexcept { return dtype_; }                              ///< type of the elements
  const Shape& shape() const noexcept { return shape_; }                       ///< extents of the axes
  std::int64_t size(std::size_t axis) const noexcept { return shape_[axis]; }  ///< extent of one axis
  std::size_t rank() const noexcept { return shape_.size(); }                  ///< number of axes
  const Dims& strides() const noexcept { return strides_; }                    ///< in elements
  std::int64_t numel() const { return element_count(shape_); }                 ///< number of elements

  /// Whether the elements lie row-major without gaps.
  bool is_contiguous() const;

 protected:
  /// Throws ArgumentError, saying both, where `wanted` is not the dtype.
  void check_dtype(DType wanted) const;

  const void* data_ = nullptr;  ///< see data()
  DType dtype_ = DType::f32;    ///< see dtype()
  Shape shape_;                 ///< see shape()
  Dims strides_;                ///< see strides()
  bool present_ = false;        ///< see operator bool
};

/// The same over memory that may be written.
class KINEOGRAPH_API MutableTensorView : public TensorView {
 public:
  MutableTensorView() = default;
  /// Row-major elements at `data`, as TensorView's.
  MutableTensorView(void* data, DType dtype, Shape shape) : TensorView(data, dtype, shape) {}
  /// Strided elements at `data`, as TensorView's.
  MutableTensorView(void* data, DType dtype, Shape shape, Dims strides) : TensorView(data, dtype, shape, strides) {}
  /// Row-major elements of type T.
  template <class T>
  MutableTensorView(T* data, Shape shape) : TensorView(data, dtype_of<T>(), shape) {}

  /// The element at index 0 of every axis.
  void* data() const noexcept { return const_cast<void*>(data_); }
  /// The elements as T; throws ArgumentError when T is not the dtype.
  template <class T>
  T* data_as() const {
    check_dtype(dtype_of<T>());
    return static_cast<T*>(data());
  }
};

/// An owning, row-major tensor; the memory is aligned to 64 bytes and starts as zeros. Copies share nothing.
class KINEOGRAPH_API Tensor {
 public:
  Tensor() = default;
  /// Zeros. Throws FormatError for a shape whose elements cannot be counted, std::bad_alloc.
  Tensor(DType dtype, Shape shape);
  /// Copies the elements.
  Tensor(const Tensor& other);
  /// Copies the elements.
  Tensor& operator=(const Tensor& other);
  Tensor(Tensor&&) noexcept = default;             ///< takes the memory
  Tensor& operator=(Tensor&&) noexcept = default;  ///< takes the memory

  /// False for a default-made or moved-from tensor.
  explicit operator bool() const noexcept { return data_ != nullptr; }
  DType dtype() const noexcept { return dtype_; }                                            ///< type of the elements
  const Shape& shape() const noexcept { return shape_; }                                     ///< extents of the axes
  std::int64_t numel() const { return element_count(shape_); }                               ///< number of elements
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype_); }  ///< size of the elements
  void* data() noexcept { return data_.get(); }                                              ///< first element
  const void* data() const noexcept { return data_.get(); }                                  ///< first element

  /// The elements as T; throws ArgumentError when T is not the dtype.
  template <class T>
  T* data_as() {
    return mutable_view().data_as<T>();
  }
  /// The elements as T; throws ArgumentError when T is not the dtype.
  template <class T>
  const T* data_as() const {
    return view().data_as<T>();
  }
  TensorView view() const { return {data_.get(), dtype_, shape_}; }           ///< valid while the tensor lives
  MutableTensorView mutable_view() { return {data_.get(), dtype_, shape_}; }  ///< valid while the tensor lives

  /// view()
  operator TensorView() const { return view(); }

 private:
  struct Free {
    void operator()(std::byte* p) const noexcept;
  };
  std::unique_ptr<std::byte[], Free> data_;
  DType dtype_ = DType::f32;
  Shape shape_;
};

/// A row-major copy of `source` as `dtype` (floating to floating: rounded to nearest even).
KINEOGRAPH_API Tensor convert(TensorView source, DType dtype);

}  // namespace kineograph
