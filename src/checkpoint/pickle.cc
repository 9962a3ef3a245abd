#include "checkpoint/pickle.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <unordered_map>

#include "base/text.h"
#include "checkpoint/pickle_names.h"
#include "kineograph/error.h"

namespace kineograph::checkpoint {
namespace {

using Kind = PickleValue::Kind;

// A pickle of a million parameters has some fifteen million values. What is beyond was made to fill memory. So were
// containers with more items than the pickle has bytes to name them: an item takes an opcode, a call takes four for its
// five items, and an OrderedDict of Python 2 has its pairs twice.
constexpr std::size_t kMaxValues = 24'000'000, kReferencesPerByte = 2, kReferencesAtLeast = 1024, kMaxNameLength = 1024;
// Names of globals are made of two texts, which may be the same two again and again.
constexpr std::size_t kMadePerByte = 8, kMadeAtLeast = 32768;

class Machine {
 public:
  Machine(std::span<const std::byte> bytes, std::string_view where) : bytes_(bytes), where_(where) {
    pickle_.values.emplace_back();
  }

  Pickle run() {
    for (;;) {
      const auto opcode = number<std::uint8_t>();
      if (opcode == '.') break;
      step(opcode);
    }
    pickle_.root = pop();
    pickle_.size = at_;
    return std::move(pickle_);
  }

 private:
  [[noreturn]] void refuse(const std::string& expected, const std::string& found, const std::string& hint = {}) const {
    throw FormatError(where_ + ": byte " + std::to_string(at_) + " of the pickle", expected, found, hint);
  }

  // Bytes.
  std::string_view take(std::uint64_t size) {
    if (size > bytes_.size() - at_) refuse("a whole pickle", "its end", "The file is truncated, or no pickle.");
    const std::string_view taken(reinterpret_cast<const char*>(bytes_.data()) + at_, size);
    at_ += size;
    return taken;
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string_view line() {
    const auto* begin = reinterpret_cast<const char*>(bytes_.data()) + at_;
    const auto* end = static_cast<const char*>(std::memchr(begin, '\n', bytes_.size() - at_));
    if (end == nullptr) refuse("a line", "no end of it");
    at_ += static_cast<std::size_t>(end - begin) + 1;
    return {begin, static_cast<std::size_t>(end - begin)};
  }
  std::int64_t decimal() {
    std::string_view text = line();
    if (!text.empty() && text.back() == 'L') text.remove_suffix(1);
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) refuse("a 64-bit integer", shortened(text));
    return value;
  }

