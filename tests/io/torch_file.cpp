// pytorch_model.bin: torch's own files (tests/data/torch) hold what safetensors says they do; nothing else is read or
// executed.
#include "io/fuzz.hpp"

#include <klens/io/safetensors.hpp>
#include <klens/io/torch_file.hpp>

#include <array>

using namespace klens;
namespace fs = std::filesystem;

namespace {

const std::string data = std::string(KLENS_TEST_DATA) + "/torch";

std::string fault(const std::string& path) {
  const auto f = TorchFile::open(path);
  return f ? "" : f.error().message().substr(path.size());
}

bool same(const TensorMap& a, const TensorMap& b) {
  return std::ranges::equal(a, b, [](const auto& x, const auto& y) {
    return x.first == y.first && x.second.name == y.second.name && x.second.dtype == y.second.dtype &&
           x.second.dtype_name == y.second.dtype_name && x.second.shape == y.second.shape &&
           std::ranges::equal(x.second.data, y.second.data);
  });
}

std::string number(std::uint64_t n, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += char(n >> 8 * i & 255);
  return text;
}

/// A ZIP of stored entries, by hand.
struct ZipText {
  std::string body, directory;
  int entries = 0;
  void add(const std::string& name, const std::string& bytes) { add(name, bytes, bytes.size(), body.size()); }
  /// `extra`: of the directory's entry.
  void add(const std::string& name, const std::string& bytes, std::uint64_t size, std::uint64_t at,
           const std::string& extra = {}) {
    const std::string sizes = number(size, 4) + number(size, 4) + number(name.size(), 2);
    directory += "PK\1\2" + number(20, 2) + number(20, 2) + std::string(12, '\0') + sizes + number(extra.size(), 2) +
                 std::string(10, '\0');
    directory += number(at, 4) + name + extra;
    body += "PK\3\4" + number(20, 2) + std::string(12, '\0') + sizes + number(0, 2) + name + bytes;
    ++entries;
  }
  std::string text() const { return text(std::uint64_t(entries), directory.size(), body.size()); }
  std::string text(std::uint64_t count, std::uint64_t bytes, std::uint64_t at) const {
    return body + directory + "PK\5\6" + number(0, 4) + number(count, 2) + number(count, 2) + number(bytes, 4) +
           number(at, 4) + number(0, 2);
  }
};

/// A file of torch.save around any pickle, with a storage '0' of 24 bytes.
std::string file_of(const std::string& pickle) {
  ZipText zip;
  zip.add("m/data.pkl", pickle);
  zip.add("m/data/0", std::string(24, '\1'));
  zip.add("m/version", "3\n");
  return zip.text();
}

std::string text(const std::string& s) { return std::string("X").append(number(s.size(), 4)).append(s); }
std::string integer(std::int64_t n) {
  return n >= 0 && n < 256 ? std::string("K").append(number(std::uint64_t(n), 1))
                           : std::string("\x8a\x08").append(number(std::uint64_t(n), 8));
}
std::string tuple(const std::vector<std::int64_t>& all) {
  std::string s = "(";
  for (const std::int64_t n : all) s += integer(n);
  return s + "t";
}
const std::string proto = "\x80\x02", empty_hooks = "ccollections\nOrderedDict\n)R";

/// A tensor of storage '0', F32 unless `type` says otherwise.
std::string tensor(std::int64_t offset, const std::vector<std::int64_t>& sizes,
                   const std::vector<std::int64_t>& strides, const std::string& type = "FloatStorage",
                   std::int64_t count = 6, const std::string& key = "0") {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\n" + type + "\n" + text(key) +
         text("cpu") + integer(count) + "tQ" + integer(offset) + tuple(sizes) + tuple(strides) + "\x89" + empty_hooks +
         "tR";
}
std::string dict_of(const std::string& tensor_text) { return proto + "}(" + text("a") + tensor_text + "u."; }

}  // namespace

