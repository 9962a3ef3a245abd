// Every allocation, write, rename and thread that the system can refuse, one at a time: the call ends in success or in
// a typed error, the next one is right, and files are the old ones or the new ones.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "faults.h"
#include "folder.h"
#include "kineograph/kineograph.h"
#include "video/output_file.h"
#include "video/restore/plan.h"
#include "video/restore/restorer.h"
#include "video/train/session.h"
#include "video/train/windows.h"

namespace kineograph::video {
namespace {

namespace fs = std::filesystem;
using kineograph::testing::at_every_point;
using kineograph::testing::Fault;

constexpr const char* kWeights = "diffusion_pytorch_model.safetensors";

TransformerTemporalConfig config_of(std::int64_t channels, double dropout = 0.0) {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 8;
  config.in_channels = channels;
  config.norm_num_groups = 4;
  config.dropout = dropout;
  config.positional_embeddings = PositionalEmbeddings::sinusoidal;
  config.num_positional_embeddings = 8;
  config.norm_type = NormType::ada_norm_zero;
  config.num_embeds_ada_norm = 3;
  return config;
}

bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

/// A model, a call of it, and what comes out.
struct Called {
  explicit Called(double dropout = 0.0, const ModelOptions& options = {})
      : model(TransformerTemporalModel::from_config(config_of(16, dropout), 1, options)) {
    for (std::int64_t i = 0; i < x.numel(); ++i) x.data_as<float>()[i] = static_cast<float>(i % 83) * 0.02f - 0.8f;
  }
  ForwardOptions options(int threads) const {
    return {.num_frames = 4, .timestep = t, .class_labels = label, .num_threads = threads};
  }
  Tensor forward(int threads, std::optional<std::uint64_t> seed = {}) const {
    ForwardOptions how = options(threads);
    how.training_seed = seed;
    return model.forward(x, how).sample;
  }
  Tensor backward(int threads) const {
    Tensor d_x(DType::f32, x.shape());
    Gradients wanted;
    wanted.hidden_states = d_x.mutable_view();
    model.backward(x, x, wanted, options(threads));
    return d_x;
  }
  /// A model of the same weights that has packed nothing for training yet.
  void renew() { model = TransformerTemporalModel::from_state_dict(model.config(), base.parameters(), nullptr); }

  TransformerTemporalModel model, base = model;
  Tensor x{DType::f32, {8, 16, 6, 6}};
  float timestep = 3;
  std::int64_t class_label = 1;
  TensorView t{&timestep, {1}}, label{&class_label, {1}};
};

class Faults : public FolderTest {
 protected:
  static std::string content(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::map<std::string, std::string> contents() const {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::recursive_directory_iterator(folder_))
      if (entry.is_regular_file()) all[fs::relative(entry.path(), folder_).string()] = content(entry.path());
    return all;
  }

