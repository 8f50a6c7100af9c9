"""The engine on a GPU, compiled: every op against its reference, graphs against op by op, two runs against each other.

Without a GPU, or with Triton interpreted, these are skipped; `python -m bench` refuses to measure while one fails.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import move_adapter, tiny_model
from torch import Tensor

from dozan.chat.encode import Tokens
from dozan.judge.generate import generate_ids
from dozan.kernels import geglu, norm, reference, supervised_cross_entropy
from dozan.kernels.attention import TrieAttention
from dozan.kernels.precision import determinism, has_triton
from dozan.model.adapter import adapter_parameters, attach
from dozan.model.gemma3 import Gemma3
from dozan.model.held import hold_embedding
from dozan.pack import Batch, pack_rows
from dozan.recipe import Recipe, override
from dozan.train.loop import optimiser_step
from dozan.train.passes import EagerPasses, GraphedPasses, make_passes
from dozan.train.plan import make_plan
from dozan.train.state import Trainee
from dozan.train.update import Update

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="needs a GPU"
)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Op = Callable[..., Tensor]


def results(op: Op, inputs: Sequence[Tensor], outer: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = op(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, outer.to(out.dtype))]


def require_as_good(op: Op, plain: Op, inputs: Sequence[Tensor], exact: Op | None = None) -> None:
    """No further from the result in fp64 than 1.5 times PyTorch's own error in the same dtype."""
    outer = torch.randn_like(plain(*inputs))
    right = results(exact or plain, [x.double() for x in inputs], outer.double())
    for found, own, truth in zip(results(op, inputs, outer), results(plain, inputs, outer), right, strict=True):
        error, bound = (float((x.double() - truth).norm()) for x in (found, own))
        # On a few numbers PyTorch may be lucky; a result that is rounded once is always good.
        rounded = max(1e-6, torch.finfo(inputs[0].dtype).eps / 4) * float(truth.norm())
        assert error <= max(1.5 * bound, rounded), (error, bound, float(truth.norm()))


def random_inputs(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, device="cuda").to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 7), (129, 640), (3, 3840), (1000, 5376)])
def test_norm(rows: int, size: int, dtype: torch.dtype) -> None:
    def exact(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        return residual + x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1.0 + weight)

    inputs = random_inputs(dtype, (rows, size), (size,), (rows, size))
    require_as_good(lambda *t: norm.rms_norm(t[0], t[1], 1e-6, t[2]),
                    lambda *t: reference.rms_norm(t[0], t[1], 1e-6, t[2]), inputs, exact)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "heads", "size"), [(1, 1, 2), (65, 4, 256), (33, 16, 128)])
def test_norm_and_rotation(tokens: int, heads: int, size: int, dtype: torch.dtype) -> None:
    angle = 9 * torch.rand(tokens, 1, size // 2, device="cuda")
    table = tuple(torch.cat((f(angle), f(angle)), -1).to(dtype) for f in (torch.cos, torch.sin))

    def exact(x: Tensor, weight: Tensor) -> Tensor:
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1.0 + weight)
        return reference.rotate(normed, (table[0].double(), table[1].double()))

    require_as_good(lambda x, w: norm.rotated_norm(x, w, 1e-6, (table[0], table[1])),
                    lambda x, w: reference.rotate(reference.rms_norm(x, w, 1e-6), (table[0], table[1])),
                    random_inputs(dtype, (tokens, heads, size), (size,)), exact)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (77, 33), (100, 2048)])
