"""Processes that encode for a sentence-transformers model, one a device: started when needed, never left behind."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mrl_retrieval.errors import EncoderError, InvalidInput

__all__ = ["ProcessPool"]

_CHUNKS_EACH = 10  # more than one for each process, since texts differ in length


class ProcessPool:
    """The processes of one encoder. Not thread-safe.

    Args:
        devices: one for each process, as PyTorch names them; the same one may occur more than once.

    Raises:
        InvalidInput: it is no list of names, or an empty one.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        if not isinstance(devices, (list, tuple)) or not devices or not all(isinstance(d, str) for d in devices):
            raise InvalidInput(
                f"pool is a list of devices such as ['cuda:0', 'cuda:1'] or ['cpu', 'cpu'], got {devices!r}"
            )
        self._devices = list(devices)
        self._pool: Any = None
        self._stop: Callable[[], Any] | None = None

    def encode(self, model: Any, encode: Callable[..., Any], texts: list[str], options: Mapping[str, Any]) -> Any:
        """What ``encode`` (the model's ``encode_document`` or ``encode_query``) makes of the texts, in the processes.

        Raises:
            EncoderError: a process ended, or failed. All are stopped then; the next call starts new ones.
        """
        size = max(options["batch_size"], math.ceil(len(texts) / len(self._devices) / _CHUNKS_EACH))
        try:
            self._start(model)
            return encode(texts, convert_to_numpy=True, pool=self._pool, chunk_size=size, **options)
        except BaseException as error:
            self.close()  # answers that are still to come would be taken for those of the next call
            if isinstance(error, (RuntimeError, OSError)):
                raise EncoderError(
                    f"encoding {len(texts)} texts in processes on {', '.join(self._devices)} failed: {error}; every "
                    "process imports the script, which must do its work under if __name__ == '__main__':"
                ) from error
            raise

    def close(self) -> None:
        """End the processes and wait for their end; a second call is no error."""
        stop, self._stop, self._pool = self._stop, None, None
        if stop is not None:
            stop()

    def _start(self, model: Any) -> None:
        if self._pool is not None:
            return
        device = model.device
        self._pool = model.start_multi_process_pool(self._devices)
        # Runs when this object goes, or Python ends, if nobody has closed it before; a second run does nothing.
        self._stop = weakref.finalize(self, model.stop_multi_process_pool, self._pool)
        model.to(device)  # starting has moved it to the CPU
