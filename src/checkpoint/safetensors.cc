#include "checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/atomic_file.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/printable.h"
#include "base/text.h"
#include "kineograph/checkpoint.h"
#include "kineograph/error.h"

namespace kineograph::checkpoint {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian, and read in place");

// What the official library refuses to go beyond.
constexpr std::uint64_t kMaxHeader = 100'000'000;

struct DTypeName {
  std::string_view name;
  DType dtype;
};

// In the order in which the official library ranks equal sizes when it writes.
constexpr DTypeName kDTypeNames[] = {
    {"BOOL", DType::boolean},      {"U8", DType::u8},   {"I8", DType::i8},   {"F8_E5M2", DType::f8_e5m2},
    {"F8_E4M3", DType::f8_e4m3fn}, {"I16", DType::i16}, {"F16", DType::f16}, {"BF16", DType::bf16},
    {"I32", DType::i32},           {"F32", DType::f32}, {"F64", DType::f64}, {"I64", DType::i64}};

// Further dtypes of the format; their tensors are checked and reported, not read.
constexpr std::pair<std::string_view, std::int64_t> kOpaqueBits[] = {
    {"F4", 4},          {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"U16", 16},    {"U32", 32},    {"U64", 64},    {"C64", 64}};

std::size_t rank_of(DType dtype) {
  const auto* found = std::find_if(std::begin(kDTypeNames), std::end(kDTypeNames),
                                   [&](const DTypeName& entry) { return entry.dtype == dtype; });
  return static_cast<std::size_t>(found - std::begin(kDTypeNames));
}

/// Builds the header's values as the parser meets them, and refuses what a DOM would hide: repeated keys and nesting.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  explicit HeaderReader(std::string where) : where_(std::move(where)) {}

  struct Entry {
    std::string name, dtype;
    std::vector<std::int64_t> shape;
    std::vector<std::uint64_t> offsets;
    bool has_dtype = false, has_shape = false, has_offsets = false;
  };
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

  bool start_object(std::size_t) override {
    if (++depth_ > 2 || array_) refuse("a header of one object of objects", "deeper nesting");
    if (depth_ == 2) {
      in_metadata_ = key_ == "__metadata__";
      if (!in_metadata_) entries.push_back({key_, {}, {}, {}, false, false, false});
      inner_keys_.clear();
    }
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool key(std::string& name) override {
    std::set<std::string>& seen = depth_ == 1 ? names_ : inner_keys_;
    if (!seen.insert(name).second) refuse("every key once", "\"" + shortened(name) + "\" twice");
    if (depth_ == 1)
      key_ = name;
    else
      field_ = name;
    return true;
  }
  bool string(std::string& value) override {
    if (depth_ != 2 || array_) refuse("an object for every tensor", "a string");
    if (in_metadata_) {
      metadata[field_] = value;
    } else if (field_ == "dtype") {
      entries.back().dtype = value;
      entries.back().has_dtype = true;
    } else {
      refuse("dtype, shape and data_offsets of tensor " + key_, "\"" + field_ + "\" with a string");
    }
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || array_ || in_metadata_ || (field_ != "shape" && field_ != "data_offsets"))
      refuse("dtype, shape and data_offsets", "an array at \"" + field_ + "\"");
    array_ = true;
    (field_ == "shape" ? entries.back().has_shape : entries.back().has_offsets) = true;
    return true;
  }
  bool end_array() override {
    array_ = false;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!array_) refuse("numbers in shape and data_offsets only", "a number at \"" + field_ + "\"");
    if (field_ == "shape") {
      if (value > static_cast<std::uint64_t>(INT64_MAX)) refuse("extents below 2^63", std::to_string(value));
      entries.back().shape.push_back(static_cast<std::int64_t>(value));
    } else {
      entries.back().offsets.push_back(value);
    }
    return true;
  }
  bool number_integer(number_integer_t value) override { refuse("numbers of 0 or more", std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { refuse("whole numbers", text); }
  bool null() override {
    // The official library writes and reads a null for no metadata.
    if (depth_ == 1 && !array_ && key_ == "__metadata__") return true;
    refuse("dtype, shape and data_offsets", "null");
  }
  bool boolean(bool) override { refuse("dtype, shape and data_offsets", "a boolean"); }
  bool binary(binary_t&) override { refuse("JSON", "binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    refuse("JSON", "an error at byte " + std::to_string(position) + " of it");
  }

 private:
  [[noreturn]] void refuse(const std::string& expected, const std::string& found) const {
    throw FormatError(where_ + ": header", expected, shortened(found));
  }
  std::string where_, key_, field_;
  std::set<std::string> names_, inner_keys_;
  int depth_ = 0;
  bool array_ = false, in_metadata_ = false;
};

constexpr const char* kNoFile = "The file is truncated, or neither a safetensors file nor a torch archive.";

std::uint64_t read_length(std::span<const std::byte> bytes, const std::string& where) {
  std::uint64_t length = 0;
  if (bytes.size() < sizeof(length))
    throw FormatError(where, "at least 8 bytes of header length", std::to_string(bytes.size()) + " bytes", kNoFile);
  std::memcpy(&length, bytes.data(), sizeof(length));
  if (length > kMaxHeader || length > bytes.size() - sizeof(length))
    throw FormatError(where, "a header that fits into the file's " + std::to_string(bytes.size()) + " bytes",
                      "a header length of " + std::to_string(length), kNoFile);
  return length;
}

/// Bytes [begin, end) of tensors are all of `size` bytes, each once.
void check_ranges(std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges, std::size_t size,
                  const std::string& where) {
  std::sort(ranges.begin(), ranges.end());
  std::uint64_t covered = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != covered)
      throw FormatError(where, "tensors that follow each other without hole or overlap",
                        "one at byte " + std::to_string(begin) + " after " + std::to_string(covered));
    covered = end;
  }
  if (covered != size)
    throw FormatError(where, std::to_string(covered) + " bytes of data, as the header says", std::to_string(size));
}

