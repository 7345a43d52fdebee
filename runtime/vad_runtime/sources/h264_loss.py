"""Notices pictures of an H.264 stream that were lost on the way.

FFmpeg's decoder shows whatever follows a lost picture as if nothing had happened: it flags pictures
that came in part, but not those whose reference never came (seen with FFmpeg 8.0: after one lost
packet all pictures up to the next key frame differ, none is marked corrupt). The stream itself
says it: the picture after a reference picture has its `frame_num` plus one (ITU-T H.264, 7.4.3), so
any other is a loss.
"""

import re

_START_CODE = re.compile(rb"\x00\x00\x01")
_SLICE, _IDR, _SPS, _PPS = 1, 5, 7, 8
_HEAD_BYTES = 64  # all that is read of a slice; an SPS with scaling lists may be longer
_SPS_BYTES = 512
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_ENOUGH = 50


class H264Loss:
    """Follows `frame_num` from packet to packet. One thread.

    Args:
        extradata: The codec's header, as Annex B or avcC; None = parameter sets are in the packets.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._length_bytes = _avcc_length(extradata)
        self._bits = 0  # of frame_num; 0 = unknown yet, or not to be used
        self._separate_planes = False
        self._fields = False  # a second field has the number of the first
        self._before: int | None = None
        self._seen = 0
        self._losses = 0
        if extradata:
            units = _units_of_avcc(extradata) if self._length_bytes else _annex_b(extradata)
            for unit in units:
                self._parameters(unit)

    def lost_before(self, packet: bytes, *, key: bool) -> bool:
        """Return whether a picture between the packet before and this one is missing.

        Never raises: what cannot be read says nothing. A stream that would lose every second
        picture counts otherwise than the standard says, and is believed.

        Args:
            packet: One picture, as it came.
            key: Whether it is a key frame.
        """
        try:
            number, reference, idr = self._frame_num(packet, key)
        except (IndexError, ValueError):
            return False
        if number is None:
            return False
        before = self._before
        follows = before is None or idr or number == (before + 1) % (1 << self._bits)
        follows = follows or (self._fields and number == before)
        if reference or not follows:
            self._before = number
        self._seen += 1
        self._losses += not follows
        return not follows and not (self._seen >= _ENOUGH and self._losses * 2 > self._seen)

    def _frame_num(self, packet: bytes, key: bool) -> tuple[int | None, bool, bool]:
        length = self._length_bytes
        units = _length_prefixed(packet, length) if length else _annex_b(packet, whole=key)
        for unit in units:
            kind = unit[0] & 31
            if kind == _SPS:
                self._parameters(unit)
            elif kind in (_SLICE, _IDR) and self._bits:
                bits = _Bits(unit[1 : 1 + _HEAD_BYTES])
                bits.unsigned()  # first_mb_in_slice
                bits.unsigned()  # slice_type
                bits.unsigned()  # pic_parameter_set_id
                if self._separate_planes:
                    bits.read(2)
                return bits.read(self._bits), bool(unit[0] & 0x60), kind == _IDR
        return None, False, False

    def _parameters(self, unit: bytes) -> None:
        """Read a sequence parameter set (7.3.2.1.1); a broken one changes nothing."""
        if not unit or unit[0] & 31 != _SPS:
            return
        try:
            bits = _Bits(unit[1 : 1 + _SPS_BYTES])
            profile = bits.read(8)
            bits.read(16)
            bits.unsigned()
            separate = profile in _HIGH_PROFILES and _skip_high(bits)
            frame_num_bits = bits.unsigned() + 4
            gaps = _gaps_allowed(bits)
            bits.unsigned()  # pic_width_in_mbs_minus1
            bits.unsigned()  # pic_height_in_map_units_minus1
            fields = not bits.read(1)  # frame_mbs_only_flag
        except (IndexError, ValueError):
            return
        if not 4 <= frame_num_bits <= 16:
            return
        self._separate_planes, self._fields = separate, fields
        self._bits = 0 if gaps else frame_num_bits


def _skip_high(bits: "_Bits") -> bool:
    """Pass over what high profiles have in front; return separate_colour_plane_flag."""
    chroma = bits.unsigned()
    separate = chroma == 3 and bool(bits.read(1))
    bits.unsigned()
    bits.unsigned()
    bits.read(1)
    if bits.read(1):  # seq_scaling_matrix_present_flag
        for i in range(8 if chroma != 3 else 12):
            if bits.read(1):
                last = following = 8
                for _ in range(16 if i < 6 else 64):
                    if following:
                        following = (last + bits.signed()) % 256
                    last = following or last
    return separate


def _gaps_allowed(bits: "_Bits") -> bool:
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.read(1)
        bits.signed()
        bits.signed()
        for _ in range(min(bits.unsigned(), 255)):
            bits.signed()
    bits.unsigned()  # max_num_ref_frames
    return bool(bits.read(1))


class _Bits:
    """Reads bits of a NAL unit, without its emulation prevention bytes."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        if count > self._left:
            raise ValueError("no more bits")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def unsigned(self) -> int:
        """ue(v): Exp-Golomb."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 31:
                raise ValueError("no Exp-Golomb code")
        return (1 << zeros) - 1 + self.read(zeros)

    def signed(self) -> int:
        """se(v)."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _annex_b(data: bytes, *, whole: bool = True) -> list[bytes]:
    """Split at start codes; not `whole` = only units that start in the first bytes.

    A packet without parameter sets starts with its slice, or with a few small units before it.
    """
    codes = list(_START_CODE.finditer(data, 0, len(data) if whole else min(len(data), 1024)))
    ends = [code.start() for code in codes[1:]] + [len(data)]
    units = (data[code.end() : end] for code, end in zip(codes, ends, strict=True))
    return [unit.rstrip(b"\0") if whole else unit for unit in units if unit]


def _length_prefixed(data: bytes, length_bytes: int) -> list[bytes]:
    units, at = [], 0
    while at + length_bytes < len(data):
        size = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        if size == 0:
            continue
        units.append(data[at : at + size])
        at += size
    return units


def _avcc_length(extradata: bytes | None) -> int:
    """Return the bytes of a unit's length; 0 = Annex B."""
    if not extradata or len(extradata) < 7 or extradata[0] != 1:
        return 0
    return (extradata[4] & 3) + 1


def _units_of_avcc(extradata: bytes) -> list[bytes]:
    """Return the SPS of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1)."""
    units, at = [], 6
    for _ in range(extradata[5] & 31):
        size = int.from_bytes(extradata[at : at + 2], "big")
        units.append(extradata[at + 2 : at + 2 + size])
        at += 2 + size
    return units
