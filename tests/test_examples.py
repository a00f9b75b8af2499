"""The unchanged examples on a tiny model and small tables. Each prints what it promises."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transfer.tiny import byte_tokenizer, tiny_llama, toy_task

import promptkernels as pk

pytestmark = pytest.mark.docs

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
# MPT's own learning rate and such are the demo's: only sizes are small here.
SMALL = {"prompt_length": 3, "train_rows": 12, "source_updates": 3, "target_updates": 4, "max_length": 24}
SMALL |= {"batch_size": 4, "source_batch_size": 4, "test_rows": 10, "precision": "float32"}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer()
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two sources and a target as tables, a cache and an output folder of the test's own."""
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path / "cache"))
    for word, name in enumerate(("red", "green", "goal")):
        rows = [row for split in (toy_task(name, word).train, toy_task(name, word).test) for row in split]
        lines = [f"{row['text']},{('no', 'yes')[row['label']]}" for row in rows]
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    sources, targets = (str(tmp_path / "red.csv"), str(tmp_path / "green.csv")), (str(tmp_path / "goal.csv"),)
    return {**SMALL, "model": str(model), "sources": sources, "targets": targets, "output": tmp_path / "run"}


def names_of(example: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / example))


def main_of(example: str) -> Any:
    return names_of(example)["main"]


def test_every_example_is_short_and_tested() -> None:
    files = sorted(path.relative_to(EXAMPLES) for kind in ("*.py", "*.sh") for path in EXAMPLES.rglob(kind))
    runs = Path(__file__).parent / "transfer" / "runs"
    tested = "".join(path.read_text() for path in (Path(__file__), *runs.glob("*.py")))
    for file in files:
        assert f'"{file}"' in tested, f"no test runs {file}"
        assert 20 <= len((EXAMPLES / file).read_text().splitlines()) <= 80


def test_ops(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "ops.py"), run_name="__main__")
    output = capsys.readouterr().out
    # Sources 0 and 1 point where the target does, source 2 does not.
    assert "group of the target: [0, 1, 3]" in output
    mean, spread = map(float, re.search(r"mean (\S+) \(1\), spread (\S+) \(0.5\)", output).groups())
    assert abs(mean - 1) < 0.05 and abs(spread - 0.5) < 0.1
    assert "tasks with a gradient: [True, False, True, True]" in output


