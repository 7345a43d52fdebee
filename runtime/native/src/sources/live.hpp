// Live sources: one connection, and a camera that is sought again for ever.

#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "sources/address.hpp"
#include "vad/error.hpp"
#include "vad/manifest.hpp"
#include "vad/source.hpp"

namespace vad::sources {

// As a site file that says nothing has them (vad_runtime.contracts.site), seconds.
constexpr double connect_s = 5.0;
constexpr double stalled_s = 3.0;
constexpr double frozen_s = 10.0;
constexpr double behind_s = 3.0;
constexpr double first_wait_s = 0.25;
constexpr double longest_wait_s = 2.0;
constexpr double refused_wait_s = 30.0;

// Seconds by the monotonic clock.
inline double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// There is no connection, or no longer.
class ConnectionFailed : public Error {
 public:
  ConnectionFailed(const std::string& name, std::string reason, bool refused = false,
                   bool stalled = false);

  std::string reason;  // in words for people: `connection refused`
  bool refused;        // the camera refuses our credentials: trying again may lock the account
  bool stalled;        // it was connected, and nothing came any more
};

// One decoded picture of a connection.
struct LiveImage {
  std::unique_ptr<Picture> picture;
  int width = 0;
  int height = 0;
  std::optional<double> pts_s;  // by the stream's own clock
  bool damaged = false;
  std::int64_t lost_packets = 0;     // since the picture before, which did not decode
  std::int64_t skipped_packets = 0;  // since then, left undecoded by skip_to_key()
  std::optional<double> waited_s;    // how long reading has waited for the network since then
};

// An open stream. One thread reads.
class Connection {
 public:
  virtual ~Connection() = default;
  virtual const SourceInfo& info() const = 0;
  virtual const std::string& decoder() const = 0;
  // The next picture, waiting no longer than that; false when the stream ended or stop() was
  // called. Throws ConnectionFailed.
  virtual bool next(LiveImage& image, double longest_s) = 0;
  // Leaves packets undecoded up to the next key frame; without packets nothing happens.
  virtual void skip_to_key() {}
  // From any thread: next() returns soon.
  virtual void stop() = 0;
};

struct StreamOptions {
  std::string decoder = "auto";
  std::string transport = "tcp";
};

// Connects and waits for the first picture: a wrong address is no camera that is off. Throws Error.
using Connect = std::function<std::unique_ptr<Connection>()>;
std::unique_ptr<Source> open_live(const Address& address, const ClipSpec& spec, Connect connect,
                                  std::function<void(const std::string&)> say);
// By what this build has for that address. Throws Error where it has nothing.
Connect connector(const Address& address, const StreamOptions& options);

}  // namespace vad::sources
