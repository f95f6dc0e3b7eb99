"""Train the preview engine's mouth network on synthetic speech with known phones.

    python train.py --corpus espeak.npz kokoro.npz --out ../../../weights/preview_mouth.npz --steps 6000

Knows torch. The network learns the mouth (opening, width, press, speaking). Its second task, the class of the phone,
keeps it from learning loudness alone. The inputs are exactly the features that speech.py computes at run time.
"""

import argparse
import time
from pathlib import Path

import augment
import numpy as np
import torch
from corpus import Corpus
from lipsync_server.engines.preview import speech
from numpy.typing import NDArray
from phones import CLASSES, INDEX, lip_track
from torch import nn

DILATIONS = (1, 1, 2, 4, 1)
SIL = INDEX["SIL"]
PIECE = 1000
CROP = 400


class Net(nn.Module):
    def __init__(self, width: int = 96, taps: int = 5) -> None:
        super().__init__()
        sizes = [speech.N_MELS + 1, *[width] * (len(DILATIONS) - 1)]
        self.layers = nn.ModuleList(
            nn.Conv1d(i, width, taps, stride=2 if k == 0 else 1, padding=taps // 2 * d, dilation=d, bias=False)
            for k, (i, d) in enumerate(zip(sizes, DILATIONS, strict=True))
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in DILATIONS)
        self.drop = nn.Dropout1d(0.1)
        self.head = nn.Conv1d(width, 4 + len(CLASSES), 1)
        self.fixed_norms = False

    def train(self, mode: bool = True) -> "Net":
        super().train(mode)
        self.norms.train(mode and not self.fixed_norms)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, mels + 1, n) -> (batch, 4 + classes, n / 2): one output for two input steps."""
        x = torch.relu(self.norms[0](self.layers[0](x)))
        for layer, norm in zip(list(self.layers)[1:], list(self.norms)[1:], strict=True):
            x = x + self.drop(torch.relu(norm(layer(x))))
        out: torch.Tensor = self.head(x)
        return out


def piece(
    corpora: list[Corpus], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Make about 10 s of one speaker's degraded speech with pauses: features, lips (n, 3), classes."""
    corpus = corpora[rng.integers(len(corpora))]
    factor = float(rng.uniform(0.84, 1.2))
    audio: list[NDArray[np.float32]] = []
    classes: list[NDArray[np.int64]] = []
    total = 0
    while total < PIECE * 160:
        if rng.random() < (0.06 if total else 0.3):
            gap = int(rng.exponential(60)) + 10
            audio.append(np.zeros(gap * 160, np.float32))
            classes.append(np.full(gap, SIL))
            total += gap * 160
        i = int(rng.integers(len(corpus)))
        x = augment.warp(corpus.audio(i), factor)
        x = x / max(float(np.abs(x).max()), 1e-6) * 10 ** (rng.uniform(-4, 0) / 20)
        n = len(x) // 160
        c = corpus.classes(i)
        c = c[np.minimum((np.arange(n) * factor).round().astype(int), len(c) - 1)]
        audio.append(x[: n * 160])
        classes.append(c)
        total += n * 160
    x, c = np.concatenate(audio), np.concatenate(classes)
    at = int(rng.integers(0, len(c) - PIECE + 1))
    lips = lip_track(c)[at : at + PIECE]
    other = corpora[rng.integers(len(corpora))]
    y = augment.degrade(x[at * 160 : (at + PIECE) * 160], rng, other.audio(int(rng.integers(len(other)))))
    if rng.random() < 0.02:
        y = augment.noise(len(y), rng).astype(np.float32) * np.float32(10 ** rng.uniform(-4, -1.5))
        lips, c, at = np.zeros_like(lips), np.full(PIECE, SIL), 0
    features, _ = speech.normalise(speech.log_mel(y, 0, PIECE), speech.loud_level(y))
    return features, lips, c[at : at + PIECE]


Piece = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


def _crop(one: Piece, rng: np.random.Generator) -> Piece:
    at = int(rng.integers(0, PIECE - CROP + 1))
    return one[0][at : at + CROP], one[1][at : at + CROP], one[2][at : at + CROP]


