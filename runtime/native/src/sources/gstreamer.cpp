#include "sources/gstreamer.hpp"

#if VAD_WITH_GSTREAMER

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include <gst/app/gstappsink.h>
#include <gst/gst.h>
#include <gst/video/video.h>

#include "sources/picture.hpp"
#include "vad/error.hpp"

namespace vad::sources {
namespace {

constexpr double look_s = 0.1;  // between two looks at stop() and at the pipeline's messages
constexpr const char* formats = "video/x-raw,format={I420,NV12,RGB,BGR,GRAY8}";

struct Unref {
  void operator()(gpointer object) const noexcept { gst_object_unref(object); }
  void operator()(GstMessage* message) const noexcept { gst_message_unref(message); }
  void operator()(GError* error) const noexcept { g_error_free(error); }
};
template <typename T>
using Ref = std::unique_ptr<T, Unref>;

std::string pipeline_of(const Address& address) {
  const std::string sink =
      std::string("videoconvert ! ") + formats + " ! appsink drop=true max-buffers=4 sync=false";
  if (address.kind == AddressKind::usb) {
    return "v4l2src device=\"" + address.text + "\" ! decodebin ! " + sink;
  }
  if (address.text.find("appsink") != std::string::npos) return address.text;
  const std::size_t end = address.text.find_last_not_of(" !");
  return address.text.substr(0, end + 1) + " ! " + sink;
}

// A picture that stays mapped as long as somebody has it.
struct Mapped {
  explicit Mapped(GstSample* taken) : sample(taken) {}
  ~Mapped() {
    if (is_mapped) gst_video_frame_unmap(&frame);
    gst_sample_unref(sample);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;

  GstSample* sample;
  GstVideoFrame frame{};
  bool is_mapped = false;
};

bool image_of(const GstVideoFrame& frame, Image& image) {
  const GstVideoInfo& about = frame.info;
  int planes = 1;
  switch (GST_VIDEO_INFO_FORMAT(&about)) {
    case GST_VIDEO_FORMAT_GRAY8:
      image.format = PixelFormat::gray;
      break;
    case GST_VIDEO_FORMAT_RGB:
      image.format = PixelFormat::rgb;
      break;
    case GST_VIDEO_FORMAT_BGR:
      image.format = PixelFormat::bgr;
      break;
    case GST_VIDEO_FORMAT_NV12:
      image.format = PixelFormat::nv12;
      planes = 2;
      break;
    case GST_VIDEO_FORMAT_I420:
      image.format = PixelFormat::yuv;
      planes = 3;
      break;
    default:
      return false;
  }
  image.width = GST_VIDEO_INFO_WIDTH(&about);
  image.height = GST_VIDEO_INFO_HEIGHT(&about);
  const GstVideoColorMatrix matrix = about.colorimetry.matrix;
  image.matrix = matrix == GST_VIDEO_COLOR_MATRIX_BT709    ? Matrix::bt709
                 : matrix == GST_VIDEO_COLOR_MATRIX_BT2020 ? Matrix::bt2020
                                                           : Matrix::bt601;
  const GstVideoColorRange range = about.colorimetry.range;
  image.full_range = image.format == PixelFormat::gray ? range != GST_VIDEO_COLOR_RANGE_16_235
                                                       : range == GST_VIDEO_COLOR_RANGE_0_255;
  for (int i = 0; i < planes; ++i) {
    Plane& plane = image.planes[static_cast<std::size_t>(i)];
    plane.data = static_cast<const std::uint8_t*>(GST_VIDEO_FRAME_PLANE_DATA(&frame, i));
    plane.stride = GST_VIDEO_FRAME_PLANE_STRIDE(&frame, i);
    // Chroma of the two formats that have it is half the size, rounded up.
    plane.width = i == 0 ? image.width : (image.width + 1) / 2;
    plane.height = i == 0 ? image.height : (image.height + 1) / 2;
  }
  return true;
}

class Pipeline final : public Connection {
 public:
  explicit Pipeline(const Address& address) : name_(address.shown()) {
    GError* problem = nullptr;
    if (gst_init_check(nullptr, nullptr, &problem) == FALSE) {
      const Ref<GError> error(problem);
      throw Error("GStreamer does not start (" +
                  (error ? masked(error->message) : std::string("no reason given")) +
                  "). Check its installation.");
    }
    pipeline_.reset(gst_parse_launch(pipeline_of(address).c_str(), &problem));
    const Ref<GError> error(problem);
    if (!pipeline_ || error) {
      throw ConnectionFailed(name_, error ? masked(error->message) : "the pipeline is none");
    }
    find_sink();
    start();
    info_.name = name_;
    info_.kind = "live stream";
    info_.codec = "raw";
    info_.fps = default_fps;
  }

  ~Pipeline() override {
    sink_.reset();
    if (pipeline_) gst_element_set_state(pipeline_.get(), GST_STATE_NULL);
  }

  const SourceInfo& info() const override { return info_; }
  const std::string& decoder() const override { return decoder_; }
  void stop() override { stopped_ = true; }

