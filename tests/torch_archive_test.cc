// The reader of torch archives against files that were made to harm.
#include "checkpoint/torch_archive.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>

#include "checkpoint/pickle.h"
#include "kineograph/error.h"
#include "zip_file.h"

namespace kineograph {
namespace {

std::string text(const std::string& value) {
  std::string out = "X";
  for (std::size_t i = 0; i < 4; ++i) out += static_cast<char>(value.size() >> 8 * i);
  return out + value;
}

std::string integer(std::int32_t value) {
  std::string out = "J";
  for (int i = 0; i < 4; ++i) out += static_cast<char>(static_cast<std::uint32_t>(value) >> 8 * i);
  return out;
}

std::string tuple(const std::vector<std::int32_t>& values) {
  std::string out = "(";
  for (const std::int32_t value : values) out += integer(value);
  return out + "t";
}

/// torch's call for a view of storage `key`.
std::string tensor(const std::string& key, std::int32_t offset, const std::vector<std::int32_t>& sizes,
                   const std::vector<std::int32_t>& strides, const std::string& storage = "ctorch\nFloatStorage\n") {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + storage + text(key) + text("cpu") + integer(6) +
         "tQ" + integer(offset) + tuple(sizes) + tuple(strides) + "\x89Nt" + "R";
}

std::string dict(const std::string& key, const std::string& value) { return "\x80\x02}(" + text(key) + value + "u."; }

const std::string kStorage = std::string(24, '\1');  // six floats

std::string archive(const std::string& pickle) { return zip_file({{"a/data.pkl", pickle}, {"a/data/0", kStorage}}); }

checkpoint::TorchArchive parse(const std::string& file) {
  static std::vector<std::unique_ptr<AlignedBytes>> kept;  // views outlive the call
  kept.push_back(std::make_unique<AlignedBytes>(file));
  return checkpoint::parse_torch(kept.back()->span(), "file.pt");
}

/// The message with which `file` is refused.
std::string refused(const std::string& file) {
  try {
    parse(file);
  } catch (const FormatError& error) {
    return error.what();
  }
  ADD_FAILURE() << "was not refused";
  return {};
}

void expect_words(const std::string& message, const std::string& words) {
  EXPECT_NE(message.find(words), std::string::npos) << message;
}

TEST(TorchArchive, ReadsViews) {
  const auto found = parse(archive(dict("w", tensor("0", 1, {2, 2}, {1, 2}))));
  ASSERT_EQ(found.tensors.size(), 1u);
  EXPECT_EQ(found.tensors[0].name, "w");
  EXPECT_EQ(found.tensors[0].view.shape(), (Shape{2, 2}));
  EXPECT_EQ(found.tensors[0].view.strides(), (Dims{1, 2}));
}

TEST(TorchArchive, RefusesViewsBeyondTheirStorage) {
  for (const auto& [offset, size, stride] :
       {std::array{0, 7, 1}, {1, 6, 1}, {0, 2, 6}, {7, 1, 1}, {0, 3, 0x7fffffff}, {-1, 2, 1}})
    expect_words(refused(archive(dict("w", tensor("0", offset, {size}, {stride})))), "tensor w");
  expect_words(refused(archive(dict("w", tensor("0", 0, {-2}, {1})))), "0 or more");
  expect_words(refused(archive(dict("w", tensor("0", 0, {2}, {-1})))), "0 or more");
  expect_words(refused(archive(dict("w", tensor("0", 0, {2, 2}, {1})))), "as many strides");
  expect_words(
      refused(archive(dict("w", tensor("0", 0, std::vector<std::int32_t>(9, 1), std::vector<std::int32_t>(9, 1))))),
      "axes");
  expect_words(refused(archive(dict("w", tensor("1", 0, {2}, {1})))), "storage 1");
  expect_words(refused(archive(dict("w", tensor("0", 0, {2}, {1}, "cevil\nFloatStorage\n")))), "evil.FloatStorage");
}

TEST(TorchArchive, RefusesViewsThatAreLargerThanTheFile) {
  // Strides of 0 make any size of one element.
  expect_words(refused(archive(dict("w", tensor("0", 0, {1 << 20, 1 << 20}, {0, 0})))), "as many as its storage");
  EXPECT_EQ(parse(archive(dict("w", tensor("0", 0, {1000}, {0})))).tensors.size(), 1u);
}

TEST(TorchArchive, ReportsTensorsOfOtherDtypes) {
  const auto found = parse(archive(dict("w", tensor("0", 0, {2}, {1}, "ctorch\nComplexFloatStorage\n"))));
  EXPECT_TRUE(found.tensors.empty());
  ASSERT_EQ(found.opaque.size(), 1u);
  expect_words(found.opaque[0].second, "torch.ComplexFloatStorage [2]");
}

TEST(TorchArchive, CopiesAStorageThatIsNotAlignedOnce) {
  // A hundred views of one storage at an odd place: without care a hundred copies of it.
  std::string pickle = "\x80\x02}(";
  for (int i = 0; i < 100; ++i) pickle += text("w" + std::to_string(i)) + tensor("0", i % 6, {1}, {1});
  std::string file = zip_file({{"a/data.pkl", pickle + "u."}, {"a/data/0", kStorage}});
  auto bytes = std::make_unique<AlignedBytes>("x" + file);
  const auto found = checkpoint::parse_torch(bytes->span().subspan(1), "file.pt");
  EXPECT_EQ(found.tensors.size(), 100u);
  EXPECT_EQ(found.copies.size(), 1u);
  float value = 0;
  std::memcpy(&value, kStorage.data(), sizeof(value));
  for (const auto& tensor : found.tensors) EXPECT_EQ(*tensor.view.data_as<float>(), value);
}

TEST(TorchArchive, RefusesCallsAndNamesThem) {
  for (const std::string name : {"os\nsystem", "posix\nsystem", "builtins\neval", "subprocess\nPopen",
                                 "runpy\nrun_path", "builtins\n__import__", "webbrowser\nopen", "torch\nload"}) {
    std::string dotted = name;
    dotted[dotted.find('\n')] = '.';
    const std::string argument = "(" + text("touch x") + "t";
    expect_words(refused(archive(dict("w", "c" + name + "\n" + argument + "R"))), "a call of " + dotted);
    // INST, OBJ and NEWOBJ are calls too.
    expect_words(refused(archive(dict("w", "(" + text("touch x") + "i" + name + "\n"))), dotted);
    expect_words(refused(archive(dict("w", "(c" + name + "\n" + text("touch x") + "o"))), dotted);
    expect_words(refused(archive(dict("w", "c" + name + "\n" + argument + "\x81"))), dotted);
  }
}

TEST(TorchArchive, KeepsForeignObjectsAsWhatTheyAre) {
  const auto found = parse(archive(dict("config", "comegaconf.dictconfig\nDictConfig\n)\x81}b")));
  ASSERT_EQ(found.opaque.size(), 1u);
  EXPECT_EQ(found.opaque[0].first, "config");
  expect_words(found.opaque[0].second, "omegaconf.dictconfig.DictConfig");
}

/// What a dict's value "x" beside a tensor is said to be.
std::string described(const std::string& value) {
  const auto found = parse(archive("\x80\x02}(" + text("w") + tensor("0", 0, {2}, {1}) + text("x") + value + "u."));
  EXPECT_EQ(found.tensors.size(), 1u);
  EXPECT_EQ(found.opaque.size(), 1u);
  return found.opaque.empty() ? "" : found.opaque[0].second;
}

TEST(TorchArchive, KeepsHarmlessObjectsAnywhere) {
  // functools.partial(int, "3") and types.SimpleNamespace(a=1), as Python pickles them.
  expect_words(described("cfunctools\npartial\n(c__builtin__\nint\ntR(c__builtin__\nint\n(" + text("3") + "t}Ntb"),
               "functools.partial");
  expect_words(described("ctypes\nSimpleNamespace\n)R}" + text("a") + "K\1sb"), "types.SimpleNamespace");
  expect_words(described("cnumpy.random._pickle\n__randomstate_ctor\n(" + text("MT19937") + "tR}b"), "randomstate");
  expect_words(described("c__builtin__\ngetattr\n(cpkg.mod\nOuter\n" + text("Inner") + "tR"), "pkg.mod.Outer.Inner");
  expect_words(described("c__builtin__\ngetattr\n(cpkg.mod\nOuter\n" + text("Inner") + "tR)\x81}b"), "a pkg.mod");
}

TEST(TorchArchive, RefusesFunctionsThatAreHeldForLater) {
  for (const std::string held : {"cos\nsystem\n", "c__builtin__\neval\n", "csubprocess\ncall\n"}) {
    expect_words(refused(archive(dict("w", "cfunctools\npartial\n(" + held + "tR"))), "a call of");
    expect_words(refused(archive(dict("w", "cfunctools\npartial\n)R(" + held + ")}Ntb"))), "a call of");
  }
  expect_words(refused(archive(dict("w", "c__builtin__\ngetattr\n(cos\nenviron\n" + text("Inner") + "tR"))), "getattr");
  expect_words(refused(archive(dict("w", "c__builtin__\ngetattr\n(cpkg\nOuter\n" + text("system") + "tR"))), "getattr");
  // The result of a call is never called.
  refused(archive(dict("w", "cfunctools\npartial\n(cpkg\nThing\ntR)R")));
}

TEST(TorchArchive, FindsDictsByAnyName) {
  const std::string entry = text("w") + tensor("0", 0, {2}, {1});
  for (const std::string& root : {"ccollections\ndefaultdict\n(c__builtin__\ndict\ntR(" + entry + "u",
                                  "cpkg\nAttributeDict\n)\x81(" + entry + "u",
                                  "]" + entry +
                                      "\x86"
                                      "a"}) {
    const auto found = parse(archive("\x80\x02" + root + "."));
    ASSERT_EQ(found.tensors.size(), 1u) << root;
    EXPECT_TRUE(found.tensors[0].name == "w" || found.tensors[0].name == "0.1") << found.tensors[0].name;
  }
}

TEST(TorchArchive, NamesTensorsByTheirPaths) {
  const std::string inner = "}(" + text("w") + tensor("0", 0, {2}, {1}) + "u";
  const auto found = parse(archive("\x80\x02}(" + text("step") + "K\7" + text("ema") + "}(" + text("state_dict") +
                                   inner + "u" + text("optimizer") + "}(" + text("lr") + "K\1uu."));
  ASSERT_EQ(found.tensors.size(), 1u);
  EXPECT_EQ(found.tensors[0].name, "ema.state_dict.w");
  ASSERT_EQ(found.opaque.size(), 2u);
  EXPECT_EQ(found.opaque[0], (checkpoint::OpaqueEntry{"step", "7"}));
  EXPECT_EQ(found.opaque[1], (checkpoint::OpaqueEntry{"optimizer", "a dict of 1"}));
}

TEST(TorchArchive, TheLastValueOfAKeyCounts) {
  const auto found =
      parse(archive("\x80\x02}(" + text("w") + tensor("0", 0, {2}, {1}) + text("w") + tensor("0", 2, {3}, {1}) +
                    text("v") + tensor("0", 0, {1}, {1}) + text("v") + "Nu."));
  ASSERT_EQ(found.tensors.size(), 1u);
  EXPECT_EQ(found.tensors[0].view.shape(), Shape{3});
  ASSERT_EQ(found.opaque.size(), 1u);
}

TEST(TorchArchive, AWholeModelIsSaidToBeOne) {
  const std::string model = "cpkg\nUNet\n)\x81}(" + text("_parameters") + "}" + text("_modules") + "}ub";
  expect_words(refused(archive("\x80\x02" + model + ".")), "state_dict()");
  expect_words(described(model), "a whole pickled model, a pkg.UNet");
}

TEST(TorchArchive, ReadsArchivesWithoutChecksums) {
  std::string file = archive(dict("w", tensor("0", 0, {2}, {1})));
  const std::string whole = file;
  for (const std::string signature : {"PK\1\2", "PK\3\4"})
    for (std::size_t at = file.find(signature); at != std::string::npos; at = file.find(signature, at + 1))
      std::fill_n(file.begin() + static_cast<std::ptrdiff_t>(at) + (signature[2] == '\1' ? 16 : 14), 4, '\0');
  EXPECT_EQ(parse(file).tensors.size(), 1u);
  for (const checkpoint::ZipEntry& entry : parse(file).records) EXPECT_FALSE(entry.crc32);
  // A lone 0 is a checksum.
  std::string lone = whole;
  std::fill_n(lone.begin() + static_cast<std::ptrdiff_t>(lone.find("PK\1\2")) + 16, 4, '\0');
  expect_words(refused(lone), "CRC-32");
}

TEST(TorchArchive, AnEmptyStorageIsNobodysCopy) {
  // A misaligned storage beside an empty one: no tensor may see more than its own storage.
  std::string pickle =
      "\x80\x02}(" + text("e") + tensor("1", 0, {0}, {1}) + text("w") + tensor("0", 0, {6}, {1}) + "u.";
  const std::string file = zip_file({{"a/data.pkl", pickle}, {"a/data/1", ""}, {"a/data/0", kStorage}});
  auto bytes = std::make_unique<AlignedBytes>("x" + file);
  const auto found = checkpoint::parse_torch(bytes->span().subspan(1), "file.pt");
  ASSERT_EQ(found.tensors.size(), 2u);
  ASSERT_EQ(found.copies.size(), 1u);
  EXPECT_EQ(found.copies[0].bytes(), kStorage.size());
  EXPECT_EQ(std::memcmp(found.tensors[1].view.data(), kStorage.data(), kStorage.size()), 0);
}

TEST(TorchArchive, RefusesDamagedPickles) {
  const std::string whole = dict("w", tensor("0", 0, {2}, {1}));
  for (std::size_t size = 0; size < whole.size(); ++size) refused(archive(whole.substr(0, size)));
  for (const std::string& pickle :
       std::vector<std::string>{"t.", "R.", "h\5.", "\x80\x09.", "(N.", "Nb.", "}Na.", "]NNs.", "\xff.", "I12x\n.",
                                "c\n", "Q.", "\x93.", "e.", "\x82.", "N)R."})
    refused(archive(pickle));
}

TEST(TorchArchive, SurvivesCyclesAndDeepNesting) {
  // d = {}; d["w"] = d
  EXPECT_EQ(parse(archive("\x80\x02}q\1(" + text("w") + "h\1u.")).opaque.size(), 1u);
  std::string deep = "\x80\x02";
  for (int i = 0; i < 100'000; ++i) deep += "}" + text("k");
  deep += "N";
  for (int i = 0; i < 100'000; ++i) deep += "s";
  EXPECT_EQ(parse(archive(deep + ".")).opaque.size(), 1u);
  std::string lists = "\x80\x02}" + text("k");
  lists += std::string(1'000'000, ']');
  lists += std::string(999'999, 'a');
  EXPECT_EQ(parse(archive(lists + "s.")).opaque.size(), 1u);
  // Sixteen levels of dicts that hold the next one sixteen times: 16^16 entries to walk.
  std::string wide = "\x80\x02}" + text("w") + tensor("0", 0, {2}, {1}) + "sq";
  wide += '\0';
  for (char level = 1; level < 15; ++level) {
    wide += "}(";
    for (int i = 0; i < 16; ++i) wide += text("k" + std::to_string(i)) + "h" + static_cast<char>(level - 1);
    wide += "uq";
    wide += level;
  }
  expect_words(refused(archive(wide + ".")), "more");
}

TEST(TorchArchive, ReadsTensorsWithAttributes) {
  const std::string plain = tensor("0", 2, {3}, {1});
  const std::string function = "ctorch._utils\n_rebuild_tensor_v2\n";
  const std::string arguments = plain.substr(function.size(), plain.size() - function.size() - 1);
  const auto found = parse(archive(
      dict("w", "ctorch._tensor\n_rebuild_from_type_v2\n(" + function + "ctorch\nTensor\n" + arguments + "}tR")));
  ASSERT_EQ(found.tensors.size(), 1u);
  EXPECT_EQ(found.tensors[0].view.shape(), Shape{3});
}

TEST(TorchArchive, RefusesPicklesThatGrow) {
  // An OrderedDict of 2^14 pairs made 2^12 times: more references than any file of weights has.
  std::string grows = "\x80\x02](";
  for (int i = 0; i < 1 << 14; ++i) grows += "NN\x86";
  grows += "eq\1";
  for (int i = 0; i < 1 << 12; ++i) grows += "ccollections\nOrderedDict\nh\1\x85R";
  expect_words(refused(archive(grows + ".")), "values");
}

TEST(TorchArchive, ReadsAMillionKeys) {
  std::string many = "\x80\x02}(";
  for (int i = 0; i < 1'000'000; ++i) many += text("k" + std::to_string(i)) + "N";
  EXPECT_EQ(parse(archive(many + "u.")).opaque.size(), 1'000'000u);
}

TEST(Zip, RefusesWhatTorchDoesNotWrite) {
  const std::string whole = archive(dict("w", tensor("0", 0, {2}, {1})));
  ASSERT_EQ(parse(whole).tensors.size(), 1u);
  const auto changed = [&](const std::function<void(std::string&)>& change) {
    std::string file = whole;
    change(file);
    return refused(file);
  };
  const std::size_t directory = whole.find("PK\1\2"), second = whole.find("PK\1\2", directory + 1);
  // A bomb: an entry that says it is deflated.
  expect_words(changed([&](std::string& file) { file[directory + 10] = 8; }), "compressed");
  // Two entries over the same bytes.
  expect_words(changed([&](std::string& file) {
                 std::copy_n(file.begin() + static_cast<std::ptrdiff_t>(directory) + 42, 4,
                             file.begin() + static_cast<std::ptrdiff_t>(second) + 42);
               }),
               "overlap");
  // An empty entry over another's header.
  const std::string empty = zip_file({{"a/data.pkl", "}."}, {"a/data/0", kStorage}, {"a/data/1", ""}});
  const std::size_t first = empty.find("PK\1\2"), third = empty.find("PK\1\2", empty.find("PK\1\2", first + 1) + 1);
  std::string shared = empty;
  std::copy_n(shared.begin() + static_cast<std::ptrdiff_t>(empty.find("PK\1\2", first + 1)) + 42, 4,
              shared.begin() + static_cast<std::ptrdiff_t>(third) + 42);
  EXPECT_EQ(parse(empty).records.size(), 3u);
  expect_words(refused(shared), "overlap");
  // The pickle's checksum, and one of its bytes.
  expect_words(changed([&](std::string& file) { file[directory + 16] ^= 1; }), "CRC-32");
  expect_words(changed([&](std::string& file) { file[file.find("_rebuild") + 1] ^= 1; }), "CRC-32");
  // Sizes and places beyond the file.
  changed([&](std::string& file) { file[second + 27] = '\x7f'; });
  changed([&](std::string& file) { file[second + 45] = '\x7f'; });
  expect_words(refused(zip_file({{"a/data.pkl", "N."}, {"a/data.pkl", "N."}})), "twice");
  expect_words(refused(zip_file({{"a/other", "N."}})), "data.pkl");
  expect_words(refused(zip_file({{"a/data.pkl", "}."}, {"a/byteorder", "big"}})), "byte order");
}

/// Files of torch.save, small ones.
std::map<std::string, std::string> corpus() {
  std::map<std::string, std::string> files;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(KINEOGRAPH_SOURCE_DIR) / "fuzz/corpus/torch"))
    if (entry.path().extension() == ".pt") {
      std::ifstream in(entry.path(), std::ios::binary);
      files[entry.path().filename()] = {std::istreambuf_iterator<char>(in), {}};
    }
  return files;
}

TEST(TorchArchive, RefusesEveryTruncation) {
  const auto files = corpus();
  ASSERT_GE(files.size(), 4u);
  for (const auto& [name, whole] : files) {
    EXPECT_FALSE(parse(whole).tensors.empty()) << name;
    for (std::size_t size = 0; size < whole.size(); ++size) {
      const AlignedBytes bytes(whole.substr(0, size));
      EXPECT_THROW(checkpoint::parse_torch(bytes.span(), name), FormatError) << name << " cut to " << size;
    }
  }
}

TEST(TorchArchive, SurvivesEveryChangedByte) {
  for (const auto& [name, whole] : corpus())
    for (std::size_t at = 0; at < whole.size(); ++at)
      for (const char change : {'\1', '\x80', '\xff'}) {
        std::string file = whole;
        file[at] = static_cast<char>(file[at] ^ change);
        const AlignedBytes bytes(file);
        try {
          for (const auto& tensor : checkpoint::parse_torch(bytes.span(), name).tensors)
            if (tensor.view.numel() < 1000) convert(tensor.view, tensor.view.dtype());
        } catch (const Error&) {
        }
      }
}

/// The older format: the object's pickle, and one storage "0" of six floats, 0 to 5.
std::string legacy(const std::string& object, const std::string& machine = "\x80\x02}.") {
  std::string file("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
  file += std::string("\x80\x02M\xe9\x03.") + machine + object + "\x80\x02](" + text("0") + "e.";
  const std::int64_t count = 6;
  file.append(reinterpret_cast<const char*>(&count), sizeof(count));
  for (int i = 0; i < 6; ++i) {
    const auto value = static_cast<float>(i);
    file.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  return file;
}

TEST(TorchArchive, ReadsPartsOfStoragesInTheOlderFormat) {
  // Before PyTorch 0.4 a storage could be a part of another: (key, offset, elements).
  const auto part = [](std::int32_t offset, std::int32_t count, std::int32_t size) {
    return dict("w", "ctorch._utils\n_rebuild_tensor\n((" + text("storage") + "ctorch\nFloatStorage\n" + text("0") +
                         text("cpu") + integer(6) + "(" + text("1") + integer(offset) + integer(count) + "ttQ" +
                         integer(0) + tuple({size}) + tuple({1}) + "tR");
  };
  const auto found = parse(legacy(part(2, 3, 3)));
  ASSERT_EQ(found.tensors.size(), 1u);
  const Tensor values = convert(found.tensors[0].view, DType::f32);
  EXPECT_EQ(values.data_as<float>()[0], 2.0f);
  EXPECT_EQ(values.data_as<float>()[2], 4.0f);
  for (const auto& [offset, count, size] : {std::array{2, 3, 4}, {4, 3, 1}, {-1, 3, 1}, {7, 0, 0}, {0, -1, 1}})
    expect_words(refused(legacy(part(offset, count, size))), "tensor w");
}

TEST(TorchArchive, RefusesTheOlderFormatOfBigEndianMachines) {
  const std::string object = dict("w", tensor("0", 0, {2}, {1}));
  EXPECT_EQ(parse(legacy(object, "\x80\x02}(" + text("little_endian") + "\x88u.")).tensors.size(), 1u);
  expect_words(refused(legacy(object, "\x80\x02}(" + text("little_endian") + "\x89u.")), "little-endian");
}

}  // namespace
}  // namespace kineograph
