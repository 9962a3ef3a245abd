// MPI's ranks as the ranks of a call. Header-only: compiled by the program that has an MPI, against whichever it has.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kineograph/communicator.h"
#include "kineograph/error.h"

namespace kineograph {

/// The processes of an MPI communicator, over a duplicate of it: made and destroyed by all of them together, between
/// MPI_Init_thread (MPI_THREAD_SERIALIZED, or MPI_THREAD_FUNNELED where models are called by the main thread only) and
/// MPI_Finalize. MPI's errors become CommunicationError, and so does an exchange that takes longer than `patience`:
/// a rank is then dead or hung, this object is of no more use, and the program best calls MPI_Abort.
class MpiCommunicator : public Communicator {
 public:
  /// Throws CommunicationError.
  explicit MpiCommunicator(MPI_Comm communicator, std::chrono::milliseconds patience = std::chrono::seconds(60))
      : patience_(patience) {
    check(MPI_Comm_dup(communicator, &communicator_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
  }
  ~MpiCommunicator() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!broken_ && finalized == 0) MPI_Comm_free(&communicator_);
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_gather(std::span<const double> mine, std::span<double> all) override {
    check_works();
    if (mine.size() > static_cast<std::size_t>(std::numeric_limits<int>::max()))
      throw CommunicationError("MPI_Iallgather", "at most 2^31 - 1 values of a rank", std::to_string(mine.size()),
                               "MPI counts them in an int.");
    auto buffers = std::make_unique<Buffers>();
    buffers->mine.assign(mine.begin(), mine.end());
    buffers->all.resize(all.size());
    const int count = static_cast<int>(mine.size());
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Iallgather(buffers->mine.data(), count, MPI_DOUBLE, buffers->all.data(), count, MPI_DOUBLE, communicator_,
                         &request),
          "MPI_Iallgather");
    if (!wait(request)) {
      static_cast<void>(buffers.release());  // MPI may still write there
      give_up();
    }
    std::copy(buffers->all.begin(), buffers->all.end(), all.begin());
  }

  /// On rank 0 every rank's `mine` in the order of ranks, bytes[rank] of each, of any size; nothing elsewhere. Throws
  /// CommunicationError.
  std::vector<std::byte> gather(std::span<const std::byte> mine, const std::vector<std::size_t>& bytes) {
    check_works();
    if (rank_ != 0) {
      auto sent = std::make_unique<std::vector<std::byte>>(mine.begin(), mine.end());
      send_or_receive(*sent, 0, sent->size(), 0, sent);
      return {};
    }
    auto all = std::make_unique<std::vector<std::byte>>(mine.begin(), mine.end());
    std::size_t total = 0;
    for (const std::size_t each : bytes) total += each;
    all->resize(total);
    std::size_t begin = bytes.at(0);
    for (int rank = 1; rank < size_; begin += bytes[static_cast<std::size_t>(rank++)])
      send_or_receive(*all, begin, bytes.at(static_cast<std::size_t>(rank)), rank, all);
    return std::move(*all);
  }

 private:
  struct Buffers {
    std::vector<double> mine, all;
  };

  /// Bytes of `buffer` to rank 0, or from rank `other` on rank 0, in pieces whose size is an int. `owner` keeps it.
  void send_or_receive(std::vector<std::byte>& buffer, std::size_t begin, std::size_t count, int other,
                       std::unique_ptr<std::vector<std::byte>>& owner) {
    constexpr std::size_t kMost = std::size_t{1} << 30;
    for (std::size_t done = 0; done < count; done += kMost) {
      std::byte* const at = buffer.data() + begin + done;
      const int here = static_cast<int>(std::min(kMost, count - done));
      MPI_Request request = MPI_REQUEST_NULL;
      if (rank_ == 0)
        check(MPI_Irecv(at, here, MPI_BYTE, other, 0, communicator_, &request), "MPI_Irecv");
      else
        check(MPI_Isend(at, here, MPI_BYTE, other, 0, communicator_, &request), "MPI_Isend");
      if (wait(request)) continue;
      static_cast<void>(owner.release());  // MPI may still read or write there
      give_up();
    }
  }

  void check_works() const {
    if (broken_) throw CommunicationError("MPI", "a communicator that works", "one whose exchange has failed before");
  }

  [[noreturn]] void give_up() {
    broken_ = true;
    throw CommunicationError("MPI", "values of every rank within " + std::to_string(patience_.count()) + " ms",
                             "none from some", "A rank has ended or hangs.");
  }

  /// Whether the request ended in time.
  bool wait(MPI_Request& request) {
    const auto started = std::chrono::steady_clock::now();
    for (int done = 0;;) {
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done != 0) return true;
      const auto waited = std::chrono::steady_clock::now() - started;
      if (waited > patience_) return false;
      // Other ranks of this machine may need the core: a short wait spins, a long one sleeps.
      if (waited < std::chrono::milliseconds(1))
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  void check(int code, const char* function) {
    if (code == MPI_SUCCESS) return;
    broken_ = true;
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw CommunicationError(function, "success", std::string(text, static_cast<std::size_t>(length)));
  }

  std::chrono::milliseconds patience_;
  MPI_Comm communicator_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  bool broken_ = false;
};

}  // namespace kineograph
