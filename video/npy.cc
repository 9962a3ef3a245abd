#include "video/npy.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <istream>
#include <optional>
#include <ostream>
#include <string_view>
#include <vector>

#include "kineograph/error.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are read and written as they lie in memory");

namespace kineograph::video {
namespace {

constexpr std::string_view kMagic{"\x93NUMPY", 6};
// NumPy itself refuses headers beyond 10,000 characters; a true one has about 100.
constexpr std::uint64_t kMaxHeader = 10000;

struct Element {
  std::string_view descr;
  DType dtype;
};
constexpr Element kElements[] = {
    {"<f4", DType::f32}, {"<f2", DType::f16}, {"<f8", DType::f64}, {"<i8", DType::i64}, {"<i4", DType::i32}};

struct Header {
  DType dtype = DType::f32;
  bool fortran_order = false;
  Shape shape;
};

// The header is a Python dict literal: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Header parse() {
    std::optional<DType> dtype;
    std::optional<bool> fortran_order;
    std::optional<Shape> shape;
    expect('{');
    while (!accept('}')) {
      const std::string_view key = string();
      expect(':');
      if (key == "descr" && !dtype)
        dtype = element();
      else if (key == "fortran_order" && !fortran_order)
        fortran_order = boolean();
      else if (key == "shape" && !shape)
        shape = tuple();
      else
        fail("the keys descr, fortran_order and shape, once each", "'" + std::string(key) + "'");
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) fail("nothing after the header's dict", next());
    if (!dtype || !fortran_order || !shape) fail("the keys descr, fortran_order and shape", "fewer");
    return {*dtype, *fortran_order, *shape};
  }

 private:
  [[noreturn]] void fail(const std::string& expected, const std::string& found) const {
    throw FormatError(where_ + ": header at character " + std::to_string(at_), expected, found);
  }
  std::string next() const {
    return at_ < text_.size() ? "'" + std::string(1, text_[at_]) + "'" : std::string("its end");
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool accept(char wanted) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted) {
    if (!accept(wanted)) fail("'" + std::string(1, wanted) + "'", next());
  }
  bool accept_word(std::string_view word) {
    skip_space();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  std::string_view string() {
    const char quote = accept('"') ? '"' : '\'';
    if (quote == '\'') expect('\'');
    const std::size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos) fail("a closing quote", "none");
    const std::string_view value = text_.substr(at_, end - at_);
    at_ = end + 1;
    return value;
  }
  DType element() {
    skip_space();
    if (at_ < text_.size() && text_[at_] == '[') fail("a plain element type", "a record type");
    const std::string_view descr = string();
    for (const Element& candidate : kElements)
      if (candidate.descr == descr) return candidate.dtype;
    fail("an element type of <f4, <f2, <f8, <i8 or <i4", std::string(descr));
  }
  bool boolean() {
    if (accept_word("True")) return true;
    if (accept_word("False")) return false;
    fail("True or False", next());
  }
  std::int64_t integer() {
    skip_space();
    std::int64_t value = 0;
    const std::size_t begin = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_)
      if (__builtin_mul_overflow(value, std::int64_t{10}, &value) ||
          __builtin_add_overflow(value, std::int64_t{text_[at_] - '0'}, &value))
        fail("an extent below 2^63", std::string(text_.substr(begin, 24)));
    if (at_ == begin) fail("an extent", next());
    return value;
  }
  Shape tuple() {
    std::vector<std::int64_t> extents;
    expect('(');
    while (!accept(')')) {
      if (extents.size() == Shape::kMaxRank) fail("at most " + std::to_string(Shape::kMaxRank) + " axes", "more");
      extents.push_back(integer());
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return Shape(std::span<const std::int64_t>(extents));
  }

  std::string_view text_;
  const std::string& where_;
  std::size_t at_ = 0;
};

std::uint64_t bytes_left(std::istream& in, const std::string& where) {
  const auto here = in.tellg();
  in.seekg(0, std::ios::end);
  const auto end = in.tellg();
  in.seekg(here);
  if (!in || here < 0 || end < here) throw IoError(where, "a file that can be read and sought", "one that cannot");
  return static_cast<std::uint64_t>(end - here);
}

