"""The settings of a run, checked. The defaults are the demo: SmolLM2-135M, three sources, three few-shot targets.

Methods are declared here by `prompttransfer.methods.registry`, each with its own block of settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from prompttransfer.files.paths import expanded
from prompttransfer.settings.base import Presets, Settings

Block = TypeVar("Block", bound=Settings)


class KnownMethod(Protocol):
    """What a run's settings ask of a method."""

    name: str
    settings: tuple[type[Settings], ...]
    transfers: bool

    def source_prompts(self, config: RunConfig) -> bool: ...

    def check(self, config: RunConfig) -> None: ...

    def own_budget(self, config: RunConfig, rows: int) -> tuple[int, int]: ...


def _method(name: str) -> str:
    known = RunConfig.known
    if not known:
        raise RuntimeError("no method is declared: import prompttransfer.methods first")
    if name not in known:
        # Swapped letters first: else MTP would be taken for BMTPT.
        near = [other for other in known if sorted(other.lower()) == sorted(name.lower())]
        near = near or get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"unknown method; {hint}")
    return name


def _rows(given: Any) -> Any:
    if given == "all":
        return None
    if isinstance(given, str) and not given.strip().lstrip("+-").isdecimal():
        raise ValueError("want a whole number of rows, or all")
    return given


def _model(name: str) -> str:
    return str(expanded(name)) if name.startswith("~") else name


Place = Annotated[Path, AfterValidator(expanded)]
RowCount = Annotated[int | None, Field(ge=1), BeforeValidator(_rows)]
Epochs = Annotated[float, Field(gt=0)]
EpochsBySize = Annotated[dict[Annotated[int, Field(ge=0)], Epochs], Field(min_length=1)]


class TaskSettings(Settings):
    """What may be set for some of the tasks only; none: as in the run."""

    target_epochs: Epochs | None = Field(None, description="epochs over its training rows")
    target_updates: int | None = Field(None, ge=1, description="updates, in place of epochs")
    target_learning_rate: float | None = Field(None, gt=0, description="peak rate")
    batch_size: int | None = Field(None, ge=1, description="rows per update")
    max_length: int | None = Field(None, ge=1, description="goes before the length that the task itself names")

    @model_validator(mode="after")
    def _one_budget(self) -> TaskSettings:
        if self.target_epochs is not None and self.target_updates is not None:
            raise ValueError(
                f"got target_epochs={self.target_epochs} and target_updates={self.target_updates}; want one"
            )
        return self


class MethodSettings(Settings):
    """What may be set for one method only; none: as in the run. Budgets are equal for all, so none is here."""

    target_learning_rate: float | None = Field(None, gt=0, description="peak rate on target rows")