TEST_CASE("torch file: torch's own files hold the tensors that safetensors holds") {
  for (const char* name : {"types", "shared", "module"}) {
    CAPTURE(name);
    const auto mine = TorchFile::open(data + "/" + name + ".bin");
    REQUIRE_MESSAGE(mine, mine.error().message());
    const auto golden = Safetensors::open(data + "/" + name + ".safetensors");
    REQUIRE(golden);
    CHECK(same(mine->tensors(), golden->tensors()));
    CHECK(mine->tensors().size() >= 5);
  }
  const auto types = TorchFile::open(data + "/types.bin");
  CHECK(types->tensors().size() == 13);
  CHECK(types->find("scalar")->shape.empty());
  CHECK(types->find("none")->data.empty());
  CHECK(types->find("nothing") == nullptr);
  // Tripwire: one bit of one value.
  test::TempFolder dir;
  std::string bytes = test::get(data + "/types.bin");
  const auto golden = Safetensors::open(data + "/types.safetensors");
  const std::string value(reinterpret_cast<const char*>(golden->find("f32")->data.data()), 24);
  bytes[bytes.find(value) + 9] = char(bytes[bytes.find(value) + 9] ^ 1);
  test::put(dir / "t.bin", bytes);
  const auto changed = TorchFile::open(dir / "t.bin");
  REQUIRE(changed);
  CHECK_FALSE(same(changed->tensors(), golden->tensors()));
}

TEST_CASE("torch file: tensors of one storage are views of the same bytes, and stay where they are") {
  auto f = TorchFile::open(data + "/shared.bin");
  REQUIRE(f);
  const std::byte* base = f->find("all")->data.data();
  CHECK(f->find("again")->data.data() == base);
  CHECK(f->find("rows")->data.data() == base + 2 * 16);
  CHECK(f->find("row")->data.data() == base + 5 * 16);
  CHECK(f->find("flat")->data.data() == base + 7 * 4);
  const TensorView* before = f->find("row");
  const TorchFile moved = *std::move(f);
  CHECK(moved.find("row") == before);
  CHECK(moved.find("row")->data.data() == base + 5 * 16);
}

TEST_CASE("torch file: every protocol, parameters, shards, a ZIP without ZIP64") {
  const auto module = TorchFile::open(data + "/module.bin");
  REQUIRE(module);
  TensorMap parameters;
  for (const auto& [name, t] : module->tensors())
    if (!name.starts_with("1.running") && !name.starts_with("1.num")) parameters.emplace(name, t);
  CHECK(parameters.size() == 6);
  for (const char* name : {"protocol3", "protocol4", "protocol5"}) {
    const auto f = TorchFile::open(data + "/" + name + ".bin");
    REQUIRE_MESSAGE(f, f.error().message());
    CHECK(same(f->tensors(), parameters));
  }
  const auto shards = TorchFile::open(data + "/shards");
  REQUIRE_MESSAGE(shards, shards.error().message());
  CHECK(same(shards->tensors(), module->tensors()));
  const auto plain = TorchFile::open(data + "/plain.bin"), restored = TorchFile::open(data + "/restored.bin");
  REQUIRE_MESSAGE(restored, restored.error().message());
  CHECK(same(plain->tensors(), restored->tensors()));

  test::TempFolder dir;
  CHECK(fault(dir.path()) == ": expected pytorch_model.bin or pytorch_model.bin.index.json, found neither");
  fs::copy(data + "/shards", dir.path(), fs::copy_options::recursive);
  const std::string index = dir / "pytorch_model.bin.index.json", first = dir / "pytorch_model-00001-of-00002.bin";
  std::string json = test::get(index);
  test::put(index, json.replace(json.find("0.weight"), 8, "0.wheels"));
  CHECK(fault(dir.path()) ==
        "/pytorch_model.bin.index.json: tensor '0.wheels': expected the tensor in pytorch_model-00001-of-00002.bin, "
        "found no such tensor there");
  fs::copy_file(data + "/shards/pytorch_model.bin.index.json", index, fs::copy_options::overwrite_existing);
  fs::remove(first);
  CHECK(fault(dir.path()) == "/pytorch_model-00001-of-00002.bin: cannot open: No such file or directory");
}