def test_geglu(shape: tuple[int, int], dtype: torch.dtype) -> None:
    require_as_good(geglu.geglu, reference.geglu, random_inputs(dtype, shape, shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("supervised", "words"), [(1, 37), (700, 1001), (300, 262_144)])
def test_cross_entropy(supervised: int, words: int, dtype: torch.dtype) -> None:
    hidden, embedding = random_inputs(dtype, (supervised, 64), (words, 64))
    target, weight = torch.randint(words, (supervised,), device="cuda"), torch.rand(supervised, device="cuda")
    weight[::3] = 0
    outer, found = torch.ones((), device="cuda"), []
    for op, kind in ((supervised_cross_entropy, dtype), (reference.cross_entropy, dtype),
                     (reference.cross_entropy, torch.float64)):  # fmt: skip
        one = weight.double() if kind == torch.float64 else weight
        found.append(results(lambda h, op=op, kind=kind, one=one: op(h, embedding.to(kind), target, one),
                             [hidden.to(kind)], outer))  # fmt: skip
    (loss, gradient), (_, own), (wanted, exact) = found
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5 if dtype == torch.float32 else 2e-3)
    error, bound = (float((x.double() - exact).norm()) for x in (gradient, own))
    assert error <= 1.5 * bound + 1e-6 * float(exact.norm())


