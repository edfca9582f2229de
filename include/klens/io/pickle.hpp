// The part of Python's pickle (protocols 2 to 5) that holds dicts of tensors, read into a tree. Nothing is executed: a
// call is a node of the tree, its callable must stand in the caller's list, and any other class, function or opcode is
// an error that names it and its offset. Values lie in one array and name each other by index, so that neither sharing
// (the memo) nor nesting costs stack or copies. Format: Lib/pickletools.py of CPython. Tests: tests/io/torch_file.cpp.
#pragma once

#include <klens/core/result.hpp>
#include <klens/io/json.hpp>
#include <klens/io/unicode.hpp>

#include <bit>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace klens {

/// A class or function that a pickle may name.
struct PickleName {
  std::string_view module, name;
};

enum class PickleKind : std::uint8_t {
  none,
  boolean,
  integer,
  real,
  text,
  tuple,
  list,
  dict,
  global,
  call,
  persistent
};

struct PickleValue {
  PickleKind kind = PickleKind::none;
  std::uint32_t at = 0;     // byte of the opcode that made it
  std::int64_t number = 0;  // boolean, integer; global: index in the list of names
  double real = 0;
  std::string_view text = {};             // in the pickle's own bytes
  std::vector<std::uint32_t> items = {};  // tuple, list: elements; dict: key, value, ...; persistent: its id;
                                          // call: callable, arguments, then key, value, ... set on its result
};

struct Pickle {
  std::vector<PickleValue> values;
  std::uint32_t root = 0;

  const PickleValue& operator[](std::uint32_t i) const { return values[i]; }
};

/// An error message's name for a value: "an integer", "a dict".
inline std::string describe(const PickleValue& v) {
  switch (v.kind) {
    case PickleKind::none: return "None";
    case PickleKind::boolean: return "a bool";
    case PickleKind::integer: return "an integer";
    case PickleKind::real: return "a float";
    case PickleKind::text: return "a string";
    case PickleKind::tuple: return "a tuple";
    case PickleKind::list: return "a list";
    case PickleKind::dict: return "a dict";
    case PickleKind::global: return "a class";
    case PickleKind::call: return "an object";
    case PickleKind::persistent: break;
  }
  return "a storage";
}

namespace detail {

/// A state dict takes about 20 values per tensor, one published file has at most some thousands of tensors; a value
/// takes about 100 bytes here.
inline constexpr std::size_t pickle_bytes_limit = 32 << 20, pickle_values_limit = 1'000'000;

class PickleReader {
 public:
  PickleReader(std::string_view bytes, const std::string& where, std::span<const PickleName> names)
      : b_(bytes), where_(where), names_(names) {}

  Result<Pickle> read() {
    if (b_.size() > pickle_bytes_limit)
      return Error{ErrorCode::overflow, where_, "at most " + std::to_string(pickle_bytes_limit) + " bytes",
                   std::to_string(b_.size())};
    for (;;) {
      opcode_at_ = at_;
      if (left() < 1) return fault("an opcode", "the end");
      const unsigned code = byte();
      if (opcode_at_ == 0 && code != 0x80) return fault("a pickle of protocol 2 to 5", "byte " + hex(code));
      if (code == '.') break;
      KLENS_OK(step(code));
      // What one byte can add, whether it is a value or not.
      if (p_.values.size() + stack_.size() + marks_.size() + memo_.size() > 2 * pickle_values_limit ||
          p_.values.size() > pickle_values_limit)
        return fault("at most " + std::to_string(pickle_values_limit) + " values", "more");
    }
    if (left() != 0) return fault("the end after STOP", std::to_string(left()) + " bytes more");
    if (stack_.size() != 1 || !marks_.empty())
      return fault("one value at the end",
                   std::to_string(stack_.size()) + " values, " + std::to_string(marks_.size()) + " marks");
    p_.root = stack_[0];
    return std::move(p_);
  }