  /// `write` brings the folder from what `reset` makes of it to something else, as a whole: at every fault of files and
  /// of memory the folder is as before or as after, without anything else in it.
  void expect_old_or_new(const std::string& what, const std::function<void()>& reset,
                         const std::function<void()>& write, long step = 1) {
    reset();
    const auto before = contents();
    write();
    const auto after = contents();
    ASSERT_NE(before, after);
    reset();
    const auto check = [&](bool success) {
      const auto now = contents();
      // A folder that cannot be synced is told after its files have their names.
      EXPECT_TRUE(now == after || (!success && now == before)) << what;
      reset();
    };
    for (const Fault fault : kineograph::testing::kFileFaults)
      for (const int error : {ENOSPC, EIO}) at_every_point(what, fault, error, write, check);
    at_every_point(what + ", memory", Fault::allocation, ENOMEM, write, check, step);
  }
};

TEST_F(Faults, Forward) {
  for (const std::string& engine : engines())
    for (const int threads : {1, 2}) {
      const Called called(0.1, {.engine = engine});
      const Tensor want = called.forward(threads), dropped = called.forward(threads, 5);
      const auto check = [&](bool) {
        EXPECT_TRUE(same(called.forward(threads), want));
        EXPECT_TRUE(same(called.forward(threads, 5), dropped));
      };
      at_every_point(
          "forward " + engine, Fault::allocation, ENOMEM, [&] { EXPECT_TRUE(same(called.forward(threads), want)); },
          check);
      at_every_point(
          "dropout " + engine, Fault::allocation, ENOMEM,
          [&] { EXPECT_TRUE(same(called.forward(threads, 5), dropped)); }, check);
    }
}

TEST_F(Faults, TheFirstBackwardAndLaterOnes) {
  for (const int threads : {1, 2}) {
    Called called;
    const Tensor want = called.backward(threads);
    at_every_point(
        "backward", Fault::allocation, ENOMEM, [&] { EXPECT_TRUE(same(called.backward(threads), want)); },
        [&](bool) { EXPECT_TRUE(same(called.backward(threads), want)); });
    called.renew();
    at_every_point(
        "first backward", Fault::allocation, ENOMEM, [&] { EXPECT_TRUE(same(called.backward(threads), want)); },
        [&](bool) {
          EXPECT_TRUE(same(called.backward(threads), want));
          called.renew();
        },
        5);
  }
}

TEST_F(Faults, RecordedForward) {
  const Called called;
  const auto recorder = std::make_shared<AttentionRecorder>();
  AttentionProcessors processors;
  for (const std::string& name : called.model.attention_names()) processors[name] = recorder;
  ForwardOptions options = called.options(2);
  options.attention_processors = &processors;
  const Tensor want = called.model.forward(called.x, options).sample;
  const std::string name = called.model.attention_names().front();
  const Tensor map = recorder->probabilities(name);
  const auto record = [&] { EXPECT_TRUE(same(called.model.forward(called.x, options).sample, want)); };
  at_every_point("recorded forward", Fault::allocation, ENOMEM, record, [&](bool) {
    record();
    EXPECT_TRUE(same(recorder->probabilities(name), map));
  });
}

TEST_F(Faults, Load) {
  const Called called;
  called.model.save_pretrained(folder_);
  const Tensor want = called.forward(1);
  const auto load = [&] {
    const auto model = TransformerTemporalModel::from_pretrained(folder_);
    EXPECT_TRUE(same(model.forward(called.x, called.options(1)).sample, want));
  };
  at_every_point("load", Fault::allocation, ENOMEM, load, [](bool) {});
  at_every_point("load", Fault::map, ENOMEM, load, [](bool) {});
}

/// Files of strangers, of each kind that is opened; how often depends on how much memory is taken, never on the kind.
class Opened : public Faults {
 protected:
  fs::path write(const fs::path& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  static void at_every_allocation(const std::string& what, const std::function<void()>& open, long step = 1) {
    const long points = at_every_point(
        what, Fault::allocation, ENOMEM, open, [](bool) {}, step);
    EXPECT_GT(points, 10) << what;
  }
};

const fs::path kTree = KINEOGRAPH_SOURCE_DIR;

TEST_F(Opened, Configurations) {
  const auto module = content(kTree / "fuzz/corpus/config/module.json");
  const fs::path path = write("config.json", module);
  at_every_allocation("a module's", [&] { read_config(path); });
  at_every_allocation("its text", [&] { TransformerTemporalConfig::from_json(module).to_json(); });
  // Damaged: what was read until then is given back.
  for (const std::string& broken :
       {module.substr(0, module.size() / 2), std::string(R"({"_a": [[{"b": [1, {}]}], 1e999]})"),
        std::string(R"({"_a": [1, [2, {"b": 1, "b": 2}]]})")})
    at_every_allocation("a damaged one", [&] {
      try {
        TransformerTemporalConfig::from_json(broken);
        ADD_FAILURE() << broken;
      } catch (const ConfigError&) {
      }
    });
}

TEST_F(Opened, ShardsAndLoras) {
  const Tensor down = Tensor(DType::f32, {2, 16}), up = Tensor(DType::f32, {16, 2});
  const std::string key = "unet.mid_block.motion_modules.0.transformer_blocks.0.attn1.to_q.lora_";
  save_safetensors(folder_ / "a.safetensors", {{key + "A.weight", down}});
  save_safetensors(folder_ / "b.safetensors", {{key + "B.weight", up}}, {{"format", "pt"}});
  const fs::path index = write("lora.safetensors.index.json", R"({"metadata": {"total_size": 256}, "weight_map": {")" +
                                                                  key + R"(A.weight": "a.safetensors", ")" + key +
                                                                  R"(B.weight": "b.safetensors"}})");
  at_every_allocation("an index", [&] {
    const Checkpoint checkpoint = Checkpoint::open(index);
    EXPECT_EQ(checkpoint.find(key + "A.weight").numel(), 32);
  });
  const std::string settings = R"({"lora_alpha": 8, "r": 2, "rank_pattern": {"to_k": 2}, "unknown": [{"a": [1]}]})";
  write("lora/adapter_config.json", settings);
  save_safetensors(folder_ / "lora/adapter.safetensors", {{key + "A.weight", down}, {key + "B.weight", up}});
  save_safetensors(folder_ / "own.safetensors", {{key + "A.weight", down}, {key + "B.weight", up}},
                   {{"lora_adapter_metadata", settings}});
  for (const char* name : {"lora/adapter.safetensors", "own.safetensors"})
    at_every_allocation(name, [&] { EXPECT_EQ(Lora::open(folder_ / name).deltas().size(), 1u); });
}

