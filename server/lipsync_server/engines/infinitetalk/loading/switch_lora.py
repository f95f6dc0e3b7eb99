"""Change the LoRA files of a loaded transformer: exactly, and without a second copy of its weights.

To subtract a merged change from rounded weights would not restore the old weights. So every parameter that the old or
the new files change is read from its model file again, and merged by the same code as at a load. The result is bit for
bit equal to a new load, after any number of switches. The base weights stay in the model file and the machine's page
cache, not in memory of this process. All other parameters are not touched. Knows files and parameters. Does not know
the mathematics (lora.py).
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from lipsync_server.engines.infinitetalk.loading.lora import read_lora
from lipsync_server.engines.infinitetalk.loading.transformer_files import Progress, TransformerWriter, open_transformer
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.offload import StreamedBlocks
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer


def switch_loras(
    model: InfiniteTalkTransformer,
    source: Path,
    adapter: Path | None,
    *,
    config: TransformerConfig,
    loras: Sequence[tuple[Path, float]],
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
) -> int:
    """Give `model`, loaded from `source` and `adapter`, the LoRA files `loras` in place of those that it has.

    Returns the number of parameters that were written. After an error the weights are a mixture, and the model has to
    be loaded again. Raises WeightsError as read_lora does, before any weight changes.
    """
    opened = open_transformer(source, adapter, config)
    merged = [read_lora(path, scale, opened.shapes) for path, scale in loras]
    targets = frozenset[str]().union(*(lora.targets for lora in merged))
    changed = targets | model.merged_names
    if not changed:
        return 0
    writer = TransformerWriter(model, device, dtype, merged)
    runner = model.runner
    streamed = runner if isinstance(runner, StreamedBlocks) else None
    if streamed is not None:
        streamed.unbind()
    try:
        n_done = 0
        for name, put in opened.parameters(writer):
            if name in changed:
                put()
                n_done += 1
                if progress:
                    progress(n_done, len(changed))
    finally:
        if streamed is not None:
            streamed.bind()
    model.merged_names = targets
    return n_done
