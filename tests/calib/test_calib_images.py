"""Images become exactly the arrays that the usual preprocessing makes of them; broken ones are named and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from qgraph.calib.data.images import ImageOptions, load_image, preparation_for
from qgraph.calib.data.source import DataSource, open_data
from qgraph.errors import DataError, QgraphError, UsageError
from qgraph.ir.elements import Tensor

IMAGENET = ImageOptions(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
ANY = Tensor("x", "float32", ("n", 3, "h", "w"))
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)


def save(path: Path, pixels: NDArray[np.uint8] = PIXELS) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def arrays(source: DataSource) -> list[NDArray[np.float32]]:
    return [sample.arrays["x"] for sample in source.samples()]


def load(path: Path, spec: Tensor = ANY, options: ImageOptions | None = None) -> NDArray[np.float32]:
    return load_image(path, preparation_for(options or ImageOptions(), [spec]))


def test_pixels_are_scaled_normalised_and_laid_out(tmp_path: Path) -> None:
    found = load(save(tmp_path / "a.png"), options=IMAGENET)
    scaled = PIXELS.astype(np.float32) / 255
    expected = (scaled - np.asarray(IMAGENET.mean, np.float32)) / np.asarray(IMAGENET.std, np.float32)
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1)[None])


def test_bgr_feeds_blue_first_and_normalises_in_the_order_of_feeding(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    found = load(path, options=ImageOptions(bgr=True, mean=(0.5, 0.25, 0.0)))
    expected = load(path)[:, ::-1] - np.asarray((0.5, 0.25, 0.0), np.float32)[:, None, None]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        (("n", 3, 8, 12), None, (1, 3, 8, 12)),
        (("n", 8, 12, 3), None, (1, 8, 12, 3)),
        (None, None, (1, 3, 8, 12)),
        (("n", None, None, None), "nhwc", (1, 8, 12, 3)),
        (("n", 1, None, None), None, (1, 1, 8, 12)),
        (("n", 3, 4, 6), None, (1, 3, 4, 6)),
        (("n", 3, 4, "w"), None, (1, 3, 4, 6)),
        ((1, 3, "h", 24), None, (1, 3, 16, 24)),
    ],
)
def test_layout_channels_and_size_are_read_off_the_model(
    tmp_path: Path, shape: tuple[int | str | None, ...] | None, layout: str | None, expected: tuple[int, ...]
) -> None:
    options = ImageOptions(layout=layout)  # type: ignore[arg-type]
    assert load(save(tmp_path / "a.png"), Tensor("x", "float32", shape), options).shape == expected


def test_stretching_keeps_the_whole_image_and_cropping_its_proportion(tmp_path: Path) -> None:
    halves = np.zeros((10, 40, 3), np.uint8)
    halves[:, 20:] = 255
    halves[:, :10] = 128  # only stretching shows this
    path = save(tmp_path / "a.png", halves)
    stretched = load(path, options=ImageOptions(size=(10, 10)))
    cropped = load(path, options=ImageOptions(size=(10, 10), resize="crop"))
    assert stretched[0, 0, 0, 0] == pytest.approx(0.5, abs=0.01)
    np.testing.assert_array_equal(cropped[0, 0, 5], [0] * 5 + [1] * 5)


def test_an_input_of_bytes_gets_the_pixels_as_they_are(tmp_path: Path) -> None:
    found = load(save(tmp_path / "a.png"), Tensor("x", "uint8", (1, 8, 12, 3)))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], PIXELS)


def write_palette(path: Path) -> None:
    Image.fromarray(np.full((4, 4, 3), 255, np.uint8)).convert("P").save(path)


def write_sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(path)


def write_transparent(path: Path) -> None:
    Image.fromarray(np.full((4, 4, 4), 255, np.uint8)).save(path)


def write_gray(path: Path) -> None:
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(path)


def write_bits(path: Path) -> None:
    Image.new("1", (4, 4), 1).save(path)


@pytest.mark.parametrize("write", [write_palette, write_sixteen_bits, write_transparent, write_gray, write_bits])
def test_every_kind_of_pixel_becomes_rgb_in_0_to_1(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "white.png")
    np.testing.assert_array_equal(load(tmp_path / "white.png"), np.ones((1, 3, 4, 4), np.float32))


def test_a_photograph_taken_upright_is_fed_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn right
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load(tmp_path / "a.png"), np.rot90(load(save(tmp_path / "b.png")), -1, (2, 3)))


def write_broken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """text.jpg, cut.png, empty.bmp, bomb.png, gone.webp, float.tif."""
    (folder / "text.jpg").write_text("no image")
    whole = save(folder / "cut.png", np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole.write_bytes(whole.read_bytes()[:-2000])
    (folder / "empty.bmp").touch()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    save(folder / "bomb.png", np.zeros((80, 80, 3), np.uint8))
    (folder / "gone.webp").symlink_to(folder / "nowhere")
    Image.new("F", (4, 4)).save(folder / "float.tif")


def test_broken_images_are_left_out_counted_and_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_broken(tmp_path, monkeypatch)
    save(tmp_path / "good.png")
    source = open_data(tmp_path, [ANY])
    for _ in range(2):
        assert len(arrays(source)) == 1
    assert source.notes() == (
        "6 of 7 images cannot be read and are left out: bomb.png, cut.png, empty.bmp, float.tif, gone.webp, text.jpg",
    )


def test_many_broken_images_are_counted_after_the_first_ten(tmp_path: Path) -> None:
    for index in range(12):
        (tmp_path / f"{index:02}.png").touch()
    save(tmp_path / "good.png")
    source = open_data(tmp_path, [ANY])
    source.census()
    (note,) = source.notes()
    assert note.startswith("12 of 13 images")
    assert note.endswith("09.png and 2 more")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("text.jpg", "no known image format"),
        ("cut.png", "cut.png"),
        ("bomb.png", "more than 5000 pixels"),
        ("gone.webp", "No such file"),
        ("float.tif", "32 bits per pixel"),
    ],
)
def test_a_broken_image_that_is_not_to_be_skipped_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    write_broken(tmp_path, monkeypatch)
    for path in tmp_path.iterdir():
        if path.name != name:
            path.unlink()
    source = open_data(tmp_path, [ANY], images=ImageOptions(broken="refuse"))
    with pytest.raises(DataError, match="an image cannot be read") as found:
        source.census()
    assert reason in str(found.value)


def test_a_folder_of_broken_images_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    with pytest.raises(DataError, match=r"none of 2 images can be read: .*a\.png"):
        open_data(tmp_path, [ANY]).census()


def test_the_samples_are_those_of_the_arrays_and_come_in_the_order_of_the_names(tmp_path: Path) -> None:
    for name, shade in (("b.png", 20), ("a.png", 10), ("c.png", 30)):
        save(tmp_path / name, np.full((4, 4, 3), shade, np.uint8))
    images = open_data(tmp_path, [ANY])
    values = np.stack([np.full((3, 4, 4), shade, np.float32) / np.float32(255) for shade in (10, 20, 30)])
    assert [sample.hash for sample in images.samples()] == [
        sample.hash for sample in open_data(values, [ANY]).samples()
    ]
    assert open_data(tmp_path / "b.png", [ANY]).census() == open_data(values[1:2], [ANY]).census()


def test_the_preparation_is_told_with_everything_that_it_depends_on() -> None:
    assert str(preparation_for(ImageOptions(size=(None, 48), bgr=True, mean=(0.5,)), [ANY])) == (
        "images size=x48 resize=stretch channels=BGR mean=0.5,0.5,0.5 std=1.0,1.0,1.0 layout=nchw"
    )
    spelled_out = ImageOptions(size=(12, 8), mean=(0.0, 0.0, 0.0), std=(1.0,), layout="nchw")
    static = Tensor("x", "float32", (1, 3, 8, 12))
    assert str(preparation_for(spelled_out, [static])) == str(preparation_for(ImageOptions(), [static]))


@pytest.mark.parametrize(
    ("inputs", "options", "error", "words"),
    [
        ([ANY, ANY], ImageOptions(), DataError, "2 inputs"),
        ([Tensor("x", "int64", ("n", 3, 8, 8))], ImageOptions(), DataError, "takes no images"),
        ([Tensor("x", "float32", ("n", 80))], ImageOptions(), DataError, "rank 2"),
        ([Tensor("x", "float32", ("n", 4, 8, 8))], ImageOptions(), DataError, "4 channels"),
        ([Tensor("x", "float32", ("n", 3, 8, 8))], ImageOptions(size=(9, 8)), UsageError, "takes 8x8"),
        ([ANY], ImageOptions(size=(0, 8)), UsageError, "positive"),
        ([ANY], ImageOptions(size=(10**6, 10**6)), UsageError, "too large"),
        ([ANY], ImageOptions(mean=(0.5, 0.5)), UsageError, "2 numbers"),
        ([ANY], ImageOptions(mean=(123.7, 116.8, 103.9)), UsageError, "divide"),
        ([ANY], ImageOptions(std=(0.0,)), UsageError, "above 0"),
        ([ANY], ImageOptions(mean=(float("nan"),)), UsageError, "finite"),
        ([Tensor("x", "float32", ("n", 1, 8, 8))], ImageOptions(bgr=True), UsageError, "one channel"),
        ([Tensor("x", "uint8", ("n", 3, 8, 8))], IMAGENET, UsageError, "0..255"),
    ],
)
def test_options_that_cannot_work_are_one_line(
    tmp_path: Path, inputs: list[Tensor], options: ImageOptions, error: type[QgraphError], words: str
) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(error) as found:
        open_data(tmp_path, inputs, images=options)
    assert words in str(found.value)


def test_image_options_for_data_that_is_no_images_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((1, 3, 4, 4), np.float32))
    for data in (tmp_path, tmp_path / "a.npz", [np.zeros((1, 3, 4, 4), np.float32)]):
        with pytest.raises(UsageError, match="image options"):
            open_data(data, [ANY], images=IMAGENET)
