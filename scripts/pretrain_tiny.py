"""Pretrains the embedded base on a CUDA GPU: a 6 M parameter Gemma 3 that copies, dates and calls, but knows no
Arabic command.

    python scripts/pretrain_tiny.py tokenizer --corpus CORPUS --out BASE
    python scripts/pretrain_tiny.py train --corpus CORPUS --base BASE --out OUT --minutes 8

CORPUS is described in scripts/tiny_corpus/text.py. Rows that share a tool set are packed as tries, by dozan's own
packer.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

sys.path.insert(0, str(Path(__file__).parent))
from tiny_corpus import packs, tokenizer  # noqa: E402

from dozan.model.gemma3 import Gemma3, Gemma3Config  # noqa: E402

CONFIG = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": 8192, "hidden_size": 256,
    "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 64, "intermediate_size":
    384, "sliding_window": 256, "query_pre_attn_scalar": 64, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096,
    "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": None, "sliding_window_pattern": 6,
    "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "attention_dropout": 0.0,
    "attn_logit_softcapping": None, "final_logit_softcapping": None, "bos_token_id": 2, "eos_token_id": 1,
    "pad_token_id": 0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
}  # fmt: skip
BATCH, WORKERS = 32, 15


def block_masks(position: Tensor, end: Tensor, window: int) -> tuple[BlockMask, BlockMask]:
    """Masks of full and of sliding layers for packs [B, L]."""

    def full(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q < end[b, k])

    def sliding(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return full(b, h, q, k) & (position[b, q] - position[b, k] < window)

    size = (len(end), None, end.shape[1], end.shape[1])
    return create_block_mask(full, *size, device="cuda"), create_block_mask(sliding, *size, device="cuda")


def hidden_states(model: Gemma3, ids: Tensor, position: Tensor, full: BlockMask, sliding: BlockMask) -> Tensor:
    """[B, L] packs -> [B * L, D]."""
    shape = ids.shape

    def attend(layer: int, local: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.view(*shape, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        mask = sliding if local else full
        out = flex_attention(q, k, v, block_mask=mask, scale=model.config.scale, enable_gqa=True)
        return out.transpose(1, 2).flatten(0, 1)

    return model(ids.flatten(), position.flatten(), attend)


def loss_and_right(model: Gemma3, pack: dict[str, Tensor], masks: tuple[BlockMask, BlockMask]) -> tuple[Tensor, Tensor]:
    """Mean loss over supervised tokens, and which of them [B, S] the model would have written."""
    hidden = hidden_states(model, pack["ids"], pack["position"], *masks).view(*pack["ids"].shape, -1)
    chosen = hidden.gather(1, pack["at"][..., None].expand(-1, -1, hidden.shape[-1]))
    logits = model.logits(chosen)
    loss = F.cross_entropy(logits.float().flatten(0, 1), pack["target"].flatten(), reduction="none")
    weight = pack["weight"].flatten()
    return (loss * weight).sum() / weight.sum(), logits.argmax(-1) == pack["target"]


def rows_right(pack: dict[str, Tensor], right: Tensor) -> dict[str, float]:
    """Share of rows all of whose supervised tokens are right, by kind of task."""
    wrong = (~right & pack["weight"].bool()).long()
    rows = int(pack["row"].max()) + 1
    errors = torch.zeros(len(wrong), rows, device=wrong.device).scatter_add_(1, pack["row"], wrong.float())
    present = torch.zeros_like(errors).scatter_add_(1, pack["row"], pack["weight"].float()) > 0
    result = {}
    for index, kind in enumerate(packs.KINDS):
        of_kind = present & (pack["kind"] == index)
        result[kind] = round(((errors == 0) & of_kind).sum().item() / max(1, int(of_kind.sum())), 4)
    return result


class BatchedMuon(torch.optim.Optimizer):
    """Muon with matrices of one shape orthogonalised together: torch.optim.Muon's thousand small kernels a step are the
    bottleneck at this size. Update: 0.2 · sqrt(max(rows, columns)) · orthogonal(momentum), as in match_rms_adamw."""

    def __init__(
        self, matrices: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.shapes = sorted({tuple(p.shape) for p in matrices})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        for shape in self.shapes:
            members = [p for p in group["params"] if tuple(p.shape) == shape]
            momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in members]
            gradients = [p.grad for p in members]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            looked_ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
            updates = orthogonal(torch.stack(looked_ahead)).mul_(0.2 * max(shape) ** 0.5).unbind()
            torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(
                members, [u.to(p.dtype) for u, p in zip(updates, members, strict=True)], alpha=-group["lr"]
            )


def orthogonal(x: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices [N, rows, columns], by Newton-Schulz (Jordan et al., Muon)."""
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x.bfloat16() / (x.norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def optimizers(model: Gemma3, rate: float) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        BatchedMuon(matrices, rate),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def initialise(model: Gemma3) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=model.config.hidden_size**-0.5 if "embed" in name else 0.03)


