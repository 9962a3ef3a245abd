#include "video/output_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iterator>

#include "folder.h"
#include "kineograph/error.h"

namespace kineograph::video {
namespace {

namespace fs = std::filesystem;

class OutputFileTest : public FolderTest {
 protected:
  void SetUp() override {
    path_ = folder_ / "sample.npy";
    std::ofstream(path_) << "good";
  }

  static std::string content(const fs::path& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  auto files() const { return std::distance(fs::directory_iterator(folder_), {}); }

  fs::path path_;
};

TEST_F(OutputFileTest, TakesItsNameInCommit) {
  {
    OutputFile out(path_);
    out.stream() << "better";
    out.stream().flush();
    EXPECT_EQ(content(path_), "good");
    out.commit();
  }
  EXPECT_EQ(content(path_), "better");
  EXPECT_EQ(files(), 1);
}

TEST_F(OutputFileTest, LeavesWhatWasThereWithoutCommit) {
  { OutputFile(path_).stream() << "half"; }
  EXPECT_EQ(content(path_), "good");
  EXPECT_EQ(files(), 1);
}

TEST_F(OutputFileTest, KeepsPermissions) {
  ASSERT_EQ(chmod(path_.c_str(), 0640), 0);
  OutputFile out(path_);
  out.commit();
  struct stat status {};
  ASSERT_EQ(stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST_F(OutputFileTest, WritesThroughLinks) {
  fs::create_symlink("sample.npy", folder_ / "link.npy");
  OutputFile out(folder_ / "link.npy");
  out.stream() << "better";
  out.commit();
  EXPECT_TRUE(fs::is_symlink(folder_ / "link.npy"));
  EXPECT_EQ(content(path_), "better");
}

TEST_F(OutputFileTest, RefusesFoldersAndMissingOnes) {
  EXPECT_THROW(OutputFile out(folder_), IoError);
  EXPECT_THROW(OutputFile out(folder_ / "missing" / "sample.npy"), IoError);
}

TEST_F(OutputFileTest, SaysThatTheDiskIsFull) {
  OutputFile out("/dev/full");
  out.stream() << "anything";
  try {
    out.commit();
    FAIL() << "wrote on a full device";
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("no space left"), std::string::npos) << error.what();
  }
}

// Runs `body` in a process of its own and gives its wait status.
template <class Body>
int in_child(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

TEST_F(OutputFileTest, LeavesWhatWasThereWhenTheDiskFills) {
  const int status = in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100, 100};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      OutputFile out(path_);
      out.stream() << std::string(100000, 'x');
      out.commit();
    } catch (const IoError&) {
      _exit(7);
    }
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  EXPECT_EQ(content(path_), "good");
  EXPECT_EQ(files(), 1);
}

TEST_F(OutputFileTest, LeavesWhatWasThereWhenInterrupted) {
  for (int signal : {SIGINT, SIGTERM}) {
    const int status = in_child([&] {
      OutputFile out(path_);
      out.stream() << "half";
      out.stream().flush();
      raise(signal);
    });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal);
    EXPECT_EQ(content(path_), "good");
    EXPECT_EQ(files(), 1) << "an unfinished file was left";
  }
}

}  // namespace
}  // namespace kineograph::video
