// Memory that readers of strangers' files take: at most the multiple of the file that each of them states.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>

#include "base/json.h"
#include "checkpoint/pickle.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_archive.h"
#include "kineograph/kineograph.h"
#include "zip_file.h"

namespace {
std::atomic<std::size_t> now{0}, peak{0};

// The block begins with its size, at a distance that keeps the alignment.
void* counted(std::size_t size, std::size_t alignment) {
  const std::size_t before = std::max<std::size_t>(alignment, alignof(std::max_align_t));
  auto* block = static_cast<std::byte*>(std::aligned_alloc(before, (size + 2 * before - 1) / before * before));
  if (block == nullptr) throw std::bad_alloc();
  *reinterpret_cast<std::size_t*>(block) = size;
  const std::size_t held = now += size;
  for (std::size_t most = peak; held > most && !peak.compare_exchange_weak(most, held);) {
  }
  return block + before;
}
void uncounted(void* memory, std::size_t alignment) {
  if (memory == nullptr) return;
  std::byte* block = static_cast<std::byte*>(memory) - std::max<std::size_t>(alignment, alignof(std::max_align_t));
  now -= *reinterpret_cast<std::size_t*>(block);
  std::free(block);
}
}  // namespace

void* operator new(std::size_t size) { return counted(size, 1); }
void* operator new[](std::size_t size) { return counted(size, 1); }
void* operator new(std::size_t size, std::align_val_t a) { return counted(size, static_cast<std::size_t>(a)); }
void* operator new[](std::size_t size, std::align_val_t a) { return counted(size, static_cast<std::size_t>(a)); }
void operator delete(void* memory) noexcept { uncounted(memory, 1); }
void operator delete[](void* memory) noexcept { uncounted(memory, 1); }
void operator delete(void* memory, std::size_t) noexcept { uncounted(memory, 1); }
void operator delete[](void* memory, std::size_t) noexcept { uncounted(memory, 1); }
void operator delete(void* memory, std::align_val_t a) noexcept { uncounted(memory, static_cast<std::size_t>(a)); }
void operator delete[](void* memory, std::align_val_t a) noexcept { uncounted(memory, static_cast<std::size_t>(a)); }
void operator delete(void* memory, std::size_t, std::align_val_t a) noexcept {
  uncounted(memory, static_cast<std::size_t>(a));
}
void operator delete[](void* memory, std::size_t, std::align_val_t a) noexcept {
  uncounted(memory, static_cast<std::size_t>(a));
}

namespace kineograph {
namespace {

constexpr std::size_t kSlack = 2 << 20;

/// Bytes that `read` holds at its fullest, whether it succeeds or refuses.
template <class Read>
std::size_t memory_of(Read&& read) {
  const std::size_t before = now;
  peak = before;
  try {
    read();
  } catch (const Error&) {
  }
  return peak - before;
}

std::string text(const std::string& value) {
  std::string out = "X";
  for (std::size_t i = 0; i < 4; ++i) out += static_cast<char>(value.size() >> 8 * i);
  return out + value;
}
std::string repeated(const std::string& part, std::size_t count) {
  std::string out;
  out.reserve(part.size() * count);
  for (std::size_t i = 0; i < count; ++i) out += part;
  return out;
}

TEST(ReaderBudget, Pickles) {
  constexpr std::size_t kMany = 200'000;
  const std::string begin = "\x80\x02", globals = "(" + text(std::string(500, 'M')) + "q\1" + text("N") + "q\2";
  const std::vector<std::pair<const char*, std::string>> bombs = {
      {"one key, many times", begin + text(std::string(500'000, 'k')) + "q" + std::string(1, '\0') + "0}(" +
                                  repeated(std::string("h\0N", 3), kMany) + "u."},
      {"empty dicts", begin + "](" + std::string(kMany, '}') + "e."},
      {"empty lists", begin + "](" + std::string(kMany, ']') + "e."},
      {"marks", begin + std::string(kMany, '(') + "."},
      {"nothing", begin + "](" + std::string(kMany, 'N') + "e."},
      {"a value doubled", begin + "](N" + std::string(kMany, '2') + "e."},
      {"numbers", begin + "](" + repeated("K\1", kMany) + "e."},
      {"pairs", begin + "](" + repeated("NN\x86", kMany) + "e."},
      {"calls", begin + "cA\nB\nq\1](" + repeated("h\1)R", kMany) + "e."},
      {"names", begin + globals + repeated("h\1h\2\x93", kMany) + "l."},
      {"dicts in dicts", begin + repeated("}" + text("k"), kMany) + "N" + std::string(kMany, 's') + "."},
      {"single appends", begin + "]" + repeated("Na", kMany) + "."}};
  for (const auto& [name, pickle] : bombs) {
    SCOPED_TRACE(name);
    const AlignedBytes bytes(pickle);
    EXPECT_LE(memory_of([&] { checkpoint::read_pickle(bytes.span(), "p"); }), 64 * pickle.size() + kSlack);
    const AlignedBytes file(zip_file({{"a/data.pkl", pickle}}));
    EXPECT_LE(memory_of([&] { checkpoint::parse_torch(file.span(), "p"); }), 192 * pickle.size() + kSlack);
  }
}

TEST(ReaderBudget, SafetensorsHeaders) {
  std::string many = "{", metadata = R"({"__metadata__":{)";
  for (int i = 0; i < 50'000; ++i) {
    many += (i ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
    metadata += (i ? ",\"" : "\"") + std::to_string(i) + R"(":"")";
  }
  for (const std::string& header : {many + "}", metadata + "}}"}) {
    std::string file(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> 8 * i);
    const AlignedBytes bytes(file + header);
    EXPECT_LE(memory_of([&] { checkpoint::parse_safetensors(bytes.span(), "s"); }), 64 * header.size() + kSlack);
  }
}

TEST(ReaderBudget, Json) {
  constexpr std::size_t kMany = 500'000;
  for (const std::string& json :
       {R"({"a":[)" + repeated("[],", kMany) + "[]]}", R"({"a":[)" + repeated("{},", kMany) + "{}]}",
        R"({"a":[)" + repeated("1,", kMany) + "1]}", R"({"a":[)" + repeated("\"\",", kMany) + "1]}",
        R"({"a":[)" + repeated("[[[[1]]]],", kMany) + "1]}"})
    EXPECT_LE(memory_of([&] { parse_json<FormatError>(json, "j"); }), 32 * json.size() + kSlack);
  // What is meant for it passes: an index of many shards.
  std::string index = R"({"weight_map":{)";
  for (int i = 0; i < 100'000; ++i)
    index += "\"blocks." + std::to_string(i) + R"(.weight":"model-00001-of-00002.safetensors",)";
  index.back() = '}';
  EXPECT_EQ(parse_json<FormatError>(index + "}", "j").find("weight_map")->object()->size(), 100'000u);
}

TEST(ReaderBudget, AWholeFileAsItIsInspected) {
  const std::filesystem::path path = ::testing::TempDir() + "budget.safetensors";
  std::string header = "{";
  for (int i = 0; i < 20'000; ++i)
    header += (i ? ",\"" : "\"") + std::to_string(i) +
              R"(.down_blocks.0.motion_modules.0.norm.weight":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = header.size();
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(&length), 8) << header;
  EXPECT_LE(memory_of([&] { module_sets(Checkpoint::open(path)); }), 64 * header.size() + kSlack);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace kineograph
