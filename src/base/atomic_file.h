// Files that appear whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>

namespace kineograph {

/// Writes to a file without a name (on file systems that have none such, to a temporary one beside `path`), which takes
/// the name in commit(). Without commit() nothing remains of it, and an older file of that name stays as it was.
///
/// A link stays a link, and the file it leads to is replaced; permissions of a replaced file stay. What is not a
/// regular file (a device, a pipe) is written to directly. Temporary files that a killed process has left beside `path`
/// are removed. Throws IoError.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// A name by which another program may open the unfinished file and write it, while this object lives.
  std::string name_for_others() const;
  /// Puts everything on the disk, then gives it its name.
  void commit() { commit_together({this}); }

  /// The same for files that belong together: all are complete on the disk before the first takes its name, and where a
  /// later one cannot take its own, the earlier ones give theirs back.
  static void commit_together(std::initializer_list<AtomicFile*> files);

 private:
  [[noreturn]] void fail(const char* action, const char* hint = "Nothing was changed.") const;
  bool open_nameless(const std::filesystem::path& folder);
  void open_temporary();
  bool is_named() const noexcept { return !temporary_.empty(); }
  std::string descriptor_path() const;
  void set_temporary(std::string name);
  void complete();
  void take_name(bool may_give_back);
  bool give_name_back() noexcept;
  [[noreturn]] void tell_new() const;
  void sync_folder() const;

  std::filesystem::path path_;
  std::string temporary_;  // beside path_; once the name is taken, the file that had it before, or empty
  bool special_ = false, existed_ = false, swapped_ = false;
  struct Descriptor {
    int value = -1;
    ~Descriptor() { close(); }
    int close() noexcept;
  } descriptor_;
};

/// Removes the temporary files of this process that are not complete; for handlers of signals that end it.
void remove_unfinished_files() noexcept;

/// Does so when SIGINT, SIGTERM, SIGHUP or SIGPIPE ends the process, which they go on to do. Signals that are ignored
/// or handled already stay so. For programs: a library leaves signals alone.
void remove_unfinished_files_on_signals() noexcept;

}  // namespace kineograph
