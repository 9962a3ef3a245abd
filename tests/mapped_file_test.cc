// Files that are mapped, and what happens to those who hold them when they change.
#include "base/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory_resource>
#include <optional>

#include "calls.h"
#include "folder.h"
#include "kineograph/kineograph.h"

namespace kineograph {
namespace {

using testing::same;

namespace fs = std::filesystem;

constexpr const char* kWeights = "diffusion_pytorch_model.safetensors";

class MappedFileTest : public FolderTest {
 protected:
  MappedFileTest() {
    alarm(60);  // what hangs fails
  }
  ~MappedFileTest() override { alarm(0); }

  /// Everything that a forward may read beside what it multiplies with.
  static TransformerTemporalConfig config() {
    TransformerTemporalConfig config;
    config.num_attention_heads = 2;
    config.attention_head_dim = 8;
    config.in_channels = 16;
    config.norm_num_groups = 4;
    config.norm_type = NormType::ada_norm_zero;
    config.num_embeds_ada_norm = 3;
    config.positional_embeddings = PositionalEmbeddings::sinusoidal;
    config.num_positional_embeddings = 8;
    return config;
  }

  void SetUp() override { TransformerTemporalModel::from_config(config(), 1).save_pretrained(folder_); }

  Tensor forward(const TransformerTemporalModel& model) const {
    return model.forward(x_, {.num_frames = 4, .timestep = t_, .class_labels = label_}).sample;
  }
  Tensor gradient(const TransformerTemporalModel& model) const {
    Tensor d_x(DType::f32, x_.shape());
    Gradients wanted;
    wanted.hidden_states = d_x.mutable_view();
    model.backward(x_, x_, wanted, {.num_frames = 4, .timestep = t_, .class_labels = label_});
    return d_x;
  }

  /// Writes over the weights in place, or cuts them off.
  void spoil(bool cut) const {
    if (cut) return fs::resize_file(folder_ / kWeights, 512);
    std::fstream file(folder_ / kWeights, std::ios::in | std::ios::out | std::ios::binary);
    const auto size = static_cast<std::streamoff>(fs::file_size(folder_ / kWeights));
    file.seekp(size / 4);
    file << std::string(static_cast<std::size_t>(size / 2), '\xff');
  }
  static std::string text(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  Tensor x_{DType::f32, {4, 16, 3, 3}};
  float timestep_ = 3;
  std::int64_t class_ = 1;
  TensorView t_{&timestep_, {1}}, label_{&class_, {1}};
};

TEST_F(MappedFileTest, PipesAndDevicesAreRefusedUnopened) {
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  for (const fs::path& path : {folder_ / "pipe", fs::path("/dev/zero"), fs::path("/dev/null"), folder_}) {
    EXPECT_THROW(checkpoint::MappedFile{path}, IoError) << path;
    EXPECT_THROW(checkpoint::read_text(path), IoError) << path;
  }
  EXPECT_THROW(Checkpoint::open(folder_ / "pipe"), IoError);
  EXPECT_THROW(Lora::open(folder_ / "pipe"), IoError);
}

TEST_F(MappedFileTest, KnowsWhoseAnAddressIs) {
  const fs::path path = folder_ / "config.json";
  const void* inside = nullptr;
  {
    const checkpoint::MappedFile file(path);
    inside = file.bytes().data() + file.bytes().size() - 1;
    EXPECT_STREQ(checkpoint::mapped_file_at(inside), path.c_str());
    EXPECT_EQ(checkpoint::mapped_file_at(&file), nullptr);
    EXPECT_NO_THROW(checkpoint::check_unchanged(inside));
    EXPECT_NO_THROW(checkpoint::check_unchanged(&file));
    std::ofstream(path, std::ios::app) << " ";
    EXPECT_THROW(checkpoint::check_unchanged(inside), IoError);
  }
  EXPECT_EQ(checkpoint::mapped_file_at(inside), nullptr);
}

TEST_F(MappedFileTest, AModelOutlivesWhatHappensToItsFile) {
  for (const std::string& engine : engines())
    for (const bool cut : {false, true})
      for (const bool copied : {false, true}) {
        SetUp();
        const auto model =
            TransformerTemporalModel::from_pretrained(folder_, {.engine = engine, .copy_weights = copied});
        // With a memory of its own, and so packed by itself however slowly the files come.
        const auto other = TransformerTemporalModel::from_pretrained(
            folder_, {.engine = engine, .memory = std::pmr::new_delete_resource()});
        const Tensor sample = forward(model), wanted = gradient(other);
        spoil(cut);
        const std::string spoilt = text(folder_ / kWeights);
        EXPECT_TRUE(same(forward(model), sample)) << engine;
        EXPECT_TRUE(same(gradient(other), wanted)) << engine << ": packed before the file changed";
        if (copied) {
          EXPECT_TRUE(same(gradient(model), wanted)) << engine;
          EXPECT_NO_THROW(model.save_pretrained(folder_ / "copy"));
          continue;
        }
        if (engine != "reference") {  // which keeps all weights as doubles of its own
          EXPECT_THROW(gradient(model), IoError);
        }
        EXPECT_THROW(model.parameters(), IoError);
        EXPECT_THROW(model.save_pretrained(folder_), IoError);
        EXPECT_EQ(text(folder_ / kWeights), spoilt) << "a save that failed changed the file";
      }
}

TEST_F(MappedFileTest, AFileReplacedByARenameIsNoChange) {
  const auto model = TransformerTemporalModel::from_pretrained(folder_);
  const Tensor sample = forward(model);
  fs::copy_file(folder_ / kWeights, folder_ / "new");
  fs::rename(folder_ / "new", folder_ / kWeights);
  EXPECT_NO_THROW(gradient(model));
  EXPECT_NO_THROW(model.parameters());
  EXPECT_TRUE(same(forward(model), sample));
}

TEST_F(MappedFileTest, ConvertRefusesAFileThatChanged) {
  const Checkpoint checkpoint = Checkpoint::open(folder_);
  spoil(false);
  EXPECT_THROW(convert(checkpoint, folder_ / "out", {.to = Layout::module}), IoError);
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

}  // namespace
}  // namespace kineograph
