#include "base/atomic_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "folder.h"
#include "kineograph/error.h"

namespace kineograph {
namespace {

namespace fs = std::filesystem;

class AtomicFileTest : public FolderTest {
 protected:
  static std::string content(const fs::path& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void put(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }
  static unsigned mode(const fs::path& path) {
    struct stat status {};
    return stat(path.c_str(), &status) == 0 ? status.st_mode & 07777 : 0;
  }
  auto files() const { return std::distance(fs::directory_iterator(folder_), {}); }
};

TEST_F(AtomicFileTest, LeavesNothingWhereItIsNotCommitted) {
  { AtomicFile(folder_ / "a").write("half"); }
  EXPECT_EQ(files(), 0);
  put(folder_ / "a", "old");
  AtomicFile file(folder_ / "a");
  file.write("new");
  EXPECT_EQ(content(folder_ / "a"), "old");
  file.commit();
  EXPECT_EQ(content(folder_ / "a"), "new");
  EXPECT_EQ(files(), 1);
}

TEST_F(AtomicFileTest, KeepsLinksAndPermissions) {
  put(folder_ / "a", "old");
  ASSERT_EQ(chmod((folder_ / "a").c_str(), 0600), 0);
  fs::create_symlink("a", folder_ / "middle");
  fs::create_symlink(folder_ / "middle", folder_ / "link");
  AtomicFile file(folder_ / "link");
  file.write("new");
  file.commit();
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(content(folder_ / "a"), "new");
  EXPECT_EQ(mode(folder_ / "a"), 0600u);

  fs::create_symlink("b", folder_ / "dangling");
  AtomicFile made(folder_ / "dangling");
  made.write("new");
  made.commit();
  EXPECT_TRUE(fs::is_symlink(folder_ / "dangling"));
  EXPECT_EQ(content(folder_ / "b"), "new");
}

TEST_F(AtomicFileTest, RefusesFoldersAndMissingOnes) {
  EXPECT_THROW(AtomicFile file(folder_), IoError);
  EXPECT_THROW(AtomicFile file(folder_ / "missing" / "a"), IoError);
}

TEST_F(AtomicFileTest, RemovesWhatKilledProcessesLeft) {
  put(folder_ / ".a.1-0.tmp", "of a process that is gone");
  put(folder_ / ".a.2-0.tmp", "of one that still writes");
  put(folder_ / ".a.notes.tmp", "somebody's own");
  put(folder_ / ".ab.3-0.tmp", "beside another file");
  const int held = open((folder_ / ".a.2-0.tmp").c_str(), O_RDWR);
  ASSERT_EQ(flock(held, LOCK_EX), 0);
  AtomicFile(folder_ / "a").commit();
  EXPECT_FALSE(fs::exists(folder_ / ".a.1-0.tmp"));
  EXPECT_TRUE(fs::exists(folder_ / ".a.2-0.tmp"));
  EXPECT_TRUE(fs::exists(folder_ / ".a.notes.tmp"));
  EXPECT_TRUE(fs::exists(folder_ / ".ab.3-0.tmp"));
  close(held);
}

/// The second file cannot take its name, as a folder with something in it has it by then: the first gives its own back.
TEST_F(AtomicFileTest, FilesThatBelongTogetherAreAllOldOrAllNew) {
  for (const bool there_before : {true, false}) {
    fs::remove_all(folder_ / "weights");
    fs::remove_all(folder_ / "config");
    if (there_before) put(folder_ / "weights", "old");
    {
      AtomicFile weights(folder_ / "weights"), config(folder_ / "config");
      weights.write("new");
      config.write("new");
      fs::create_directories(folder_ / "config" / "inside");
      EXPECT_THROW(AtomicFile::commit_together({&weights, &config}), IoError);
    }
    if (there_before)
      EXPECT_EQ(content(folder_ / "weights"), "old");
    else
      EXPECT_FALSE(fs::exists(folder_ / "weights"));
    EXPECT_EQ(files(), there_before ? 2 : 1) << "a temporary file was left";
  }
  fs::remove_all(folder_ / "config");
  put(folder_ / "config", "old");
  AtomicFile weights(folder_ / "weights"), config(folder_ / "config");
  weights.write("new");
  config.write("new");
  AtomicFile::commit_together({&weights, &config});
  EXPECT_EQ(content(folder_ / "weights"), "new");
  EXPECT_EQ(content(folder_ / "config"), "new");
  EXPECT_EQ(files(), 2);
}

}  // namespace
}  // namespace kineograph
