// Progress bars as they look on a terminal: the program runs on a pseudo-terminal, and what it draws is read back.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <optional>
#include <regex>
#include <vector>

#include "program.h"

namespace kineograph {
namespace {

constexpr std::string_view kRedraw = "\r\x1b[K";

/// What came on the terminal, taken apart at every redraw of a line.
struct Screen {
  int code = -1;
  std::string all;
  std::vector<std::string> bars;  ///< lines that were drawn over
  std::string left;               ///< what stands there in the end
};

class ProgressBarTest : public ProgramTest {
 protected:
  // Runs a bash command with all of its input and output on a terminal of `columns`; `typed` is sent once a first bar
  // with a rate is there.
  Screen on_terminal(const std::string& command, int columns, const std::string& typed = "") const {
    std::ofstream(folder_ / "script") << "cd '" << folder_.string() << "'; " << command << "\n";
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    EXPECT_TRUE(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    winsize size{};
    size.ws_row = 24;
    size.ws_col = static_cast<unsigned short>(columns);
    EXPECT_EQ(ioctl(terminal, TIOCSWINSZ, &size), 0);
    const std::string name = ptsname(terminal), script = (folder_ / "script").string();
    const pid_t child = fork();
    if (child == 0) {
      setsid();
      const int mine = open(name.c_str(), O_RDWR);  // the session's terminal, so that Ctrl-C is a signal
      for (const int end : {0, 1, 2}) dup2(mine, end);
      close(terminal);
      execlp("bash", "bash", script.c_str(), nullptr);
      _exit(127);
    }
    Screen screen;
    std::optional<std::string> to_type;
    if (!typed.empty()) to_type = typed;
    for (char buffer[4096];;) {
      const ssize_t count = read(terminal, buffer, sizeof(buffer));
      if (count <= 0) break;  // EIO once the other end is closed
      screen.all.append(buffer, static_cast<std::size_t>(count));
      if (to_type && screen.all.find("/s") != std::string::npos) {
        EXPECT_EQ(write(terminal, to_type->data(), to_type->size()), static_cast<ssize_t>(to_type->size()));
        to_type.reset();
      }
    }
    close(terminal);
    int status = 0;
    waitpid(child, &status, 0);
    screen.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    std::size_t at = screen.all.find(kRedraw);
    screen.left = screen.all.substr(0, at);
    while (at != std::string::npos) {
      const std::size_t begin = at + kRedraw.size(), end = screen.all.find(kRedraw, begin);
      const std::string drawn = screen.all.substr(begin, end == std::string::npos ? end : end - begin);
      // The last redraw of a bar clears the line for sentences.
      const bool bar = drawn.find('\n') == std::string::npos && end != std::string::npos;
      if (bar)
        screen.bars.push_back(drawn);
      else
        screen.left += drawn;
      at = end;
    }
    return screen;
  }

  // Every bar fits its line, goes forward and leaves nothing behind.
  static void expect_bars(const Screen& screen, std::size_t columns, const std::string& unit) {
    EXPECT_GE(screen.bars.size(), 2u) << screen.all;
    long last = 0;
    for (const std::string& bar : screen.bars) {
      EXPECT_LT(bar.size(), columns) << bar;
      EXPECT_EQ(bar.find_first_of("\r\n\x1b"), std::string::npos) << bar;
      std::smatch found;
      if (!std::regex_search(bar, found, std::regex("([0-9]+)/[0-9]+ " + unit))) continue;  // cut off
      EXPECT_GE(std::stol(found[1]), last) << bar;
      last = std::stol(found[1]);
    }
    EXPECT_EQ(screen.left.find('\x1b'), std::string::npos) << screen.left;
    EXPECT_EQ(screen.left.find("] "), std::string::npos) << "a bar was left behind: " << screen.left;
    EXPECT_TRUE(screen.left.empty() || screen.left.ends_with("\n")) << screen.left;
  }

  void make_video(int frames) const {
    make_video_and_identity(frames);
    make_restoring_identity("restoring");
  }
  static std::string restore() {
    return std::string("'") + KINEOGRAPH_PROGRAM +
           "' restore clip.y4m out.y4m --model restoring --strength 20 --damage noise --threads 1 --window 4";
  }
};

TEST_F(ProgressBarTest, FitsEveryWidthAndEndsInOneSentence) {
  make_video(400);
  for (const int columns : {200, 80, 40, 20, 5, 1}) {
    SCOPED_TRACE(columns);
    const Screen screen = on_terminal(restore(), columns);
    ASSERT_EQ(screen.code, 0) << screen.all;
    expect_bars(screen, static_cast<std::size_t>(columns), "frames");
    EXPECT_NE(screen.left.find("400 frames in "), std::string::npos) << screen.left;
  }
}

TEST_F(ProgressBarTest, SaysTheRateAndTheTimeLeft) {
  const std::regex whole("\\[#* *\\] [0-9]+/[0-9]+ frames, [0-9.]+/s, ([0-9]+ min )?[0-9]+ s left.*");
  // A bar in the middle of the work, however fast the machine.
  for (int frames = 1000; frames <= 64'000; frames *= 4) {
    make_video(frames);
    const Screen screen = on_terminal(restore(), 80);
    ASSERT_EQ(screen.code, 0) << screen.all;
    for (const std::string& bar : screen.bars)
      if (std::regex_match(bar, whole)) return;
  }
  FAIL() << "no bar with a rate and the time left";
}

TEST_F(ProgressBarTest, IsNotDrawnWhereItCannotBe) {
  make_video(20);
  const Screen dumb = on_terminal("TERM=dumb " + restore(), 80);
  EXPECT_EQ(dumb.code, 0) << dumb.all;
  EXPECT_EQ(dumb.all.find('\x1b'), std::string::npos) << dumb.all;
  const Screen file = on_terminal(restore() + " 2>err", 80);
  EXPECT_EQ(file.code, 0);
  EXPECT_EQ(file.all, "");
  EXPECT_EQ(content(folder_ / "err").find('\x1b'), std::string::npos) << content(folder_ / "err");
}

TEST_F(ProgressBarTest, HasNoColours) {
  make_video(20);
  for (const char* environment : {"", "NO_COLOR=1 "}) {
    const Screen screen = on_terminal(environment + restore(), 80);
    EXPECT_EQ(screen.code, 0);
    EXPECT_FALSE(std::regex_search(screen.all, std::regex("\x1b\\[[0-9;]*m"))) << screen.all;
  }
}

TEST_F(ProgressBarTest, IsClearedByCtrlC) {
  make_video(50'000);
  const Screen screen = on_terminal(restore(), 80, "\x03");
  EXPECT_NE(screen.code, 0);
  // The terminal itself shows ^C, which stands in the bar's line and is drawn over with it.
  EXPECT_EQ(screen.left.find("] "), std::string::npos) << screen.left;
  EXPECT_TRUE(screen.left.ends_with("\n")) << screen.left;
  EXPECT_TRUE(fs::exists(folder_ / "out.y4m")) << "the frames that came are kept";
}

TEST_F(ProgressBarTest, ConvertShowsMegabytes) {
  make_model("module", small_config(8));
  TransformerTemporalConfig config = small_config(512);
  config.attention_head_dim = 256;
  make_model("large", config);
  const Screen screen = on_terminal(std::string("'") + KINEOGRAPH_PROGRAM + "' convert large out --to module", 80);
  ASSERT_EQ(screen.code, 0) << screen.all;
  expect_bars(screen, 80, "MB");
  EXPECT_NE(screen.left.find("next: kineograph run"), std::string::npos) << screen.left;
}

}  // namespace
}  // namespace kineograph
