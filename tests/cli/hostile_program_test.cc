// What the program does with files of strangers: names that move a terminal, pipes, a checkpoint that is cut off.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "program.h"

namespace kineograph {
namespace {

bool moves_a_terminal(const std::string& text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if ((byte < 0x20 && byte != '\n') || byte == 0x7f) return true;
    if (byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0) return true;
  }
  return false;
}

TEST_F(ProgramTest, TextsOfFilesDoNotMoveTheTerminal) {
  const std::string escape =
      "\x1b]0;owned\x07\x1b[2J\xc2\x9b"
      "31m\nkineograph: error: faked";
  const Tensor value(DType::f32, {2, 2});
  save_safetensors(folder_ / "named.safetensors",
                   {{"transformer_blocks.0." + escape, value.view()}, {escape + ".norm.weight", value.view()}},
                   {{"key" + escape, "value" + escape}});
  // A damaged module, each of whose problems names a tensor of the file.
  const std::string block = "mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.";
  save_safetensors(folder_ / "damaged.safetensors",
                   {{block + "pos_encoder.pe", value.view()},
                    {block + "fake\nfile      faked" + escape + ".pos_encoder.pe", value.view()}});
  make_model("module", small_config(8));
  fs::rename(folder_ / "module", folder_ / ("module" + escape));
  const std::string model =
      "$'module"
      "\\x1b]0;owned\\x07\\x1b[2J\\xc2\\x9b31m\\nkineograph: error: faked'";
  for (const std::string& command :
       {std::string("inspect named.safetensors"), std::string("inspect --tensors named.safetensors"),
        std::string("inspect --json named.safetensors"), std::string("convert named.safetensors out"),
        std::string("inspect damaged.safetensors"), std::string("convert damaged.safetensors out"), "inspect " + model,
        "inspect missing" + model, "run --model " + model + " --input none.npy --output -" + model,
        "inspect --dtype=" + model, model}) {
    const Result result = sh("timeout 60 '" KINEOGRAPH_PROGRAM "' " + command);
    EXPECT_FALSE(moves_a_terminal(result.out)) << command << "\n" << result.out;
    EXPECT_FALSE(moves_a_terminal(result.err)) << command << "\n" << result.err;
    for (const char* faked : {"\nkineograph: error: faked", "\nfile      faked"})
      EXPECT_EQ((result.out + result.err).find(faked), std::string::npos) << command << "\n"
                                                                          << result.out << result.err;
  }
}

TEST_F(ProgramTest, APipeInAModelsPlaceIsRefused) {
  ASSERT_EQ(sh("mkfifo model.safetensors; mkdir folder; mkfifo folder/config.json").code, 0);
  for (const char* command : {"inspect model.safetensors", "inspect folder", "convert model.safetensors out",
                              "run --model folder --input in.npy --output out.npy"}) {
    const Result result = sh(std::string("timeout 20 '" KINEOGRAPH_PROGRAM "' ") + command);
    EXPECT_EQ(result.code, 1) << command << result.err;
  }
}

/// Converting into a pipe stops the program in the middle, whenever the reader stops.
TEST_F(ProgramTest, SaysWhichFileWasCutOffUnderIt) {
  const fs::path input = folder_ / "in.safetensors", pipe = folder_ / "out.safetensors";
  fs::copy_file(KINEOGRAPH_SOURCE_DIR "/tests/checkpoints/motion_adapter.safetensors", input);
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(60);
    const int log = open((folder_ / "err").c_str(), O_WRONLY | O_CREAT, 0600);
    dup2(log, STDERR_FILENO);
    // f64 to f16 reads every element in user space, where a page that is gone is a SIGBUS.
    execl(KINEOGRAPH_PROGRAM, "kineograph", "convert", input.c_str(), pipe.c_str(), "--to", "animatediff", "--dtype",
          "f16", nullptr);
    _exit(9);
  }
  const int reader = open(pipe.c_str(), O_RDONLY);
  ASSERT_GE(reader, 0);
  fcntl(reader, F_SETPIPE_SZ, 4096);
  char first = 0;
  ASSERT_EQ(read(reader, &first, 1), 1);
  ASSERT_EQ(truncate(input.c_str(), 0), 0);
  char rest[4096];
  while (read(reader, rest, sizeof rest) > 0) continue;
  close(reader);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  const std::string said = content(folder_ / "err");
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status << said;
  // By the signal's handler, or by the check before the next read, whichever comes first.
  EXPECT_TRUE(said.find("in.safetensors: the file was cut off") != std::string::npos ||
              said.find("in.safetensors: expected the file as it was") != std::string::npos)
      << said;
}

}  // namespace
}  // namespace kineograph
