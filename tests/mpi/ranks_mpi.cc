// A rank of a call over MPI: `same` compares what all ranks made with what one process makes; in `hung` and `killed`
// the last rank leaves the others waiting.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kineograph/kineograph.h"
#include "kineograph/mpi.h"

namespace {

using namespace kineograph;

constexpr std::int64_t kFrames = 4, kChannels = 16, kHeight = 11, kWidth = 6;

Tensor waves() {
  Tensor x(DType::f32, {kFrames, kChannels, kHeight, kWidth});
  for (std::int64_t i = 0; i < x.numel(); ++i)
    x.data_as<float>()[i] = static_cast<float>(i * 7919 % 1013) / 500.0f - 1.0f;
  return x;
}

/// This rank's rows of a tensor: uneven, and none where there are more ranks than rows.
TensorView rows_of(const Tensor& x, std::int64_t first, std::int64_t count) {
  return {x.data_as<float>() + first * kWidth,
          DType::f32,
          {kFrames, kChannels, count, kWidth},
          {kChannels * kHeight * kWidth, kHeight * kWidth, kWidth, 1}};
}

int run(Communicator& own, const std::string& what) {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 8;
  config.in_channels = kChannels;
  config.norm_num_groups = 4;
  const auto model = TransformerTemporalModel::from_config(config, 1);
  const Tensor x = waves();
  if (own.rank() == own.size() - 1 && what == "killed") std::raise(SIGKILL);
  if (own.rank() == own.size() - 1 && what == "hung") {
    std::this_thread::sleep_for(std::chrono::seconds(5));
    return 0;
  }
  const std::int64_t first = kHeight * own.rank() / own.size(), end = kHeight * (own.rank() + 1) / own.size();
  ForwardOptions options{.num_frames = kFrames};
  options.communicator = &own;
  options.first_image_row = first;
  options.total_image_rows = kHeight;
  const auto mine = model.forward(rows_of(x, first, end - first), options);
  const auto all = model.forward(x, {.num_frames = kFrames});
  const Tensor want = convert(rows_of(all.sample, first, end - first), DType::f32);
  return std::memcmp(mine.sample.data(), want.data(), want.bytes()) == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  int level = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &level);
  const std::string what = argc > 1 ? argv[1] : "same";
  int failed = 1;
  {
    const std::chrono::seconds patience(what == "same" ? 30 : 2);
    MpiCommunicator own(MPI_COMM_WORLD, patience);
    try {
      failed = run(own, what);
    } catch (const CommunicationError& error) {
      std::fprintf(stderr, "rank %d: %s\n", own.rank(), error.what());
      failed = what == "same";
    }
    if (what == "hung") std::_Exit(failed);  // MPI_Finalize would wait for the exchange
  }
  MPI_Finalize();
  return failed;
}