class Feed:
    """Batches on the GPU: a fresh one when the workers have one, else an old one at random."""

    def __init__(self, batches: Iterator[packs.Pack | None], size: int) -> None:
        self.batches, self.size, self.kept = batches, size, list[dict[str, Tensor]]()
        self.fresh, self.random = 0, random.Random(0)

    def next(self) -> dict[str, Tensor]:
        while (found := next(self.batches)) is None and len(self.kept) < self.size // 20:
            time.sleep(0.01)
        if found is None:
            return self.random.choice(self.kept)
        self.fresh += 1
        batch = {name: torch.from_numpy(array).cuda() for name, array in found.items()}
        if len(self.kept) < self.size:
            self.kept.append(batch)
        else:
            self.kept[self.random.randrange(self.size)] = batch
        return batch


def train(corpus: Path, base: Path, out: Path, minutes: float, rate: float, seed: int, start_from: Path | None) -> None:
    started, budget = time.monotonic(), minutes * 60
    feed = Feed(packs.stream(seed, corpus, base, BATCH, WORKERS), 2000)
    held_out = Feed(packs.stream(seed + 77, corpus, base, BATCH, 1), 1000)
    torch.manual_seed(seed)
    model = Gemma3(Gemma3Config.from_json(CONFIG)).cuda()
    initialise(model)
    if start_from:
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(start_from).items()})
    steppers = optimizers(model, rate)
    masks_of, step_of = torch.compile(block_masks), torch.compile(loss_and_right)

    def run(pack: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.autocast("cuda", torch.bfloat16):
            return step_of(model, pack, masks_of(pack["position"], pack["end"], model.config.sliding_window))

    step, begun = 0, time.monotonic()
    while (done := (time.monotonic() - started) / budget) < 1:
        scale = min(1.0, (step + 1) / 300) * min(1.0, math.cos(max(0.0, done) * math.pi / 2) ** 1.2 + 0.01)
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = rate * scale
        pack = feed.next()
        loss, right = run(pack)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        step += 1
        if step % 500 == 0 or step in (1, 20, 100):
            line = {
                "step": step,
                "fresh": feed.fresh,
                "loss": round(loss.item(), 4),
                "seconds": round(time.monotonic() - begun, 1),
            }
            print(json.dumps(line | rows_right(pack, right)), flush=True)
        if step % 2000 == 0:
            save(model, out)
    save(model, out)
    with torch.no_grad():
        for pack in (held_out.next() for _ in range(4)):
            print("held out", json.dumps(rows_right(pack, run(pack)[1])), flush=True)


def save(model: Gemma3, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tokenizer", "train"))
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--base", type=Path, default=Path("dozan/assets/base"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start-from", type=Path)
    options = parser.parse_args()
    if options.what == "train":
        train(
            options.corpus, options.base, options.out, options.minutes, options.rate, options.seed, options.start_from
        )
        return
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer.train(options.corpus, options.out)
    tokenizer.write_folder(options.out, CONFIG)


if __name__ == "__main__":
    main()
