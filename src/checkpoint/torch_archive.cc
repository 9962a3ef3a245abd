#include "checkpoint/torch_archive.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <unordered_map>

#include "checkpoint/pickle.h"
#include "kineograph/error.h"

namespace kineograph::checkpoint {
namespace {

using Kind = PickleValue::Kind;

static_assert(std::endian::native == std::endian::little, "torch archives are little-endian, and read in place");

struct Storage {
  std::string_view name;
  DType dtype;
};

// Typed storages of torch, and the dtypes that come with an untyped one.
constexpr Storage kStorages[] = {
    {"FloatStorage", DType::f32},     {"DoubleStorage", DType::f64}, {"HalfStorage", DType::f16},
    {"BFloat16Storage", DType::bf16}, {"LongStorage", DType::i64},   {"IntStorage", DType::i32},
    {"ShortStorage", DType::i16},     {"CharStorage", DType::i8},    {"ByteStorage", DType::u8},
    {"BoolStorage", DType::boolean},  {"UntypedStorage", DType::u8}};
constexpr Storage kDTypes[] = {{"float32", DType::f32},   {"float", DType::f32},   {"float64", DType::f64},
                               {"double", DType::f64},    {"float16", DType::f16}, {"half", DType::f16},
                               {"bfloat16", DType::bf16}, {"int64", DType::i64},   {"int32", DType::i32},
                               {"int16", DType::i16},     {"int8", DType::i8},     {"uint8", DType::u8},
                               {"bool", DType::boolean}};

// Keys under which training scripts put a state dict, in the order in which they are looked for.
constexpr std::string_view kStateDicts[] = {"state_dict", "model_state_dict", "model", "module", "ema", "params"};

// Nested dictionaries of tensors are rare, and deep ones are made to exhaust a stack.
constexpr int kMaxDepth = 16;
constexpr std::size_t kMaxVisits = 4'000'000;

template <std::size_t N>
std::optional<DType> find_dtype(const Storage (&table)[N], std::string_view global) {
  const std::string_view last = global.substr(global.rfind('.') + 1);
  for (const Storage& entry : table)
    if (global.starts_with("torch") && entry.name == last) return entry.dtype;
  return std::nullopt;
}

std::string describe(const Pickle& pickle, const PickleValue& value) {
  switch (value.kind) {
    case Kind::none:
      return "None";
    case Kind::boolean:
      return value.integer != 0 ? "True" : "False";
    case Kind::integer:
      return std::to_string(value.integer);
    case Kind::real:
      return std::to_string(value.number);
    case Kind::text:
      return value.text.size() <= 40 ? "\"" + value.text + "\""
                                     : "a text of " + std::to_string(value.text.size()) + " bytes";
    case Kind::list:
    case Kind::tuple:
      return "a list of " + std::to_string(value.items.size());
    case Kind::dict:
      return "a dict of " + std::to_string(value.items.size() / 2);
    default:
      return "a " + std::string(pickle.name_of(value));
  }
}

/// Walks one pickle's values and finds the tensors in them.
class Builder {
 public:
  /// storage(key) are a storage's bytes and its record's index.
  using Bytes = std::pair<std::span<const std::byte>, std::size_t>;
  Builder(const Pickle& pickle, std::string where, const std::unordered_map<std::string, Bytes>& storages,
          TorchArchive& out)
      : pickle_(pickle), where_(std::move(where)), storages_(storages), out_(out) {}

  void build() {
    const PickleValue* root = &pickle_.at(pickle_.root);
    if (is_tensor(*root)) return add_tensor("", *root);
    if (root->kind != Kind::dict) throw FormatError(where_, "a dict of tensors", describe(pickle_, *root));
    if (!has_tensors(*root))
      for (const std::string_view key : kStateDicts) {
        const PickleValue* inner = pickle_.find(*root, key);
        if (inner == nullptr || inner->kind != Kind::dict) continue;
        for (std::size_t i = 0; i + 1 < root->items.size(); i += 2)
          if (&pickle_.at(root->items[i + 1]) != inner) add_opaque(key_of(root->items[i]), root->items[i + 1]);
        root = inner;
        break;
      }
    walk("", *root, 0);
  }

 private:
  [[noreturn]] void refuse(const std::string& name, const std::string& expected, const std::string& found) const {
    throw FormatError(where_ + (name.empty() ? "" : ": tensor " + name), expected, found);
  }
  std::string key_of(PickleRef ref) const {
    const PickleValue& key = pickle_.at(ref);
    return key.kind == Kind::text ? key.text : describe(pickle_, key);
  }
  bool is_tensor(const PickleValue& value) const {
    const std::string_view name = pickle_.name_of(value);
    return value.kind == Kind::call &&
           (name.starts_with("torch._utils._rebuild_tensor") || name.starts_with("torch._utils._rebuild_parameter"));
  }
  bool has_tensors(const PickleValue& dict) const {
    for (std::size_t i = 1; i < dict.items.size(); i += 2)
      if (is_tensor(pickle_.at(dict.items[i]))) return true;
    return false;
  }
  void add_opaque(const std::string& name, PickleRef ref) {
    out_.opaque.emplace_back(name, describe(pickle_, pickle_.at(ref)));
  }

