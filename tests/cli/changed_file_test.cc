// A checkpoint that is cut off while the program reads it.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "program.h"

namespace kineograph {
namespace {

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
  EXPECT_NE(said.find("in.safetensors: the file was cut off"), std::string::npos) << said;
}

}  // namespace
}  // namespace kineograph
