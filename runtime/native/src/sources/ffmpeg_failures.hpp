// Why a connection failed, for ffmpeg_stream.cpp: vad_runtime.sources.failures.

#pragma once

#include <cerrno>
#include <string>

#include <netdb.h>

#include "number.hpp"
#include "sources/ffmpeg.hpp"

namespace vad::sources {
inline std::string seconds_text(double value) { return significant_text(value, 6) + " s"; }

inline bool resolves(const std::string& host) {
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), nullptr, nullptr, &found);
  if (found != nullptr) freeaddrinfo(found);
  return code == 0;
}

inline std::string host_of(const Address& address) {
  std::string rest = address.text.substr(address.text.find("://") + 3);
  rest = rest.substr(0, rest.find_first_of("/?#"));
  if (const std::size_t login = rest.rfind('@'); login != std::string::npos) {
    rest = rest.substr(login + 1);
  }
  return rest[0] == '[' ? "" : rest.substr(0, rest.find(':'));
}

inline std::string network_reason(int code) {
  switch (-code) {
    case ECONNREFUSED:
      return "connection refused";
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
      return "the other side broke the connection";
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
      return "no route to host";
    case ENETDOWN:
      return "the network is down";
    case EADDRINUSE:
      return "another program listens at this port";
    case EADDRNOTAVAIL:
      return "this machine does not have that address";
    case EMFILE:
      return "this process has too many open files";
    case ENFILE:
      return "this machine has too many open files";
    default: {
      std::string text = error_text(code);
      for (char& c : text) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
      return text;
    }
  }
}

// Why, in words without the address. FFmpeg's RTSP calls its own waiting, once it is broken off,
// invalid data; and a host whose name is unknown an I/O error.
inline std::string reason_of(int code, double waited_s, bool timed_out, const Address* address) {
  if (timed_out || code == AVERROR_EXIT || code == AVERROR(ETIMEDOUT)) {
    return "no answer within " + seconds_text(waited_s);
  }
  switch (code) {
    case AVERROR_HTTP_BAD_REQUEST:
      return "400 bad request";
    case AVERROR_HTTP_UNAUTHORIZED:
      return "401 user or password refused";
    case AVERROR_HTTP_FORBIDDEN:
      return "403 forbidden";
    case AVERROR_HTTP_NOT_FOUND:
      return "404 not found";
    case AVERROR_HTTP_SERVER_ERROR:
      return "the server reports an error of its own (5xx)";
    case AVERROR_HTTP_OTHER_4XX:
      return "the request is refused (4xx); the path or the transport may be wrong";
    case AVERROR_EOF:
      return "the other side closed the connection";
    case AVERROR_INVALIDDATA:
      return "what comes is no video";
    case AVERROR_PROTOCOL_NOT_FOUND:
      return "this FFmpeg was built without that protocol";
    default:
      break;
  }
  if (code != AVERROR(EIO)) return network_reason(code);
  const std::string host = address == nullptr ? "" : host_of(*address);
  if (!host.empty() && !resolves(host)) return "the name " + host + " is unknown";
  return "the connection broke (I/O error)";
}

inline bool refuses(int code) {
  return code == AVERROR_HTTP_UNAUTHORIZED || code == AVERROR_HTTP_FORBIDDEN;
}

}  // namespace vad::sources
