#include "sources/ffmpeg_picture.hpp"

#if VAD_WITH_FFMPEG

#include <array>
#include <cstring>
#include <new>
#include <string>
#include <utility>

extern "C" {
#include <libavutil/frame.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}
#if VAD_WITH_OPENCV
#include <opencv2/imgproc.hpp>
#endif

#include "vad/error.hpp"

namespace vad::sources {
namespace {

[[noreturn]] void cannot_convert(const AVFrame& frame) {
  const char* name = av_get_pix_fmt_name(static_cast<AVPixelFormat>(frame.format));
  throw Error(std::string("swscale does not take pictures of the format ") +
              (name == nullptr ? "?" : name) + ". Convert the source to yuv420p.");
}

bool is_jpeg(AVPixelFormat format) {
  switch (format) {
    case AV_PIX_FMT_YUVJ411P:
    case AV_PIX_FMT_YUVJ420P:
    case AV_PIX_FMT_YUVJ422P:
    case AV_PIX_FMT_YUVJ440P:
    case AV_PIX_FMT_YUVJ444P:
      return true;
    default:
      return false;
  }
}

// Planes of Y, Cb and Cr of 8 bits each, and nothing else.
bool is_plain_yuv(const AVPixFmtDescriptor& about) {
  const std::uint64_t other = AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_ALPHA | AV_PIX_FMT_FLAG_PAL |
                              AV_PIX_FMT_FLAG_BITSTREAM | AV_PIX_FMT_FLAG_HWACCEL |
                              AV_PIX_FMT_FLAG_FLOAT;
  if (about.nb_components != 3 || (about.flags & other) != 0) return false;
  for (int i = 0; i < 3; ++i) {
    const AVComponentDescriptor& part = about.comp[i];
    if (part.plane != i || part.step != 1 || part.offset != 0 || part.shift != 0 ||
        part.depth != 8) {
      return false;
    }
  }
  return true;
}

Matrix matrix_of(AVColorSpace space) {
  switch (space) {
    case AVCOL_SPC_BT709:
      return Matrix::bt709;
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL:
      return Matrix::bt2020;
    default:
      return Matrix::bt601;
  }
}

// As swscale numbers them; what it does not know is BT.601.
int swscale_matrix(AVColorSpace space) {
  switch (space) {
    case AVCOL_SPC_BT709:
      return SWS_CS_ITU709;
    case AVCOL_SPC_FCC:
      return SWS_CS_FCC;
    case AVCOL_SPC_SMPTE240M:
      return SWS_CS_SMPTE240M;
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL:
      return SWS_CS_BT2020;
    default:
      return SWS_CS_DEFAULT;
  }
}

bool is_full_range(const AVFrame& frame) {
  const auto format = static_cast<AVPixelFormat>(frame.format);
  if (format == AV_PIX_FMT_GRAY8) return frame.color_range != AVCOL_RANGE_MPEG;
  return frame.color_range == AVCOL_RANGE_JPEG || is_jpeg(format);
}

// Where a sample of chroma lies, in 1/256 of the distance between two of luma.
std::pair<int, int> chroma_place(AVChromaLocation place) {
  switch (place) {
    case AVCHROMA_LOC_LEFT:
      return {0, 128};
    case AVCHROMA_LOC_TOPLEFT:
      return {0, 0};
    case AVCHROMA_LOC_TOP:
      return {128, 0};
    case AVCHROMA_LOC_BOTTOMLEFT:
      return {0, 256};
    case AVCHROMA_LOC_BOTTOM:
      return {128, 256};
    default:
      return {128, 128};
  }
}

// A context of swscale; null where it does not take the formats.
SwsContext* context_of(const AVFrame& from, const AVFrame& to, int flags) {
  SwsContext* context = sws_alloc_context();
  if (context == nullptr) throw std::bad_alloc();
  const AVPixFmtDescriptor* about = av_pix_fmt_desc_get(static_cast<AVPixelFormat>(from.format));
  const int shift_x = about == nullptr ? 0 : about->log2_chroma_w;
  const int shift_y = about == nullptr ? 0 : about->log2_chroma_h;
  const auto [x, y] = chroma_place(from.chroma_location);
  constexpr int unset = -513;
  const std::pair<const char*, int> options[] = {
      {"srcw", from.width},
      {"srch", from.height},
      {"src_format", from.format},
      {"dstw", to.width},
      {"dsth", to.height},
      {"dst_format", to.format},
      {"sws_flags", flags},
      {"src_range", is_full_range(from) ? 1 : 0},
      {"dst_range", 1},
      {"src_h_chr_pos", shift_x > 0 ? x * ((1 << shift_x) - 1) : unset},
      {"src_v_chr_pos", shift_y > 0 ? y * ((1 << shift_y) - 1) : unset},
  };
  for (const auto& [name, value] : options) av_opt_set_int(context, name, value, 0);
  if (sws_init_context(context, nullptr, nullptr) >= 0) return context;
  sws_freeContext(context);
  return nullptr;
}

// By how much chroma is smaller; sizes that fit several have the same planes in all of them.
AVPixelFormat planar_format(const Image& image) {
  for (const AVPixelFormat format : {AV_PIX_FMT_YUV420P, AV_PIX_FMT_YUV422P, AV_PIX_FMT_YUV411P,
                                     AV_PIX_FMT_YUV440P, AV_PIX_FMT_YUV444P}) {
    const AVPixFmtDescriptor* about = av_pix_fmt_desc_get(format);
    if (image.planes[1].width == -((-image.width) >> about->log2_chroma_w) &&
        image.planes[1].height == -((-image.height) >> about->log2_chroma_h)) {
      return format;
    }
  }
  throw Error("swscale does not take pictures with chroma of that size. Convert the source to "
              "yuv420p.");
}

void copy_rows(const AVFrame& frame, std::size_t row_bytes, std::uint8_t* out) {
  for (int y = 0; y < frame.height; ++y) {
    std::memcpy(out, frame.data[0] + static_cast<std::ptrdiff_t>(y) * frame.linesize[0], row_bytes);
    out += row_bytes;
  }
}

void reserve(FramePtr& frame, int width, int height, AVPixelFormat format) {
  if (frame && frame->width == width && frame->height == height && frame->format == format) return;
  frame = new_frame();
  frame->width = width;
  frame->height = height;
  frame->format = format;
  if (av_frame_get_buffer(frame.get(), 0) < 0) throw std::bad_alloc();
}

class FramePicture final : public Picture {
 public:
  FramePicture(FramePtr frame, std::shared_ptr<FrameScaler> scaler)
      : frame_(std::move(frame)), scaler_(std::move(scaler)) {}

  void write(const ClipSpec& spec, std::uint8_t* out) override {
    scaler_->write(*frame_, spec, out);
  }

 private:
  FramePtr frame_;
  std::shared_ptr<FrameScaler> scaler_;
};

}  // namespace

void FreeFrame::operator()(AVFrame* frame) const noexcept { av_frame_free(&frame); }

FramePtr new_frame() {
  FramePtr frame(av_frame_alloc());
  if (!frame) throw std::bad_alloc();
  return frame;
}

bool image_of(const AVFrame& frame, Image& image) {
  const auto format = static_cast<AVPixelFormat>(frame.format);
  const AVPixFmtDescriptor* about = av_pix_fmt_desc_get(format);
  if (about == nullptr) return false;
  int planes = 1;
  if (format == AV_PIX_FMT_GRAY8) {
    image.format = PixelFormat::gray;
  } else if (format == AV_PIX_FMT_RGB24) {
    image.format = PixelFormat::rgb;
  } else if (format == AV_PIX_FMT_BGR24) {
    image.format = PixelFormat::bgr;
  } else if (format == AV_PIX_FMT_NV12) {
    image.format = PixelFormat::nv12;
    planes = 2;
  } else if (is_plain_yuv(*about)) {
    image.format = PixelFormat::yuv;
    planes = 3;
  } else {
    return false;
  }
  image.width = frame.width;
  image.height = frame.height;
  image.matrix = matrix_of(frame.colorspace);
  image.full_range = is_full_range(frame);
  image.planes = {};
  for (int i = 0; i < planes; ++i) {
    Plane& plane = image.planes[static_cast<std::size_t>(i)];
    plane.data = frame.data[i];
    plane.stride = frame.linesize[i];
    // Rounded up: a plane of an odd size has one sample more than half of it.
    plane.width = i == 0 ? frame.width : -((-frame.width) >> about->log2_chroma_w);
    plane.height = i == 0 ? frame.height : -((-frame.height) >> about->log2_chroma_h);
  }
  return true;
}

FrameScaler::~FrameScaler() {
  sws_freeContext(to_size_.context);
  sws_freeContext(to_rgb_.context);
}

void FrameScaler::write(const AVFrame& frame, const ClipSpec& spec, std::uint8_t* out) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (spec.resizer == ResizerKind::fast) {
    fast(frame, spec, out);
    return;
  }
  if (spec.resizer == ResizerKind::exact) {
    exact(frame, spec, out);
    return;
  }
  Image image;
  if (!image_of(frame, image) && !image_of(rgb(frame), image)) cannot_convert(frame);
  portable_.write(image, spec.target(), out);
}

// Ranges, matrices and the place of chroma as swscale 8 takes them from a frame (PyAV 17 and newer
// calls it so); older ones have to be told.
void FrameScaler::convert(Conversion& conversion, const AVFrame& from, AVFrame& to, int flags) {
  const auto source = static_cast<AVPixelFormat>(from.format);
  const auto target = static_cast<AVPixelFormat>(to.format);
  const Conversion::Key key{from.width, from.height, source, from.chroma_location,
                            to.width,   to.height,   target};
  if (conversion.context == nullptr || conversion.key != key) {
    sws_freeContext(std::exchange(conversion.context, nullptr));
    conversion.key = key;
    conversion.context = context_of(from, to, flags);
    if (conversion.context == nullptr) cannot_convert(from);
  }
  // Grey has no matrix: from planes of another than BT.601 swscale goes over RGB.
  const int* matrix = sws_getCoefficients(swscale_matrix(from.colorspace));
  const bool gray = target == AV_PIX_FMT_GRAY8;
  sws_setColorspaceDetails(conversion.context, matrix, is_full_range(from) ? 1 : 0,
                           gray ? sws_getCoefficients(SWS_CS_DEFAULT) : matrix, 1, 0, 1 << 16,
                           1 << 16);
  if (sws_scale(conversion.context, from.data, from.linesize, 0, from.height, to.data,
                to.linesize) != to.height) {
    cannot_convert(from);
  }
}

// At full size, as PyAV's `to_ndarray` makes it.
const AVFrame& FrameScaler::rgb(const AVFrame& frame) {
  if (frame.format == AV_PIX_FMT_RGB24) return frame;
  reserve(rgb_, frame.width, frame.height, AV_PIX_FMT_RGB24);
  convert(to_rgb_, frame, *rgb_, SWS_BILINEAR);
  return *rgb_;
}

void FrameScaler::fast(const AVFrame& frame, const ClipSpec& spec, std::uint8_t* out) {
  // Into memory of its own: swscale writes whole vectors, also past the end of a row.
  const AVPixelFormat format = spec.colour == Colour::gray ? AV_PIX_FMT_GRAY8 : AV_PIX_FMT_RGB24;
  const std::size_t row_bytes =
      static_cast<std::size_t>(spec.width) * static_cast<std::size_t>(spec.channels());
  if (frame.width == spec.width && frame.height == spec.height && frame.format == format) {
    copy_rows(frame, row_bytes, out);
    return;
  }
  reserve(small_, spec.width, spec.height, format);
  convert(to_size_, frame, *small_, SWS_AREA);
  copy_rows(*small_, row_bytes, out);
}

void FrameScaler::exact(const AVFrame& frame, const ClipSpec& spec, std::uint8_t* out) {
#if VAD_WITH_OPENCV
  const AVFrame& full = rgb(frame);
  const cv::Mat pixels(full.height, full.width, CV_8UC3, full.data[0],
                       static_cast<std::size_t>(full.linesize[0]));
  const bool gray = spec.colour == Colour::gray;
  cv::Mat coloured = pixels;
  if (gray) cv::cvtColor(pixels, coloured, cv::COLOR_RGB2GRAY);
  const bool shrinks = spec.height <= full.height && spec.width <= full.width;
  const bool area = spec.interpolation == Interpolation::area && shrinks;
  cv::Mat small(spec.height, spec.width, gray ? CV_8UC1 : CV_8UC3, out);
  cv::resize(coloured, small, small.size(), 0, 0, area ? cv::INTER_AREA : cv::INTER_LINEAR);
#else
  (void)frame;
  (void)out;
  require_resizer(spec);
#endif
}

std::unique_ptr<Picture> picture_of(FramePtr frame, std::shared_ptr<FrameScaler> scaler) {
  return std::make_unique<FramePicture>(std::move(frame), std::move(scaler));
}

void write_by_swscale(const Image& image, const ClipSpec& spec, std::uint8_t* out) {
  AVPixelFormat format = AV_PIX_FMT_NONE;
  switch (image.format) {
    case PixelFormat::gray:
      format = AV_PIX_FMT_GRAY8;
      break;
    case PixelFormat::rgb:
      format = AV_PIX_FMT_RGB24;
      break;
    case PixelFormat::bgr:
      format = AV_PIX_FMT_BGR24;
      break;
    case PixelFormat::nv12:
      format = AV_PIX_FMT_NV12;
      break;
    case PixelFormat::yuv:
      format = planar_format(image);
      break;
  }
  const FramePtr frame = new_frame();  // points to the planes and owns none
  frame->width = image.width;
  frame->height = image.height;
  frame->format = format;
  frame->color_range = image.full_range ? AVCOL_RANGE_JPEG : AVCOL_RANGE_MPEG;
  frame->colorspace = image.matrix == Matrix::bt709    ? AVCOL_SPC_BT709
                      : image.matrix == Matrix::bt2020 ? AVCOL_SPC_BT2020_NCL
                                                       : AVCOL_SPC_UNSPECIFIED;
  for (std::size_t i = 0; i < image.planes.size(); ++i) {
    frame->data[i] = const_cast<std::uint8_t*>(image.planes[i].data);
    frame->linesize[i] = static_cast<int>(image.planes[i].stride);
  }
  static thread_local FrameScaler scaler;
  scaler.write(*frame, spec, out);
}

}  // namespace vad::sources

#endif