TEST_F(Opened, Archives) {
  for (const char* name :
       {"module.pt", "state_dict.pt", "parameter.pt", "state_dict.legacy.pt", "attributes.legacy.pt"})
    at_every_allocation(name, [&] { Checkpoint::open(kTree / "fuzz/corpus/torch" / name); });
}

TEST_F(Opened, Modules) {
  for (const char* name : {"motion_adapter", "unet_motion", "modelscope.pth"})
    at_every_allocation(
        name, [&] { EXPECT_FALSE(module_sets(Checkpoint::open(kTree / "tests/checkpoints" / name)).empty()); }, 37);
  at_every_allocation(
      "unet_svd",
      [&] { EXPECT_FALSE(spatial_modules(Checkpoint::open(kTree / "tests/checkpoints/unet_svd")).empty()); }, 37);
}

TEST_F(Opened, Plans) {
  Plan plan;
  plan.scenes = {0, 7};
  plan.judgements[0] = {};
  plan.segments = {{0, 7, 0, 0, 1, 2}};
  const fs::path path = write("plan.json", to_json(plan));
  // Deeper than the stack.
  const std::string brackets(1'000'000, '[');
  EXPECT_THROW(plan_from_json("{\"kineograph_plan\": " + brackets, "deep"), FormatError);
  at_every_allocation("a plan", [&] { EXPECT_EQ(to_json(read_plan(path)), to_json(plan)); });
}

TEST_F(Faults, Save) {
  const Called older;
  const auto newer = TransformerTemporalModel::from_config(config_of(32), 2);
  expect_old_or_new(
      "save", [&] { older.model.save_pretrained(folder_); }, [&] { newer.save_pretrained(folder_); });
  expect_old_or_new(
      "save anew", [&] { fs::remove_all(folder_ / "new"); }, [&] { newer.save_pretrained(folder_ / "new"); });
}

TEST_F(Faults, Convert) {
  const Called older;
  const fs::path source = folder_.string() + "-source";
  TransformerTemporalModel::from_config(config_of(32), 2).save_pretrained(source);
  const Checkpoint checkpoint = Checkpoint::open(source);
  expect_old_or_new(
      "convert", [&] { older.model.save_pretrained(folder_); },
      [&] { convert(checkpoint, folder_, {.to = Layout::module, .dtype = DType::f16}); }, 5);
  fs::remove_all(source);
}

