"""What a key frame itself says of its stream."""

import av
import av.error

from vad_runtime.sources.connection import PacketInfo, StreamTemplate
from vad_runtime.sources.parameter_sets import parameter_sets


def described(template: StreamTemplate, key: PacketInfo) -> StreamTemplate:
    """Return the template as the key frame itself describes the stream.

    A camera that changes its resolution says so in new parameter sets, while the template stays
    that of the connection's start.
    """
    sps, sets = parameter_sets(template.codec, key.data)
    size = template.width, template.height
    if (sps and sps not in (template.extradata or b"")) or 0 in size:
        size = _decoded_size(template, key) or size
    if not sps and size == (template.width, template.height):
        return template
    return StreamTemplate(
        codec=template.codec,
        extradata=sets or template.extradata,
        width=size[0],
        height=size[1],
        fps=template.fps,
        time_base=template.time_base,
    )


def _decoded_size(template: StreamTemplate, key: PacketInfo) -> tuple[int, int] | None:
    decoder = av.CodecContext.create(template.codec, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    if template.extradata and not parameter_sets(template.codec, key.data)[0]:
        decoder.extradata = template.extradata
    try:
        for image in [*decoder.decode(av.Packet(key.data)), *decoder.decode(None)]:
            return image.width, image.height
    except av.error.FFmpegError:
        return None
    return None
