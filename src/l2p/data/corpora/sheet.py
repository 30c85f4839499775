"""Owns the contact sheet: images of a corpus in rows, each above its caption."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from l2p.data.corpus import decode_image, measure_image
from l2p.errors import DataError
from l2p.files import atomic_path

CAPTION_LINES = 4
MARGIN_PX = 12
FONT_PX = 13
_LINE_PX = 17
_BACKGROUND, _INK, _PALE, _BROKEN = "white", "#222222", "#777777", "#f3d9d9"
# What a condition of a user's can raise inside pandas.
_CONDITION_ERRORS = (SyntaxError, NameError, KeyError, TypeError, ValueError, AttributeError, NotImplementedError)


def choose_rows(table: pd.DataFrame, *, where: str | None, count: int, seed: int | None) -> pd.DataFrame:
    """At most `count` rows that satisfy a pandas condition: spread evenly over the corpus, or drawn with `seed`.

    Raises:
        DataError: the condition cannot be evaluated, or no row satisfies it.
    """
    found = table if where is None else _matching(table, where)
    if found.empty:
        raise DataError(f"--where {where!r}: none of {len(table)} images satisfies it.")
    if len(found) <= count:
        return found
    if seed is not None:
        return found.sample(count, random_state=seed).sort_index()
    return found.iloc[[number * len(found) // count for number in range(count)]]


def _matching(table: pd.DataFrame, where: str) -> pd.DataFrame:
    try:
        found = table.query(where, engine="python")
    except _CONDITION_ERRORS as error:
        raise DataError(
            f"--where {where!r}: {' '.join(str(error).split())}. Expected a condition of pandas on the columns "
            f"{', '.join(table.columns)}, for example: style == 'dense' and text.str.contains('red')."
        ) from error
    if not isinstance(found, pd.DataFrame):
        raise DataError(f"--where {where!r}: no condition. Expected for example: style == 'dense'.")
    return found


def write_sheet(rows: pd.DataFrame, folder: Path, out: Path, *, columns: int, cell_px: int, title: str) -> None:
    """Draw the images of `rows` with their captions and write a PNG, atomically; a damaged image shows its problem."""
    lines = -(-len(rows) // columns)
    cell_height = cell_px + CAPTION_LINES * _LINE_PX + MARGIN_PX
    size = (columns * (cell_px + MARGIN_PX) + MARGIN_PX, lines * cell_height + 2 * MARGIN_PX + _LINE_PX)
    sheet, font = Image.new("RGB", size, _BACKGROUND), _font()
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, MARGIN_PX // 2), title, _PALE, font)
    for place, (name, text) in enumerate(zip(rows["file_name"], rows["text"], strict=True)):
        left = MARGIN_PX + place % columns * (cell_px + MARGIN_PX)
        top = MARGIN_PX + _LINE_PX + place // columns * cell_height
        _paste(sheet, draw, folder / name, (left, top), cell_px, font)
        for number, line in enumerate(_wrap(f"{Path(name).stem}: {text}", font, cell_px)):
            draw.text((left, top + cell_px + 2 + number * _LINE_PX), line, _INK, font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    with atomic_path(out) as partial:
        partial.write_bytes(buffer.getvalue())


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    path: Path,
    corner: tuple[int, int],
    cell_px: int,
    font: ImageFont.FreeTypeFont,
) -> None:
    left, top = corner
    found = measure_image(path)
    if not found["decodable"]:
        draw.rectangle((left, top, left + cell_px, top + cell_px), _BROKEN)
        problem = found["problem"] if found["file_found"] else "file missing"
        for number, line in enumerate(_wrap(str(problem), font, cell_px - MARGIN_PX)):
            draw.text((left + MARGIN_PX // 2, top + MARGIN_PX + number * _LINE_PX), line, _INK, font)
        return
    image = Image.fromarray(decode_image(path.read_bytes()))
    scale = cell_px / max(image.size)
    shown = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    sheet.paste(shown, (left + (cell_px - shown.width) // 2, top + (cell_px - shown.height) // 2))


def _wrap(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> list[str]:
    """Lines that fit; what does not fit on the last one is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font.getlength(longer) <= width_px:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > CAPTION_LINES:
        lines = [*lines[: CAPTION_LINES - 1], f"{lines[CAPTION_LINES - 1]} …"]
    return [_cut(line, font, width_px) for line in lines]


def _cut(line: str, font: ImageFont.FreeTypeFont, width_px: int) -> str:
    if font.getlength(line) <= width_px:
        return line
    line = line.removesuffix(" …")
    while line and font.getlength(f"{line}…") > width_px:
        line = line[:-1]
    return f"{line}…"


def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings: it has the letters of more languages than Pillow's own."""
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont("DejaVu Sans"), FONT_PX)