TEST_CASE("torch file: nothing is executed, and what is no dict of tensors is refused by name and place") {
  const fs::path trace = "/tmp/klens_evil_pickle";
  REQUIRE_FALSE(fs::exists(trace));
  const std::string only = ": expected only what a dict of tensors needs (nothing of it is executed), found ";
  CHECK(fault(data + "/evil.bin") == ": data.pkl: byte 169" + only + "'posix.system'");
  CHECK_FALSE(fs::exists(trace));
  CHECK(fault(data + "/float8.bin") == ": data.pkl: byte 13" + only + "'torch._utils._rebuild_tensor_v3'");
  CHECK(fault(data + "/number.bin") == ": data.pkl: byte 172: tensor 'step': expected a tensor, found an integer");
  CHECK(fault(data + "/nested.bin") == ": data.pkl: byte 18: tensor 'model': expected a tensor, found a dict");
  CHECK(fault(data + "/bare.bin") == ": data.pkl: byte 146: content: expected a dict of tensors, found an object");
  CHECK(fault(data + "/strided.bin") ==
        ": data.pkl: tensor 'a': expected contiguous values (save it with .contiguous()), found shape [4, 3] with "
        "strides [1, 4]");
  CHECK(fault(data + "/expanded.bin") ==
        ": data.pkl: tensor 'a': expected contiguous values (save it with .contiguous()), found shape [3] with strides "
        "[0]");
  CHECK(fault(data + "/older.bin") ==
        ": expected a file of torch.save of torch 1.6 or later, a ZIP, found torch's older format");
  CHECK(fault(data + "/deflated.bin") ==
        ": entry 'plain/data.pkl': expected stored bytes, as torch.save writes them, found compression method 8");
  CHECK(fault(data + "/make.py") ==
        ": expected a ZIP file, with its end record, found none: truncated, or no ZIP file");
  CHECK(fault(data + "/nothing.bin") == ": cannot open: No such file or directory");
}