def losses(out: torch.Tensor, lips: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    speaking = (classes != SIL).float()
    opening = nn.functional.mse_loss(out[:, 0], lips[:, 0])
    width = nn.functional.mse_loss(out[:, 1], lips[:, 1])
    press = nn.functional.binary_cross_entropy_with_logits(out[:, 2], lips[:, 2], pos_weight=torch.tensor(3.0))
    voice = nn.functional.binary_cross_entropy_with_logits(out[:, 3], speaking)
    phone = nn.functional.cross_entropy(out[:, 4:], classes, label_smoothing=0.05)
    return 10 * opening + 3 * width + 1.5 * press + 0.5 * voice + 0.25 * phone


def export(net: Net, path: Path) -> None:
    """Fold the batch norms into the convolutions; store float16 arrays for numpy, one network a file."""
    net.eval()
    arrays: dict[str, NDArray[np.generic]] = {"net0_dilations": np.array(DILATIONS)}
    for k, (layer, norm) in enumerate(zip(net.layers, net.norms, strict=True)):
        scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
        kernel = (layer.weight.detach() * scale[:, None, None]).permute(2, 1, 0)
        arrays[f"net0_kernel{k}"] = kernel.numpy().astype(np.float16)
        arrays[f"net0_bias{k}"] = (norm.bias.detach() - norm.running_mean * scale).numpy().astype(np.float32)
    arrays["net0_head"] = net.head.weight.detach()[:, :, 0].T.numpy().astype(np.float16)
    arrays["net0_head_bias"] = net.head.bias.detach().numpy()
    np.savez(path, n_networks=1, **arrays)
    net.train()


def take_over(net: Net, path: Path) -> None:
    """Start from a weight file. Its batch norms are already folded in, so they remain plain offsets."""
    with np.load(path, allow_pickle=False) as z:
        for k, (layer, norm) in enumerate(zip(net.layers, net.norms, strict=True)):
            layer.weight.data = torch.from_numpy(z[f"net0_kernel{k}"].astype(np.float32)).permute(2, 1, 0).contiguous()
            norm.bias.data = torch.from_numpy(z[f"net0_bias{k}"])
        net.head.weight.data = torch.from_numpy(z["net0_head"].astype(np.float32)).T[:, :, None].contiguous()
        net.head.bias.data = torch.from_numpy(z["net0_head_bias"])
    net.fixed_norms = True
    net.train()


def train(
    corpora: list[Corpus], out: Path, steps: int, seed: int, width: int, start: Path | None, pool_size: int = 400
) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = Net(width)
    if start:
        take_over(net, start)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.5e-3 if start else 3e-3, total_steps=steps, pct_start=0.1
    )
    pool: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]] = []
    begin, mean = time.time(), 0.0
    for step in range(steps):
        # a pool of pieces, of which a few are replaced at each step: to make a piece costs more than a step on it
        for _ in range(8 if len(pool) < pool_size else step % 2):
            if len(pool) < pool_size:
                pool.append(piece(corpora, rng))
            else:
                pool[int(rng.integers(pool_size))] = piece(corpora, rng)
        batch = [_crop(pool[int(k)], rng) for k in rng.integers(len(pool), size=12)]
        x = torch.from_numpy(np.stack([b[0].T for b in batch]))
        if rng.random() < 0.5:
            at = int(rng.integers(0, speech.N_MELS - 6))
            x[:, at : at + int(rng.integers(1, 6))] = 0
        lips = torch.from_numpy(np.stack([b[1][::2].T for b in batch]))
        loss = losses(net(x), lips, torch.from_numpy(np.stack([b[2][::2] for b in batch])))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean = 0.98 * mean + 0.02 * loss.item() if step else loss.item()
        if step % 100 == 99:
            print(f"step {step + 1} loss {mean:.3f} {time.time() - begin:.0f} s", flush=True)
            export(net, out)
    export(net, out)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--corpus", type=Path, nargs="+", required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--steps", type=int, default=6000)
    ap.add_argument("--width", type=int, default=96)
    ap.add_argument("--start", type=Path, help="weight file of one network to start from")
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    train([Corpus(p) for p in a.corpus], a.out, a.steps, a.seed, a.width, a.start)