/// A name as JSON has it.
std::string quoted(const std::string& name) { return Json(name).dump(); }

/// Names of a header are read back as they are: each once, and none the format's own.
void check_names(const std::vector<LazyTensor>& tensors) {
  std::set<std::string_view> seen{"__metadata__"};
  for (const LazyTensor& tensor : tensors)
    if (!seen.insert(tensor.name).second)
      throw ArgumentError("a tensor's name, \"" + printable(tensor.name, 200) + "\"",
                          "one that nothing else in the file has",
                          tensor.name == "__metadata__" ? "safetensors' own" : "a second tensor of that name");
}

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> bytes, std::string_view file) {
  const std::string where(file);
  const std::uint64_t length = read_length(bytes, where);
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + 8;
  if (length == 0 || text[0] != '{') throw FormatError(where + ": header", "a JSON object", "something else");
  HeaderReader reader(where);
  json::sax_parse(text, text + length, &reader);

  const std::span<const std::byte> data = bytes.subspan(8 + static_cast<std::size_t>(length));
  SafetensorsHeader header;
  header.metadata = std::move(reader.metadata);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (const auto& entry : reader.entries) {
    const std::string at = where + ": tensor " + shortened(entry.name);
    if (!entry.has_dtype || !entry.has_shape || !entry.has_offsets || entry.offsets.size() != 2)
      throw FormatError(at, "dtype, shape and two data_offsets", "less or more");
    const auto* name = std::find_if(std::begin(kDTypeNames), std::end(kDTypeNames),
                                    [&](const DTypeName& known) { return known.name == entry.dtype; });
    const auto* other = std::find_if(std::begin(kOpaqueBits), std::end(kOpaqueBits),
                                     [&](const auto& known) { return known.first == entry.dtype; });
    const bool opaque = name == std::end(kDTypeNames);
    if (opaque && other == std::end(kOpaqueBits))
      throw FormatError(at, "a dtype of safetensors, such as BOOL, U8, I64, F16, BF16 or F32", shortened(entry.dtype));
    if (entry.shape.size() > Dims::kMaxRank)
      throw FormatError(at, "at most " + std::to_string(Dims::kMaxRank) + " axes", std::to_string(entry.shape.size()));
    const Shape shape(entry.shape);
    std::int64_t size = 0;
    const std::int64_t count = element_count(shape);
    const std::int64_t bits = opaque ? other->second : 8 * static_cast<std::int64_t>(size_of(name->dtype));
    if (__builtin_mul_overflow(count, bits, &size))
      throw FormatError(at, "fewer than 2^63 bits", "shape " + to_string(shape));
    size = size / 8 + (size % 8 != 0);
    const std::uint64_t begin = entry.offsets[0], end = entry.offsets[1];
    if (begin > end || end > data.size())
      throw FormatError(at, "data_offsets within the file's " + std::to_string(data.size()) + " bytes of data",
                        "[" + std::to_string(begin) + ", " + std::to_string(end) + "]", "The file is truncated.");
    if (end - begin != static_cast<std::uint64_t>(size))
      throw FormatError(at, std::to_string(size) + " bytes for shape " + to_string(shape) + " of " + entry.dtype,
                        std::to_string(end - begin));
    ranges.emplace_back(begin, end);
    if (opaque) {
      header.opaque.emplace_back(entry.name, "a tensor of " + entry.dtype + " " + to_string(shape));
      continue;
    }
    const std::byte* from = data.data() + begin;
    if (reinterpret_cast<std::uintptr_t>(from) % size_of(name->dtype) == 0) {
      header.tensors.emplace_back(entry.name, TensorView(from, name->dtype, shape));
    } else {
      Tensor& copy = header.copies.emplace_back(name->dtype, shape);
      if (size != 0) std::memcpy(copy.data(), from, static_cast<std::size_t>(size));
      header.tensors.emplace_back(entry.name, copy.view());
    }
  }
  check_ranges(std::move(ranges), data.size(), where);
  return header;
}