TEST_CASE("torch file: tensors that do not fit their storage") {
  test::TempFolder dir;
  const std::string path = dir / "t.bin";
  const auto with = [&](const std::string& pickle) {
    test::put(path, file_of(pickle));
    return fault(path);
  };
  const auto one = [&](auto... arguments) { return with(dict_of(tensor(arguments...))); };
  using Ints = std::vector<std::int64_t>;
  CHECK(one(0, Ints{2, 3}, Ints{3, 1}) == "");
  CHECK(one(2, Ints{2, 2}, Ints{2, 1}) == "");
  CHECK(one(6, Ints{0}, Ints{1}) == "");
  CHECK(one(0, Ints{1, 6, 1}, Ints{9, 1, 7}) == "");  // strides of sizes of 1 mean nothing
  CHECK(one(1, Ints{2, 3}, Ints{3, 1}) ==
        ": data.pkl: tensor 'a': expected 6 values in its storage, found [2, 3] from value 1");
  CHECK(one(7, Ints{0}, Ints{1}) == ": data.pkl: tensor 'a': expected 6 values in its storage, found [0] from value 7");
  CHECK(one(std::int64_t(0x7fffffffffffffff), Ints{2}, Ints{1}) ==
        ": data.pkl: tensor 'a': expected 6 values in its storage, found [2] from value 9223372036854775807");
  CHECK(one(0, Ints{std::int64_t(1) << 40, std::int64_t(1) << 40}, Ints{std::int64_t(1) << 40, 1}) ==
        ": data.pkl: tensor 'a': expected a shape that fits in memory, found [1099511627776, 1099511627776]");
  CHECK(one(0, Ints{std::int64_t(1) << 40}, Ints{1}) ==
        ": data.pkl: tensor 'a': expected 6 values in its storage, found [1099511627776] from value 0");
  CHECK(one(0, Ints{2, 3}, Ints{1}).ends_with("tensor 'a': expected as many strides as sizes, found [2, 3] and [1]"));
  CHECK(one(-1, Ints{2}, Ints{1}).ends_with("tensor 'a': offset: expected an integer >= 0, found -1"));
  CHECK(one(0, Ints{-2}, Ints{1}).ends_with("tensor 'a': sizes: expected an integer >= 0, found -2"));
  CHECK(one(0, Ints(33, 1), Ints(33, 1)).ends_with("tensor 'a': sizes: expected a tuple of at most 32, found 33"));
  CHECK(one(0, Ints{3}, Ints{1}, "DoubleStorage", 3) == "");
  CHECK(one(0, Ints{3}, Ints{1}, "DoubleStorage", 6) == ": entry 'm/data/0': expected 6 values of F64, found 24 bytes");
  CHECK(one(0, Ints{3}, Ints{1}, "FloatStorage", std::int64_t(1) << 62) ==
        ": entry 'm/data/0': expected 4611686018427387904 values of F32, found 24 bytes");
  CHECK(one(0, Ints{3}, Ints{1}, "FloatStorage", 6, "1") ==
        ": tensor 'a': expected entry 'm/data/1', found no such entry");
  CHECK(one(0, Ints{3}, Ints{1}, "FloatStorage", 6, "../version") ==
        ": tensor 'a': expected entry 'm/data/../version', found no such entry");
  CHECK(one(0, Ints{3}, Ints{1}, "FloatStorage", 6, std::string(65, '0'))
            .ends_with("storage: expected its name, a string of at most 64 bytes, found a string"));
  CHECK(one(0, Ints{3}, Ints{1}, "ComplexFloatStorage").ends_with("found 'torch.ComplexFloatStorage'"));
  const std::string t = tensor(0, {6}, {1});
  CHECK(with(proto + "}(" + text("a") + t + text("a") + t + "u.")
            .ends_with("tensor 'a': expected every name once, found a second one"));
  CHECK(with(proto + "}(K\1" + t + "u.").ends_with("name of a tensor: expected a string, found an integer"));
  CHECK(with(proto + "}(" + text("a") + t + "us.").ends_with("expected 3 values on the stack, found 1"));
}

