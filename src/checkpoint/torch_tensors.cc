#include "checkpoint/torch_tensors.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <unordered_map>

#include "base/text.h"
#include "kineograph/error.h"

namespace kineograph::checkpoint {
namespace {

using Kind = PickleValue::Kind;

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
constexpr Storage kDTypes[] = {{"float32", DType::f32},
                               {"float", DType::f32},
                               {"float64", DType::f64},
                               {"double", DType::f64},
                               {"float16", DType::f16},
                               {"half", DType::f16},
                               {"bfloat16", DType::bf16},
                               {"int64", DType::i64},
                               {"int32", DType::i32},
                               {"int16", DType::i16},
                               {"int8", DType::i8},
                               {"uint8", DType::u8},
                               {"bool", DType::boolean},
                               {"float8_e4m3fn", DType::f8_e4m3fn},
                               {"float8_e5m2", DType::f8_e5m2}};

// Tensors with Python attributes: (function, type, its arguments, attributes).
constexpr std::string_view kFromType = "torch._tensor._rebuild_from_type_v2";

// Tensors that lie deeper are made to exhaust a stack.
constexpr int kMaxDepth = 16;
constexpr std::size_t kMaxVisits = 4'000'000, kNameBytesPerByte = 16, kNameBytesAtLeast = 65536;

// A view may repeat its storage (strides of 0), but not to a size that the file has no bytes for.
constexpr std::int64_t kMaxRepeated = 1 << 16;

template <std::size_t N>
std::optional<DType> find_dtype(const Storage (&table)[N], std::string_view global) {
  const std::string_view last = global.substr(global.rfind('.') + 1);
  for (const Storage& entry : table)
    if (global.starts_with("torch") && entry.name == last) return entry.dtype;
  return std::nullopt;
}

/// torch.save(model): an object whose state is that of torch.nn.Module.
bool is_module(const Pickle& pickle, const PickleValue& value) {
  const PickleValue& state = pickle.of_call(value, CallItem::state);
  return pickle.find(state, "_parameters") != nullptr && pickle.find(state, "_modules") != nullptr;
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
    case Kind::call:
      return (is_module(pickle, value) ? "a whole pickled model, a " : "a ") + shortened(pickle.name_of(value));
    default:
      return pickle.name_of(value).empty() ? "an object" : shortened(pickle.name_of(value));
  }
}

/// Walks the tree of one pickle's values and finds the tensors in it.
class Builder {
 public:
  Builder(const Pickle& pickle, const std::string& where, const Storages& storages, TorchArchive& out)
      : pickle_(pickle), where_(where), storages_(storages), out_(out), holds_(pickle.values.size(), Holds::unknown) {}

  void build() {
    const PickleValue& root = pickle_.at(pickle_.root);
    if (is_tensor(root)) return add_tensor("", root);
    if (is_module(pickle_, root))
      throw FormatError(where_, "a dict of tensors", describe(pickle_, root),
                        "torch.save(model) wrote it; save its weights instead: torch.save(model.state_dict(), PATH).");
    if (!is_node(root)) throw FormatError(where_, "a dict of tensors", describe(pickle_, root));
    walk("", root, 0);
  }

 private:
  enum class Holds : std::uint8_t { unknown, nothing, tensors };

  [[noreturn]] void refuse(const std::string& name, const std::string& expected, const std::string& found) const {
    throw FormatError(where_ + (name.empty() ? "" : ": tensor " + shortened(name)), expected, shortened(found));
  }
  std::string key_of(const PickleValue& key) const {
    return key.kind == Kind::text ? std::string(pickle_.text(key)) : describe(pickle_, key);
  }
  std::span<const PickleRef> arguments_of(const PickleValue& call) const {
    return pickle_.items(pickle_.of_call(call, CallItem::arguments));
  }
  bool is_tensor(const PickleValue& value) const {
    const std::string_view name = pickle_.name_of(value);
    return value.kind == Kind::call &&
           (name.starts_with("torch._utils._rebuild_tensor") || name.starts_with("torch._utils._rebuild_parameter") ||
            (name == kFromType && pickle_.name_of(item(arguments_of(value), 0)) == "torch._utils._rebuild_tensor_v2"));
  }
  /// The value at `index`, None where there are fewer.
  const PickleValue& item(std::span<const PickleRef> items, std::size_t index) const {
    return index < items.size() ? pickle_.at(items[index]) : pickle_.values.front();
  }

  // The tree: dicts (by whatever name), lists and tuples are its nodes.
  bool is_list(const PickleValue& value) const { return value.kind == Kind::list || value.kind == Kind::tuple; }
  bool is_node(const PickleValue& value) const { return is_list(value) || pickle_.as_dict(value).kind == Kind::dict; }
  /// Whether a tensor is below a value, at most kMaxDepth nodes down; every value is looked at once.
  bool holds_tensors(PickleRef ref, int depth) {
    const PickleValue& value = pickle_.at(ref);
    if (is_tensor(value)) return true;
    if (holds_[ref] != Holds::unknown || !is_node(value) || depth > kMaxDepth) return holds_[ref] == Holds::tensors;
    holds_[ref] = Holds::nothing;  // for cycles
    const PickleValue& dict = pickle_.as_dict(value);
    const auto items = pickle_.items(dict);
    const std::size_t step = dict.kind == Kind::dict ? 2 : 1;
    for (std::size_t i = step - 1; i < items.size(); i += step)
      if (holds_tensors(items[i], depth + 1)) holds_[ref] = Holds::tensors;
    return holds_[ref] == Holds::tensors;
  }

