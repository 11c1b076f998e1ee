"""Copy measured tables from results/ into the README, so that the two always agree.

    python results/update_readme.py           # after results/ has changed
    python results/update_readme.py --check   # exit code 2 if the README is not up to date

Everything between a line `<!-- from results/PATH.md -->` and the next `<!-- end -->` is replaced by
the table rows of that file.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from segmentation.common.door import run_script
from segmentation.common.runfiles import Parser, UserError, write_text

BLOCK = re.compile(r"(?<=<!-- from )(\S+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)


def filled(text, root):
    """The Markdown `text` with each block filled from its file. UserError: no file or no table."""

    def fill(match):
        path = root / match[1]
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; copy the measured table there") from None
        rows = [line for line in lines if line.startswith("|")]
        if not rows:
            raise UserError(f"{path}: holds no table; copy one from segmentation/tables.py there")
        return "\n".join([match[1] + match[2], *rows, "\n"])

    return BLOCK.sub(fill, text)


def main():
    parser = Parser(__doc__)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--readme", type=Path, default=root / "README.md", help="file to update")
    parser.add_argument("--check", action="store_true", help="only check, change nothing")
    args = parser.parse_args()
    before = args.readme.read_text(encoding="utf-8")
    after = filled(before, args.readme.parent)
    if args.check and after != before:
        raise UserError(f"{args.readme}: is not up to date; run results/update_readme.py")
    if after != before:
        write_text(args.readme, after)


if __name__ == "__main__":
    run_script(main)