  void walk(const std::string& prefix, const PickleValue& dict, int depth) {
    if (depth > kMaxDepth) refuse(prefix, "dicts nested at most " + std::to_string(kMaxDepth) + " deep", "more");
    for (std::size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      if (++visits_ > kMaxVisits) refuse(prefix, "at most " + std::to_string(kMaxVisits) + " entries", "more");
      const PickleValue& value = pickle_.at(dict.items[i + 1]);
      const std::string name = prefix + key_of(dict.items[i]);
      if (is_tensor(value))
        add_tensor(name, value);
      else if (value.kind == Kind::dict && !value.items.empty())
        walk(name + ".", value, depth + 1);
      else
        add_opaque(name, dict.items[i + 1]);
    }
  }

  const PickleValue& argument(const std::string& name, const PickleValue& call, std::size_t index, Kind kind) const {
    if (call.items.size() <= index + 1 || pickle_.at(call.items[index + 1]).kind != kind)
      refuse(name, "the arguments of " + std::string(pickle_.name_of(call)), "others");
    return pickle_.at(call.items[index + 1]);
  }
  std::vector<std::int64_t> integers(const std::string& name, const PickleValue& tuple) const {
    if (tuple.items.size() > Dims::kMaxRank)
      refuse(name, "at most " + std::to_string(Dims::kMaxRank) + " axes", std::to_string(tuple.items.size()));
    std::vector<std::int64_t> values;
    for (const PickleRef item : tuple.items) {
      if (pickle_.at(item).kind != Kind::integer || pickle_.at(item).integer < 0)
        refuse(name, "extents and strides of 0 or more", describe(pickle_, pickle_.at(item)));
      values.push_back(pickle_.at(item).integer);
    }
    return values;
  }

  void add_tensor(const std::string& name, const PickleValue& value) {
    const PickleValue* call = &value;
    // A parameter is a call on a tensor.
    for (int depth = 0; pickle_.name_of(*call).starts_with("torch._utils._rebuild_parameter"); ++depth) {
      call = &argument(name, *call, 0, Kind::call);
      if (depth > 2 || !is_tensor(*call)) refuse(name, "a tensor", describe(pickle_, *call));
    }
    const std::string_view function = pickle_.name_of(*call);
    const bool untyped = function == "torch._utils._rebuild_tensor_v3";
    if (!untyped && function != "torch._utils._rebuild_tensor_v2" && function != "torch._utils._rebuild_tensor")
      refuse(name, "torch._utils._rebuild_tensor, _v2 or _v3", std::string(function));
    const PickleValue& persistent = argument(name, *call, 0, Kind::persistent);
    const PickleValue& offset = argument(name, *call, 1, Kind::integer);
    const std::vector<std::int64_t> sizes = integers(name, argument(name, *call, 2, Kind::tuple));
    const std::vector<std::int64_t> strides = integers(name, argument(name, *call, 3, Kind::tuple));
    if (sizes.size() != strides.size()) refuse(name, "as many strides as axes", std::to_string(strides.size()));

    // ("storage", class, key, device, elements)
    const PickleValue& id = pickle_.at(persistent.items.front());
    const bool fits = id.kind == Kind::tuple && id.items.size() >= 5 && pickle_.at(id.items[0]).text == "storage" &&
                      pickle_.at(id.items[1]).kind == Kind::global && pickle_.at(id.items[2]).kind == Kind::text;
    if (!fits) refuse(name, "a persistent id of a storage", "another");
    std::optional<DType> dtype = find_dtype(kStorages, pickle_.at(id.items[1]).text);
    if (untyped) {
      const PickleValue& named = argument(name, *call, 6, Kind::global);
      dtype = find_dtype(kDTypes, named.text);
      if (!dtype) refuse(name, "a dtype of torch", named.text);
    }
    if (!dtype) refuse(name, "a storage of torch", pickle_.at(id.items[1]).text);
    const std::string& key = pickle_.at(id.items[2]).text;
    const auto storage = storages_.find(key);
    if (storage == storages_.end()) refuse(name, "storage " + key, "none of that name");
    add_view(name, storage->second, *dtype, offset.integer, Shape(sizes), Dims(strides));
  }

  void add_view(const std::string& name, const Bytes& storage, DType dtype, std::int64_t offset, const Shape& shape,
                const Dims& strides) {
    const auto size = static_cast<std::int64_t>(size_of(dtype));
    const auto elements = static_cast<std::int64_t>(storage.first.size()) / size;
    const std::int64_t count = element_count(shape);
    std::int64_t last = offset;
    bool fits = offset >= 0;
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      std::int64_t reach = 0;
      fits = fits && !__builtin_mul_overflow(std::max<std::int64_t>(shape[axis] - 1, 0), strides[axis], &reach) &&
             !__builtin_add_overflow(last, reach, &last);
    }
    if (!fits || (count != 0 && last >= elements) || (count == 0 && offset > elements))
      refuse(name, "a tensor within the " + std::to_string(elements) + " elements of its storage",
             "shape " + to_string(shape) + " with strides " + to_string(strides) + " at " + std::to_string(offset));
    const std::byte* from = storage.first.data() + (count == 0 ? 0 : offset * size);
    if (reinterpret_cast<std::uintptr_t>(from) % size_of(dtype) != 0) {
      // Element by element: a view of what is not aligned may not be read.
      Tensor& copy = out_.copies.emplace_back(DType::u8, Shape{static_cast<std::int64_t>(storage.first.size())});
      std::memcpy(copy.data(), storage.first.data(), storage.first.size());
      from = static_cast<const std::byte*>(copy.data()) + offset * size;
    }
    out_.tensors.push_back({name, TensorView(from, dtype, shape, strides), storage.second});
  }

