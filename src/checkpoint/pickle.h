// A reader of pickles that runs nothing: no import, no call, no object of anybody's class. It builds a tree of plain
// values; what a pickle wants called stays a value that says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kineograph::checkpoint {

/// Index of a value in its Pickle.
using PickleRef = std::uint32_t;

/// Small, as files of a million parameters have some fifteen million values.
struct PickleValue {
  enum class Kind : std::uint8_t {
    none,
    boolean,     ///< integer 0 or 1
    integer,     ///< in 64 bits; larger ones are `text` that says how large
    real,        ///< number
    text,        ///< text; bytes too
    list,        ///< items; sets too
    tuple,       ///< items
    dict,        ///< items: key, value, key, value, ...; OrderedDict too
    global,      ///< text: "module.name" that the pickle refers to
    call,        ///< an object that a call would make: items are those of CallItem
    persistent,  ///< items: the persistent id
  };
  Kind kind = Kind::none;
  std::uint32_t size = 0;  ///< of the text or the items
  union {
    std::int64_t integer = 0;
    double number;
    const char* text;     ///< of the bytes that were read, or of Pickle::texts
    std::uint64_t first;  ///< index in Pickle::refs
  };
};
static_assert(sizeof(PickleValue) == 16);

/// The items of a call; None where there is none.
enum class CallItem : std::uint8_t {
  callee,     ///< a global
  arguments,  ///< a tuple
  state,      ///< what BUILD gives the object, or a call's keywords
  entries,    ///< a dict of what is put into the object by keys, as into a subclass of dict
  elements,   ///< a list of what is appended to it
};
constexpr std::size_t kCallItems = 5;

/// The values of one pickle; `root` is what it makes, and the first value is None.
struct Pickle {
  std::vector<PickleValue> values;
  std::vector<PickleRef> refs;    ///< the items of all containers
  std::deque<std::string> texts;  ///< those that are not in the file as they are
  PickleRef root = 0;
  std::size_t size = 0;  ///< bytes of the pickle, to its STOP

  const PickleValue& at(PickleRef ref) const { return values[ref]; }
  /// The text of a text or a global; empty for other values.
  std::string_view text(const PickleValue& value) const {
    const bool has_text = value.kind == PickleValue::Kind::text || value.kind == PickleValue::Kind::global;
    return has_text ? std::string_view(value.text, value.size) : std::string_view();
  }
  /// The items of a container or a call; none for other values.
  std::span<const PickleRef> items(const PickleValue& value) const {
    if (value.kind < PickleValue::Kind::list || value.kind == PickleValue::Kind::global) return {};
    return std::span(refs).subspan(value.first, value.size);
  }
  /// An item of a call; None for other values.
  const PickleValue& of_call(const PickleValue& value, CallItem item) const {
    return value.kind == PickleValue::Kind::call ? at(items(value)[static_cast<std::size_t>(item)]) : values.front();
  }
  /// The value itself, or the entries of an object that is a dict by another name: a subclass with entries.
  const PickleValue& as_dict(const PickleValue& value) const {
    const PickleValue& entries = of_call(value, CallItem::entries);
    return entries.kind == PickleValue::Kind::dict ? entries : value;
  }
  /// The value of a text key in a dict; null for none, and for what is no dict. The last one counts, as in Python.
  const PickleValue* find(const PickleValue& dict, std::string_view key) const;
  /// "module.name" of a global, or of what a call calls; empty for other values.
  std::string_view name_of(const PickleValue& value) const;
};

/// Reads one pickle of protocol 0 to 5 at the beginning of `bytes`, in memory of at most 64 times its size and 64 kB:
/// every value and every reference has a byte of its own in the pickle, or there are too many. Throws FormatError,
/// naming `where`, for what is truncated, unbalanced or unknown, and for calls of functions that rebuild no data
/// (os.system, builtins.eval, ...): nothing would run, but no file of weights has such. Texts of the result are views
/// of `bytes`.
Pickle read_pickle(std::span<const std::byte> bytes, std::string_view where);

}  // namespace kineograph::checkpoint
