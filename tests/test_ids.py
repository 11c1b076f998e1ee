"""Ids: one spelling, one line, and flat file names from which the id could be read back."""

import itertools
import re
import unicodedata

import numpy as np
import pytest

from segmentation.data.ids import LONGEST, RESERVED, bare, flat_name, id_of, index, plain, shown

ODD = ["a b", "-x", ".y", "x.y", "50%", "a#1", 'say "hi"', "it's", "$HOME$", "b`c", "😀", "ß",
       "日本", "क्षि", "a\\b", "C:x", "<>|?*", "con", "AUX.1", "lpt9", "a__b", "_a_", "~",
       "é" * 60]  # fmt: skip


def unflat(text):
    """Undo flat_name, written from its description: ~XX are bytes, __ is /."""
    tokens = re.findall(r"(?:~[0-9A-F]{2})+|__|.", text)
    return "".join(
        bytes.fromhex(token.replace("~", "")).decode()
        if token[0] == "~"
        else {"__": "/"}.get(token, token)
        for token in tokens
    )


def test_flat_names_of_every_short_id_can_be_read_back():
    seen = set()
    for length in range(1, 7):
        for signs in itertools.product("aA_/~", repeat=length):
            name = "".join(signs)
            if "//" not in name and name.strip("/") == name:
                assert unflat(flat_name(name)) == name
                seen.add(flat_name(name))
    assert len(seen) > 10000 and not any("/" in flat for flat in seen)


@pytest.mark.parametrize("name", [*ODD, *(f"P 1/{odd}" for odd in ODD), "/".join(ODD[:9])])
def test_flat_names_fit_any_file_system_and_tool(name):
    flat = flat_name(name)
    assert unflat(flat) == name
    assert not set(flat) & set("/\\<>:\"|?*#%&$`'") and flat[0] not in "-. "
    assert flat.partition(".")[0].upper() not in RESERVED
    assert len(flat.encode()) + len("_segmentation.png") < 255


def test_plain_ids_stay_as_they_are():
    for name in ("ISIC_0000000", "IMG 12 (1)", "a.b-c_d", "Müller_3"):
        assert flat_name(name) == name
    assert flat_name("PATIENT 1/IMG_2") == "PATIENT 1__IMG_2"


def test_random_flat_names_are_distinct():
    rng, alphabet = np.random.default_rng(0), list("ab_/~ .-%5Fé😀")
    names = {"".join(rng.choice(alphabet, rng.integers(1, 12))) for _ in range(5000)}
    assert len({flat_name(name) for name in names}) == len(names)


def test_long_flat_names_are_cut_but_stay_distinct():
    names = [f"{'😀' * 60}/{'x' * 200}{number}" for number in range(50)]
    flat = {flat_name(name) for name in names}
    assert len(flat) == 50 and all(len(name.encode()) <= LONGEST for name in flat)
    assert all("~~" in name for name in flat)  # which no whole name has: ~ is followed by a digit


def test_ids_are_composed_and_in_one_line():
    composed, parted = (unicodedata.normalize(form, "Mü/é.JPG") for form in ("NFC", "NFD"))
    assert composed != parted and id_of(composed) == id_of(parted) == "Mü/é"
    assert id_of("p/a.b.jpg") == "p/a.b" and bare("p/q/a") == "a" and bare("a") == "a"
    assert id_of("a\nb\r.png") == "a\\nb\\r"
    for sign in map(chr, range(0x3000)):  # one line, whatever a file is called
        assert len(f"x{plain(sign)}x".splitlines()) == 1
        assert plain(plain(sign)) == plain(sign)


def test_shown_bytes_that_are_not_utf8():
    name = b"caf\xe9 \xff.jpg".decode("utf-8", "surrogateescape")
    assert shown(name) == "caf\\xe9 \\xff.jpg"
    assert shown("Straße 😀 $") == "Straße 😀 $"


def test_an_image_is_found_by_any_name_that_is_its_own():
    files = {"P/a": "P/a.jpg", "Q/a": "Q/a.png", "b": "b.tif", "Q/b": "Q/b.bmp", "é": "e\u0301.jpg"}
    known = index(files)
    assert known["P/a"] == known["P/a.jpg"] == known["a.jpg"] == "P/a"
    assert known["a.png"] == "Q/a" and "a" not in known
    assert known["b"] == "b" and known["b.bmp"] == "Q/b"  # an id comes before a name without folder
    assert known[plain("e\u0301.jpg")] == "é"