  bool next(LiveImage& image, double longest_s) override {
    const double until_s = now_s() + longest_s;
    while (!stopped_) {
      const auto slice = static_cast<GstClockTime>(look_s * GST_SECOND);
      GstSample* sample = gst_app_sink_try_pull_sample(GST_APP_SINK(sink_.get()), slice);
      if (sample != nullptr) {
        take(sample, image);
        return true;
      }
      if (const std::string reason = error_reason(); !reason.empty()) {
        throw ConnectionFailed(name_, reason);
      }
      if (gst_app_sink_is_eos(GST_APP_SINK(sink_.get())) != FALSE) return false;
      if (now_s() >= until_s) {
        throw ConnectionFailed(name_, "no picture comes any more", false, true);
      }
    }
    return false;
  }

 private:
  void find_sink() {
    if (GST_IS_BIN(pipeline_.get())) {
      GstIterator* all = gst_bin_iterate_recurse(GST_BIN(pipeline_.get()));
      GValue item = G_VALUE_INIT;
      while (!sink_ && gst_iterator_next(all, &item) == GST_ITERATOR_OK) {
        gpointer element = g_value_get_object(&item);
        if (GST_IS_APP_SINK(element)) sink_.reset(GST_ELEMENT(gst_object_ref(element)));
        g_value_reset(&item);
      }
      g_value_unset(&item);
      gst_iterator_free(all);
    }
    if (!sink_) throw ConnectionFailed(name_, "the pipeline has no appsink; end it with one");
    // What the pipeline's own caps leave open is chosen among what can be read.
    GstCaps* wanted = gst_app_sink_get_caps(GST_APP_SINK(sink_.get()));
    if (wanted == nullptr) {
      wanted = gst_caps_from_string(formats);
      gst_app_sink_set_caps(GST_APP_SINK(sink_.get()), wanted);
    }
    gst_caps_unref(wanted);
  }

  void start() {
    if (gst_element_set_state(pipeline_.get(), GST_STATE_PLAYING) == GST_STATE_CHANGE_FAILURE) {
      const std::string reason = error_reason();
      // A constructor that throws has no destructor, and elements that run may not be dropped.
      sink_.reset();
      gst_element_set_state(pipeline_.get(), GST_STATE_NULL);
      throw ConnectionFailed(name_, !reason.empty() ? reason
                                                    : "the pipeline does not start; try it with "
                                                      "gst-launch-1.0");
    }
  }

  // Of the oldest message that says why the pipeline broke; empty = there is none.
  std::string error_reason() const {
    const Ref<GstBus> bus(gst_element_get_bus(pipeline_.get()));
    const Ref<GstMessage> message(gst_bus_pop_filtered(bus.get(), GST_MESSAGE_ERROR));
    if (!message) return "";
    GError* problem = nullptr;
    gst_message_parse_error(message.get(), &problem, nullptr);
    const Ref<GError> error(problem);
    std::string reason = masked(error->message);
    while (!reason.empty() && (reason.back() == '.' || reason.back() == '\n')) reason.pop_back();
    std::replace(reason.begin(), reason.end(), '\n', ' ');
    return reason;
  }

  void take(GstSample* sample, LiveImage& image) {
    auto mapped = std::make_shared<Mapped>(sample);
    GstBuffer* buffer = gst_sample_get_buffer(sample);
    GstCaps* caps = gst_sample_get_caps(sample);
    GstVideoInfo about;
    mapped->is_mapped = buffer != nullptr && caps != nullptr &&
                        gst_video_info_from_caps(&about, caps) != FALSE &&
                        gst_video_frame_map(&mapped->frame, &about, buffer, GST_MAP_READ) != FALSE;
    Image planes;
    if (!mapped->is_mapped || !image_of(mapped->frame, planes)) {
      throw ConnectionFailed(name_,
                             "the pipeline gives pictures of another kind, end it with "
                             "`videoconvert ! video/x-raw,format=BGR ! appsink`");
    }
    if (about.fps_n > 0 && about.fps_d > 0) {
      info_.fps = static_cast<double>(about.fps_n) / about.fps_d;
    }
    info_.width = image.width = planes.width;
    info_.height = image.height = planes.height;
    image.pts_s = now_s();
    if (GST_BUFFER_PTS_IS_VALID(buffer)) {
      image.pts_s = static_cast<double>(GST_BUFFER_PTS(buffer)) / GST_SECOND;
    }
    image.damaged = GST_BUFFER_FLAG_IS_SET(buffer, GST_BUFFER_FLAG_CORRUPTED);
    image.picture = std::make_unique<PlanePicture>(planes, std::move(mapped), portable_);
  }

  std::string name_;
  std::string decoder_ = "gstreamer";
  Ref<GstElement> pipeline_;
  Ref<GstElement> sink_;
  SourceInfo info_;
  std::shared_ptr<Portable> portable_ = std::make_shared<Portable>();
  std::atomic<bool> stopped_{false};
};

}  // namespace

std::unique_ptr<Connection> open_gstreamer(const Address& address) {
  return std::make_unique<Pipeline>(address);
}

}  // namespace vad::sources

#endif