void write_safetensors(AtomicFile& file, const std::vector<LazyTensor>& tensors,
                       const std::map<std::string, std::string>& metadata,
                       const std::function<bool(std::size_t, std::size_t)>& on_progress) {
  check_names(tensors);
  std::vector<const LazyTensor*> order;
  for (const LazyTensor& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const LazyTensor* a, const LazyTensor* b) {
    const std::size_t ra = rank_of(a->dtype), rb = rank_of(b->dtype);
    return ra != rb ? ra > rb : a->name < b->name;
  });
  std::string text = "{";
  const auto add = [&](const std::string& key, const std::string& value) {
    text += (text.size() == 1 ? "" : ",") + quoted(key) + ":" + value;
  };
  std::string pairs;
  for (const auto& [key, value] : metadata) pairs += (pairs.empty() ? "" : ",") + quoted(key) + ":" + quoted(value);
  if (!metadata.empty()) add("__metadata__", "{" + pairs + "}");
  std::uint64_t offset = 0;
  const auto bytes_of = [](const LazyTensor& tensor) {
    return static_cast<std::uint64_t>(element_count(tensor.shape)) * size_of(tensor.dtype);
  };
  for (const LazyTensor* tensor : order) {
    const std::uint64_t end = offset + bytes_of(*tensor);
    std::string shape;
    for (const std::int64_t extent : tensor->shape) shape += (shape.empty() ? "" : ",") + std::to_string(extent);
    add(tensor->name, "{\"dtype\":\"" + std::string(kDTypeNames[rank_of(tensor->dtype)].name) + "\",\"shape\":[" +
                          shape + "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(end) + "]}");
    offset = end;
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  file.write(&length, sizeof(length));
  file.write(text);
  std::uint64_t done = 0;
  const auto tell = [&] {
    if (on_progress && !on_progress(done, offset)) throw Cancelled("nothing was written");
  };
  tell();
  for (const LazyTensor* tensor : order) {
    Tensor scratch;
    TensorView view = tensor->make(scratch);
    if (!view.is_contiguous()) {
      scratch = convert(view, view.dtype());
      view = scratch;
    }
    try {
      file.write(view.data(), bytes_of(*tensor));
    } catch (const IoError&) {
      check_unchanged(view.data());  // the likelier cause: the system cannot read what is no longer there
      throw;
    }
    check_unchanged(view.data());
    if (tensor->written) tensor->written();
    done += bytes_of(*tensor);
    tell();
  }
}

}  // namespace kineograph::checkpoint

namespace kineograph {

void save_safetensors(const std::filesystem::path& path, const std::vector<std::pair<std::string, TensorView>>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  std::vector<checkpoint::LazyTensor> lazy;
  for (const auto& [name, view] : tensors)
    lazy.push_back({name, view.dtype(), view.shape(), [&view = view](Tensor&) { return view; }, {}});
  AtomicFile file(path);
  checkpoint::write_safetensors(file, lazy, metadata);
  file.commit();
}

}  // namespace kineograph