TEST_CASE("torch file: pickles by hand") {
  test::TempFolder dir;
  const std::string path = dir / "t.bin", at = ": data.pkl: byte ";
  const auto with = [&](const std::string& pickle) {
    test::put(path, file_of(pickle));
    return fault(path);
  };
  CHECK(with(proto + "}.") == "");
  CHECK(with(proto + empty_hooks + ".") == "");
  CHECK(with("").ends_with("expected an opcode, found the end"));
  CHECK(with(proto + "}") == at + "3: expected an opcode, found the end");
  CHECK(with("}.") == at + "0: expected a pickle of protocol 2 to 5, found byte 0x7d");
  CHECK(with("\x80\x06}.") == at + "0: expected protocol 2 to 5, found 6");
  CHECK(with(proto + "}.}") == at + "3: expected the end after STOP, found 1 bytes more");
  CHECK(with(proto + ".") == at + "2: expected one value at the end, found 0 values, 0 marks");
  CHECK(with(proto + "}(.") == at + "4: expected one value at the end, found 1 values, 1 marks");
  CHECK(with(proto + "h\x05.") == at + "2: expected an entry of the memo, found entry 5, which nothing set");
  CHECK(with(proto + "j\xff\xff\xff\xff.") ==
        at + "2: expected an entry of the memo, found entry 4294967295, which nothing set");
  CHECK(with(proto + "q" + number(0, 1) + ".") == at + "2: expected 1 values on the stack, found 0");
  CHECK(
      with(proto + "}r\xff\xff\xff\xff" + "0.")
          .ends_with("expected an opcode that a dict of tensors needs (nothing of it is executed), found 0x30 (POP)"));
  CHECK(with(proto + "X\xff\xff\xff\xff" + "abc.") == at + "2: expected a string of at most 4 bytes, found 4294967295");
  CHECK(with(proto + "\x8d" + std::string(8, '\xff') + "abc.") ==
        at + "2: expected a string of at most 4 bytes, found 18446744073709551615");
  CHECK(with(proto + "\x95" + std::string(8, '\xff') + "}.") ==
        at + "2: expected a frame of at most 2 bytes, found 18446744073709551615");
  CHECK(with(proto + text("\xff") + ".") == at + "2: expected UTF-8, found other bytes");
  CHECK(with(proto + "\x8a\x09" + std::string(9, '\1') + ".") ==
        at + "2: expected an integer of at most 8 bytes, found 9");
  CHECK(with(proto + "J\1\2").ends_with("expected 4 bytes of an argument, found 2"));
  CHECK(with(proto + "ctorch").ends_with("expected a line, found the end"));
  CHECK(with(proto + "e.").ends_with("expected a mark on the stack, found none"));
  CHECK(with(proto + "](a.").ends_with("expected 2 values on the stack, found 0"));
  CHECK(with(proto + "K\1(u.").ends_with("expected a dict to set items of, found an integer"));
  CHECK(with(proto + "}(K\1u.").ends_with("expected keys and values in pairs, found 1 values"));
  CHECK(with(proto + "K\1)R.").ends_with("expected a class or function to call, found an integer"));
  CHECK(with(proto + "ccollections\nOrderedDict\nK\1R.").ends_with("expected a tuple of arguments, found an integer"));
  CHECK(with(proto + "K\1}b.").ends_with("expected attributes for an object, found a dict for an integer"));
  CHECK(with(proto + "K\1\x8c\1a\x93.").ends_with("expected a module and a name, found an integer and a string"));
  CHECK(with(proto + "\x8c\2os\x8c\6system\x93.").ends_with("found 'os.system'"));
  CHECK(with(proto + "cbuiltins\neval\n(" + text("1") + "tR.").ends_with("found 'builtins.eval'"));
  CHECK(with(proto + "ctorch\nFloatStorage\n)\x81.").ends_with("found 0x81 (NEWOBJ)"));
  CHECK(with(proto + "(ios\nsystem\n.").ends_with("found 0x69 (INST)"));
  CHECK(with(proto + "\xfe.").ends_with("found 0xfe"));
  CHECK(with(proto + "ctorch\nFloatStorage\n)R.").ends_with("content: expected a dict of tensors, found an object"));
  // A thousand nested tuples, and a list in itself.
  CHECK(with(proto + ")" + std::string(1000, '\x85') + ".")
            .ends_with("content: expected a dict of tensors, found a tuple"));
  CHECK(with(proto + "]q" + number(0, 1) + "h" + number(0, 1) + "a.")
            .ends_with("content: expected a dict of tensors, found a list"));
  CHECK(with(proto + "}q" + number(0, 1) + text("a") + "h" + number(0, 1) + "s.")
            .ends_with("tensor 'a': expected a tensor, found a dict"));
  // What costs memory per byte is counted: values, marks, entries of the memo, copies of one value.
  for (const std::string& many :
       {std::string(1'000'002, 'N'), std::string(2'000'002, '('), "N" + std::string(2'000'002, '\x94')})
    CHECK(with(proto + many + ".").ends_with("expected at most 1000000 values, found more"));
  std::string copies = "Nq" + number(0, 1);
  for (int i = 0; i < 2'000'002; ++i) copies += std::string("h\0", 2);
  CHECK(with(proto + copies + ".").ends_with("expected at most 1000000 values, found more"));
  CHECK(with(proto + std::string(std::size_t(33) << 20, 'N') + ".") ==
        ": data.pkl: expected at most 33554432 bytes, found 34603011");
}