  // Values and the stack.
  void account(std::size_t references) {
    references_ += references;
    if (pickle_.values.size() > kMaxValues) refuse("at most " + std::to_string(kMaxValues) + " values", "more");
    if (references_ > kReferencesAtLeast + kReferencesPerByte * bytes_.size())
      refuse("values that the pickle has bytes for", "more");
  }
  PickleRef add(PickleValue value) {
    account(0);
    pickle_.values.push_back(value);
    return static_cast<PickleRef>(pickle_.values.size() - 1);
  }
  void push(PickleRef ref) { stack_.push_back(ref); }
  void push(PickleValue value) { push(add(value)); }
  /// Booleans and the empty tuple are one value each, as None is: one byte names them.
  void push_shared(PickleRef& shared, Kind kind, std::int64_t integer = 0) {
    if (shared == kNone) {
      PickleValue value;
      value.kind = kind;
      value.integer = integer;
      shared = add(value);
    }
    push(shared);
  }
  void push_integer(std::int64_t integer, Kind kind = Kind::integer) {
    PickleValue value;
    value.kind = kind;
    value.integer = integer;
    push(value);
  }
  void push_real(double number) {
    PickleValue value;
    value.kind = Kind::real;
    value.number = number;
    push(value);
  }
  void push_text(std::string_view text, Kind kind = Kind::text) {
    if (text.size() > UINT32_MAX) refuse("texts below 4 GB", std::to_string(text.size()) + " bytes");
    PickleValue value;
    value.kind = kind;
    value.size = static_cast<std::uint32_t>(text.size());
    value.text = text.data();
    push(value);
  }
  void push_made_text(std::string text, Kind kind = Kind::text) {
    made_bytes_ += text.size();
    if (made_bytes_ > kMadeAtLeast + kMadePerByte * bytes_.size())
      refuse("names that the pickle has bytes for", "more");
    push_text(pickle_.texts.emplace_back(std::move(text)), kind);
  }
  void push_items(Kind kind, std::span<const PickleRef> items) {
    PickleValue value;
    value.kind = kind;
    push(value);
    append(top(), items);
  }
  /// Items are behind each other in `refs`, with room up to the next power of two.
  void append(PickleRef target, std::span<const PickleRef> items) {
    account(items.size());
    PickleValue& value = pickle_.values[target];
    if (items.empty()) return;
    std::vector<PickleRef>& refs = pickle_.refs;
    const std::size_t count = value.size + items.size();
    if (value.size == 0 || count > std::bit_ceil(std::size_t{value.size})) {
      const std::size_t first = refs.size();
      refs.resize(first + std::bit_ceil(count));
      std::copy_n(refs.begin() + static_cast<std::ptrdiff_t>(value.first), value.size,
                  refs.begin() + static_cast<std::ptrdiff_t>(first));
      value.first = first;
    }
    std::copy(items.begin(), items.end(), refs.begin() + static_cast<std::ptrdiff_t>(value.first + value.size));
    value.size = static_cast<std::uint32_t>(count);
  }
  void push_long(std::string_view bytes) {
    if (bytes.size() > sizeof(std::int64_t))
      return push_made_text("an integer of " + std::to_string(bytes.size()) + " bytes");
    std::uint64_t value = 0;
    for (std::size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
    if (!bytes.empty() && bytes.size() < 8 && (bytes.back() & 0x80) != 0)
      value |= ~std::uint64_t{0} << 8 * bytes.size();
    push_integer(static_cast<std::int64_t>(value));
  }
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  PickleRef pop() {
    if (stack_.size() <= floor()) refuse("a value on the stack", "none");
    const PickleRef top = stack_.back();
    stack_.pop_back();
    return top;
  }
  PickleRef top() {
    if (stack_.size() <= floor()) refuse("a value on the stack", "none");
    return stack_.back();
  }
  std::vector<PickleRef> pop_to_mark() {
    if (marks_.empty()) refuse("a mark on the stack", "none");
    const auto from = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleRef> items(from, stack_.end());
    stack_.erase(from, stack_.end());
    marks_.pop_back();
    return items;
  }
  std::string_view pop_name() {
    const PickleValue& value = pickle_.at(pop());
    if (value.kind != Kind::text) refuse("the name of a global", "another value");
    return pickle_.text(value);
  }
  void push_global(std::string_view module, std::string_view name) {
    if (module.size() + name.size() > kMaxNameLength) refuse("the name of a global", "a text of no such length");
    push_made_text(std::string(module) + "." + std::string(name), Kind::global);
  }
  void push_call(PickleRef callee, PickleRef arguments, PickleRef keywords = kNone) {
    if (pickle_.at(callee).kind != Kind::global) refuse("a global to call", "another value");
    if (pickle_.at(arguments).kind != Kind::tuple) refuse("a tuple of arguments", "another value");
    const std::string name(pickle_.text(pickle_.at(callee)));
    if (name == "builtins.getattr" || name == "__builtin__.getattr") return push_nested_class(arguments);
    if (!makes_data(name)) refuse_call(name);
    if (holds_a_function(name)) check_held(arguments);
    if (name == "collections.OrderedDict") return push_ordered_dict(arguments);
    const PickleRef items[kCallItems] = {callee, arguments, keywords, kNone, kNone};
    push_items(Kind::call, items);
  }
  [[noreturn]] void refuse_call(const std::string& name) const {
    refuse("tensors and plain values", "a call of " + name,
           "Nothing was run. Weights need no such call: do not open this file with anything that runs pickles.");
  }
  /// Refuses functions among the items of a tuple that a later call would run.
  void check_held(PickleRef tuple) const {
    for (const PickleRef ref : pickle_.items(pickle_.at(tuple))) {
      const PickleValue& value = pickle_.at(ref);
      if (value.kind == Kind::global && !may_be_held(pickle_.text(value)))
        refuse_call(std::string(pickle_.text(value)));
    }
  }
  /// Before protocol 4 a class inside a class is getattr(Outer, "Inner").
  void push_nested_class(PickleRef arguments) {
    const auto parts = pickle_.items(pickle_.at(arguments));
    if (parts.size() != 2 || pickle_.at(parts[0]).kind != Kind::global || pickle_.at(parts[1]).kind != Kind::text)
      refuse_call("builtins.getattr");
    const std::string outer(pickle_.text(pickle_.at(parts[0]))), inner(pickle_.text(pickle_.at(parts[1])));
    if (!makes_data(outer) || !makes_data(outer + "." + inner)) refuse_call("builtins.getattr of " + outer);
    push_global(outer, inner);
  }

  /// OrderedDict(), or as Python 2 wrote it, OrderedDict([[key, value], ...]).
  void push_ordered_dict(PickleRef arguments) {
    std::vector<PickleRef> items;
    if (const auto given = pickle_.items(pickle_.at(arguments)); !given.empty())
      for (const PickleRef ref : pickle_.items(pickle_.at(given.front()))) {
        const auto pair = pickle_.items(pickle_.at(ref));
        if (pair.size() != 2) refuse("pairs of key and value", "another value");
        items.insert(items.end(), pair.begin(), pair.end());
      }
    push_items(Kind::dict, items);
  }

  /// The container that takes items: `target` itself, or a part of an object's call, made when it is first needed.
  PickleRef container(PickleRef target, bool pairs) {
    const Kind wanted = pairs ? Kind::dict : Kind::list;
    if (pickle_.at(target).kind == wanted) return target;
    if (pickle_.at(target).kind != Kind::call) refuse("a container to put items into", "another value");
    const std::size_t slot = static_cast<std::size_t>(pickle_.at(target).first) +
                             static_cast<std::size_t>(pairs ? CallItem::entries : CallItem::elements);
    if (pickle_.refs[slot] == kNone) {
      PickleValue made;
      made.kind = wanted;
      pickle_.refs[slot] = add(made);
    }
    return pickle_.refs[slot];
  }
  void put_into_top(std::span<const PickleRef> items, bool pairs) {
    if (pairs && items.size() % 2 != 0) refuse("pairs of key and value", "an odd number of values");
    append(container(top(), pairs), items);
  }
  /// Plain containers (an OrderedDict's attributes) have no use for a state.
  void set_state(PickleRef state) {
    const PickleValue& object = pickle_.at(top());
    if (object.kind != Kind::call) return;
    if (holds_a_function(pickle_.name_of(object))) check_held(state);
    pickle_.refs[object.first + static_cast<std::size_t>(CallItem::state)] = state;
  }

  // Keys are counted up by every pickler; others are for whoever writes by hand.
  void memoize(std::uint64_t key) {
    if (key < memo_.size())
      memo_[key] = top();
    else if (key == memo_.size())
      memo_.push_back(top());
    else
      sparse_memo_[key] = top();
  }
  void recall(std::uint64_t key) {
    if (key < memo_.size()) return push(memo_[key]);
    const auto found = sparse_memo_.find(key);
    if (found == sparse_memo_.end()) refuse("a value that was kept", "memo " + std::to_string(key) + ", which was not");
    push(found->second);
  }

  void step(std::uint8_t opcode);

  std::span<const std::byte> bytes_;
  std::string where_;
  std::size_t at_ = 0;
  Pickle pickle_;
  std::vector<PickleRef> stack_;
  std::vector<std::size_t> marks_;
  std::vector<PickleRef> memo_;
  std::unordered_map<std::uint64_t, PickleRef> sparse_memo_;
  std::size_t references_ = 0, made_bytes_ = 0;
  static constexpr PickleRef kNone = 0;  // the first value
  PickleRef true_ = kNone, false_ = kNone, empty_tuple_ = kNone;
};

// The opcodes in the order of CPython's pickletools: a table, whole.
// NOLINTNEXTLINE(readability-function-size)
void Machine::step(std::uint8_t opcode) {
  switch (opcode) {
    // Numbers and constants.
    case 'I': {
      const std::string_view text = line();
      if (text == "00" || text == "01") return push_integer(text == "01", Kind::boolean);
      at_ -= text.size() + 1;
      return push_integer(decimal());
    }
    case 'L':
      return push_integer(decimal());
    case 'J':
      return push_integer(number<std::int32_t>());
    case 'K':
      return push_integer(number<std::uint8_t>());
    case 'M':
      return push_integer(number<std::uint16_t>());
    case 0x8a:
      return push_long(take(number<std::uint8_t>()));
    case 0x8b:
      return push_long(take(number<std::uint32_t>()));
    case 'N':
      return push(kNone);
    case 0x88:
      return push_shared(true_, Kind::boolean, 1);
    case 0x89:
      return push_shared(false_, Kind::boolean, 0);
    case 'F': {
      const std::string text(line());
      return push_real(std::strtod(text.c_str(), nullptr));
    }
    case 'G': {
      auto bits = number<std::uint64_t>();
      bits = __builtin_bswap64(bits);
      return push_real(std::bit_cast<double>(bits));
    }
    // Text and bytes.
    case 'S': {
      std::string_view text = line();
      if (text.size() >= 2 && text.front() == text.back()) text = text.substr(1, text.size() - 2);
      return push_text(text);
    }
    case 'V':
      return push_text(line());
    case 'T':
    case 'X':
    case 'B':
      return push_text(take(number<std::uint32_t>()));
    case 'U':
    case 'C':
    case 0x8c:
      return push_text(take(number<std::uint8_t>()));
    case 0x8d:
    case 0x8e:
    case 0x96:
      return push_text(take(number<std::uint64_t>()));
    // Containers.
    case ']':
    case 0x8f:
      return push_items(Kind::list, {});
    case ')':
      return push_shared(empty_tuple_, Kind::tuple);
    case '}':
      return push_items(Kind::dict, {});
    case 'l':
    case 0x91:
      return push_items(Kind::list, pop_to_mark());
    case 't':
      return push_items(Kind::tuple, pop_to_mark());
    case 'd': {
      std::vector<PickleRef> items = pop_to_mark();
      if (items.size() % 2 != 0) refuse("pairs of key and value", "an odd number of values");
      return push_items(Kind::dict, items);
    }
    case 0x85:
    case 0x86:
    case 0x87: {
      PickleRef items[3];
      const auto count = static_cast<std::size_t>(opcode - 0x84);
      for (std::size_t i = count; i-- > 0;) items[i] = pop();
      return push_items(Kind::tuple, std::span(items, count));
    }
    case 'a': {
      const PickleRef item = pop();
      return put_into_top({&item, 1}, false);
    }
    case 'e':
    case 0x90: {
      const std::vector<PickleRef> items = pop_to_mark();
      return put_into_top(items, false);
    }
    case 's': {
      const PickleRef value = pop(), pair[] = {pop(), value};
      return put_into_top(pair, true);
    }
    case 'u': {
      const std::vector<PickleRef> items = pop_to_mark();
      return put_into_top(items, true);
    }
    // The stack and the memo.
    case '(':
      return marks_.push_back(stack_.size());
    case '0':
      if (stack_.size() == floor() && !marks_.empty())
        marks_.pop_back();
      else
        pop();
      return;
    case '1':
      pop_to_mark();
      return;
    case '2':
      return push(top());
    case 'p':
      return memoize(static_cast<std::uint64_t>(decimal()));
    case 'q':
      return memoize(number<std::uint8_t>());
    case 'r':
      return memoize(number<std::uint32_t>());
    case 0x94:
      return memoize(memo_.size());
    case 'g':
      return recall(static_cast<std::uint64_t>(decimal()));
    case 'h':
      return recall(number<std::uint8_t>());
    case 'j':
      return recall(number<std::uint32_t>());
    // What would be imported, made or called elsewhere.
    case 'c': {
      const std::string_view module = line();
      return push_global(module, line());
    }
    case 0x93: {
      const std::string_view name = pop_name();
      return push_global(pop_name(), name);
    }
    case 'R':
    case 0x81: {
      const PickleRef arguments = pop();
      return push_call(pop(), arguments);
    }
    case 0x92: {
      const PickleRef keywords = pop(), arguments = pop();
      return push_call(pop(), arguments, keywords);
    }
    case 'i': {
      const std::string_view module = line();
      push_global(module, line());
      const PickleRef callee = pop();
      push_items(Kind::tuple, pop_to_mark());
      return push_call(callee, pop());
    }
    case 'o': {
      const std::vector<PickleRef> items = pop_to_mark();
      if (items.empty()) refuse("a class and its arguments", "none");
      push_items(Kind::tuple, std::span(items).subspan(1));
      return push_call(items.front(), pop());
    }
    case 'b':
      return set_state(pop());
    case 'P':
      push_text(line());
      [[fallthrough]];
    case 'Q': {
      const PickleRef id = pop();
      return push_items(Kind::persistent, {&id, 1});
    }
    // The stream itself.
    case 0x80: {
      const auto protocol = number<std::uint8_t>();
      if (protocol > 5) refuse("a pickle of protocol 0 to 5", std::to_string(protocol));
      return;
    }
    case 0x95:
      number<std::uint64_t>();
      return;
    default: {
      char text[8];
      std::snprintf(text, sizeof text, "0x%02x", opcode);
      refuse("an opcode of data", std::string("opcode ") + text, "The file is damaged, or no pickle.");
    }
  }
}

}  // namespace

const PickleValue* Pickle::find(const PickleValue& dict, std::string_view key) const {
  if (dict.kind != Kind::dict) return nullptr;
  const auto pairs = items(dict);
  for (std::size_t i = pairs.size(); i >= 2; i -= 2)
    if (at(pairs[i - 2]).kind == Kind::text && text(at(pairs[i - 2])) == key) return &at(pairs[i - 1]);
  return nullptr;
}

std::string_view Pickle::name_of(const PickleValue& value) const {
  const PickleValue& named = value.kind == Kind::call ? at(items(value).front()) : value;
  return named.kind == Kind::global ? text(named) : std::string_view();
}

Pickle read_pickle(std::span<const std::byte> bytes, std::string_view where) { return Machine(bytes, where).run(); }

}  // namespace kineograph::checkpoint