  const Pickle& pickle_;
  std::string where_;
  const std::unordered_map<std::string, Bytes>& storages_;
  TorchArchive& out_;
  std::size_t visits_ = 0;
};

// The older format begins with a pickle of this number (a LONG1 of 10 bytes), a protocol version and a dict about the
// machine; then the object, the list of its storages' keys, and each storage as its number of elements and its bytes.
constexpr unsigned char kLegacyMagic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c,
                                          0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

bool looks_like_legacy(std::span<const std::byte> bytes) {
  return bytes.size() >= sizeof(kLegacyMagic) && std::memcmp(bytes.data(), kLegacyMagic, sizeof(kLegacyMagic)) == 0;
}

/// Bytes of an element of every storage that the object refers to.
std::unordered_map<std::string, std::size_t> element_sizes(const Pickle& pickle) {
  std::unordered_map<std::string, std::size_t> sizes;
  for (const PickleValue& value : pickle.values) {
    if (value.kind != Kind::persistent) continue;
    const PickleValue& id = pickle.at(value.items.front());
    if (id.kind != Kind::tuple || id.items.size() < 5) continue;
    if (const auto dtype = find_dtype(kStorages, pickle.at(id.items[1]).text))
      sizes[pickle.at(id.items[2]).text] = size_of(*dtype);
  }
  return sizes;
}

TorchArchive parse_legacy(std::span<const std::byte> bytes, const std::string& where) {
  std::size_t at = 0;
  const auto next = [&] {
    Pickle pickle = read_pickle(bytes.subspan(at), where);
    at += pickle.size;
    return pickle;
  };
  next();  // the magic number
  next();  // the protocol
  next();  // the machine
  const Pickle object = next(), keys = next();
  const std::unordered_map<std::string, std::size_t> sizes = element_sizes(object);
  std::unordered_map<std::string, Builder::Bytes> storages;
  for (const PickleRef ref : keys.at(keys.root).items) {
    const std::string& key = keys.at(ref).text;
    std::uint64_t count = 0;
    const auto size = sizes.find(key);
    if (size == sizes.end() || bytes.size() - at < sizeof(count))
      throw FormatError(where + ": storage " + key, "a storage that a tensor uses", "none, or the file's end");
    std::memcpy(&count, bytes.data() + at, sizeof(count));
    at += sizeof(count);
    if (count > (bytes.size() - at) / size->second)
      throw FormatError(where + ": storage " + key, std::to_string(count) + " elements", "the file's end",
                        "The file is truncated.");
    storages[key] = {bytes.subspan(at, count * size->second), 0};
    at += count * size->second;
  }
  TorchArchive archive;
  Builder(object, where, storages, archive).build();
  return archive;
}

}  // namespace

bool looks_like_torch(std::span<const std::byte> bytes) noexcept {
  return looks_like_zip(bytes) || looks_like_legacy(bytes);
}

TorchArchive parse_torch(std::span<const std::byte> bytes, std::string_view file) {
  const std::string where(file);
  if (looks_like_legacy(bytes)) return parse_legacy(bytes, where);
  TorchArchive archive;
  archive.records = read_zip(bytes, where);
  // All entries are in one folder, whatever its name is.
  const auto pickle_entry = std::find_if(archive.records.begin(), archive.records.end(), [](const ZipEntry& entry) {
    return entry.name == "data.pkl" || entry.name.ends_with("/data.pkl");
  });
  if (pickle_entry == archive.records.end())
    throw FormatError(where, "data.pkl, as torch.save writes it", "a zip archive without it");
  const std::string folder = pickle_entry->name.substr(0, pickle_entry->name.size() - std::strlen("data.pkl"));
  std::unordered_map<std::string, Builder::Bytes> storages;
  for (std::size_t i = 0; i < archive.records.size(); ++i) {
    const ZipEntry& entry = archive.records[i];
    if (entry.name == folder + "byteorder" &&
        std::string_view(reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size()) != "little")
      throw FormatError(where + ": " + entry.name, "little", "another byte order");
    if (entry.name.starts_with(folder + "data/")) storages[entry.name.substr(folder.size() + 5)] = {entry.bytes, i};
  }
  check_crc32(*pickle_entry, where);
  const Pickle pickle = read_pickle(pickle_entry->bytes, where + ": " + pickle_entry->name);
  Builder(pickle, where, storages, archive).build();
  return archive;
}

}  // namespace kineograph::checkpoint
