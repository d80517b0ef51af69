"""Folders for the tests of the data layer, and a cache of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.image_sets import picture


@pytest.fixture(autouse=True, scope="session")
def _cache_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """make_folder({"train/cat": 3, …}) → a folder with that many JPEGs in each of these folders."""

    def make(sizes: dict[str, int], root: str = "photos") -> Path:
        for folder, count in sizes.items():
            here = tmp_path / root / folder
            here.mkdir(parents=True)
            for i in range(count):
                picture(i).save(here / f"{i:03d}.jpg")
        return tmp_path / root

    return make