TEST_F(Faults, Streams) {
  const std::string text(200'000, 'x');
  expect_old_or_new(
      "a stream", [&] { std::ofstream(folder_ / "out") << "old"; },
      [&] {
        OutputFile file(folder_ / "out");
        file.stream() << text;
        file.commit();
      });
}

TransformerTemporalConfig restoring_config() {
  TransformerTemporalConfig config = config_of(48);
  config.norm_num_groups = 1;
  config.double_self_attention = false;
  config.private_keys = {{"_prediction_type", "\"epsilon\""}};
  return config;
}

TEST_F(Faults, Restore) {
  const auto model = TransformerTemporalModel::from_config(restoring_config(), 4);
  Y4mHeader header;
  header.width = header.height = 16;
  header.chroma = Chroma::c444;
  std::vector<std::vector<std::uint8_t>> clip(
      5, std::vector<std::uint8_t>(static_cast<std::size_t>(header.frame_bytes())));
  for (std::size_t f = 0; f < clip.size(); ++f)
    for (std::size_t i = 0; i < clip[f].size(); ++i)
      clip[f][i] = static_cast<std::uint8_t>(60 + (i * 7 + f * 31) % 120);
  RestoreOptions options;
  options.window = 4;
  options.shifts = 1;
  options.threads = 2;
  const auto restore = [&] {
    Restorer restorer(model, header, options);
    std::vector<std::vector<std::uint8_t>> frames;
    std::vector<std::uint8_t> frame;
    for (const auto& planes : clip) restorer.push(planes);
    restorer.finish();
    while (restorer.pop(frame)) frames.push_back(frame);
    return frames;
  };
  const auto want = restore();
  const auto check = [&] { EXPECT_TRUE(restore() == want); };
  at_every_point(
      "restore", Fault::allocation, ENOMEM, check, [&](bool) {}, 7);
  at_every_point("restore", Fault::thread, EAGAIN, check, [&](bool) {});
}

TEST_F(Faults, Train) {
  TrainingOptions options;
  options.steps = 100'000;
  options.warmup = 3;
  options.batches.batch = 1;
  options.batches.extents = {3, 12};
  options.batches.patch = 4;
  options.batches.patches = 1;
  options.batches.config = restoring_config();
  const auto session = [&] {
    return std::make_unique<TrainingSession>(TransformerTemporalModel::from_config(restoring_config(), 4), options,
                                             std::vector<std::shared_ptr<const WindowSource>>{drawn_windows()},
                                             ModelOptions{}, 2);
  };
  // A step that was refused is as if it had not been: the run goes on bit for bit.
  const auto refused = session(), other = session();
  const auto check = [&](bool success) {
    if (success) other->step();
    const StepReport a = refused->step(), b = other->step();
    EXPECT_EQ(a.loss, b.loss);
    EXPECT_EQ(a.gradient_norm, b.gradient_norm);
  };
  at_every_point(
      "step", Fault::allocation, ENOMEM, [&] { refused->step(); }, check, 11);
  at_every_point(
      "step", Fault::thread, EAGAIN, [&] { refused->step(); }, check);
  const auto later = session();
  later->step();
  expect_old_or_new(
      "checkpoint", [&] { other->save(folder_ / "checkpoint.safetensors", "{}"); },
      [&] { later->save(folder_ / "checkpoint.safetensors", "{}"); });
}

TEST_F(Faults, ThreadsOfTheReferenceEngine) {
  const Called called(0.0, {.engine = "reference"});
  const Tensor want = called.forward(1), gradient = called.backward(4);
  at_every_point(
      "forward", Fault::thread, EAGAIN, [&] { EXPECT_TRUE(same(called.forward(4), want)); }, [](bool) {});
  at_every_point(
      "backward", Fault::thread, EAGAIN, [&] { EXPECT_TRUE(same(called.backward(4), gradient)); }, [](bool) {});
}

/// oneTBB makes its threads once in a process: each number of them in a process of its own.
TEST_F(Faults, ThreadsOfTheFusedEngine) {
  const char* const number = std::getenv("KINEOGRAPH_TEST_THREAD");
  if (number == nullptr) {
    for (int n = 0; n < 3; ++n) {
      const std::string command =
          "KINEOGRAPH_TEST_THREAD=" + std::to_string(n) + " '" + fs::read_symlink("/proc/self/exe").string() +
          "' --gtest_filter=Faults.ThreadsOfTheFusedEngine >'" + folder_.string() + "/log' 2>&1";
      const int status = std::system(command.c_str());
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status << content(folder_ / "log");
    }
    return;
  }
  const Called called;
  const Tensor want = called.forward(1), gradient = called.backward(1);
  {
    const kineograph::testing::Injected injected(Fault::thread, std::atol(number), EAGAIN);
    const auto right = [&](const Tensor& wanted, const auto& call) {
      try {
        EXPECT_TRUE(same(call(), wanted));
      } catch (const Error&) {
      }
    };
    right(want, [&] { return called.forward(4); });
    right(gradient, [&] { return called.backward(4); });
  }
  EXPECT_TRUE(same(called.forward(4), want));
  EXPECT_TRUE(same(called.backward(4), gradient));
}

}  // namespace
}  // namespace kineograph::video