void read_exactly(std::istream& in, void* to, std::uint64_t count, const std::string& where) {
  in.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
  if (static_cast<std::uint64_t>(in.gcount()) != count)
    throw IoError(where, std::to_string(count) + " more bytes", std::to_string(in.gcount()));
}

Dims fortran_strides(const Shape& shape) {
  Dims strides = shape;
  std::int64_t stride = 1;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    strides[axis] = stride;
    stride *= shape[axis];
  }
  return strides;
}

std::string_view descr_of(DType dtype) {
  for (const Element& candidate : kElements)
    if (candidate.dtype == dtype) return candidate.descr;
  throw ArgumentError(".npy output", "f64, f32, f16, bf16, i64 or i32", std::string(name_of(dtype)));
}

}  // namespace

Tensor read_npy(std::istream& in, const std::string& where) {
  std::uint64_t left = bytes_left(in, where);
  std::array<unsigned char, 12> start{};
  // Magic, two bytes of version, and two (version 1) or four bytes of header length.
  if (left < 10) throw FormatError(where, "a .npy file", std::to_string(left) + " bytes", "The file is cut short.");
  read_exactly(in, start.data(), 8, where);
  if (std::memcmp(start.data(), kMagic.data(), kMagic.size()) != 0)
    throw FormatError(where, "a .npy file, which begins with \\x93NUMPY", "something else");
  const int version = start[6];
  if (version < 1 || version > 3 || start[7] != 0)
    throw FormatError(where, ".npy version 1.0, 2.0 or 3.0", std::to_string(version) + "." + std::to_string(start[7]));
  const std::uint64_t length_bytes = version == 1 ? 2 : 4;
  left -= 8;
  if (left < length_bytes) throw FormatError(where, "a header length", "the file's end", "The file is cut short.");
  read_exactly(in, start.data() + 8, length_bytes, where);
  left -= length_bytes;
  std::uint64_t length = 0;
  for (std::uint64_t i = length_bytes; i-- > 0;) length = length << 8 | start[8 + i];
  if (length > std::min(left, kMaxHeader))
    throw FormatError(where, "a header of at most " + std::to_string(std::min(left, kMaxHeader)) + " bytes",
                      std::to_string(length));
  std::string text(static_cast<std::size_t>(length), '\0');
  read_exactly(in, text.data(), length, where);
  left -= length;

  const Header header = HeaderParser(text, where).parse();
  std::int64_t size = 0;
  if (__builtin_mul_overflow(element_count(header.shape), static_cast<std::int64_t>(size_of(header.dtype)), &size) ||
      static_cast<std::uint64_t>(size) != left)
    throw FormatError(where,
                      "the bytes of shape " + to_string(header.shape) + " in " + std::string(name_of(header.dtype)),
                      std::to_string(left) + " bytes after the header", "The file is cut short or its header lies.");
  Tensor array(header.dtype, header.shape);
  read_exactly(in, array.data(), left, where);
  if (!header.fortran_order || size == 0) return array;
  return convert(TensorView(array.data(), header.dtype, header.shape, fortran_strides(header.shape)), header.dtype);
}

void write_npy(std::ostream& out, TensorView array) {
  const Tensor copy = array.dtype() == DType::bf16 ? convert(array, DType::f32)
                      : array.is_contiguous()      ? Tensor()
                                                   : convert(array, array.dtype());
  if (copy) array = copy.view();

  std::string header = "{'descr': '" + std::string(descr_of(array.dtype())) + "', 'fortran_order': False, 'shape': (";
  for (std::int64_t extent : array.shape()) header += std::to_string(extent) + ", ";
  header += "), }";
  // NumPy wants one extent as "(3,)" and none as "()"; a comma and a space before the parenthesis are Python too.
  // The array begins at a multiple of 64 bytes.
  const std::size_t start = kMagic.size() + 4;
  header.append(63 - (start + header.size()) % 64, ' ');
  header += '\n';
  const char length[4] = {1, 0, static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  out.write(kMagic.data(), static_cast<std::streamsize>(kMagic.size())).write(length, sizeof length) << header;
  out.write(static_cast<const char*>(array.data()),
            static_cast<std::streamsize>(static_cast<std::size_t>(array.numel()) * size_of(array.dtype())));
}

}  // namespace kineograph::video
