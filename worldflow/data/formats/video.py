"""The format "video": a folder of videos, each an episode, with actions and captions beside them.

Videos are mp4, mkv, webm, avi or mov, of any length and rate, at any depth, in order of their
paths; what is hidden is skipped. Row t of an action file (`worldflow.data.formats.action_files`) is
the action taken while frame t was on screen. A text file of the video's stem (`.txt`) says in words
what the whole video shows.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from worldflow.data.formats.action_files import ACTION_SUFFIXES, Steps, read_steps
from worldflow.data.formats.base import Format, RawEpisode, readable
from worldflow.data.formats.captions import CAPTION_SUFFIX, read_caption
from worldflow.data.formats.decoding import VIDEO_SUFFIXES, open_video, read_frames
from worldflow.data.formats.files import inside, visible
from worldflow.data.formats.recorded_actions import infer_action_spec
from worldflow.errors import DataError

# Codecs; H.264 and H.265 can be lossless, which the file does not tell.
LOSSLESS = {"ffv1", "ffvhuff", "huffyuv", "png", "rawvideo", "utvideo"}


class VideoFolder:
    """The videos of a folder, or a single video, as `RawDataset`; its `names` are their paths.

    Attributes:
        fps: average rate of the first video whose header can be read.
        lossy: the lossy codecs of all videos; H.264 and H.265 count, coarser colour (yuv420p) alone
            does not.

    Raises:
        DataError: no video is there or readable, or their actions are of several kinds.
    """

    format = "video"
    alignment = "taken_at"

    def __init__(self, path: Path) -> None:
        single = path.is_file()
        self._root = path.parent if single else path
        self._videos: list[Path] = []
        self._beside: dict[Path, list[Path]] = {}
        self._captions: dict[Path, Path] = {}
        for file in sorted(self._root.iterdir() if single else visible(path)):
            if file.suffix.lower() in ACTION_SUFFIXES:
                self._beside.setdefault(file.with_suffix(""), []).append(file)
            elif file.suffix.lower() == CAPTION_SUFFIX:
                self._captions[file.with_suffix("")] = file
            elif file.suffix.lower() in VIDEO_SUFFIXES and (not single or file == path):
                self._videos.append(file)
        if not self._videos:
            raise DataError(f"{path}: no videos there; they end in {', '.join(VIDEO_SUFFIXES)}")
        self.names = [video.relative_to(self._root).as_posix() for video in self._videos]
        self.source = {"path": str(path), "videos": len(self._videos)}
        recorded = readable(self.names, lambda i: self._steps(self._videos[i]).actions)
        self.action_spec = infer_action_spec((name, a) for name, a in recorded if a is not None)
        self.fps, self.lossy = self._rate_and_codecs()

    def open(self, index: int) -> RawEpisode:
        """The video `names[index]`, its actions and its caption.

        Raises:
            DataError: the video's header, its action file or its caption cannot be read, there are
                two action files, or a link leads out of the folder.
            ConfigError: the actions are in a parquet file, and pyarrow is not installed.
        """
        video = inside(self._root, self._videos[index])
        with open_video(video):  # raises where the header is damaged
            pass
        name, read, steps = self.names[index], partial(read_frames, video), self._steps(video)
        caption = self._captions.get(video.with_suffix(""))
        return RawEpisode(
            name,
            read,
            actions=steps.actions,
            rewards=steps.rewards,
            terminated=steps.terminated,
            caption=None if caption is None else read_caption(inside(self._root, caption)),
        )

    def _steps(self, video: Path) -> Steps:
        files = self._beside.get(video.with_suffix(""), [])
        if len(files) > 1:
            raise DataError(
                f"{video}: {' and '.join(file.name for file in files)} lie beside it; keep one"
            )
        return read_steps(inside(self._root, files[0])) if files else Steps()

    def _rate_and_codecs(self) -> tuple[float, str | None]:
        rate, codecs, errors = 0.0, set(), []
        for video in self._videos:
            try:
                with open_video(inside(self._root, video)) as opened:
                    codecs.add(opened.codec)
                    rate = rate or opened.rate
            except DataError as error:  # named when its episode is opened
                errors.append(error)
        if not rate:
            raise DataError(f"none of {len(errors)} videos can be read; the first: {errors[0]}")
        lossy = sorted(codecs - LOSSLESS)
        return rate, f"{', '.join(lossy)} video" if lossy else None


def _detect(path: Path) -> bool:
    files = [path] if path.is_file() else visible(path)
    return any(file.suffix.lower() in VIDEO_SUFFIXES for file in files)


VIDEO = Format(
    name="video",
    describes="videos (mp4, mkv, webm, avi, mov), beside each actions (npz, csv, jsonl, parquet) "
    "and caption (txt)",
    detect=_detect,
    open=VideoFolder,
)