 private:
  std::size_t left() const { return b_.size() - at_; }
  unsigned byte() { return static_cast<unsigned char>(b_[at_++]); }
  static std::string hex(unsigned v) {
    constexpr std::string_view digits = "0123456789abcdef";
    return {'0', 'x', digits[v >> 4 & 15], digits[v & 15]};
  }
  Error fault(std::string expected, std::string found) const {
    return {ErrorCode::format, where_ + ": byte " + std::to_string(opcode_at_), std::move(expected), std::move(found)};
  }

  /// An unsigned little-endian argument of `count` bytes.
  Result<std::uint64_t> argument(std::size_t count) {
    if (left() < count) return fault(std::to_string(count) + " bytes of an argument", std::to_string(left()));
    std::uint64_t n = 0;
    for (std::size_t i = 0; i < count; ++i) n |= std::uint64_t(byte()) << 8 * i;
    return n;
  }
  Result<std::string_view> text_of(std::uint64_t size) {
    if (size > left()) return fault("a string of at most " + std::to_string(left()) + " bytes", std::to_string(size));
    const std::string_view text = b_.substr(at_, std::size_t(size));
    at_ += std::size_t(size);
    if (find_invalid_utf8(text) != std::string_view::npos) return fault("UTF-8", "other bytes");
    return text;
  }
  Result<std::string_view> line() {
    const std::size_t end = b_.find('\n', at_);
    if (end == std::string_view::npos) return fault("a line", "the end");
    KLENS_TRY(const std::string_view text, text_of(end - at_));
    ++at_;
    return text;
  }

  std::uint32_t put(PickleValue v) {
    v.at = std::uint32_t(opcode_at_);
    p_.values.push_back(std::move(v));
    stack_.push_back(std::uint32_t(p_.values.size() - 1));
    return stack_.back();
  }
  Result<void> put_integer(std::int64_t n) { return put({.kind = PickleKind::integer, .number = n}), Result<void>(); }
  Result<void> put_text(std::uint64_t size) {
    KLENS_TRY(const std::string_view text, text_of(size));
    put({.kind = PickleKind::text, .text = text});
    return {};
  }