  void walk(const std::string& prefix, const PickleValue& node, int depth) {
    if (is_list(node)) return walk_list(prefix, node, depth);
    const auto items = pickle_.items(pickle_.as_dict(node));
    // The last value of a key counts, as in Python. A long key may be there a hundred thousand times by reference: its
    // text is looked at once.
    std::unordered_map<std::string_view, std::size_t> last;
    std::unordered_map<PickleRef, std::size_t*> of_key;
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
      if (pickle_.at(items[i]).kind != Kind::text) continue;
      std::size_t*& own = of_key[items[i]];
      if (own == nullptr) own = &last[pickle_.text(pickle_.at(items[i]))];
      *own = i;
    }
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
      const PickleValue& key = pickle_.at(items[i]);
      if (key.kind != Kind::text || *of_key[items[i]] == i) visit(prefix + key_of(key), items[i + 1], depth);
    }
  }
  /// Items without tensors are one entry: there may be millions.
  void walk_list(const std::string& prefix, const PickleValue& list, int depth) {
    std::size_t index = 0, others = 0;
    for (const PickleRef ref : pickle_.items(list)) {
      const std::string name = prefix + std::to_string(index++);
      if (is_tensor(pickle_.at(ref)) || holds_tensors(ref, depth + 1))
        visit(name, ref, depth);
      else
        ++others;
    }
    if (others != 0) add_opaque(prefix + "...", std::to_string(others) + " items without tensors");
  }
  void visit(const std::string& name, PickleRef ref, int depth) {
    if (++visits_ > kMaxVisits) refuse(name, "at most " + std::to_string(kMaxVisits) + " entries", "more");
    const PickleValue& value = pickle_.at(ref);
    if (is_tensor(value)) return add_tensor(name, value);
    if (holds_tensors(ref, depth + 1)) return walk(name + ".", value, depth + 1);
    add_opaque(name, describe(pickle_, value));
  }
  void account(const std::string& name) {
    name_bytes_ += name.size();
    if (name_bytes_ > kNameBytesAtLeast + kNameBytesPerByte * pickle_.size)
      refuse(name, "names that the pickle has bytes for", "more");
  }
  void add_opaque(const std::string& name, std::string what) {
    account(name);
    out_.opaque.emplace_back(name, std::move(what));
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
      const Call call{pickle_.name_of(*made), arguments_of(*made)};
      if (call.function == kFromType)
        return {pickle_.name_of(item(call.arguments, 0)), pickle_.items(argument(name, call, 2, Kind::tuple))};
      if (!call.function.starts_with("torch._utils._rebuild_parameter")) return call;
      made = &argument(name, call, 0, Kind::call);
      if (depth > 2 || !is_tensor(*made)) refuse(name, "a tensor", describe(pickle_, *made));
    }
  }

  void add_tensor(const std::string& name, const PickleValue& value) {
    account(name);
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
      // Complex numbers, unsigned integers and the like: of no temporal module.
      if (!kind.starts_with("torch.")) refuse(name, "a storage or a dtype of torch", std::string(kind));
      return add_opaque(name, "a tensor of " + shortened(kind) + " " + to_string(Shape(sizes)));
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

  void add_view(const std::string& name, const StorageBytes& storage, std::span<const std::byte> part, DType dtype,
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
    // An empty tensor has no bytes, wherever its storage is.
    alignas(double) static constexpr std::byte kNothing[sizeof(double)] = {};
    const std::byte* from = count == 0 ? kNothing : part.data() + offset * size;
    if (reinterpret_cast<std::uintptr_t>(from) % size_of(dtype) != 0)
      from = aligned(storage.first) + (from - storage.first.data());
    out_.tensors.push_back({name, TensorView(from, dtype, shape, strides), storage.second});
  }

  /// A view of what is not aligned may not be read: a copy of the storage, one for all its views. Storages are told
  /// apart by address and size: a copy of one holds no more than its own bytes.
  const std::byte* aligned(std::span<const std::byte> storage) {
    const auto [found, added] = aligned_.emplace(std::pair(storage.data(), storage.size()), nullptr);
    if (added) {
      Tensor& copy = out_.copies.emplace_back(DType::u8, Shape{static_cast<std::int64_t>(storage.size())});
      std::memcpy(copy.data(), storage.data(), storage.size());
      found->second = static_cast<const std::byte*>(copy.data());
    }
    return found->second;
  }

  const Pickle& pickle_;
  const std::string& where_;
  std::map<std::pair<const std::byte*, std::size_t>, const std::byte*> aligned_;
  const Storages& storages_;
  TorchArchive& out_;
  std::vector<Holds> holds_;  // by value
  std::size_t visits_ = 0, name_bytes_ = 0;
};

}  // namespace

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

void find_tensors(const Pickle& pickle, const std::string& where, const Storages& storages, TorchArchive& archive) {
  Builder(pickle, where, storages, archive).build();
}

}  // namespace kineograph::checkpoint
