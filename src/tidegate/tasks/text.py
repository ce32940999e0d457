"""Text models: bytes in, the probability of each next byte out; and text of their own.

N bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from torch import Tensor

from tidegate.data.plain import Text, read_text
from tidegate.errors import DataError
from tidegate.tasks.learner import Learner, Report
from tidegate.tasks.text_config import TextConfig
from tidegate.tasks.text_generate import check_sampling, generate, prompt_bytes
from tidegate.tasks.text_job import TextJob, byte_bits, streams
from tidegate.tasks.text_network import TextNet


class TextModel(Learner):
    """Learns to say what comes next in a text, byte by byte, and writes text of its own.

    Parameters
    ----------
    **options
        Fields of :class:`TextConfig`: the same as the command line's options and the lines of a
        ``config.toml``.

    Attributes
    ----------
    model_ : TextNet
    notes_, predict_notes_, training_
        As in :class:`~tidegate.tasks.learner.Learner`.

    Examples
    --------
    >>> model = tg.TextModel(hidden_size=256).fit("plays.txt")
    >>> model.evaluate()["models"]["LSTM"]["bits_per_byte"]
    >>> print("".join(model.generate("To be", length=300, temperature=0.8)))
    """

    task: ClassVar[str] = "text"
    Config = TextConfig
    what: ClassVar[str] = "lines"
    help: ClassVar[str] = """Train a language model on text and score it on the last part, kept untouched.

    Such as: tidegate train text plays.txt --hidden-size 256
    """
    data_help: ClassVar[str] = (
        "A plain text file (or one that ends in .xz, .gz or .bz2), or a folder of them, taken in the order of their "
        "paths."
    )
    table_fields: ClassVar[tuple[str, ...]] = ("validation", "test")
    config: TextConfig
    resolved_: TextConfig
    model_: TextNet
    text_: Text | None = None  # of fit; read again after load
    ends_: tuple[int, int]  # where the part that trains ends, and the one that stops
    digest_: str  # of both parts

    def fit(self, data: Any, *, folder: str | Path | None = None, resume: bool = False, progress: bool = False) -> Self:
        """Train on the first part of a text, stop by the next, leave the last alone.

        Parameters
        ----------
        data : path of a file or of a folder, or bytes
        folder, resume, progress
            As in :class:`~tidegate.tasks.forecast.Forecaster`.

        Raises
        ------
        DataError, ConfigError, TrainingStopped
            With one sentence that says what is wrong, where, and what to do.
        """
        return self._fit(data, folder, resume=resume, progress=progress)

    def predict(self, data: Any) -> pl.DataFrame:
        """What each line of a text costs.

        Parameters
        ----------
        data
            As for ``fit``. Each line is scored given all that stands before it.

        Returns
        -------
        polars.DataFrame
            A row a line: ``file`` (of a folder), ``line`` from 1, ``bytes`` with the line break,
            ``bits``, ``bits_per_byte``, ``perplexity`` (2 to the bits per byte) and ``text``.
        """
        self._check_fitted("predict")
        text = self._read(data)
        self.predict_notes_ = text.notes
        bits = self.byte_bits(text.data)
        starts = text.lines()  # (R,)
        sizes = np.diff([*starts, len(text)])
        file = np.searchsorted(text.starts, starts, side="right") - 1
        first = np.searchsorted(starts, text.starts)
        cost = np.add.reduceat(bits, starts)
        raw = text.data.tobytes()
        lines = [raw[a : a + n].decode(errors="replace").rstrip("\r\n") for a, n in zip(starts, sizes, strict=True)]
        frame = pl.DataFrame(
            {
                "line": np.arange(len(starts)) - first[file] + 1,
                "bytes": sizes,
                "bits": cost,
                "bits_per_byte": cost / sizes,
                "perplexity": 2.0 ** (cost / sizes),
                "text": lines,
            }
        )
        if text.folder:
            frame = frame.insert_column(0, pl.Series("file", [text.files[k] for k in file]))
        return frame

    def byte_bits(self, data: Any, before: Any = None) -> np.ndarray:
        """Bits that each byte of a text costs (N,), given those before it and, if any, the text before.

        Long texts are scored in parts side by side, each after the 1,024 bytes before it.
        """
        self._check_fitted("byte_bits")
        earlier = None if before is None else read_text(before).data
        return byte_bits(self.model_.eval(), read_text(data).data, earlier)

    def generate(
        self, prompt: str | bytes = "", length: int = 500, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0
    ) -> Iterator[str]:
        """Write on after a prompt.

        Parameters
        ----------
        prompt : str or bytes
            What the text begins with; a fresh line by default. It is not given back.
        length : int
            Characters.
        temperature : float
            Below 1 the model keeps to what is probable, above 1 it dares more; 0 always takes the most
            probable byte.
        top_p : float
            Only the fewest bytes that together reach this probability are drawn from.
        seed : int
            The same one gives the same text.

        Yields
        ------
        str
            A character, or a few, as soon as they are whole; "".join(...) for all at once.

        Raises
        ------
        ConfigError
            At the call, if an argument is none of these.
        """
        self._check_fitted("generate")
        check_sampling(length, temperature, top_p, seed)
        return generate(self.model_.eval(), prompt_bytes(prompt), length, temperature, top_p, seed)

    def evaluate(self, data: Any = None, *, compare: Sequence[str] = (), progress: bool = False) -> dict[str, Any]:
        """Bits per byte of a text that training has not seen, beside baselines.

        Parameters
        ----------
        data
            As for ``fit``; the untouched last part of the text of ``fit`` by default.
        compare : sequence of str
            Other forms to train and put beside: "rnn" or "lstm".
        progress : bool

        Returns
        -------
        dict
            As :func:`tidegate.tasks.text_report.evaluate`.
        """
        from tidegate.tasks.text_report import evaluate

        return evaluate(self, *self.untouched(data), compare=compare, progress=progress)

    def report(
        self, folder: Path, data: Any = None, *, compare: Sequence[str] = (), command: str = "", progress: bool = False
    ) -> Report:
        """As :meth:`evaluate`, with ``metrics.json`` and the card in a run folder."""
        from tidegate.tasks.text_report import write_report

        return write_report(self, folder, data, compare=compare, command=command, progress=progress)

    def untouched(self, data: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
        """The bytes to score, and those just before them.

        Raises
        ------
        DataError
            If there are none.
        """
        self._check_fitted("evaluate")
        if not self.is_own(data):
            return read_text(data).data, None
        text, end = self.training_text().data, self.ends_[1]
        if end == len(text):
            raise DataError("there is no text to score: none was kept untouched (--test 0); give another")
        return text[end:], text[:end]

    def training_text(self) -> Text:
        """The text of ``fit``; read again after ``load``.

        Raises
        ------
        DataError
            If it is not the same any more.
        """
        if self.text_ is None:
            text = read_text(self._source(None))
            if _digest(text.data[: self.ends_[1]]) != self.digest_:
                raise DataError(
                    f"{self.data_} has changed since the model was trained on it, so that what is untouched cannot be "
                    "told; give the text to score"
                )
            self.text_ = text
        return self.text_

    def twin(self, form: str, *, progress: bool = False) -> TextModel:
        """Another form of the model, trained on the same text; kept in the run folder, and gone on with there."""
        changed = dict(self._form(form))
        if changed["cell"] == "rnn":
            changed["weight_dropout"] = 0.0
        return self._beside(form, changed, self.training_text, progress=progress)

    @property
    def form(self) -> str:
        """The model in a word."""
        return self.resolved_.cell.upper()

    # -- what the skeleton asks for ---------------------------------------------------------------

    def _read(self, data: Any) -> Text:
        return read_text(data)

    def _prepare(self, data: Text) -> None:
        """Part the text."""
        c, size = self.config, len(data)
        stop = round(size * (1 - c.test))
        end = round(size * (1 - c.test - c.validation)) if c.validation else stop
        if not streams(end, c):
            raise DataError(
                f"the text is too short: {end:,} of its {size:,} bytes would train, and more than three windows of "
                f"{c.window} are needed; give more text, or lower --window"
            )
        self.resolved_, self.text_, self.ends_ = c, data, (end, stop)
        self.digest_ = _digest(data.data[:stop])
        said = [f"the first {end:,} bytes train"]
        if c.validation:
            said.append(f"the next {stop - end:,} say when to stop")
        if stop < size:
            said.append(f"the last {size - stop:,} are kept untouched")
        self.notes_ = [*data.notes, ", ".join(said)]

    def _build(self) -> TextNet:
        c = self.resolved_
        return TextNet(
            c.hidden_size, c.num_layers, c.embedding_size, c.dropout, c.input_dropout, c.output_dropout,
            c.weight_dropout, c.cell,
        )  # fmt: skip

    def _job(self) -> TextJob:
        assert self.text_ is not None
        end, stop = self.ends_
        return TextJob(self.model_, self.text_.data[:end], self.text_.data[end:stop], self.resolved_)

    def _epochs(self) -> int | None:
        return None if self.config.validation else self.config.epochs

    def _tensors(self) -> dict[str, Tensor]:
        return {}

    def _facts(self) -> dict[str, Any]:
        return {"ends": list(self.ends_), "digest": self.digest_}

    def _restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        end, stop = facts["ends"]
        if not 0 < end <= stop:
            raise ValueError(f"the parts end at {end} and {stop}")
        self.ends_, self.digest_ = (end, stop), str(facts["digest"])


def _digest(data: np.ndarray) -> str:
    return hashlib.sha256(data.tobytes()).hexdigest()