  /// `count` values above the last mark are there.
  Result<void> need(std::size_t count) const {
    const std::size_t floor = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() - floor < count)
      return fault(std::to_string(count) + " values on the stack", std::to_string(stack_.size() - floor));
    return {};
  }
  std::uint32_t pop() {
    const std::uint32_t v = stack_.back();
    stack_.pop_back();
    return v;
  }
  /// The values above the last mark, which goes.
  Result<std::vector<std::uint32_t>> pop_marked() {
    if (marks_.empty()) return fault("a mark on the stack", "none");
    std::vector<std::uint32_t> items(stack_.begin() + std::ptrdiff_t(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  Result<void> put_tuple(std::size_t count) {
    KLENS_OK(need(count));
    std::vector<std::uint32_t> items(stack_.end() - std::ptrdiff_t(count), stack_.end());
    stack_.resize(stack_.size() - count);
    put({.kind = PickleKind::tuple, .items = std::move(items)});
    return {};
  }

  Result<void> remember(std::uint64_t key) {
    KLENS_OK(need(1));
    memo_[key] = stack_.back();
    return {};
  }
  Result<void> recall(std::uint64_t key) {
    const auto it = memo_.find(key);
    if (it == memo_.end()) return fault("an entry of the memo", "entry " + std::to_string(key) + ", which nothing set");
    stack_.push_back(it->second);
    return {};
  }

  Result<void> put_global(std::string_view module, std::string_view name) {
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (names_[i].module == module && names_[i].name == name)
        return put({.kind = PickleKind::global, .number = std::int64_t(i)}), Result<void>();
    Error e = fault("only what a dict of tensors needs (nothing of it is executed)",
                    "'" + clip(module, 80) + "." + clip(name, 80) + "'");
    e.code = ErrorCode::unsupported;
    return e;
  }

  /// Adds to the list, dict or object on top.
  Result<void> extend(std::vector<std::uint32_t> items, bool pairs) {
    KLENS_OK(need(1));
    PickleValue& target = p_.values[stack_.back()];
    const bool fits =
        pairs ? target.kind == PickleKind::dict || target.kind == PickleKind::call : target.kind == PickleKind::list;
    if (!fits) return fault(pairs ? "a dict to set items of" : "a list to append to", describe(target));
    if (pairs && items.size() % 2 != 0)
      return fault("keys and values in pairs", std::to_string(items.size()) + " values");
    target.items.insert(target.items.end(), items.begin(), items.end());
    return {};
  }

  Result<void> call() {
    KLENS_OK(need(2));
    const std::uint32_t arguments = pop(), callable = pop();
    if (p_[callable].kind != PickleKind::global) return fault("a class or function to call", describe(p_[callable]));
    if (p_[arguments].kind != PickleKind::tuple) return fault("a tuple of arguments", describe(p_[arguments]));
    put({.kind = PickleKind::call, .items = {callable, arguments}});
    return {};
  }

  Result<void> refuse(unsigned code) const {
    struct Known {
      unsigned code;
      std::string_view name;
    };
    // clang-format off
    constexpr Known known[] = {
        {'i', "INST"}, {'o', "OBJ"}, {0x81, "NEWOBJ"}, {0x92, "NEWOBJ_EX"}, {0x82, "EXT1"}, {0x83, "EXT2"},
        {0x84, "EXT4"}, {'P', "PERSID"}, {'I', "INT"}, {'L', "LONG"}, {'S', "STRING"}, {'V', "UNICODE"},
        {'F', "FLOAT"}, {'T', "BINSTRING"}, {'U', "SHORT_BINSTRING"}, {'B', "BINBYTES"}, {'C', "SHORT_BINBYTES"},
        {0x8b, "LONG4"}, {0x8e, "BINBYTES8"}, {0x8f, "EMPTY_SET"}, {0x90, "ADDITEMS"}, {0x91, "FROZENSET"},
        {0x96, "BYTEARRAY8"}, {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"}, {'0', "POP"}, {'1', "POP_MARK"},
        {'2', "DUP"}, {'p', "PUT"}, {'g', "GET"}, {'d', "DICT"}, {'l', "LIST"}};
    // clang-format on
    std::string name;
    for (const Known& k : known)
      if (k.code == code) name = " (" + std::string(k.name) + ")";
    Error e = fault("an opcode that a dict of tensors needs (nothing of it is executed)", hex(code) + name);
    e.code = ErrorCode::unsupported;
    return e;
  }

  Result<void> step(unsigned code) {
    switch (code) {
      case 0x80: {  // PROTO
        KLENS_TRY(const std::uint64_t protocol, argument(1));
        if (protocol < 2 || protocol > 5) return fault("protocol 2 to 5", std::to_string(protocol));
        return {};
      }
      case 0x95: {  // FRAME
        KLENS_TRY(const std::uint64_t size, argument(8));
        if (size > left())
          return fault("a frame of at most " + std::to_string(left()) + " bytes", std::to_string(size));
        return {};
      }
      case 'N': return put({}), Result<void>();
      case 0x88: return put({.kind = PickleKind::boolean, .number = 1}), Result<void>();
      case 0x89: return put({.kind = PickleKind::boolean}), Result<void>();
      case 'K':
      case 'M': {  // BININT1, BININT2
        KLENS_TRY(const std::uint64_t n, argument(code == 'K' ? 1 : 2));
        return put_integer(std::int64_t(n));
      }
      case 'J': {  // BININT
        KLENS_TRY(const std::uint64_t n, argument(4));
        return put_integer(std::int32_t(std::uint32_t(n)));
      }
      case 0x8a: {  // LONG1: two's complement
        KLENS_TRY(const std::uint64_t size, argument(1));
        if (size > 8) return fault("an integer of at most 8 bytes", std::to_string(size));
        KLENS_TRY(std::uint64_t n, argument(std::size_t(size)));
        if (size > 0 && size < 8 && (n >> (8 * size - 1)) != 0) n |= ~std::uint64_t(0) << 8 * size;
        return put_integer(std::int64_t(n));
      }
      case 'G': {  // BINFLOAT: big endian
        if (left() < 8) return fault("8 bytes of an argument", std::to_string(left()));
        std::uint64_t n = 0;
        for (int i = 0; i < 8; ++i) n = n << 8 | byte();
        return put({.kind = PickleKind::real, .real = std::bit_cast<double>(n)}), Result<void>();
      }
      case 0x8c:
      case 'X':
      case 0x8d: {  // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
        KLENS_TRY(const std::uint64_t size, argument(code == 0x8c ? 1 : code == 'X' ? 4 : 8));
        return put_text(size);
      }
      case '(': return marks_.push_back(stack_.size()), Result<void>();
      case ')': return put_tuple(0);
      case 0x85: return put_tuple(1);
      case 0x86: return put_tuple(2);
      case 0x87: return put_tuple(3);
      case 't': {  // TUPLE
        KLENS_TRY(std::vector<std::uint32_t> items, pop_marked());
        return put({.kind = PickleKind::tuple, .items = std::move(items)}), Result<void>();
      }
      case ']': return put({.kind = PickleKind::list}), Result<void>();
      case '}': return put({.kind = PickleKind::dict}), Result<void>();
      case 'e':
      case 'u': {  // APPENDS, SETITEMS
        KLENS_TRY(std::vector<std::uint32_t> items, pop_marked());
        return extend(std::move(items), code == 'u');
      }
      case 'a': {  // APPEND
        KLENS_OK(need(2));
        return extend({pop()}, false);
      }
      case 's': {  // SETITEM
        KLENS_OK(need(3));
        const std::uint32_t value = pop(), key = pop();
        return extend({key, value}, true);
      }
      case 'q':
      case 'r': {  // BINPUT, LONG_BINPUT
        KLENS_TRY(const std::uint64_t key, argument(code == 'q' ? 1 : 4));
        return remember(key);
      }
      case 0x94: return remember(memo_.size());  // MEMOIZE
      case 'h':
      case 'j': {  // BINGET, LONG_BINGET
        KLENS_TRY(const std::uint64_t key, argument(code == 'h' ? 1 : 4));
        return recall(key);
      }
      case 'c': {  // GLOBAL
        KLENS_TRY(const std::string_view module, line());
        KLENS_TRY(const std::string_view name, line());
        return put_global(module, name);
      }
      case 0x93: {  // STACK_GLOBAL
        KLENS_OK(need(2));
        const PickleValue &name = p_[pop()], &module = p_[pop()];
        if (name.kind != PickleKind::text || module.kind != PickleKind::text)
          return fault("a module and a name", describe(module) + " and " + describe(name));
        const std::string_view module_text = module.text, name_text = name.text;
        return put_global(module_text, name_text);
      }
      case 'R': return call();
      case 'Q': {  // BINPERSID
        KLENS_OK(need(1));
        const std::uint32_t id = pop();
        return put({.kind = PickleKind::persistent, .items = {id}}), Result<void>();
      }
      case 'b': {  // BUILD: attributes of an object; none of them is a tensor of the dict, and they are checked by
                   // having been read
        KLENS_OK(need(2));
        const PickleValue &state = p_[pop()], &object = p_[stack_.back()];
        if (object.kind != PickleKind::call || state.kind != PickleKind::dict)
          return fault("attributes for an object", describe(state) + " for " + describe(object));
        return {};
      }
      default: return refuse(code);
    }
  }

  std::string_view b_;
  const std::string& where_;
  std::span<const PickleName> names_;
  std::size_t at_ = 0, opcode_at_ = 0;
  Pickle p_;
  std::vector<std::uint32_t> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, std::uint32_t> memo_;
};

}  // namespace detail

/// Reads a whole pickle; `where` begins every error, `names` is all that it may name. The bytes must outlive the tree.
inline Result<Pickle> read_pickle(std::string_view bytes, const std::string& where, std::span<const PickleName> names) {
  return detail::PickleReader(bytes, where, names).read();
}

}  // namespace klens
