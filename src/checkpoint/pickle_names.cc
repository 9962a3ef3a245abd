#include "checkpoint/pickle_names.h"

#include <algorithm>
#include <iterator>

namespace kineograph::checkpoint {
namespace {

// Functions that pickles of data call; classes need no entry.
constexpr std::string_view kRebuilders[] = {
    "torch.device",
    "torch.serialization._get_layout",
    "torch.Size",
    "copy_reg._reconstructor",
    "copyreg._reconstructor",
    "copyreg.__newobj__",
    "copyreg.__newobj_ex__",
    "collections.defaultdict",
    "collections.deque",
    "_codecs.encode",
    "array._array_reconstructor",
    "re._compile",
    "types.SimpleNamespace",
    "types.MappingProxyType",
    "operator.itemgetter",
    "operator.attrgetter",
    "itertools.count",
    "itertools.cycle",
    "itertools.repeat",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.numeric._frombuffer",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.numeric._frombuffer",
    "numpy.ma.core._mareconstruct",
    "numpy.random.__RandomState_ctor",
    "numpy.random._pickle.__randomstate_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random._pickle.__generator_ctor",
    "pandas._libs.internals._unpickle_block",
    "pandas.core.indexes.base._new_Index",
    "datetime.datetime",
    "datetime.timedelta",
    "datetime.timezone",
    "datetime.date",
    "datetime.time",
    "builtins.set",
    "builtins.frozenset",
    "builtins.list",
    "builtins.dict",
    "builtins.tuple",
    "builtins.complex",
    "builtins.bytearray",
    "builtins.bytes",
    "builtins.object",
    "builtins.slice",
    "builtins.range",
    "__builtin__.set",
    "__builtin__.frozenset",
    "__builtin__.list",
    "__builtin__.dict",
    "__builtin__.tuple",
    "__builtin__.complex",
    "__builtin__.bytes",
    "__builtin__.slice",
    "__builtin__.range",
    "__builtin__.xrange",
    "__builtin__.object",
    "__builtin__.bytearray",
};

// Objects that hold a function for later.
constexpr std::string_view kHolders[] = {"functools.partial", "functools.partialmethod", "operator.methodcaller"};

// Modules in which even a class may start something.
constexpr std::string_view kRefusedModules[] = {
    "os",         "posix",   "nt",      "sys",        "subprocess",      "builtins",  "__builtin__", "importlib",
    "runpy",      "shutil",  "socket",  "ctypes",     "multiprocessing", "threading", "pty",         "code",
    "webbrowser", "http",    "urllib",  "requests",   "tempfile",        "operator",  "functools",   "types",
    "pickle",     "marshal", "asyncio", "concurrent", "signal",          "gc"};

// Of builtins, which a schedule or a default factory often holds (int, float, len), those that do more than compute.
constexpr std::string_view kRefusedBuiltins[] = {"eval",    "exec",    "execfile",   "compile",   "open",   "file",
                                                 "getattr", "setattr", "delattr",    "globals",   "locals", "vars",
                                                 "input",   "apply",   "__import__", "breakpoint"};

template <std::size_t N>
bool contains(const std::string_view (&table)[N], std::string_view name) {
  return std::find(std::begin(table), std::end(table), name) != std::end(table);
}

std::string_view module_of(std::string_view name) { return name.substr(0, name.find('.')); }

bool is_class_name(std::string_view name) {
  const std::string_view last = name.substr(name.rfind('.') + 1);
  const std::size_t letter = last.find_first_not_of('_');
  return letter != std::string_view::npos && last[letter] >= 'A' && last[letter] <= 'Z';
}

}  // namespace

bool makes_data(std::string_view name) {
  if (contains(kRebuilders, name) || holds_a_function(name)) return true;
  // Classes of Cython are pickled by functions of this name.
  const std::string_view last = name.substr(name.rfind('.') + 1);
  if (last.starts_with("__pyx_unpickle_")) return !contains(kRefusedModules, module_of(name));
  // Sparse, quantized and meta tensors come out as opaque values.
  if (name.starts_with("torch._utils._rebuild_") || name.starts_with("torch._tensor._rebuild_")) return true;
  return is_class_name(name) && !contains(kRefusedModules, module_of(name));
}

bool may_be_held(std::string_view name) {
  const std::string_view module = module_of(name);
  if (module == "builtins" || module == "__builtin__")
    return !contains(kRefusedBuiltins, name.substr(module.size() + 1));
  return makes_data(name) || !contains(kRefusedModules, module);
}

bool holds_a_function(std::string_view name) { return contains(kHolders, name); }

}  // namespace kineograph::checkpoint
