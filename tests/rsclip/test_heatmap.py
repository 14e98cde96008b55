from __future__ import annotations

import io
import os
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from rsclip import heatmap, model
from rsclip.encode import Encoder
from rsdata.errors import RsdataError

SIZES = [((1000, 1000), 64), ((97, 61), 5), ((400, 30), 4), ((24, 24), 1), ((1023, 767), 33)]


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(model.create("rsclip-tiny"), batch_size=7)


@pytest.fixture
def noise(tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize(("size", "grid"), SIZES)
def test_patches_cover_the_image_and_neighbours_share_a_third(size, grid):
    boxes = np.array(heatmap.patches(size, grid)).reshape(grid, grid, 4)
    assert (boxes[0, 0, :2] == 0).all()
    assert tuple(boxes[-1, -1, 2:]) == size
    for axis, along in ((0, boxes[0]), (1, boxes[:, 0])):
        starts, ends = along[:, axis], along[:, axis + 2]
        exact = 3 * size[axis] / (2 * grid + 1)
        assert (abs(ends - starts - exact) <= 1).all()
        assert (abs(ends[:-1] - starts[1:] - exact / 3) <= 1).all()
    assert (boxes[..., 0] == boxes[:1, :, 0]).all()  # a column of the grid is a column of the image
    assert (boxes[..., 1] == boxes[:, :1, 1]).all()


@pytest.mark.parametrize(("size", "grid"), SIZES[1:4])
def test_overlapping_patches_are_averaged_at_each_pixel(size, grid):
    scores = np.random.default_rng(0).normal(size=(grid, grid)).astype(np.float32)
    total, count = np.zeros(size[::-1]), np.zeros(size[::-1])
    for (left, top, right, bottom), score in zip(heatmap.patches(size, grid), scores.flat, strict=True):
        total[top:bottom, left:right] += score
        count[top:bottom, left:right] += 1
    assert count.min() == 1
    found = heatmap.per_pixel(scores, size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, total / count, atol=1e-5)


def test_scores_are_those_of_open_clip_for_each_patch_alone(encoder, noise):
    found = heatmap.heatmap(encoder, noise, "busy airport", grid=5)
    assert (found.shape, found.dtype) == ((5, 5), np.float32)
    clip = encoder.clip
    with Image.open(noise) as picture, torch.no_grad():
        text = clip.model.encode_text(clip.tokenizer(["a busy airport"]), normalize=True)[0]
        for box, score in zip(heatmap.patches((140, 90), 5), found.flat, strict=True):
            image = clip.transform_eval(picture.crop(box))
            assert float(clip.model.encode_image(image[None], normalize=True)[0] @ text) == pytest.approx(
                score, abs=1e-5
            )


def test_scores_stand_where_the_patches_are(encoder, tmp_path):
    picture = Image.new("RGB", (190, 190), (120, 120, 120))  # 19 parts of 10 pixels: patches are squares
    ImageDraw.Draw(picture).rectangle((122, 31, 157, 38), fill=(230, 30, 30))
    picture.save(tmp_path / "red.png")
    found = heatmap.heatmap(encoder, tmp_path / "red.png", "ship", grid=9)
    touched = [
        left < 158 and right > 122 and top < 39 and bottom > 31
        for left, top, right, bottom in heatmap.patches(picture.size, 9)
    ]
    assert sum(touched) == 3
    assert ((abs(found - found[-1, 0]) > 1e-4) == np.array(touched).reshape(9, 9)).all()


def test_the_prompt_can_be_changed_and_braces_in_a_text_stay(encoder, noise):
    named = heatmap.heatmap(encoder, noise, "ship", grid=2)
    assert (heatmap.heatmap(encoder, noise, "a ship", grid=2, prompt="{}") == named).all()
    assert (heatmap.heatmap(encoder, noise, "ship", grid=2, prompt="no {}") != named).any()
    assert np.isfinite(heatmap.heatmap(encoder, noise, "{0} {}", grid=2)).all()
    for prompt in ("a ship", "{} {}"):
        with pytest.raises(RsdataError, match=r"expected one \{\}"):
            heatmap.heatmap(encoder, noise, "ship", grid=2, prompt=prompt)


@pytest.mark.parametrize(("size", "grid"), [((200, 120), 6), ((60, 300), 3), ((40, 40), 1)])
def test_the_png_shows_the_image_and_the_map_beside_it(encoder, tmp_path, size, grid):
    plain, mapped = tmp_path / "plain.png", tmp_path / "new" / "map.png"
    Image.new("RGB", size, (10, 150, 40)).save(plain)
    heatmap.heatmap(encoder, plain, "ship $x_", mapped, grid=grid)
    with Image.open(mapped) as shown:
        assert shown.format == "PNG"
        pixels = np.array(shown.convert("RGB"))
    is_plain = (pixels == (10, 150, 40)).all(-1)
    columns, rows = np.flatnonzero(is_plain.any(0)), np.flatnonzero(is_plain.any(1))
    assert np.ptp(columns) / np.ptp(rows) == pytest.approx(size[0] / size[1], rel=0.05)
    assert columns.max() < pixels.shape[1] / 2  # nothing of the map is the plain colour
    assert (pixels[rows.min() : rows.max(), columns.max() + 1 :] < 250).any()


@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp", "gif"])
def test_files_of_any_kind_are_read_as_pillow_reads_them(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    with Image.open(path) as picture:
        assert (np.array(heatmap.read(path)) == np.array(picture.convert("RGB"))).all()


def sixteen(path):
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(path)


def floats(path):
    Image.fromarray(np.ones((20, 20), np.float32)).save(path)


def bands(path):
    import rasterio

    with rasterio.open(path, "w", driver="GTiff", width=20, height=20, count=7, dtype="uint16") as raster:
        raster.write(np.ones((7, 20, 20), np.uint16))


def colours_of_16_bits(path):
    import rasterio

    about = {"driver": "GTiff", "width": 20, "height": 20, "count": 3, "dtype": "uint16"}
    with rasterio.open(path, "w", photometric="RGB", **about) as raster:
        raster.write(np.ones((3, 20, 20), np.uint16))


def words(path):
    path.write_text("no image")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("write", [sixteen, floats, bands, colours_of_16_bits, words])
def test_what_is_no_picture_of_8_bits_is_told_how_to_become_one(tmp_path, write):
    path = tmp_path / "scene.tif"
    write(path)
    with pytest.raises(RsdataError, match="RGB of 8 bits first") as told:
        heatmap.read(path)
    assert str(told.value).startswith(f"{path}: ")


def test_missing_damaged_and_huge_images_are_errors_that_name_the_file(tmp_path, encoder):
    with pytest.raises(RsdataError, match=r"nowhere\.png: No such file"):
        heatmap.read(tmp_path / "nowhere.png")
    with pytest.raises(RsdataError, match="directory"):
        heatmap.read(tmp_path)
    data = io.BytesIO()
    Image.fromarray(np.frombuffer(os.urandom(30_000), np.uint8).reshape(100, 100, 3)).save(data, "PNG")
    (tmp_path / "cut.png").write_bytes(data.getvalue()[:9_000])
    with pytest.raises(RsdataError, match=r"cut\.png: .*truncated"):
        heatmap.read(tmp_path / "cut.png")
    huge = bytearray(data.getvalue())
    huge[16:24] = (20_000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(huge)
    with pytest.raises(RsdataError, match=r"huge\.png: 20000x20000 is more than"):
        heatmap.heatmap(encoder, tmp_path / "huge.png", "ship")


def test_a_grid_too_fine_for_the_image_names_the_finest_that_is_not(tmp_path):
    path = tmp_path / "image.png"
    with pytest.raises(RsdataError, match=r"224x300 .* --grid 41 or less"):
        heatmap.check_grid(path, (224, 300), 64)
    heatmap.check_grid(path, (224, 300), 41)
    boxes = heatmap.patches((224, 300), 41)
    assert min(right - left for left, _, right, _ in boxes) >= heatmap.SMALLEST - 1
    with pytest.raises(RsdataError, match="--grid 41 or less"):
        heatmap.check_grid(path, (224, 300), 42)
    with pytest.raises(RsdataError, match=r"pixels$"):
        heatmap.check_grid(path, (5, 300), 1)
    with pytest.raises(RsdataError, match="at least 1"):
        heatmap.check_grid(path, (224, 300), 0)


def test_wrong_use_is_told_first(encoder, noise, tmp_path):
    with pytest.raises(RsdataError, match=r"written as \.png"):
        heatmap.heatmap(encoder, noise, "ship", tmp_path / "map.jpg", grid=2)
    with pytest.raises(RsdataError, match="empty"):
        heatmap.heatmap(encoder, noise, " ", grid=2)
