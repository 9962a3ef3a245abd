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
constexpr std::string_view kStateDicts[] = {"state_dict", "model_state_dict", "controlnet", "model", "module", "ema",
                                            "params"};

// Tensors with Python attributes: (function, type, its arguments, attributes).
constexpr std::string_view kFromType = "torch._tensor._rebuild_from_type_v2";

// Nested dictionaries of tensors are rare, and deep ones are made to exhaust a stack.
constexpr int kMaxDepth = 16;
constexpr std::size_t kMaxVisits = 4'000'000;

// A view may repeat its storage (strides of 0), but not to a size that the file has no bytes for.
constexpr std::int64_t kMaxRepeated = 1 << 16;

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
      return value.size <= 40 ? "\"" + std::string(pickle.text(value)) + "\""
                              : "a text of " + std::to_string(value.size) + " bytes";
    case Kind::list:
    case Kind::tuple:
      return "a list of " + std::to_string(value.size);
    case Kind::dict:
      return "a dict of " + std::to_string(value.size / 2);
    default:
      return pickle.name_of(value).empty() ? "an object" : "a " + std::string(pickle.name_of(value));
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
        const auto items = pickle_.items(*root);
        for (std::size_t i = 0; i + 1 < items.size(); i += 2)
          if (&pickle_.at(items[i + 1]) != inner) add_opaque(key_of(items[i]), items[i + 1]);
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
    return key.kind == Kind::text ? std::string(pickle_.text(key)) : describe(pickle_, key);
  }
  bool is_tensor(const PickleValue& value) const {
    const std::string_view name = pickle_.name_of(value);
    return value.kind == Kind::call &&
           (name.starts_with("torch._utils._rebuild_tensor") || name.starts_with("torch._utils._rebuild_parameter") ||
            (name == kFromType && pickle_.name_of(item(pickle_.items(value), 1)) == "torch._utils._rebuild_tensor_v2"));
  }
  bool has_tensors(const PickleValue& dict) const {
    const auto items = pickle_.items(dict);
    for (std::size_t i = 1; i < items.size(); i += 2)
      if (is_tensor(pickle_.at(items[i]))) return true;
    return false;
  }
  /// The value at `index`, None where there are fewer.
  const PickleValue& item(std::span<const PickleRef> items, std::size_t index) const {
    static const PickleValue none{};
    return index < items.size() ? pickle_.at(items[index]) : none;
  }
  void add_opaque(const std::string& name, PickleRef ref) {
    out_.opaque.emplace_back(name, describe(pickle_, pickle_.at(ref)));
  }

  void walk(const std::string& prefix, const PickleValue& dict, int depth) {
    if (depth > kMaxDepth) refuse(prefix, "dicts nested at most " + std::to_string(kMaxDepth) + " deep", "more");
    const auto items = pickle_.items(dict);
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
      if (++visits_ > kMaxVisits) refuse(prefix, "at most " + std::to_string(kMaxVisits) + " entries", "more");
      const PickleValue& value = pickle_.at(items[i + 1]);
      const std::string name = prefix + key_of(items[i]);
      if (is_tensor(value))
        add_tensor(name, value);
      else if (value.kind == Kind::dict && value.size != 0)
        walk(name + ".", value, depth + 1);
      else
        add_opaque(name, items[i + 1]);
    }
  }

  /// A call of one of torch's functions that rebuild tensors.
  struct Call {
    std::string_view function;
    std::span<const PickleRef> arguments;
  };
  const PickleValue& argument(const std::string& name, const Call& call, std::size_t index, Kind kind) const {
    if (call.arguments.size() <= index || pickle_.at(call.arguments[index]).kind != kind)
      refuse(name, "the arguments of " + std::string(call.function), "others");
    return pickle_.at(call.arguments[index]);
  }
  std::vector<std::int64_t> integers(const std::string& name, const PickleValue& tuple) const {
    if (tuple.size > Dims::kMaxRank)
      refuse(name, "at most " + std::to_string(Dims::kMaxRank) + " axes", std::to_string(tuple.size));
    std::vector<std::int64_t> values;
    for (const PickleRef ref : pickle_.items(tuple)) {
      if (pickle_.at(ref).kind != Kind::integer || pickle_.at(ref).integer < 0)
        refuse(name, "extents and strides of 0 or more", describe(pickle_, pickle_.at(ref)));
      values.push_back(pickle_.at(ref).integer);
    }
    return values;
  }

  /// The call that makes the tensor itself: a parameter is a call on a tensor, and a tensor with attributes one on a
  /// function and its arguments.
  Call tensor_call(const std::string& name, const PickleValue& value) const {
    const PickleValue* made = &value;
    for (int depth = 0;; ++depth) {
      const Call call{pickle_.name_of(*made), pickle_.items(*made).subspan(1)};
      if (call.function == kFromType)
        return {pickle_.name_of(item(call.arguments, 0)), pickle_.items(argument(name, call, 2, Kind::tuple))};
      if (!call.function.starts_with("torch._utils._rebuild_parameter")) return call;
      made = &argument(name, call, 0, Kind::call);
      if (depth > 2 || !is_tensor(*made)) refuse(name, "a tensor", describe(pickle_, *made));
    }
  }

  void add_tensor(const std::string& name, const PickleValue& value) {
    const Call call = tensor_call(name, value);
    const bool untyped = call.function == "torch._utils._rebuild_tensor_v3";
    if (!untyped && call.function != "torch._utils._rebuild_tensor_v2" &&
        call.function != "torch._utils._rebuild_tensor")
      refuse(name, "torch._utils._rebuild_tensor, _v2 or _v3", std::string(call.function));
    const PickleValue& persistent = argument(name, call, 0, Kind::persistent);
    const PickleValue& offset = argument(name, call, 1, Kind::integer);
    const std::vector<std::int64_t> sizes = integers(name, argument(name, call, 2, Kind::tuple));
    const std::vector<std::int64_t> strides = integers(name, argument(name, call, 3, Kind::tuple));
    if (sizes.size() != strides.size()) refuse(name, "as many strides as axes", std::to_string(strides.size()));

    // ("storage", class, key, device, elements), and in the older format (key, offset, elements) of a view, or None.
    const PickleValue& id = item(pickle_.items(persistent), 0);
    const auto parts = pickle_.items(id);
    const PickleValue& type = item(parts, 1);
    const bool fits = id.kind == Kind::tuple && parts.size() >= 5 && pickle_.text(item(parts, 0)) == "storage" &&
                      type.kind == Kind::global && item(parts, 2).kind == Kind::text;
    if (!fits) refuse(name, "a persistent id of a storage", "another");
    const PickleValue& named = untyped ? argument(name, call, 6, Kind::global) : type;
    const std::string_view kind = pickle_.text(named);
    const std::optional<DType> dtype = untyped ? find_dtype(kDTypes, kind) : find_dtype(kStorages, kind);
    if (!dtype) {
      // Complex numbers, 8-bit floats and the like: of no temporal module.
      if (!kind.starts_with("torch.")) refuse(name, "a storage or a dtype of torch", std::string(kind));
      out_.opaque.emplace_back(name, "a tensor of " + std::string(kind) + " " + to_string(Shape(sizes)));
      return;
    }
    const std::string key(pickle_.text(item(parts, 2)));
    const auto storage = storages_.find(key);
    if (storage == storages_.end()) refuse(name, "storage " + key, "none of that name");
    const auto part = part_of(name, storage->second.first, item(parts, 5), size_of(*dtype));
    add_view(name, storage->second, part, *dtype, offset.integer, Shape(sizes), Dims(strides));
  }

  /// The part of a storage that the older format's sixth part of a persistent id says.
  std::span<const std::byte> part_of(const std::string& name, std::span<const std::byte> storage,
                                     const PickleValue& view, std::size_t size) const {
    if (view.kind == Kind::none) return storage;
    const auto parts = pickle_.items(view);
    const PickleValue &offset = item(parts, 1), &count = item(parts, 2);
    const std::size_t elements = storage.size() / size;
    if (view.kind != Kind::tuple || offset.kind != Kind::integer || count.kind != Kind::integer || offset.integer < 0 ||
        count.integer < 0 || static_cast<std::uint64_t>(offset.integer) > elements ||
        static_cast<std::uint64_t>(count.integer) > elements - static_cast<std::uint64_t>(offset.integer))
      refuse(name, "a view within the " + std::to_string(elements) + " elements of its storage", "another");
    return storage.subspan(static_cast<std::size_t>(offset.integer) * size,
                           static_cast<std::size_t>(count.integer) * size);
  }

  void add_view(const std::string& name, const Bytes& storage, std::span<const std::byte> part, DType dtype,
                std::int64_t offset, const Shape& shape, const Dims& strides) {
    const auto size = static_cast<std::int64_t>(size_of(dtype));
    const auto elements = static_cast<std::int64_t>(part.size()) / size;
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
    if (count > std::max(elements, kMaxRepeated))
      refuse(name, "at most " + std::to_string(kMaxRepeated) + " elements, or as many as its storage has",
             "shape " + to_string(shape) + " of a storage of " + std::to_string(elements));
    const std::byte* from = part.data() + (count == 0 ? 0 : offset * size);
    if (reinterpret_cast<std::uintptr_t>(from) % size_of(dtype) != 0)
      from = aligned(storage.first) + (from - storage.first.data());
    out_.tensors.push_back({name, TensorView(from, dtype, shape, strides), storage.second});
  }

  /// A view of what is not aligned may not be read: a copy of the storage, one for all its views.
  const std::byte* aligned(std::span<const std::byte> storage) {
    const auto [found, added] = aligned_.emplace(storage.data(), nullptr);
    if (added) {
      Tensor& copy = out_.copies.emplace_back(DType::u8, Shape{static_cast<std::int64_t>(storage.size())});
      std::memcpy(copy.data(), storage.data(), storage.size());
      found->second = static_cast<const std::byte*>(copy.data());
    }
    return found->second;
  }

  const Pickle& pickle_;
  std::string where_;
  std::unordered_map<const std::byte*, const std::byte*> aligned_;
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
    const auto id = pickle.items(pickle.at(pickle.items(value).front()));
    if (id.size() < 5) continue;
    const std::string_view type = pickle.text(pickle.at(id[1]));
    const std::string key(pickle.text(pickle.at(id[2])));
    if (const auto dtype = find_dtype(kStorages, type))
      sizes[key] = size_of(*dtype);
    else if (type == "torch.ComplexFloatStorage" || type == "torch.ComplexDoubleStorage")
      sizes[key] = type == "torch.ComplexFloatStorage" ? 8 : 16;
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
  const Pickle machine = next();
  const PickleValue* little = machine.find(machine.at(machine.root), "little_endian");
  if (little != nullptr && little->integer == 0)
    throw FormatError(where, "little-endian numbers", "those of a big-endian machine");
  const Pickle object = next(), keys = next();
  const std::unordered_map<std::string, std::size_t> sizes = element_sizes(object);
  std::unordered_map<std::string, Builder::Bytes> storages;
  for (const PickleRef ref : keys.items(keys.at(keys.root))) {
    const std::string key(keys.text(keys.at(ref)));
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