def rows(count: int, trunk: int, seed: int = 0, words: int = 300) -> list[Tokens]:
    draw = random.Random(seed)
    stem = [2, *(draw.randrange(10, words) for _ in range(trunk - 1))]
    made = []
    for i in range(count):
        rest = [draw.randrange(10, words) for _ in range(draw.randrange(9, 70))]
        ids = stem[: draw.choice((trunk, trunk // 2))] + rest
        made.append(Tokens(f"row{i}", tuple(ids), (0.0,) * (len(ids) - 5) + (1.0,) * 5))
    return made


def pack(count: int, trunk: int, multiple: int = 64) -> Batch:
    (batch,) = pack_rows(rows(count, trunk), "tries", 10**9)
    return batch.padded(-(-len(batch) // multiple) * multiple).to("cuda")


SHAPES = [(4, 1, 256, dtype) for dtype in DTYPES]
SHAPES += [(16, 8, 256, torch.bfloat16), (32, 16, 128, torch.bfloat16), (3, 3, 64, torch.bfloat16)]


@pytest.mark.parametrize(("heads", "shared", "size", "dtype"), SHAPES)
@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("path", ["triton", "triton, deterministic", "portable"])
def test_attention(path: str, heads: int, shared: int, size: int, sliding: bool, dtype: torch.dtype) -> None:
    from dozan.kernels.attention_triton import TritonTrieAttention

    batch, scale = pack(9, 500), size**-0.5
    inputs = random_inputs(dtype, (len(batch), heads, size), (len(batch), shared, size), (len(batch), shared, size))

    def through(attention: Callable[..., Tensor]) -> Op:
        return lambda q, k, v: attention(0, sliding, q, k, v)

    place = (batch.position, batch.end, 200, scale)
    fast = TrieAttention(*place) if path == "portable" else TritonTrieAttention(*place, path != "triton")
    plain = reference.DenseAttention(*place)
    # The portable path rounds scores as transformers' eager attention does.
    slack = 4 if path == "portable" and dtype != torch.float32 else 1
    outer = torch.randn_like(inputs[0])
    right = results(through(plain), [x.double() for x in inputs], outer.double())
    for found, own, truth in zip(results(through(fast), inputs, outer), results(through(plain), inputs, outer), right,
                                 strict=True):  # fmt: skip
        error, bound = (float((x.double() - truth).norm()) for x in (found, own))
        assert error <= 1.5 * slack * bound + 1e-6 * float(truth.norm())


def adapted(*changes: str) -> tuple[Gemma3, Recipe]:
    recipe = override(Recipe(), ["adapter.rank=4", "adapter.alpha=8", "train.batch_size=6", *changes])
    model = tiny_model(head_dim=32).to("cuda", torch.bfloat16)
    hold_embedding(model, recipe.model, torch.device("cuda"))
    attach(model, recipe.adapter, 0)
    return move_adapter(model), recipe


def gradients(passes: Callable[[Batch, float, int], Tensor], model: Gemma3, batches: Sequence[Batch]) -> list[Tensor]:
    for _, parameter in adapter_parameters(model):
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
    losses = [passes(batch, 7.0, 0) for batch in batches]
    return [torch.stack(losses), *(p.grad.clone() for _, p in adapter_parameters(model) if p.grad is not None)]


AWAY = ("train.recompute=layers", "train.offload=true", "model.embedding=cpu")
LEAN = ("train.recompute=layers", "model.embedding=int8", "adapter.dora=true", "train.optimizer=adamw_8bit")


@pytest.mark.parametrize(
    "changes", [(), ("adapter.dora=true", "adapter.rslora=true"), ("train.recompute=layers",), AWAY, LEAN]
)
def test_graphs_give_what_single_ops_give(changes: tuple[str, ...]) -> None:
    model, recipe = adapted(*changes)
    graphed = make_passes(model, recipe)
    assert isinstance(graphed, GraphedPasses)
    batches = [pack_rows(rows(6, 40, seed), "tries", 10**9)[0] for seed in range(4)]
    eager = EagerPasses(model, graphed._recompute)
    with determinism(True):
        for _ in range(2):  # the second time every graph is replayed
            for found, wanted in zip(*(gradients(p, model, batches) for p in (graphed, eager)), strict=True):
                assert (found - wanted).norm() <= 2e-3 * wanted.norm() + 1e-7


def steps(count: int, graphs: bool, *changes: str) -> list[tuple[float, float]]:
    model, recipe = adapted(*changes)
    trainee = Trainee.of(model, recipe, "tiny")
    if not graphs:
        trainee = replace(trainee, passes=EagerPasses(model, make_passes(model, recipe)._recompute),
                          update=Update(model, trainee.parameters, trainee.optimizer, 1.0))  # fmt: skip
    plan = make_plan(recipe, rows(24, 40))
    return [optimiser_step(trainee, plan.prepare(s % plan.steps), 1e-2, s).read()[:2] for s in range(count)]


@pytest.mark.parametrize("changes", [(), ("adapter.dora=true",), AWAY, LEAN])
def test_training_with_graphs_is_training(changes: tuple[str, ...]) -> None:
    with determinism(True):
        graphs, ops = steps(12, True, *changes), steps(12, False, *changes)
    assert [pytest.approx(step, rel=1e-2) for step in ops] == graphs


def test_deterministic_runs_are_equal() -> None:
    with determinism(True):
        assert steps(8, True) == steps(8, True)


def test_an_update_that_is_not_finite_is_left_out() -> None:
    model, recipe = adapted()
    trainee, plan = Trainee.of(model, recipe, "tiny"), make_plan(recipe, rows(24, 40))
    for step in range(3):
        optimiser_step(trainee, plan.prepare(0), 1e-2, step)
    before = [p.detach().clone() for _, p in trainee.parameters]
    trainee.parameters[3][1].grad.fill_(float("inf"))  # type: ignore[union-attr]
    assert not optimiser_step(trainee, plan.prepare(1), 1e-2).read()[2]
    assert all(torch.equal(a, b) for a, (_, b) in zip(before, trainee.parameters, strict=True))
    assert optimiser_step(trainee, plan.prepare(1), 1e-2).read()[2]


def test_a_whole_run_resumes(tmp_path: Path) -> None:
    """The loop with evaluation, checkpoints and graphs; and a GPU that runs Triton says so."""
    from dozan.train.loop import fit
    from dozan.train.prepare import Base

    assert has_triton(torch.device("cuda")) == (torch.cuda.get_device_capability() >= (7, 5))
    model, recipe = adapted("train.epochs=3", "train.learning_rate=1e-2")
    result = fit(model, make_plan(recipe, rows(24, 40), rows(4, 40, 9)), tmp_path / "run",
                 Base("dozan:embedded", "0" * 64, "functiongemma"), lambda event: None)  # fmt: skip
    assert result.steps == 12 and result.final_loss is not None and result.eval_loss is not None


def test_an_adapted_model_answers_as_on_the_cpu() -> None:
    """Generation with the adapter on, in the captured graph too: in fp32, so that no two tokens are as likely."""
    model = adapted()[0].float()
    prompts = [row.ids for row in rows(9, 40)]
    answers = [generate_ids(model.to(device), prompts, 24, set()) for device in ("cuda", "cpu")]
    assert answers[0] == answers[1]
