"""Records by what a person calls them: `scenes`, `scenes:1000`, or a folder."""

from pathlib import Path

from rectiflow.data.folder import FolderRecords
from rectiflow.data.scene_records import SceneRecords

SCENES = "scenes"


def named_records(
    name: str, *, size_px: int, seed: int = 0, num_scenes: int = 20_000
) -> SceneRecords | FolderRecords:
    """The records of a name.

    Args:
        name: "scenes", "scenes:N" for N of them, or the path of a folder.
        size_px: Side of their pictures.
        seed: Of scenes.
        num_scenes: Of "scenes" without a number.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no usable picture, or the number of scenes is none.
    """
    kind, colon, num = name.partition(":")
    if kind != SCENES:
        return FolderRecords(Path(name), size_px)
    if colon and not num.isdecimal():
        raise ValueError(f"scenes are asked for as scenes or scenes:N, got {name!r}")
    return SceneRecords(seed, int(num) if colon else num_scenes, size_px)