TEST_CASE("torch file: ZIP files by hand") {
  test::TempFolder dir;
  const std::string path = dir / "t.bin", pickle = dict_of(tensor(0, {6}, {1})), values(24, '\1');
  const auto with = [&](const std::string& bytes) {
    test::put(path, bytes);
    return fault(path);
  };
  ZipText good;
  good.add("m/data.pkl", pickle);
  good.add("m/data/0", values);
  CHECK(with(good.text()) == "");
  CHECK(with(good.text().substr(0, 21)) == ": expected a ZIP file of at least 22 bytes, found 21");
  CHECK(with(good.text() + "x") == ": expected a ZIP file, with its end record, found none: truncated, or no ZIP file");
  CHECK(with(good.text(3, good.directory.size(), good.body.size())) ==
        ": directory: expected at most 2 entries in its bytes, found 3");
  ZipText longer = good;
  longer.add("m/" + std::string(60, 'x'), "");
  CHECK(with(longer.text(4, longer.directory.size(), longer.body.size())).find("expected an entry, found none") !=
        std::string::npos);
  CHECK(with(good.text(1, good.directory.size(), good.body.size())).find("bytes in 1 entries, found ") !=
        std::string::npos);
  CHECK(with(good.text(0xfffe, good.directory.size(), good.body.size())) ==
        ": directory: expected at most 2 entries in its bytes, found 65534");
  CHECK(with(good.text(2, 0xfffffff0, good.body.size())).find(": directory: expected bytes below ") == 0);
  CHECK(with(good.text(2, good.directory.size(), 0xfffffff0)).find(": directory: expected bytes below ") == 0);
  const auto twisted = [&](const std::string& bytes, std::uint64_t size, std::uint64_t at) {
    ZipText zip;
    zip.add("m/data.pkl", pickle);
    zip.add("m/data/0", bytes, size, at);
    return with(zip.text());
  };
  const std::uint64_t second = 30 + 10 + pickle.size();
  CHECK(twisted(values, 24, second) == "");
  CHECK(twisted(values, 25, second) == ": entry 'm/data/0': expected at most 24 bytes, found 25");
  CHECK(twisted(values, 0xfffffffe, second) == ": entry 'm/data/0': expected at most 24 bytes, found 4294967294");
  CHECK(twisted(values, 24, second + 1).find("expected its header before the directory, found none at byte ") !=
        std::string::npos);
  CHECK(twisted(values, 24, 0) == ": entry 'm/data/0': expected the same name in its header, found another");
  // Sizes and places beyond 4 GiB stand in the extra field 1, those that are all ones, in this order; others are passed
  // over.
  const auto wide = [&](std::uint64_t size, std::uint64_t at, const std::string& extra) {
    ZipText zip;
    zip.add("m/data.pkl", pickle);
    zip.add("m/data/0", values, size, at, extra);
    return with(zip.text());
  };
  constexpr std::uint64_t ones = 0xffffffff;
  const std::string sizes = number(24, 8) + number(24, 8), place = number(second, 8),
                    other = number(9, 2) + number(3, 2) + "abc";
  CHECK(wide(ones, ones, other + number(1, 2) + number(24, 2) + sizes + place) == "");
  CHECK(wide(ones, second, number(1, 2) + number(16, 2) + sizes + other) == "");
  CHECK(wide(24, ones, number(1, 2) + number(8, 2) + place) == "");
  CHECK(wide(ones, ones, number(1, 2) + number(16, 2) + sizes) ==
        ": entry 'm/data/0': expected its sizes in the ZIP64 field, found 16 bytes");
  CHECK(wide(ones, second, "") == ": entry 'm/data/0': expected at most 24 bytes, found 4294967295");
  CHECK(wide(ones, second, number(1, 2) + number(17, 2) + sizes) ==
        ": entry 'm/data/0': expected extra fields inside the entry, found one beyond its end");
  CHECK(wide(ones, second,
             number(1, 2) + number(16, 2) + number(std::uint64_t(1) << 63, 8) + number(std::uint64_t(1) << 63, 8)) ==
        ": entry 'm/data/0': expected at most 24 bytes, found 9223372036854775808");
  CHECK(wide(ones, second, number(1, 2) + number(16, 2) + number(24, 8) + number(25, 8)) ==
        ": entry 'm/data/0': expected 24 stored bytes, found 25");
  CHECK(wide(24, ones, number(1, 2) + number(8, 2) + std::string(8, '\xff'))
            .find("expected its header before the directory") != std::string::npos);
  ZipText twice = good;
  twice.add("m/data/0", values);
  CHECK(with(twice.text()) == ": entry 'm/data/0': expected every name once, found a second one");
  ZipText inside;  // an entry whose header lies in the bytes of another
  const std::string hidden = "PK\3\4" + std::string(22, '\0') + number(3, 2) + number(0, 2) + "m/x" + "yyyy";
  inside.add("m/data.pkl", pickle);
  const std::uint64_t start = inside.body.size() + 30 + 8;
  inside.add("m/data/0", hidden);
  const std::size_t body = inside.body.size();
  inside.add("m/x", "yyyy", 4, start);
  inside.body.resize(body);
  CHECK(with(inside.text()).find("(no overlap), found byte ") != std::string::npos);
  ZipText none;
  none.add("m/data/0", values);
  CHECK(with(none.text()) == ": expected one entry FOLDER/data.pkl, found 0");
  none.add("m/data.pkl", pickle);
  none.add("n/data.pkl", pickle);
  CHECK(with(none.text()) == ": expected one entry FOLDER/data.pkl, found 2");
  ZipText big = good;
  big.add("m/byteorder", "big");
  CHECK(with(big.text()) == ": entry 'byteorder': expected 'little', found 'big'");
}

