// A reader of pickles that runs nothing: no import, no call, no object of anybody's class. It builds a tree of plain
// values; what a pickle wants called stays a value that says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kineograph::checkpoint {

/// Index of a value in its Pickle.
using PickleRef = std::uint32_t;

struct PickleValue {
  enum class Kind : std::uint8_t {
    none,
    boolean,     ///< integer 0 or 1
    integer,     ///< in 64 bits; larger ones are `text`, in decimal digits of no use here
    real,        ///< number
    text,        ///< text; bytes too
    list,        ///< items; sets too
    tuple,       ///< items
    dict,        ///< items: key, value, key, value, ...; OrderedDict too
    global,      ///< text: "module.name" that the pickle refers to
    call,        ///< items: what is called, its arguments, and whatever was put into the object afterwards
    persistent,  ///< items: the persistent id
  };
  Kind kind = Kind::none;
  std::int64_t integer = 0;
  double number = 0.0;
  std::string text;
  std::vector<PickleRef> items;
};

/// The values of one pickle; `root` is what it makes.
struct Pickle {
  std::vector<PickleValue> values;
  PickleRef root = 0;
  std::size_t size = 0;  ///< bytes of the pickle, to its STOP

  const PickleValue& at(PickleRef ref) const { return values[ref]; }
  /// The value of a text key in a dict; null for none, and for what is no dict. The last one counts, as in Python.
  const PickleValue* find(const PickleValue& dict, std::string_view key) const;
  /// "module.name" of a global, or of what a call calls; empty for other values.
  std::string_view name_of(const PickleValue& value) const;
};

/// Reads one pickle of protocol 0 to 5 at the beginning of `bytes`. Throws FormatError, naming `where`, for what is
/// truncated, unbalanced or unknown, and for calls of functions that rebuild no data (os.system, builtins.eval, ...):
/// nothing would run, but no file of weights has such.
Pickle read_pickle(std::span<const std::byte> bytes, std::string_view where);

}  // namespace kineograph::checkpoint