def test_peft_script(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    runpy.run_path(str(EXAMPLES / "peft_script.py"), run_name="__main__")
    losses = re.findall(r"loss (\S+) with PEFT, (\S+) with promptkernels", capsys.readouterr().out)
    assert len(losses) == 5
    for plain, fused in losses:
        assert float(plain) == pytest.approx(float(fused), abs=1e-4)


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    """The cells in order, as a notebook runs them, in a folder and with a cache of their own."""
    pytest.importorskip("peft")
    notebook = EXAMPLES / "quickstart.ipynb"
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "commit it without outputs"
    own = {"PROMPTTRANSFER_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CELLS, str(notebook)]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    backends, cosines, losses, results, predictor, answers = json.loads(done.stdout)
    assert all(f"<td>{name}</td>" in backends for name in pk.backends())
    # The second task is the first plus half of the third; that the two are orthogonal is so but for chance.
    expected = [[1, 0.894, 0], [0.894, 1, 0.447], [0, 0.447, 1]]
    found = torch.tensor([float(number) for number in re.findall(r"-?\d\.\d+", cosines)])
    torch.testing.assert_close(found.view(3, 3), torch.tensor(expected), atol=0.05, rtol=0)
    plain, fused = ast.literal_eval(losses)
    assert plain == pytest.approx(fused, abs=1e-4)
    assert all(method in results for method in ("PT", "MPT", "DTVG", "majority"))
    assert (tmp_path / "runs" / "quickstart" / "run" / "report.html").is_file()
    assert "<td>staff</td>" in predictor and answers.count("Prediction(") == 2


# Runs the code cells of a notebook and prints, as JSON, what those show that end with an expression.
CELLS = """
import ast, json, sys
names, shown = {"__name__": "__main__"}, []
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        *lines, last = ast.parse("".join(cell["source"])).body
        ends = isinstance(last, ast.Expr)
        exec(compile(ast.Module(lines if ends else [*lines, last], []), "cell", "exec"), names)
        if ends:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            shown += [value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)] * (value is not None)
print(json.dumps(shown))
"""


def test_own_loop_mpt_loss() -> None:
    pytest.importorskip("peft")
    example = names_of("own_loop/mpt_loss.py")
    draw = torch.Generator().manual_seed(0)
    rows, prompt, length, vocabulary, hidden = 3, 4, 5, 7, 6

    def outputs() -> SimpleNamespace:
        logits = torch.randn(rows, prompt + length, vocabulary, generator=draw)
        return SimpleNamespace(
            logits=logits, hidden_states=[torch.randn(rows, prompt + length, hidden, generator=draw)]
        )

    student, teacher = outputs(), outputs()
    student.loss = torch.tensor(2.0)
    labels, mask = torch.full((rows, length), -100), torch.ones(rows, length)
    labels[:, -1], labels[0, -2], mask[1, :2] = 3, 1, 0

    divergences, errors = [], []
    for row in range(rows):
        for at in range(length):
            before = prompt + at - 1  # the logits that predict the token
            p, q = (out.logits[row, before].double().softmax(dim=-1) for out in (teacher, student))
            if labels[row, at] != -100:
                divergences.append((p * (p / q).log()).sum())
            if mask[row, at]:
                states = (out.hidden_states[-1][row, prompt + at].double() for out in (student, teacher))
                errors.append((next(states) - next(states)).square().mean())
    expected = 2.0 + 0.9 * (sum(divergences) / len(divergences) + sum(errors) / len(errors))
    assert example["mpt_loss"](student, teacher, labels, mask).item() == pytest.approx(expected.item(), rel=1e-5)

    losses = example["main"](steps=15)
    assert losses[-1] < losses[0] - 0.1


def test_own_loop_svgd_step() -> None:
    example = names_of("own_loop/svgd_step.py")
    torch.manual_seed(0)
    model = tiny_llama(50).double().eval().requires_grad_(False)
    width, std = model.config.hidden_size, 0.7
    tokens = torch.randint(0, 50, (2, 5))
    labels = tokens.clone()
    labels[:, :3] = -100
    start = torch.randn(3, width).double()
    particles = start + 0.1 * torch.randn(4, 3, width).double()

    # Each particle and each row alone; the direction as in Liu & Wang (2016), eq. 8.
    flat, scores = [], []
    for particle in particles:
        alone = particle.clone().requires_grad_()
        log_p = -(alone - start).square().sum() / (2 * std**2)
        for row in tokens:
            inputs = torch.cat([alone, model.get_input_embeddings()(row)])[None]
            predicted = model(inputs_embeds=inputs).logits[0].log_softmax(dim=-1)
            log_p = log_p + sum(predicted[3 + at - 1, row[at]] for at in (3, 4))
        scores.append(torch.autograd.grad(log_p, alone)[0].flatten())
        flat.append(particle.flatten())
    squared = torch.stack([torch.stack([(a - b).square().sum() for b in flat]) for a in flat])
    h = squared.flatten().quantile(0.5) / math.log(len(flat) + 1)
    kernel = (-squared / h).exp()
    direction = [
        sum(kernel[j, i] * (scores[j] + 2 / h * (flat[i] - flat[j])) for j in range(len(flat))) / len(flat)
        for i in range(len(flat))
    ]

    moved = particles.clone().requires_grad_()
    log_p = example["log_posterior"](model, moved, start, tokens, labels, prior_std=std)
    example["svgd_step"](moved, log_p, torch.optim.SGD([moved], lr=0.5))
    expected = particles + 0.5 * torch.stack(direction).view_as(particles)
    torch.testing.assert_close(moved.detach(), expected, rtol=1e-6, atol=1e-8)

    history = example["main"](steps=20)
    (first, near), (last, far) = history[0], history[-1]
    assert last > first and far > 2 * near


def test_own_loop_dtvg_merge() -> None:
    example = names_of("own_loop/dtvg_merge.py")
    draw = torch.Generator().manual_seed(0)
    start, direction = torch.randn(2, 5, 6, generator=draw)
    sources = start + torch.stack([direction, -direction, 0.5 * direction])
    target = (start + 0.3 * direction).requires_grad_()
    scale = torch.rand(4, 5, generator=draw).requires_grad_()
    merged, group = example["merge"](start, sources, target, scale)
    assert group.tolist() == [True, False, True, True]  # source 1 points away from the target

    literal = start.double()
    for source, at in ((sources[0], 0), (sources[2], 2), (target, 3)):
        literal = literal + scale[at, :, None].double() * (source.double() - start.double())
    torch.testing.assert_close(merged.double(), literal, rtol=1e-6, atol=1e-6)
    weights = torch.randn(5, 6, generator=draw)
    gradients = torch.autograd.grad((merged * weights).sum(), (scale, target))
    expected = torch.autograd.grad((literal * weights).sum(), (scale, target))
    torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=1e-6)
    assert not gradients[0][1].any()

    history = example["main"](steps=10)
    assert history[0][1] == [0, 1] and history[-1][0] < history[0][0]


def test_own_loop_adapter_similarity(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from safetensors.torch import load_file

    example = names_of("own_loop/adapter_similarity.py")
    start, *adapters = example["make_adapters"](tmp_path, answers=(7, 7, 50), steps=10)
    first, *prompts = (
        load_file(path / "adapter_model.safetensors")["prompt_embeddings"].double().flatten()
        for path in (start, *adapters)
    )
    for table, begin in (
        (example["adapter_similarity"](adapters), torch.zeros_like(first)),
        (example["adapter_similarity"](adapters, start), first),
    ):
        vectors = torch.stack(prompts) - begin
        expected = F.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
        torch.testing.assert_close(table.double(), expected, rtol=1e-5, atol=1e-5)
    assert table[0, 1] > table[0, 2] + 0.3  # one task twice, and two tasks


def test_mpt(settings: dict[str, Any]) -> None:
    scores = main_of("mpt.py")(**settings)
    assert set(scores) == {"PT", "MPT, ablation none", "MPT, ablation no-distillation"}
    assert all(0 <= score <= 100 for score in scores.values())


def test_bmtpt(settings: dict[str, Any]) -> None:
    particles = main_of("bmtpt.py")(**settings)
    assert len(particles["mean_distance"]) == SMALL["source_updates"]
    assert all(distance > 0 for _, distance in particles["mean_distance"])


def test_dtvg(settings: dict[str, Any]) -> None:
    groups = main_of("dtvg.py")(**settings)
    assert sum(groups.values()) == SMALL["target_updates"] / 2  # the other half trains the target's own vector
    assert set().union(*groups) <= {"red", "green"}


def test_custom_task(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    options = {name: value for name, value in settings.items() if name not in ("targets", "max_length", "train_rows")}
    rows = main_of("custom_task/run.py")(**options)
    stars = [line.rsplit(",", 1)[1] for line in (EXAMPLES / "custom_task/reviews.csv").read_text().splitlines()[1:]]
    assert {row["skipped_rows"] for row in rows} == {stars.count("3")}
    assert {(row["method"], row["metric"]) for row in rows} == {("PT", "macro-f1"), ("SPoT", "macro-f1")}
    assert "Verdict:' -> " in capsys.readouterr().out


def test_custom_method(settings: dict[str, Any], methods_restored: None) -> None:
    rows = {row["method"]: row for row in main_of("custom_method.py")(**settings)}
    assert rows["soup"]["target_updates"] == rows["PT"]["target_updates"] == SMALL["target_updates"]
    weights = [float(weight) for weight in rows["soup"]["notes"].removeprefix("weights ").split(", ")]
    assert sum(weights) == pytest.approx(1, abs=0.02) and len(weights) == 2
    assert (settings["output"] / "prompts" / "soup" / "goal-seed42.safetensors").is_file()


@pytest.mark.slow
def test_custom_method_on_the_command_line(settings: dict[str, Any], tmp_path: Path) -> None:
    """Also in worker processes."""
    names = {"prompt_length", "train_rows", "test_rows", "source_updates", "target_updates", "max_length", "model"}
    options = [f"--{name.replace('_', '-')}={settings[name]}" for name in sorted(names)]
    options += [f"--{name}={','.join(settings[name])}" for name in ("sources", "targets")]
    options += ["--methods=PT,soup", "--set=soup.temperature=1000", "--seeds=1", f"--output={settings['output']}"]
    file = str(EXAMPLES / "custom_method.py")
    command = [sys.executable, "-m", "prompttransfer", "--import", file, "compare", *options, "--workers=2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads((settings["output"] / "results.json").read_text())["rows"]}
    assert rows["soup"]["notes"] == "weights 0.50, 0.50", "of the temperature"


def test_serve_vllm(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses a fake engine; tests/transfer/serving/test_vllm.py uses the real one."""
    from transfer.engines import PlainEngine
    from transformers import AutoModelForCausalLM

    from prompttransfer import Predictor
    from prompttransfer.serving.vllm import VllmEngine

    model = AutoModelForCausalLM.from_pretrained(settings["model"])
    monkeypatch.setattr(VllmEngine, "start", lambda *prompts: PlainEngine(model))
    texts = ["w1 w2", "w30 w31 w32"]
    targets = (*settings["targets"], *settings["sources"][:1])
    labels = main_of("serve_vllm.py")(texts=texts, **settings | {"sources": (), "targets": targets})
    assert set(labels) == {"goal", "red"}
    for task, answers in labels.items():
        (file,) = (settings["output"] / "prompts" / "PT").glob(f"{task}-*.safetensors")
        assert answers == [one.label for one in Predictor.open(file)(texts)]


@pytest.mark.parametrize("nodes", [1, 3])
def test_multi_gpu(nodes: int) -> None:
    """Checks the arguments for torchrun, which test_distributed.py really starts."""
    from torch.distributed.run import get_args_parser

    environment = {**os.environ, "PYTHON": "echo", "PROCESSES": "2", "NODES": str(nodes), "ENDPOINT": "host:1"}
    command = [EXAMPLES / "multi_gpu.sh", "--limit", "8"]
    words = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert words[:2] == ["-m", "torch.distributed.run"]
    asked = get_args_parser().parse_args(words[2:])
    assert (asked.nproc_per_node, asked.nnodes, asked.module) == ("2", str(nodes) if nodes > 1 else "1:1", True)
    assert (asked.standalone, asked.rdzv_endpoint) == ((True, "") if nodes == 1 else (False, "host:1"))
    assert [asked.training_script, *asked.training_script_args] == ["prompttransfer", "compare", "--limit", "8"]
