#include "train_record.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "messages.h"
#include "options.h"

namespace kineograph::cli {

using namespace video;

namespace {

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

}  // namespace

FolderLock::FolderLock(const std::filesystem::path& folder)
    : descriptor_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (descriptor_ < 0)
    throw IoError(folder.string(), "a folder that can be opened", std::error_code(errno, std::generic_category()));
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  ::close(descriptor_);
  throw IoError(folder.string(), "a folder that no other training writes to", "one that a training writes to");
}

FolderLock::~FolderLock() { ::close(descriptor_); }

Record::Record(const TrainArguments& arguments, const TrainingSession& session, std::string settings)
    : arguments_(arguments),
      session_(session),
      settings_(std::move(settings)),
      log_(arguments.output, session.steps_done()),
      from_(session.steps_done()) {
  // A folder that cannot be written to, or a full disk, should say so before the work.
  if (!arguments.resume) save();
  progress_.emplace(arguments.settings.steps, "steps");
  progress_->begin_at(from_);
}

void Record::save() const {
  const std::filesystem::path folder = arguments_.output;
  session_.save(folder / kCheckpointFile, settings_);
  session_.save_model(folder, dtype_named(arguments_.dtype));
  log_.plot();
}

void Record::add(const StepReport& step) {
  log_.add(step);
  progress_->note(loss());
  progress_->advance(1);
  if (session_.steps_done() % arguments_.checkpoint_every != 0 || session_.finished()) return;
  save();
  if (!progress_->on_terminal()) say("step " + std::to_string(session_.steps_done()) + ": " + state());
}

void Record::finish() {
  progress_.reset();
  save();
}

std::string Record::loss() const { return "loss " + short_number(log_.recent_loss()); }

std::string Record::state() const {
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const double speed = static_cast<double>(session_.steps_done() - from_) / std::max(seconds, 1e-9);
  return loss() + ", " + short_number(speed) + " steps/s, " +
         short_number(speed * static_cast<double>(session_.tokens_per_step())) + " tokens/s";
}

}  // namespace kineograph::cli
