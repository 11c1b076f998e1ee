"""Masks as lengths of runs, as COCO and Label Studio store them.

COCO: the lengths of the runs down the columns, alternately skin and lesion, the first of skin. As
text, each length is the difference to the one before the last, in groups of five bits plus a sixth
that says whether more follow (cocodataset/cocoapi, maskApi.c). pycocotools reads and writes this
too, but does not notice lengths that do not fit the image and then returns whatever lies in memory.

Label Studio's brush: the four channels of all pixels by rows, packed by @thi.ng/rle-pack, which is
described in label_studio_sdk/converter/brush.py: 32 bits for the number of values, 5 for the bits
of a value less one, four times 4 for the bits of a length less one; then, until all values are
there, 1 bit that says whether a run (of one value) or a list follows, 2 bits that choose one of the
four sizes, the length less one, and the value or the values.
"""

import numpy as np

BRUSH_SIZES = (3, 4, 8, 16)  # bits of a length


def runs(values):
    """The lengths of the runs in a non-empty 1-D array, and the value of each run."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return np.diff(np.append(starts, len(values))), values[starts]


# COCO -------------------------------------------------------------------------------------------


def coco_counts(mask):
    """bool H x W -> the lengths of its runs, a list of int."""
    lengths, values = runs(np.asarray(mask, dtype=bool).T.ravel())
    return [0] * bool(values[0]) + lengths.tolist()


def coco_mask(counts, size):
    """Lengths of runs, as a list or as text -> bool H x W; ValueError if they do not fit."""
    if isinstance(counts, str):
        counts = text_to_counts(counts)
    counts = np.array(counts, dtype=np.int64)
    if counts.ndim != 1 or (counts < 0).any() or counts.sum() != size[0] * size[1]:
        raise ValueError(f"its runs do not add up to the {size[0]}x{size[1]} pixels of the image")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T


def counts_to_text(counts):
    """Lengths of runs -> COCO's compressed text."""
    text = []
    for place, count in enumerate(counts):
        rest = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + 32 * more))
    return "".join(text)


def text_to_counts(text):
    """COCO's compressed text -> lengths of runs; ValueError if it is not such a text."""
    counts, number, shift = [], 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its compressed runs contain {letter!r}")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) << (shift - 4)
            counts.append(number + counts[-2] if len(counts) > 2 else number)
            number = shift = 0
    if shift:
        raise ValueError("its compressed runs are cut off")
    return counts


# Label Studio -----------------------------------------------------------------------------------


def brush_bytes(mask):
    """bool H x W -> Label Studio's brush, a list of bytes: 255 in all channels where lesion."""
    lengths, values = runs(np.asarray(mask, dtype=bool).ravel())
    head = f"{4 * np.size(mask):032b}{8 - 1:05b}" + "".join(f"{s - 1:04b}" for s in BRUSH_SIZES)
    bits = [head]
    for length, lesion in zip((4 * lengths).tolist(), values.tolist(), strict=True):
        value = "1" * 8 if lesion else "0" * 8
        while length:
            choice = next((i for i, s in enumerate(BRUSH_SIZES) if length <= 2**s), 3)
            part = min(length, 2 ** BRUSH_SIZES[choice])
            bits.append(f"1{choice:02b}{part - 1:0{BRUSH_SIZES[choice]}b}{value}")
            length -= part
    bits = np.frombuffer("".join(bits).encode(), dtype=np.uint8) - ord("0")
    return np.packbits(bits).tolist()


def brush_mask(content, size):
    """Label Studio's brush, a list of bytes -> bool H x W; ValueError if it does not fit the size.

    Lesion is what is at least half as opaque as the most opaque pixel: the edges of brush strokes
    are soft, and early versions stored strokes half transparent.
    """
    bits = np.unpackbits(np.frombuffer(bytes(list(content)), dtype=np.uint8))
    digits, place = bits.tobytes().translate(bytes.maketrans(b"\0\1", b"01")), 0

    def read(count):
        nonlocal place
        place += count
        if place > len(digits):
            raise ValueError("its brush is cut off")
        return int(digits[place - count : place], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1] or word != 8:
        raise ValueError(f"its brush does not have the {size[0]}x{size[1]} pixels of the image")
    values, done = np.empty(total, dtype=np.uint8), 0
    while done < total:
        is_run = read(1)
        end = done + read(sizes[read(2)]) + 1
        if end > total:
            raise ValueError("its brush has more pixels than the image")
        if is_run:
            values[done:end] = read(8)
        else:
            last = place + 8 * (end - done)
            if last > len(bits):
                raise ValueError("its brush is cut off")
            values[done:end] = np.packbits(bits[place:last])
            place = last
        done = end
    alpha = values[3::4].reshape(size)
    return alpha >= max(1, alpha.max() / 2)