class RunConfig(Settings):
    """Everything a comparison needs. Two runs with equal settings do the same work and share its results."""

    model: Annotated[str, AfterValidator(_model)] = Field(
        "demo", description="'demo', a hub id, or a local folder of a causal or seq2seq model"
    )
    sources: tuple[str, ...] = Field(("amazon", "movies", "r8"), description="source tasks: demo names or files")
    targets: tuple[str, ...] = Field(("sst2", "nyt", "subjectivity"), description="target tasks: demo names or files")
    methods: tuple[Annotated[str, AfterValidator(_method)], ...] = Field(
        ("PT", "MPT", "BMTPT", "DTVG"), min_length=1, description="what is compared, in this order"
    )
    transfer_from: Literal["all", "related"] = Field(
        "related",
        description="sources that a method transfers from: those that pass the test of `related`, where it has such a "
        "form (ours; without one it is prompt tuning), or all, as published, the default where variant is given",
    )
    seeds: tuple[int, ...] = Field(
        (42, 43, 44), min_length=1, description="repetitions: few-shot rows and order of the batches"
    )
    retrain_sources: bool = Field(
        False, description="new P_init and sources for every seed; else those of the first seed"
    )
    source_seed: int | None = Field(
        None, description="seed of P_init and the sources in place of the first one, as when seeds are added to a run"
    )
    prompt_length: int = Field(16, ge=1, description="prompt tokens L")
    init: Literal["vocabulary", "text", "labels", "uniform"] = Field(
        "vocabulary",
        description="start P_init, shared by all tasks: drawn tokens, init_text, the answers of the run's tasks with "
        "drawn tokens behind them, or random numbers",
    )
    init_text: str = Field("", description="text whose embeddings, repeated, fill P_init when init is 'text'")
    train_rows: RowCount = Field(16, description="few-shot rows per target, in total; all (or none): every row")
    test_rows: RowCount = Field(200, description="test rows per task; all (or none): every row")
    evaluate_on: Literal["test", "validation"] = Field(
        "test", description="rows that are scored; validation: for the choice of settings, test rows are never read"
    )
    source_rows: RowCount = Field(2000, description="training rows per source; all (or none): every row")
    source_updates: int = Field(120, ge=1, description="optimizer updates of a source stage")
    source_epochs: Epochs | None = Field(
        None, description="epochs of a source stage over its training rows, in place of source_updates"
    )
    target_updates: int = Field(16, ge=1, description="optimizer updates on target rows, the same for every method")
    target_epochs: Epochs | EpochsBySize | None = Field(
        None,
        description="epochs over a target's training rows, in place of target_updates; or by their least number, such "
        "as {0: 20, 10001: 10}",
    )
    max_updates: int | None = Field(
        None, ge=1, description="updates of any stage at most, whatever the other settings say: for a quick try"
    )
    batch_size: int = Field(8, ge=1, description="rows per target update")
    source_batch_size: int = Field(5, ge=1, description="rows per source update")
    eval_batch_size: int = Field(32, ge=1, description="rows per forward when scoring")
    learning_rate: float = Field(0.02, gt=0, description="peak AdamW rate of a prompt in a source stage")
    target_learning_rate: float | None = Field(None, gt=0, description="peak rate on target rows; none: learning_rate")
    weight_decay: float = Field(1e-5, ge=0, description="of AdamW")
    warmup: float = Field(0.06, ge=0, lt=1, description="share of the updates with rising rate")
    warmup_updates: int | None = Field(None, ge=0, description="updates with rising rate, in place of warmup")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "linear", description="rate after the warm-up"
    )
    max_grad_norm: float = Field(1.0, ge=0, description="gradient clipping; 0: none")
    dropout: Literal["off", "model"] = Field(
        "off",
        description="dropout inside the frozen model while a prompt trains: none, or the model's own (T5: 0.1); never "
        "for teachers and scores",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="type of the frozen model's products")
    max_length: int = Field(
        64, ge=1, description="text tokens kept (the last ones) of a row, where its task does not say"
    )
    select_updates: int | None = Field(
        None,
        ge=1,
        description="of every stage on one task, keep the prompt that does best on its validation rows, by the mean of "
        "its metrics; they are answered after so many updates each, and at the end; none: keep the last prompt",
    )
    checkpoint_updates: int = Field(10, ge=1, description="updates between two checkpoints of a stage")
    output: Place = Field(Path("runs/demo"), description="run folder")
    cache: Place | None = Field(None, description="store of finished stages; none: $PROMPTTRANSFER_CACHE or ~/.cache")
    scoring: Literal["auto", "first-token", "full", "generate"] = Field(
        "auto",
        description="how an answer is chosen: by its first token, by the mean log-probability of all its tokens, or by "
        "writing it; auto: first-token where that tells the answers of a task apart, else full",
    )
    answers: Literal["digits", "words"] | None = Field(
        None,
        description="verbalisers of tasks with a name: digits or words; none: the papers' digits, the demo's words",
    )
    cue: str = Field(
        "",
        description="what a causal model reads between a text of the papers' sets and its answer, such as ' Label :'",
    )
    join: Literal["auto", "space", "none", "separate"] = Field(
        "auto",
        description="how a causal model's answer joins the text. space: behind one space, whatever spaces the template "
        "or cue ends with; none: directly; separate: tokenized on its own, behind the tokenizer's start token; auto: "
        "none where the template or cue ends with a line break or a tab, else space",
    )
    data_dir: Place | None = Field(
        None, description="folder with a copy of the papers' data sets, in the layout of the hub; none: the hub"
    )
    bad_rows: Literal["error", "skip"] = Field(
        "error", description="rows that do not fit their task: stop, or leave them out and say how many"
    )
    placement: Literal["encoder", "encoder-decoder"] = Field(
        "encoder", description="of an encoder-decoder: prompt before the encoder's input, or half of it before each"
    )
    checkpointing: bool = Field(False, description="compute activations again in the backward pass: less memory")
    quantization: Literal["none", "8bit", "4bit"] = Field(
        "none", description="weights of the frozen model through bitsandbytes, on a GPU"
    )
    shard_model: bool = Field(
        False, description="spread the frozen model's layers over the processes of a launcher (FSDP): less memory each"
    )
    text_column: str = Field("text", description="text column of task files")
    label_column: str = Field("label", description="label column of task files")
    variant: Literal["paper", "code"] | None = Field(
        None, description="for all methods, where paper and published code differ; none: each method's own default"
    )
    per_task: dict[str, TaskSettings] = Field(
        default_factory=dict,
        description="exceptions for targets, by name or pattern (mrqa/*); where several fit, the last one wins",
    )
    per_method: dict[Annotated[str, AfterValidator(_method)], MethodSettings] = Field(
        default_factory=dict, description="a rate for each method, as tuning finds it; per_task goes before it"
    )
    known: ClassVar[dict[str, KnownMethod]] = {}

    @classmethod
    def declare(cls, methods: Iterable[KnownMethod]) -> None:
        """Let runs name these methods, and add their blocks of settings to those of a run."""
        for method in methods:
            cls.known[method.name] = method
            for kind in method.settings:
                about = (kind.__doc__ or "").partition("\n")[0]
                cls.__pydantic_fields__[kind.block] = FieldInfo(
                    annotation=kind, default_factory=kind, description=about
                )
        cls.model_rebuild(force=True)

    def of(self, kind: type[Block]) -> Block:
        """The block of settings of that kind, such as `MPTConfig`."""
        found: Block = getattr(self, kind.block)
        return found

    @model_validator(mode="before")
    @classmethod
    def _variant_of_all(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("variant") is None:
            return given
        named = {}
        for name in cls.model_fields:
            kind, block = block_of(cls, name), given.get(name, {})
            if kind and issubclass(kind, Presets) and "variant" in kind.model_fields and isinstance(block, dict):
                named[name] = {"variant": given["variant"]} | block
        return {"transfer_from": "all"} | given | named

    @field_validator("sources", "targets", "methods", "seeds")
    @classmethod
    def _no_repetition(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"named more than once: {', '.join(twice)}")
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if not self.targets:
            raise ValueError("targets is empty; name at least one target task")
        methods = [self.known[name] for name in self.methods]
        needing = [method.name for method in methods if method.transfers]
        if needing and not self.sources:
            raise ValueError(
                f"sources is empty, but {', '.join(needing)} transfer from source tasks; name some or use PT"
            )
        if self.retrain_sources and self.source_seed is not None:
            raise ValueError("source_seed is one for all seeds, but retrain_sources asks for new sources for each")
        if self.init == "text" and not self.init_text.strip():
            raise ValueError("init is 'text' but init_text is empty")
        for method in methods:
            method.check(self)
        return self

    def for_task(self, name: str, method: str = "") -> RunConfig:
        """These settings with the exceptions of `per_method`, and before these of `per_task`, for a target."""
        own = self.per_method.get(method)
        changes: dict[str, Any] = own.model_dump(exclude_none=True) if own else {}
        for settings in self._exceptions(name):
            changes |= settings.model_dump(exclude_none=True)
            if settings.target_updates is not None:
                changes["target_epochs"] = None
        return self.model_copy(update=changes) if changes else self

    def length_of(self, name: str) -> int | None:
        """Text tokens kept of a task's rows, where `per_task` says so."""
        named = [settings.max_length for settings in self._exceptions(name)]
        return next((length for length in reversed(named) if length is not None), None)

    def _exceptions(self, name: str) -> list[TaskSettings]:
        """What `per_task` says of a task, by its name in the settings or in the run folder (glue/mnli, glue-mnli)."""
        name = name.replace("/", "-")
        return [given for pattern, given in self.per_task.items() if fnmatchcase(name, pattern.replace("/", "-"))]

    @property
    def transfers(self) -> bool:
        """Whether a method learns from the sources at all; plain prompt tuning does not."""
        return any(self.known[name].transfers for name in self.methods)

    @property
    def source_prompts(self) -> bool:
        """Whether a prompt of each source is trained."""
        return any(self.known[name].source_prompts(self) for name in self.methods)

    @property
    def target_rate(self) -> float:
        """Peak learning rate on target rows."""
        return self.target_learning_rate or self.learning_rate


def block_of(kind: type[Settings], name: str) -> type[Settings] | None:
    """The settings below a name, such as MPTConfig below mpt; None where there is a single value."""
    if kind is RunConfig and not RunConfig.known:
        raise RuntimeError("no method is declared, so no settings of one are: import prompttransfer.methods first")
    field = kind.model_fields.get(name)
    inner = field.annotation if field else None
    return inner if isinstance(inner, type) and issubclass(inner, Settings) else None
