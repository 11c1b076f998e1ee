"""What the tests of preprocess.py share: small picture folders, and a file server with moods."""

import contextlib
import functools
import http.server
import io
import re
import threading
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed, size=(40, 48), gray=False):
    """Random uint8 picture, h x w x 3 (h x w if `gray`)."""
    shape = size if gray else (*size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def blob(seed, size=(40, 48)):
    """Random uint8 mask h x w in {0,255}, with both values."""
    return np.random.default_rng(seed + 10**6).integers(0, 2, size, dtype=np.uint8) * 255


def save(path, array):
    """Save an array as a picture file of the format that its name says."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def make_set(root, count, images="images", masks="masks", first=0):
    """`count` distinct pairs A000.png, A000_segmentation.png ... below `root`."""
    for i in range(first, first + count):
        save(root / images / f"A{i:03d}.png", picture(i))
        save(root / masks / f"A{i:03d}_segmentation.png", blob(i))
    return root


def archive(names, entry=lambda name: name, extra=()):
    """Bytes of a zip archive that holds a small PNG under each name, and the `extra` entries."""
    png = io.BytesIO()
    Image.fromarray(blob(0)).save(png, "PNG")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in names:
            file.writestr(entry(name), png.getvalue())
        for info in extra:
            file.writestr(info, "evil")
    return out.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files` (name -> bytes); the moods are attributes of the server."""

    def do_GET(self):
        mood = self.server
        mood.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        content = mood.files.get(self.path.lstrip("/"))
        if content is None:
            self.send_error(404)
            return
        tag = f'"{len(content)}-{hash(content)}"'
        start = 0
        span = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if span and mood.ranges and self.headers.get("If-Range", tag) == tag:
            start = int(span[1])
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if mood.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if mood.cut:
            body, mood.cut = body[: mood.cut], 0
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serve(files, ranges=True, tags=True, cut=0):
    """A server of `files`: with or without Range and ETag; it hangs up once after `cut` bytes."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler))
    server.files, server.ranges, server.tags, server.cut = files, ranges, tags, cut
    server.requests = []
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