TEST_CASE("torch file: damaged files end in one clear error") {
  test::TempFolder dir;
  const std::string path = dir / "t.bin";
  test::Mutator mutate(41);
  const int count = test::fuzz_count(500);
  int refused = 0, tried = 0;
  test::reset_largest_allocation();
  const auto attempt = [&](const std::string& bytes) {
    test::put(path, bytes);
    const auto f = TorchFile::open(path);
    ++tried;
    if (!f) {
      ++refused;
      return test::check_clear(f.error().message(), path);
    }
    for (const auto& [name, t] : f->tensors()) {
      CHECK(std::size_t(t.count()) * std::size_t(size_of(t.dtype)) == t.data.size());
      unsigned sum = 0;
      for (std::byte b : t.data) sum += std::to_integer<unsigned>(b);
      CHECK(sum + 1 > 0);
    }
  };
  // Whole files; then the pickle alone in a sound ZIP, or nothing would come past the ZIP's offsets.
  const std::array<std::string, 3> files = {test::get(data + "/types.bin"), test::get(data + "/shared.bin"),
                                            test::get(data + "/module.bin")};
  for (int i = 0; i < count; ++i) {
    const std::string& good = files[std::size_t(i) % files.size()];
    if (i % 2 == 0) {
      const bool front = i % 4 == 0;  // the directory stands at the end
      const std::size_t cut = front ? 0 : good.size() - 1500;
      attempt(good.substr(0, cut) + mutate(good.substr(cut), 1500));
    } else {
      const std::string pickle = dict_of(tensor(2, {2, 2}, {2, 1})),
                        whole = proto + "}q" + number(0, 1) + "(" + text("a") + "r" + number(300, 4) +
                                tensor(0, {2, 3}, {3, 1}) + text("b") + "j" + number(300, 4) + tensor(1, {5}, {1}) +
                                text("c") + tensor(0, {3}, {1}, "DoubleStorage", 3) + "u.";
      attempt(file_of(i % 4 == 1 ? mutate(pickle, pickle.size()) : mutate(whole, whole.size())));
    }
  }
  CHECK(refused > tried / 2);
  CHECK(refused < tried);
  // Cut anywhere, the end record is gone.
  refused = tried = 0;
  for (const std::string& good : files)
    for (std::size_t n = 0; n < good.size(); n += 1 + good.size() / 300) attempt(good.substr(0, n));
  CHECK(refused == tried);
  CHECK(test::largest_allocation() < (1 << 20));
}
