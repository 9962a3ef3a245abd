// Torch archives whose structure the input chooses: entries that share headers, lie about sizes or are empty, and
// pickles of nested dictionaries, lists, objects and tensors with the names that files have.
#include <fuzzer/FuzzedDataProvider.h>
#include <zlib.h>

#include "checkpoint/torch_archive.h"
#include "fuzz.h"
#include "zip_file.h"

namespace {

using Input = FuzzedDataProvider;

constexpr const char* kKeys[] = {"state_dict",
                                 "model",
                                 "ema.module",
                                 "_orig_mod",
                                 "down_blocks.0.motion_modules.0.norm.weight",
                                 "down_blocks.0.motion_modules.0.proj_in.weight",
                                 "down_blocks.0.motion_modules.0.transformer_blocks.0.ff.net.0.proj.weight",
                                 "mid_block.motion_modules.0.temporal_transformer.norm.weight",
                                 "transformer_blocks.0.attention_blocks.0.pos_encoder.pe",
                                 "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
                                 "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.lora_B.weight",
                                 "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.scale_weight",
                                 "norm.weight",
                                 "w"};
constexpr const char* kGlobals[] = {"collections\nOrderedDict",
                                    "collections\ndefaultdict",
                                    "functools\npartial",
                                    "types\nSimpleNamespace",
                                    "pkg\nSettings",
                                    "__builtin__\ngetattr",
                                    "torch._utils\n_rebuild_parameter",
                                    "os\nsystem",
                                    "torch\nSize"};
constexpr const char* kStorages[] = {"FloatStorage", "HalfStorage", "LongStorage", "ByteStorage", "UntypedStorage"};
constexpr const char* kNames[] = {"a/data.pkl", "a/data/0", "a/data/1", "a/data/2", "a/byteorder", "b/data.pkl"};

std::string text(const std::string& value) {
  std::string out = "X";
  for (std::size_t i = 0; i < 4; ++i) out += static_cast<char>(value.size() >> 8 * i);
  return out + value;
}
std::string number(Input& in) { return std::string("K") + static_cast<char>(in.ConsumeIntegralInRange(0, 9)); }

std::string tensor(Input& in) {
  std::string sizes = "(", strides = "(";
  for (int rank = in.ConsumeIntegralInRange(0, 3); rank > 0; --rank) sizes += number(in), strides += number(in);
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\n" + in.PickValueInArray(kStorages) +
         "\n" + text(std::to_string(in.ConsumeIntegralInRange(0, 2))) + text("cpu") + number(in) + "tQ" + number(in) +
         sizes + "t" + strides + "t\x89}tR";
}

std::string value(Input& in, int depth) {
  const auto inner = [&] { return value(in, depth + 1); };
  const int most = depth > 5 ? 4 : 9;
  switch (in.ConsumeIntegralInRange(0, most)) {
    case 0:
    case 1:
      return tensor(in);
    case 2:
      return "N";
    case 3:
      return number(in);
    case 4:
      return "h" + std::string(1, static_cast<char>(in.ConsumeIntegralInRange(0, 3)));
    case 5:
    case 6: {
      std::string dict = "}(";
      for (int i = in.ConsumeIntegralInRange(0, 4); i > 0; --i) dict += text(in.PickValueInArray(kKeys)) + inner();
      return dict + "uq" + static_cast<char>(in.ConsumeIntegralInRange(0, 3));
    }
    case 7:
      return "](" + inner() + inner() + "e";
    case 8: {
      std::string call = std::string("c") + in.PickValueInArray(kGlobals) + "\n(";
      for (int i = in.ConsumeIntegralInRange(0, 2); i > 0; --i) call += inner();
      call += "tR";
      if (in.ConsumeBool()) call += "(" + text(in.PickValueInArray(kKeys)) + inner() + "u";
      return in.ConsumeBool() ? call + inner() + "b" : call;
    }
    default:
      return text(in.ConsumeRandomLengthString(8));
  }
}

void put(std::string& out, std::uint64_t number, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(i < 8 ? number >> 8 * i : 0);
}

struct Entry {
  std::string name;
  std::uint64_t header, size, crc;
};

std::string archive(Input& in) {
  std::string file;
  std::vector<Entry> entries;
  for (int count = in.ConsumeIntegralInRange(1, 6); count > 0; --count) {
    const std::string name = entries.empty() ? kNames[0] : in.PickValueInArray(kNames);
    const std::string content = name.ends_with(".pkl")
                                    ? "\x80\x02" + value(in, 0) + "."
                                    : std::string(in.ConsumeIntegralInRange<std::size_t>(0, 96), 'x');
    const auto crc = ::crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size());
    entries.push_back({name, file.size(), content.size(), in.ConsumeIntegralInRange(0, 7) == 0 ? 0 : crc});
    const auto padding = in.ConsumeIntegralInRange<std::size_t>(0, 64);
    put(file, 0x04034b50, 4);
    put(file, 0, 10);
    put(file, crc, 4);
    put(file, content.size(), 4);
    put(file, content.size(), 4);
    put(file, name.size(), 2);
    put(file, padding, 2);
    file += name + std::string(padding, 'Z') + content;
  }
  // Further names of what is there, and lies.
  for (int aliases = in.ConsumeIntegralInRange(0, 2); aliases > 0; --aliases) {
    Entry alias = entries[in.ConsumeIntegralInRange<std::size_t>(0, entries.size() - 1)];
    alias.name = in.PickValueInArray(kNames);
    if (in.ConsumeBool()) alias.size = in.ConsumeIntegralInRange(0, 200);
    if (in.ConsumeBool()) alias.header += in.ConsumeIntegralInRange(0, 40);
    entries.push_back(alias);
  }
  std::string directory;
  for (const Entry& entry : entries) {
    put(directory, 0x02014b50, 4);
    put(directory, 0, 12);
    put(directory, entry.crc, 4);
    put(directory, entry.size, 4);
    put(directory, entry.size, 4);
    put(directory, entry.name.size(), 2);
    put(directory, 0, 12);
    put(directory, entry.header, 4);
    directory += entry.name;
  }
  std::string end;
  put(end, 0x06054b50, 4);
  put(end, 0, 4);
  put(end, entries.size(), 2);
  put(end, entries.size(), 2);
  put(end, directory.size(), 4);
  put(end, file.size(), 4);
  put(end, 0, 2);
  return file + directory + end;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kineograph;
  Input in(data, size);
  const std::string file = archive(in);
  fuzz::expect_value_or_error([&] {
    const AlignedBytes bytes(file);
    std::size_t copied = 0;
    const auto parsed = checkpoint::parse_torch(bytes.span(), "input");
    for (const auto& entry : parsed.tensors) fuzz::read_all(entry.view);
    for (const Tensor& copy : parsed.copies) copied += copy.bytes();
    if (copied > file.size()) __builtin_trap();
  });
  fuzz::inspect(file);
  return 0;
}
